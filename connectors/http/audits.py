"""The audit log over HTTP: verified while it runs, its checkpoints, and proofs that check offline."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connectors.http.bodies import answer
from connectors.http.door import Door
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.evidence import LogDamaged, NotProvable, proof_of, report_of

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


def _prove(door: Door, token: Token, origin: str, index: int) -> str:
    fault = Problem("not-found", "index")
    try:
        return proof_of(door.service, origin, index, token.sees)
    except NotProvable:
        pass
    except LogDamaged:
        fault = Problem("internal")  # the log has faults: the report says which
    raise fault


async def get_proof(door: Door, request: Request) -> Response:
    """A proof file (C2SP tlog-proof) for one entry: it checks offline, with the public key alone."""
    token = door.caller(request, PROOF)
    origin, index = request.query_params.get("origin", ""), request.query_params.get("index", "")
    if not origin:
        raise Problem("missing-field", "origin")
    if not (index.isdecimal() and index.isascii() and len(index) <= INDEX_CHARS_MAX):
        raise Problem("wrong-field", "index")
    return PlainTextResponse(await door.run(lambda: _prove(door, token, origin, int(index))))
