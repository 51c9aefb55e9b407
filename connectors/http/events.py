"""`POST /v1/events`: an event is answered 202 only when the log has it durably; what is bad is answered, never swallowed.

The way of an event: read, authorise, validate, ask intake's own question (`problem`), resolve its identifiers, append. All
events of a body are appended at once. An event that configures a controller ends a step: what follows it in the same body
is judged by the new settings.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.advice import SETTLES, Warning, warnings_of
from connectors.http.bodies import BODY_BYTES_MAX, answer
from connectors.http.cloudevents import Incoming, read
from connectors.http.door import POLL_SECS, Door, Sendable
from connectors.http.marks import Entry
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.deployment import Unreachable
from engine.layout import key_bytes
from processors.admit_event import problem, refs_of, unfit, unknown_law
from processors.request_case import RequestCase
from processors.run_breach import Incident
from schemas.base import EventData
from schemas.decode import Invalid, decode_event
from schemas.events import BreachEvent, ErasureAcknowledged, Identifier, LawActivated, RequestOpened
from schemas.identifiers import NotAnIdentifier, normalise
from schemas.routed import Envelope
from schemas.topics import ControllerState

CALL = "POST /v1/events"
SETTINGS_SECS_MAX = 2.0  # how long an answer waits for new settings; the event is durable either way
TOPICS = {"call": "calls", "consent": "consents", "request": "requests"}
CONTROLS = "controls"


class Accepted(msgspec.Struct, omit_defaults=True):
    """Every event is durable. An id that was seen before is accepted as well and changes nothing."""

    accepted: int
    warnings: list[Warning] = []


class Result(msgspec.Struct, omit_defaults=True):
    """What became of one event of a batch, by its place in it."""

    index: int
    status: int
    problem: dict[str, Any] | None = None


class Mixed(msgspec.Struct):
    """Some events of a batch were refused; the others are durable."""

    accepted: int
    refused: int
    results: list[Result]


class _Context:
    """What `refs_of` asks of the engine."""

    def __init__(self, door: Door) -> None:
        self.ref = door.service.secrets.ref
        self.settings, self.law = door.service.settings, door.service.law
        self.actor_hash = door.service.secrets.actor

    def derive(self, index: int) -> str:
        """Nothing at the door has a place in the log yet."""
        raise AssertionError("the door derives no ids")


def topic_of(type_: str) -> str:
    """The topic that events of this type go to."""
    return TOPICS.get(type_.partition(".")[0], CONTROLS)


def key_of(event: EventData, event_id: str, topic: str) -> str:
    """A key that is never personal: the conversation, the request, else the event."""
    field = {"calls": "conversation_id", "requests": "request_id"}.get(topic)
    return getattr(event, field) if field is not None else event_id


class Admission:
    """Judges the events of one body and gathers those that are good."""

    def __init__(self, door: Door, token: Token) -> None:
        self._door, self._token = door, token
        self._context = _Context(door)
        self._receipt_ms = door.service.clock()
        self.good: list[Sendable] = []
        self.marks: list[Entry] = []

    def admit(self, incoming: Incoming) -> EventData:
        """Take one event. Raises `Problem`."""
        token, controller, type_ = self._token, incoming.controller, incoming.type
        self._door.may_send(token, type_)
        if not token.sees(controller):
            raise Problem("controller-not-yours", "controller")
        try:
            event = decode_event(type_, incoming.media, incoming.data)
        except Invalid as error:
            fault: Problem | None = Problem(error.code, error.field)
        else:
            fault = None
        if fault is not None:
            raise fault
        if isinstance(event, ErasureAcknowledged) and "administrator" not in token.roles and event.target not in token.targets:
            raise Problem("target-not-yours", "/target")
        time_ms = self._receipt_ms if incoming.time_ms is None else incoming.time_ms
        refusal = problem(event, time_ms, self._receipt_ms)
        if refusal is not None:
            raise Problem(refusal.code, refusal.field)
        settings = self._door.service.settings(controller)
        try:
            refs = refs_of(event, settings, controller, self._context)
        except NotAnIdentifier as error:
            fault = Problem(error.code, _place(event, settings) or "/identifiers")
        if fault is not None:
            raise fault
        refusal = unfit(event, type_, refs, settings)
        if isinstance(event, LawActivated):
            refusal = unknown_law(event, self._door.service.law(controller))
        if refusal is not None:
            raise Problem(refusal.code, refusal.field)
        if _taken(self._door, event, controller):
            raise Problem("id-taken", "/incident_id" if isinstance(event, BreachEvent) else "/request_id")
        topic = topic_of(type_)
        self.good.append((topic, key_of(event, incoming.id, topic), Envelope(
            id=incoming.id, source=incoming.source, type=type_, controller=controller, time_ms=time_ms,
            receipt_ms=self._receipt_ms, actor=token.name, content_type=incoming.media, data=incoming.data, refs=refs,
        )))  # fmt: skip
        # Marked before the append, so that no decision slips in between.
        self.marks += self._door.marks.add(type_, event, refs)
        return event

    def publish(self) -> None:
        """Append what was taken."""
        good, marks = self.good, self.marks
        self.good, self.marks = [], []
        if good:
            self._door.publish(good, marks)

    def drop(self) -> None:
        """Take back what was not published."""
        self._door.marks.withdraw(self.marks)
        self.good, self.marks = [], []


def _taken(door: Door, event: EventData, controller: str) -> bool:
    """Whether the case of this id is another controller's: better said now than found in quarantine.

    A read model that is away stops nobody's request from being received, and its clock from running: the case will find it.
    """
    try:
        if isinstance(event, RequestOpened):
            request = door.service.record("case", key_bytes(("request", event.request_id)).decode(), RequestCase)
            return request is not None and request.controller != controller
        if isinstance(event, BreachEvent):
            incident = door.service.record("case", key_bytes(("incident", event.incident_id)).decode(), Incident)
            return incident is not None and incident.controller != controller
    except Unreachable:
        pass
    return False


def _place(event: EventData, settings: ControllerState) -> str | None:
    """The pointer to the first identifier of an event that is none."""
    for pointer, identifier in _identifiers(event, ""):
        try:
            normalise(identifier.kind, identifier.value, settings.default_region)
        except NotAnIdentifier:
            return f"{pointer}/value"
    return None


def _identifiers(value: Any, pointer: str) -> Iterator[tuple[str, Identifier]]:
    if isinstance(value, Identifier):
        yield pointer, value
    elif isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            yield from _identifiers(getattr(value, field.name), f"{pointer}/{field.encode_name}")
    elif isinstance(value, tuple):
        for n, item in enumerate(value):
            yield from _identifiers(item, f"{pointer}/{n}")


def _take(door: Door, token: Token, events: Sequence[Incoming | Problem]) -> list[Problem | None]:
    """Judge and append a run of events; what is wrong with each, None: durable."""
    admission = Admission(door, token)
    admit = admission.admit
    found: list[Problem | None] = []
    try:
        for event in events:
            if isinstance(event, Problem):
                found.append(event)
                continue
            try:
                admit(event)
                found.append(None)
            except Problem as fault:
                found.append(fault)
    except BaseException:
        admission.drop()
        raise
    admission.publish()
    return found


def _runs(events: Sequence[Incoming | Problem]) -> Iterator[Sequence[Incoming | Problem]]:
    """Cut behind each event that configures a controller."""
    start = 0
    for n, event in enumerate(events, 1):
        if isinstance(event, Incoming) and event.type in SETTLES and n < len(events):
            yield events[start:n]
            start = n
    yield events[start:]


async def take(door: Door, token: Token, events: Sequence[Incoming | Problem]) -> list[Problem | None]:
    """What is wrong with each event; None: it is durable. Raises `Problem` (503) when the log cannot take them."""
    found: list[Problem | None] = []
    for run in _runs(events):
        last = run[-1] if run else None
        configures = last.controller if isinstance(last, Incoming) and last.type in SETTLES else None
        before = door.service.settings(configures).version if configures is not None else 0
        result = await door.run(lambda run=run: _take(door, token, run))  # type: ignore[misc]
        found += result
        if configures is not None and result[-1] is None:
            await _in_force(door, configures, before)
    _count(door, events, found)
    return found


async def _in_force(door: Door, controller: str, before: int) -> None:
    """Wait, for a bounded time, until the settings have changed, so that whoever sends next is judged by them."""
    left = SETTINGS_SECS_MAX
    while left > 0 and door.service.settings(controller).version <= before:
        await asyncio.sleep(POLL_SECS)
        left -= POLL_SECS


def _count(door: Door, events: Sequence[Incoming | Problem], found: Sequence[Problem | None]) -> None:
    good = (event for event, fault in zip(events, found, strict=True) if fault is None)
    for type_, count in Counter(event.type for event in good if isinstance(event, Incoming)).items():
        door.metrics.events.labels(type_).inc(count)
    for code, count in Counter(f.code for f in found if f is not None).items():
        door.metrics.refused.labels(code).inc(count)


async def post_events(door: Door, request: Request) -> Response:
    """Answer the call."""
    token = door.caller(request, CALL)
    async with door.bodies.of(request, BODY_BYTES_MAX) as body:
        events, batch = read(request.headers.get("content-type", ""), request.headers, body)
        found = await take(door, token, events)
    bad = [fault for fault in found if fault is not None]
    if not bad:
        return answer(Accepted(len(found), list(warnings_of(events))), 202)
    if not batch:
        raise bad[0]
    results = [Result(n, 202) if f is None else Result(n, f.status, f.body()) for n, f in enumerate(found)]
    return answer(Mixed(len(found) - len(bad), len(bad), results), 207)
