"""Key-encryption keys over HTTP: how old they are, how far a rotation has come, and the start of one."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.door import Door
from connectors.http.problems import Problem
from engine.rotation import KeyStatus, NothingToRotate
from schemas.base import Name

STATUS, ROTATE = "GET /v1/keys", "POST /v1/keys/rotations"


class RotateAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose key-encryption keys to rotate."""

    controller: Name


async def get_keys(door: Door, request: Request) -> Response:
    """Key-encryption keys per controller, and how far the newest rotation has come. No key is shown."""
    token = door.caller(request, STATUS)
    wanted = request.query_params.get("controller")
    if wanted is not None:
        door.may_touch(token, wanted, "controller")
    found = await door.run(lambda: [s for s in door.service.keys(wanted) if token.sees(s.controller)])
    return answer({"keys": _shown(found)})


async def post_rotation(door: Door, request: Request) -> Response:
    """Begin a rotation, or see that the one under way goes on. It runs in the background: `GET /v1/keys` shows its end."""
    token = door.caller(request, ROTATE)
    async with door.bodies.of(request) as body:
        ask = parse(body, RotateAsk)
    door.may_touch(token, ask.controller)

    def begin() -> list[KeyStatus] | None:
        try:
            door.service.rotate_keys(ask.controller, token.name)
        except NothingToRotate:
            return None
        return door.service.keys(ask.controller)

    found = await door.run(begin)
    if found is None:
        raise Problem("not-found", "/controller")
    return answer({"keys": _shown(found)}, 202)


def _shown(found: list[KeyStatus]) -> Any:
    return msgspec.to_builtins(found, str_keys=True)
