"""The audit log over HTTP: verified while it runs, its checkpoints, and proofs that check offline."""

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connectors.http.bodies import answer
from connectors.http.door import Door
from connectors.http.problems import Problem
from engine.evidence import LogDamaged, NotProvable, growth_of, proof_of, report_of

REPORT, NOTES, PROOF = "GET /v1/audit/report", "GET /v1/audit/checkpoints", "GET /v1/audit/proof"
KEY, SIGN = "GET /v1/audit/key", "POST /v1/audit/checkpoint"
INDEX_CHARS_MAX = 15


async def get_report(door: Door, request: Request) -> Response:
    """Recompute every tree from the log and compare it with what was signed and with what the engine holds."""
    door.caller(request, REPORT)

    report = await door.run(lambda: report_of(door.service))
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return answer({"ok": report.ok, **plain})


async def get_checkpoints(door: Door, request: Request) -> Response:
    """The newest signed note of each tree."""
    door.caller(request, NOTES)
    return answer({"checkpoints": await door.run(door.service.notes)})


async def post_checkpoint(door: Door, request: Request) -> Response:
    """Sign a checkpoint of every tree that grew."""
    door.caller(request, SIGN)
    return answer({"checkpoints": await door.run(door.service.checkpoint)})


async def get_key(door: Door, request: Request) -> Response:
    """The public key that notes and proofs are checked with."""
    door.caller(request, KEY)
    return answer({"vkey": door.service.signer.vkey})


def _prove(work: Callable[[], str], field: str) -> str:
    fault = Problem("not-found", field)
    try:
        return work()
    except NotProvable:
        pass
    except LogDamaged:
        fault = Problem("internal")  # the log has faults: the report says which
    raise fault


async def get_proof(door: Door, request: Request) -> Response:
    """A file that checks offline, with the public key alone.

    With `index` a proof that this entry is in the log (C2SP tlog-proof); with `old` one that the log of that size, of which
    somebody kept a checkpoint, is the beginning of today's (C2SP tlog-witness).
    """
    token = door.caller(request, PROOF)
    origin = request.query_params.get("origin", "")
    if not origin:
        raise Problem("missing-field", "origin")
    field = "old" if "old" in request.query_params else "index"
    text = request.query_params.get(field, "")
    if not (text.isdecimal() and text.isascii() and len(text) <= INDEX_CHARS_MAX):
        raise Problem("wrong-field", field)
    number = int(text)

    def work() -> str:
        if field == "old":
            return growth_of(door.service, origin, number)
        return proof_of(door.service, origin, number, token.sees)

    return PlainTextResponse(await door.run(lambda: _prove(work, field)))
