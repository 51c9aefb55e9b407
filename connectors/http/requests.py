"""Data-subject requests: opened, moved and read through the door; the state machine itself is `run_request`'s."""

from typing import Any, Literal, get_args
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.cloudevents import Incoming
from connectors.http.door import SOURCE, Door
from connectors.http.events import take
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.layout import key_bytes
from processors.request_case import RequestCase, open_targets, status_of
from schemas.base import Name
from schemas.topics import RequestStatus

LIST, ONE, OPEN = "GET /v1/requests", "GET /v1/requests/{request_id}", "POST /v1/requests"
ACT, ERASURES = "POST /v1/requests/{request_id}/{action}", "GET /v1/erasures"
RETRY = "POST /v1/requests/{request_id}/retry"
SCANNED_MAX = 100_000  # requests looked through for a list: their keys do not tell whose they are
LISTED_MAX = 1_000

Action = Literal["verify", "fail", "approve", "refuse", "extend", "pause", "resume", "withdraw"]
STEPS: dict[str, str] = dict(zip(
    get_args(Action),
    ("identity_verified", "identity_failed", "approved", "refused", "extended", "paused", "resumed", "withdrawn"),
    strict=True,
))  # fmt: skip


class RequestShown(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request stands: the record of `requests.state`, and whether it was verified and approved."""

    status: RequestStatus
    verified: bool
    approved: bool

    def plain(self) -> dict[str, Any]:
        """One flat object."""
        shown: dict[str, Any] = msgspec.to_builtins(self.status)
        return shown | {"verified": self.verified, "approved": self.approved}


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The target that is told again; nobody else is."""

    target: Name


class Opened(msgspec.Struct, frozen=True):
    """The request is durable, and its clock runs."""

    request_id: str


def shown(case: RequestCase) -> RequestShown:
    """What may be seen of a request: states, counts and clocks, nobody's name."""
    status = status_of(case).value
    assert isinstance(status, RequestStatus)
    return RequestShown(status=status, verified=bool(case.verified_by), approved=bool(case.approved_by))


def cases(door: Door, token: Token, controller: str | None) -> list[RequestCase]:
    """The requests that a caller may see, oldest first, at most `SCANNED_MAX` looked through."""
    found = [
        case for _, case in door.service.owners("case", '["request",', RequestCase, SCANNED_MAX)
        if token.sees(case.controller) and controller in (None, case.controller)
    ]  # fmt: skip
    return sorted(found, key=lambda case: (case.received_ms, case.request_id))


def counted(found: list[RequestCase]) -> dict[str, int]:
    """How many requests of each controller are in an answer."""
    counts: dict[str, int] = {}
    for case in found:
        counts[case.controller] = counts.get(case.controller, 0) + 1
    return counts


def _case(door: Door, token: Token, request_id: str) -> RequestCase | None:
    if "\0" in request_id:
        return None
    case = door.service.record("case", key_bytes(("request", request_id)).decode(), RequestCase)
    return case if case is not None and token.sees(case.controller) else None


async def _find(door: Door, token: Token, request_id: str) -> RequestCase:
    case = await door.settled(lambda: _case(door, token, request_id))
    if case is None:
        raise Problem("not-found", "request_id")
    return case


def _object(body: bytes) -> dict[str, Any]:
    """The body as an object, its fields not looked at: the event's own schema judges them."""
    return {name: value for name, value in parse(body or b"{}", dict[str, Any]).items() if value is not None}


def _event(type_: str, controller: str, event_id: str, data: dict[str, Any]) -> Incoming:
    return Incoming(event_id, SOURCE, type_, controller, None, "application/json", msgspec.json.encode(data))


async def _send(door: Door, token: Token, events: list[Incoming]) -> None:
    for incoming in events:
        door.may_send(token, incoming.type)
    faults = [fault for fault in await take(door, token, events) if fault is not None]
    if faults:
        raise faults[0]


async def post_request(door: Door, request: Request) -> Response:
    """Open a request. A caller who gives `verified_by` vouches for the identity, by the caller's own name."""
    token = door.caller(request, OPEN)
    async with door.bodies.of(request) as body:
        data = _object(body)
    controller, vouched = data.pop("controller", None), data.pop("verified_by", None)
    if controller is None:
        raise Problem("missing-field", "/controller")
    if not isinstance(controller, str):
        raise Problem("wrong-field", "/controller")
    if "request_id" in data:
        raise Problem("unknown-field")
    door.may_touch(token, controller)
    request_id = f"req_{uuid4().hex}"
    events = [_event("request.opened", controller, f"{request_id}.opened", {**data, "request_id": request_id})]
    if vouched:
        events.append(_event("request.identity_verified", controller, f"{request_id}.verified", {"request_id": request_id}))
    await _send(door, token, events)
    return answer(Opened(request_id), 202)


async def post_action(door: Door, request: Request) -> Response:
    """Move a request: the action becomes an event, with the caller as its actor."""
    token = door.caller(request, ACT)
    request_id, action = request.path_params["request_id"], request.path_params["action"]
    if action not in STEPS:
        raise Problem("not-found", "action")
    async with door.bodies.of(request) as body:
        data = _object(body)
    data.pop("actor", None)  # the caller is the actor, whatever the body says
    door.may_send(token, f"request.{STEPS[action]}")
    case = await _find(door, token, request_id)
    return await _step(door, token, case, STEPS[action], data)


async def _step(door: Door, token: Token, case: RequestCase, step: str, data: dict[str, Any]) -> Response:
    event = _event(f"request.{step}", case.controller, uuid4().hex, {**data, "request_id": case.request_id})
    await _send(door, token, [event])
    return answer({"request_id": case.request_id, "accepted": 1}, 202)


async def post_retry(door: Door, request: Request) -> Response:
    """Send one target the notices again that it has not answered with `done`; 422 when it owes this request no answer."""
    token = door.caller(request, RETRY)
    async with door.bodies.of(request) as body:
        target = parse(body, Retry).target
    case = await _find(door, token, request.path_params["request_id"])
    if target not in case.targets or target not in open_targets(case):  # recordings are in the latter, and repeat by themselves
        raise Problem("unusable", "/target")
    return await _step(door, token, case, "retried", {"target": target})


async def get_request(door: Door, request: Request) -> Response:
    """Show one request."""
    token = door.caller(request, ONE)
    case = await _find(door, token, request.path_params["request_id"])
    await door.run(lambda: door.accessed(token, "view", {case.controller: 1}))
    return answer(shown(case).plain())


async def _listed(door: Door, request: Request, call: str, name: str, right: str | None) -> Response:
    token = door.caller(request, call)
    controller = request.query_params.get("controller")
    if controller is not None:
        door.may_touch(token, controller, "controller")

    def look() -> list[RequestCase]:
        found = [case for case in cases(door, token, controller) if right in (None, case.right)]
        door.accessed(token, "view", counted(found[-LISTED_MAX:]))
        return found

    found = await door.run(look)
    rows = [shown(case).plain() for case in found[-LISTED_MAX:]]
    return answer({name: rows, "truncated": len(found) > len(rows)})


async def get_requests(door: Door, request: Request) -> Response:
    """List the newest requests."""
    return await _listed(door, request, LIST, "requests", None)


async def get_erasures(door: Door, request: Request) -> Response:
    """List erasures: what was erased, what a hold keeps, which targets have not answered."""
    return await _listed(door, request, ERASURES, "erasures", "erasure")
