"""What an operator and an auditor look at: holds, incidents, quarantine, lag, schemas, raw retention, tokens."""

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.door import Door
from connectors.http.events import topic_of
from connectors.http.marks import Entry
from connectors.http.problems import Problem
from connectors.http.roles import Role
from connectors.http.tokens import Token
from engine.sealing import SealingFault
from processors.admit_event import identifiers_of
from processors.keep_hold import HoldRecord
from processors.run_breach import Incident
from schemas.base import Name
from schemas.codec import Malformed, SchemaUnknown, decode_as, schema_text
from schemas.decode import Invalid, decode_event
from schemas.events import BY_TYPE
from schemas.routed import Envelope
from schemas.topics import QuarantineEntry

HOLDS, BREACHES, QUARANTINE = "GET /v1/holds", "GET /v1/breaches", "GET /v1/quarantine"
RETRY = "POST /v1/quarantine/{partition}/{offset}/retry"
SCHEMA, LAG, RETAIN = "GET /v1/schemas/{fingerprint}", "GET /v1/lag", "POST /v1/admin/retention/raw"
TOKENS, REVOKE = "POST /v1/tokens", "DELETE /v1/tokens/{name}"
SCANNED_MAX = 100_000  # records looked through for a list
LISTED_MAX = 1_000
PLACE_MAX = 1 << 44  # offsets of the log (`engine/embedded/layout.py`)
TOPIC = "quarantine"


C = TypeVar("C", HoldRecord, Incident)


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token to make. `controllers` and `targets` may be `*`."""

    name: Name
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1)]
    controllers: tuple[Name, ...] = ()
    targets: tuple[Name, ...] = ()


def _controller(door: Door, token: Token, request: Request) -> str | None:
    controller = request.query_params.get("controller")
    if controller is not None:
        door.may_touch(token, controller, "controller")
    return controller


def _sees(token: Token, wanted: str | None, controller: str) -> bool:
    return (token.sees(controller) if controller else token.sees_all) and wanted in (None, controller)


async def get_holds(door: Door, request: Request) -> Response:
    """List legal holds."""

    def row(hold: HoldRecord) -> dict[str, Any]:
        shown = msgspec.structs.asdict(hold)
        shown["people"] = len(shown.pop("refs"))
        return shown

    return await _cases(door, request, HOLDS, "holds", '["hold",', HoldRecord, row)


async def get_breaches(door: Door, request: Request) -> Response:
    """List incidents with their clocks."""
    now_ms = door.service.clock()

    def row(case: Incident) -> dict[str, Any]:
        return {
            "incident_id": case.incident_id, "controller": case.controller, "role": case.role, "risk": case.risk,
            "categories": case.categories, "detected_ms": case.detected_ms, "aware_ms": case.aware_ms,
            "due_ms": case.due_ms, "headroom_ms": case.due_ms - now_ms, "stopped": case.stopped,
            "level": case.told_level, "affected": case.affected, "notified": case.notified, "closed_ms": case.closed_ms,
        }  # fmt: skip

    return await _cases(door, request, BREACHES, "breaches", '["incident",', Incident, row)


async def _cases(
    door: Door, request: Request, call: str, name: str, prefix: str, kind: type[C], row: Callable[[C], dict[str, Any]]
) -> Response:
    """List the cases of one kind that the caller may see; that they were seen is on record before the answer leaves."""
    token = door.caller(request, call)
    wanted = _controller(door, token, request)

    def look() -> list[dict[str, Any]]:
        cases = [c for _, c in door.service.owners("case", prefix, kind, SCANNED_MAX) if _sees(token, wanted, c.controller)]
        door.accessed(token, "view", Counter(c.controller for c in cases))
        return [row(c) for c in cases]

    rows = await door.run(look)
    return answer({name: rows[:LISTED_MAX], "truncated": len(rows) > LISTED_MAX})


async def get_quarantine(door: Door, request: Request) -> Response:
    """List what could not be used: where it was and why, never what was in it. `partition` and `offset` are its place here."""
    token = door.caller(request, QUARANTINE)
    wanted = _controller(door, token, request)

    def look() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for partition, record in door.service.topic(TOPIC):
            if record.value is None:
                continue
            entry = decode_as(QuarantineEntry, record.value)
            if _sees(token, wanted, entry.controller):
                rows.append({
                    "partition": partition, "offset": record.offset, "code": entry.code, "field": entry.field,
                    "at_ms": entry.at_ms, "controller": entry.controller, "task": entry.task,
                    "source": {"topic": entry.topic, "partition": entry.partition, "offset": entry.offset},
                })  # fmt: skip
        return sorted(rows, key=lambda row: row["at_ms"])

    rows = await door.run(look)
    return answer({"quarantine": rows[-LISTED_MAX:], "truncated": len(rows) > LISTED_MAX})


def _original(door: Door, entry: QuarantineEntry) -> Envelope:
    """The event in a quarantine entry. Raises `Problem` (409, 410)."""
    secrets = door.service.secrets
    fault = Problem("not-retryable")
    try:
        data = secrets.open_raw(TOPIC, entry.original, "quarantine")
        if data is None:
            raise Problem("gone")
        try:
            return decode_as(Envelope, data)
        except (Malformed, SchemaUnknown):
            # What could not even be opened was kept as it stood on its topic: sealed.
            inner = secrets.open_raw(entry.topic, data)
            if inner is None:
                fault = Problem("gone")
            else:
                return decode_as(Envelope, inner)
    except (SealingFault, Malformed, SchemaUnknown):
        pass
    raise fault


def _marks(door: Door, envelope: Envelope) -> list[Entry]:
    try:
        event = decode_event(envelope.type, envelope.content_type, envelope.data)
        settings = door.service.settings(envelope.controller)
        refs = door.refs(envelope.controller, ((i.kind, i.value) for i in identifiers_of(event)), settings)
    except (Invalid, Problem):
        return []  # it will be refused again
    return door.marks.add(envelope.type, event, refs)


async def post_retry(door: Door, request: Request) -> Response:
    """Send one entry in again, by intake, as the event it was: whoever has taken effect already ignores it."""
    token = door.caller(request, RETRY)
    place = [request.path_params["partition"], request.path_params["offset"]]
    if not all(n.isdecimal() and n.isascii() and len(n) < 16 for n in place):
        raise Problem("not-found")
    partition, offset = int(place[0]), int(place[1])

    def retry() -> str:
        service = door.service
        if partition >= service.topology.topics[TOPIC].partitions or offset >= PLACE_MAX:
            raise Problem("not-found")
        records = service.read(TOPIC, partition, offset, 1)
        if not records or records[0].offset != offset or records[0].value is None:
            raise Problem("not-found")
        entry = decode_as(QuarantineEntry, records[0].value)
        if not _sees(token, None, entry.controller):
            raise Problem("not-found")
        envelope = _original(door, entry)
        if not token.sees(envelope.controller):
            raise Problem("not-found")
        if envelope.type not in BY_TYPE:
            raise Problem("not-retryable")  # a message between tasks: only its event could make it again
        topic = topic_of(envelope.type)
        # As at the first sending: a withdrawal denies from now on, not once it is folded.
        marks = _marks(door, envelope)
        door.publish([(topic, envelope.id, msgspec.structs.replace(envelope, refs=()))], marks)
        return topic

    return answer({"accepted": 1, "topic": await door.run(retry)}, 202)


async def get_schema(door: Door, request: Request) -> Response:
    """The Avro schema with this fingerprint (16 hexadecimal digits, wire order)."""
    door.caller(request, SCHEMA)
    text = schema_text(request.path_params["fingerprint"].lower())
    if text is None:
        raise Problem("not-found", "fingerprint")
    return Response(text, media_type="application/json")


async def get_lag(door: Door, request: Request) -> Response:
    """How far behind each task is, in records, and how old the state is that decisions look at."""
    door.caller(request, LAG)
    lag = await door.run(door.service.lag)
    rows = [{"task": t, "topic": topic, "partition": n, "records": count} for (t, topic, n), count in sorted(lag.items())]
    beat_ms, now_ms = door.service.beat_ms(), door.service.clock()
    return answer({"lag": rows, "beat_ms": beat_ms, "age_secs": (now_ms - beat_ms) / 1000 if beat_ms else None})


async def post_retain(door: Door, request: Request) -> Response:
    """End raw retention now for what is past it."""
    door.caller(request, RETAIN)
    return answer({"deleted": await door.run(lambda: door.service.retain_raw(at_once=True))})


async def post_token(door: Door, request: Request) -> Response:
    """Make a token. Its secret is told once: only a hash is kept."""
    door.caller(request, TOKENS)
    async with door.bodies.of(request) as body:
        new = parse(body, NewToken)
    secret = await door.run(lambda: door.tokens.create(new.name, new.roles, new.controllers, new.targets))
    return answer({**msgspec.structs.asdict(new), "token": secret}, 201)


async def delete_token(door: Door, request: Request) -> Response:
    """End a token at once. Nobody ends the one they are using: that could lock everybody out."""
    token = door.caller(request, REVOKE)
    name = request.path_params["name"]
    if name == token.name:
        raise Problem("unusable", "name")
    if not await door.run(lambda: door.tokens.revoke(name)):
        raise Problem("not-found", "name")
    return answer({"name": name, "revoked": True})
