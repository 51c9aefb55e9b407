"""What every call shares: who is calling and what they may see, durable writes, waits that end, access on record."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar
from uuid import uuid4

import msgspec
from anyio import to_thread
from starlette.requests import Request

from connectors.http.bodies import Bodies
from connectors.http.marks import Entry, Marks
from connectors.http.metrics import Metrics
from connectors.http.problems import Problem
from connectors.http.roles import CALLS, SENDERS, Access, allows
from connectors.http.tokens import Token, TokenStore
from engine.deployment import Board, Deployment, NotOffered
from engine.keyring import RingFault
from engine.runtime import CommitLost, RuntimeFault
from schemas.events import DataAccessed
from schemas.identifiers import NotAnIdentifier, normalise
from schemas.routed import Envelope
from schemas.topics import ControllerState

SOURCE = "consentinel/door"
RETRY_SECS = 5  # a store that refuses a write needs an operator or a moment
ACTION_DEFAULT: Access = "view"
READ_BACK_SECS_MAX = 2.0  # how long a call waits to see what an earlier call wrote
POLL_SECS = 0.01
FAULTS = (RuntimeFault, RingFault, OSError)
T = TypeVar("T")
Sendable = tuple[str, str, Envelope]  # topic, key, event


class Options(msgspec.Struct, frozen=True):
    """What an operator may set."""

    fresh_secs: float = 5.0  # design, section 5: state older than this denies


class Door:
    """The door's own state: tokens, marks, metrics, bodies in flight."""

    def __init__(self, service: Deployment, tokens: TokenStore, options: Options, board: Board | None = None) -> None:
        self.service, self.tokens, self.options = service, tokens, options
        self.marks = Marks(lane=service.lane, board=board)
        self.bodies = Bodies()
        self.metrics = Metrics(service, self.marks.__len__, lambda: tokens.failed)

    # Who ----------------------------------------------------------------------------------------------------------------------

    def caller(self, request: Request, call: str) -> Token:
        """The caller, if it may make this call. Raises `Problem` (401, 403, 429)."""
        client = request.client.host if request.client else ""
        token = self.tokens.authenticate(request.headers.get("authorization"), client)
        if not allows(token.roles, CALLS[call].roles):
            raise Problem("role-missing")
        return token

    @staticmethod
    def may_touch(token: Token, controller: str, field: str = "/controller") -> None:
        """Raise `Problem` (403) unless the token is for this controller."""
        if not token.sees(controller):
            raise Problem("controller-not-yours", field)

    @staticmethod
    def may_send(token: Token, type_: str) -> None:
        """Raise `Problem` (403) unless the token may send events of this type; 400 when there is no such type."""
        senders = SENDERS.get(type_)
        if senders is None:
            raise Problem("unknown-type", "type")
        if not allows(token.roles, senders):
            raise Problem("role-missing", "type")

    def state_age_ms(self) -> int:
        """How old the state is that everything has been folded to; no state at all is as old as time."""
        return abs(self.service.clock() - self.service.beat_ms())

    # Work in a thread -----------------------------------------------------------------------------------------------------------

    async def run(self, work: Callable[[], T]) -> T:
        """Do blocking work in a thread; what the store or the ring cannot do now is a 503."""
        if self.service.failed is not None:
            raise Problem("unavailable", retry_after_secs=RETRY_SECS)
        try:
            return await to_thread.run_sync(work)
        except FAULTS:
            fault = Problem("unavailable", retry_after_secs=RETRY_SECS)
        except NotOffered:
            fault = Problem("not-supported-yet")
        raise fault  # outside the handler: what the engine said is for its own log

    def publish(self, events: Sequence[Sendable], marks: Sequence[Entry] = ()) -> None:
        """Append events durably; `marks` stand from before the append until the beat has passed it.

        Raises `Problem` (503) also when all is durable but the other doors could not be told of a denial: see `marks.py`.
        """
        service = self.service
        if service.failed is not None:
            self.marks.withdraw(marks)
            raise Problem("unavailable", retry_after_secs=RETRY_SECS)
        told = self.marks.post(marks)
        try:
            service.publish(events)
        except CommitLost:
            self.marks.withdraw(marks)
            raise
        except BaseException:
            # Nobody knows whether the records are there. A mark can only deny, so it stays.
            self.marks.settle(marks, service.passed_ms())
            raise
        self.marks.settle(marks, service.passed_ms())
        if not told:
            raise Problem("unavailable", retry_after_secs=RETRY_SECS)

    def accessed(self, token: Token, action: Access, counts: Mapping[str, int]) -> None:
        """Put on record, durably and before the answer leaves, who saw how much of which controller's data."""
        now_ms = self.service.clock()
        events: list[Sendable] = []
        for controller, count in counts.items():
            data = msgspec.json.encode(DataAccessed(action=action, count=count, actor=token.name, origin="door"))
            event_id = uuid4().hex
            events.append(("controls", event_id, Envelope(
                id=event_id, source=SOURCE, type="data.accessed", controller=controller, time_ms=now_ms, receipt_ms=now_ms,
                actor=token.name, content_type="application/json", data=data,
            )))  # fmt: skip
        if events:
            self.publish(events)

    # What is there ------------------------------------------------------------------------------------------------------------

    def refs(self, controller: str, identifiers: Iterable[tuple[str, str]], settings: ControllerState) -> list[str]:
        """The subject_ref of each (kind, value). Raises `Problem` (422) that names the first which is none."""
        found = []
        for n, (kind, value) in enumerate(identifiers):
            try:
                found.append(self.service.secrets.ref(controller, kind, normalise(kind, value, settings.default_region)))  # type: ignore[arg-type]
                continue
            except NotAnIdentifier as error:
                fault = Problem(error.code, f"/identifiers/{n}/value")
            raise fault
        return found

    async def settled(self, found: Callable[[], T | None]) -> T | None:
        """What `found` finds, waiting until all that was accepted before now is folded: callers read what they wrote."""
        asked_ms = self.service.clock()
        deadline = asyncio.get_running_loop().time() + READ_BACK_SECS_MAX
        while True:
            beat_ms = self.service.beat_ms()
            result = await self.run(found)
            if result is not None or beat_ms > asked_ms or asyncio.get_running_loop().time() > deadline:
                return result
            await asyncio.sleep(POLL_SECS)

    def sweep(self) -> None:
        """Drop marks that the beat has passed, and measure how long they stood."""
        for lane, beat_ms in enumerate(self.service.beats()):
            for secs in self.marks.sweep(beat_ms, lane):
                self.metrics.folds.observe(secs)
