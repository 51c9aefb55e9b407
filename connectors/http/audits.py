"""The audit log over HTTP: verified while it runs, its checkpoints, and proofs that check offline."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connectors.http.bodies import answer
from connectors.http.door import Door
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.audit import AuditReport, LogDamaged, LogLine, leaf_hashes, verify_log
from engine.checkpoints import TOPIC as CHECKPOINTS
from engine.checkpoints import frontiers, latest_notes
from engine.merkle import Frontier, inclusion_proof
from engine.notes import open_checkpoint
from engine.proofs import write_proof
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import AuditCheckpoint, AuditEntry

REPORT, NOTES, PROOF = "GET /v1/audit/report", "GET /v1/audit/checkpoints", "GET /v1/audit/proof"
KEY, SIGN = "GET /v1/audit/key", "POST /v1/audit/checkpoint"
ENTRIES = "audit.entries"
INDEX_CHARS_MAX = 15
# The store shows a commit's state some instants before its log, so a frontier can be ahead of what is read right after
# it. What is truly wrong is found at every look.
LOOKS_MAX = 3
LOOK_SECS = 0.05


def _frontiers(door: Door) -> dict[str, Frontier]:
    service = door.service
    return frontiers(service.runtime, service.loop.tasks, service.shared.deployment)


def _lines(door: Door) -> Iterator[LogLine]:
    for partition, record in door.service.topic(ENTRIES):
        yield partition, record.offset, record.value or b""


def _entry(value: bytes) -> AuditEntry | None:
    try:
        return decode_as(AuditEntry, value)
    except (Malformed, SchemaUnknown):
        return None


class _Snapshot:
    """The log as of a moment although it grows: entries that the engine itself has added since are left out.

    An entry and its tree's frontier are committed together. So an entry past the frontier of the moment is the engine's
    own if a frontier that is read after it covers it; if not, somebody else added it, and it stays in to be found.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        signed = (record.value for _, record in door.service.topic(CHECKPOINTS))
        self.notes = [decode_as(AuditCheckpoint, value).note for value in signed if value is not None]
        # After the notes: a note that was signed later may know more than these frontiers.
        self.frontiers = _frontiers(door)
        self._later: dict[str, int] = {}

    def lines(self) -> Iterator[LogLine]:
        for line in _lines(self._door):
            entry = _entry(line[2])
            if entry is None or not self._grown(entry):
                yield line

    def _grown(self, entry: AuditEntry) -> bool:
        known = self.frontiers.get(entry.origin)
        if known is not None and entry.index < known.size:
            return False
        if entry.index >= self._later.get(entry.origin, 0):
            self._later = {origin: frontier.size for origin, frontier in _frontiers(self._door).items()}
        return entry.index < self._later.get(entry.origin, 0)


async def get_report(door: Door, request: Request) -> Response:
    """Recompute every tree from the log and compare it with what was signed and with what the engine holds."""
    door.caller(request, REPORT)

    for _ in range(LOOKS_MAX):
        report = await door.run(lambda: _verify(door))
        if report.ok:
            break
        await asyncio.sleep(LOOK_SECS)
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return answer({"ok": report.ok, **plain})


def _verify(door: Door) -> AuditReport:
    snapshot = _Snapshot(door)
    held = {origin: (frontier.size, frontier.root()) for origin, frontier in snapshot.frontiers.items()}
    return verify_log(snapshot.lines(), snapshot.notes, door.service.signer.vkey, held)


async def get_checkpoints(door: Door, request: Request) -> Response:
    """The newest signed note of each tree."""
    door.caller(request, NOTES)
    return answer({"checkpoints": await door.run(lambda: latest_notes(door.service.runtime))})


async def post_checkpoint(door: Door, request: Request) -> Response:
    """Sign a checkpoint of every tree that grew."""
    door.caller(request, SIGN)
    return answer({"checkpoints": await door.run(door.service.checkpoint)})


async def get_key(door: Door, request: Request) -> Response:
    """The public key that notes and proofs are checked with."""
    door.caller(request, KEY)
    return answer({"vkey": door.service.signer.vkey})


def _prove(door: Door, token: Token, origin: str, index: int) -> str:
    note = latest_notes(door.service.runtime).get(origin)
    vkey = door.service.signer.vkey
    if note is None or open_checkpoint(note, vkey).size <= index:
        door.service.checkpoint()
        note = latest_notes(door.service.runtime).get(origin)
    size = open_checkpoint(note, vkey).size if note is not None else 0
    if note is None or size <= index:
        raise Problem("not-found", "index")
    leaf: list[bytes] = []

    def watched() -> Iterator[LogLine]:
        for line in _lines(door):
            entry = _entry(line[2])
            if entry is not None and (entry.origin, entry.index) == (origin, index):
                if not token.sees(entry.controller):
                    raise Problem("not-found", "index")
                leaf.append(line[2])
            yield line

    try:
        hashes = leaf_hashes(watched(), origin, size)
    except LogDamaged:
        hashes = None
    if hashes is None:
        raise Problem("internal")  # the log has faults: the report says which
    return write_proof(leaf[0], index, inclusion_proof(hashes, index), note)


async def get_proof(door: Door, request: Request) -> Response:
    """A proof file (C2SP tlog-proof) for one entry: it checks offline, with the public key alone."""
    token = door.caller(request, PROOF)
    origin, index = request.query_params.get("origin", ""), request.query_params.get("index", "")
    if not origin:
        raise Problem("missing-field", "origin")
    if not (index.isdecimal() and index.isascii() and len(index) <= INDEX_CHARS_MAX):
        raise Problem("wrong-field", "index")
    return PlainTextResponse(await door.run(lambda: _prove(door, token, origin, int(index))))
