"""Runs data-subject requests against their clocks: from receipt to an answer, by one state machine."""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.kernel import (
    Alarm,
    Audit,
    Effect,
    Emit,
    Incurious,
    Instant,
    Mint,
    Put,
    Receipt,
    Refuse,
    Sealed,
    Shred,
    State,
    View,
    Wake,
)
from processors.terms import DAY_MS, response_due
from schemas.base import Record
from schemas.events import ErasureAcknowledged, RequestOpened, RequestStep
from schemas.routed import EraseOrder, EraseReport
from schemas.topics import IdentifierStatus, RequestClock, RequestStatus, TargetStatus

CLAIMS = "request"  # data-key scope of what the person told us; shredded at the final state
OVERDUE = "due"
FINAL_STATES = ("fulfilled", "refused", "withdrawn", "expired")
BEFORE_ORDER = ("identity_pending", "in_progress", "paused", "extended")


class RequestCase(State):
    """A request as its case keeps it. `refs` go when it is closed; `claims` open only while its own key lives."""

    KIND: ClassVar[str] = "request"
    SEALED: ClassVar[dict[str, str]] = {"claims": "claims"}
    SEALED_IN: ClassVar[type[Record] | None] = RequestStatus
    request_id: str
    controller: str
    right: str
    regime: str
    state: str
    received_ms: int
    due_ms: int
    refs: list[str]
    claims: Sealed = None
    verified_by: str = ""  # keyed hash of the actor
    approved_by: str = ""
    ordered: bool = False
    extended: bool = False
    paused_ms: int | None = None
    ground: str | None = None
    reports: dict[int, tuple[int, int, bool]] = {}  # index of an identifier → erased, held, final
    targets: dict[str, tuple[int, dict[str, tuple[str, int]]]] = {}  # target → deadline, order → outcome, when
    orders: list[str] = []  # the orders that identifiers have told of; every target answers each
    closed_ms: int | None = None


class RunRequest(Incurious):
    """GDPR Art. 12, 17; 11 CCR §7021. An erasure is ordered once identity is verified and, with four eyes, approved by another.

    It is fulfilled when every identifier has answered that all is gone and every registered target has acknowledged; with held
    items it is partially fulfilled until the last hold is released. A fulfilled erasure never reopens.
    """

    name = "run_request"
    READS: ClassVar[tuple[type[Record], ...]] = (RequestOpened, RequestStep, EraseReport, ErasureAcknowledged)
    STATE: ClassVar[tuple[type[State], ...]] = (RequestCase,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the request's next state, its status for others, and orders to identifiers."""
        case = view.get(RequestCase)
        if case is not None and case.controller != at.controller:
            yield Refuse("id-taken", "request_id")
            return
        match event:
            case RequestOpened():
                if case is None:
                    yield from self._open(view, event, at)
            case RequestStep():
                if case is None:
                    yield Refuse("unknown-request", "request_id")
                else:
                    yield from self._advance(view, case, event, at)
            case EraseReport():
                if case is not None:
                    reports = {**case.reports, event.index: (event.erased, event.held, event.final)}
                    orders = sorted({*case.orders, *filter(None, [event.order_id])})
                    case = msgspec.structs.replace(case, reports=reports, orders=orders)
                    yield from self._settle(view, case, at.receipt_ms)
            case ErasureAcknowledged():
                yield from self._acknowledge(view, case, event, at)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """The due time has come: an open request is overdue, which is on record."""
        case = view.get(RequestCase)
        if case is not None and case.closed_ms is None and case.due_ms <= now.now_ms:
            yield Audit("request.overdue", case.controller, {"state": case.state, "regime": case.regime}, named=False)

    def _open(self, view: View, event: RequestOpened, at: Receipt) -> Iterator[Effect]:
        refs = list(dict.fromkeys(r for r in at.envelope.refs if r))
        if not refs:
            yield Refuse("never-a-subject", "identifiers")
            return
        due = response_due(event.regime, at.receipt_ms, extended=False)
        told = {"identifiers": event.identifiers, "claims": event.claims, "agent": event.agent}
        case = RequestCase(
            event.request_id, at.controller, event.right, event.regime, "identity_pending", at.receipt_ms, due, refs,
            msgspec.json.encode(told).decode(),
        )  # fmt: skip
        yield Mint(CLAIMS, at.controller)
        yield Put(case, (), scope=CLAIMS)
        yield Wake(OVERDUE, due)
        yield Audit("request.opened", at.controller, {"right": event.right, "regime": event.regime, "due_ms": str(due),
                    "received_via": event.received_via}, named=False)  # fmt: skip
        yield status_of(view.get(RequestCase) or case)

    def _advance(self, view: View, case: RequestCase, event: RequestStep, at: Receipt) -> Iterator[Effect]:
        step = at.envelope.type.removeprefix("request.")
        by = at.actor_hash(at.controller, at.envelope.actor)
        new = self._next(case, step, by, at.receipt_ms, event.ground)
        if new is None:
            yield Audit("request.step_ignored", at.controller, {"step": step, "state": case.state, "by": by}, named=False)
            return
        yield Put(new)
        yield Audit(f"request.{step}", at.controller, {"state": new.state, "by": by, "ground": event.ground or ""}, named=False)
        yield Wake(OVERDUE, new.due_ms if new.paused_ms is None else None)  # a clock that stands still runs out for nobody
        if new.state in FINAL_STATES:
            yield from self._close(view, new, at.receipt_ms)
            return
        four_eyes = at.settings(at.controller).four_eyes
        if new.state == "in_progress" and not new.ordered and (not four_eyes or new.approved_by not in ("", new.verified_by)):
            yield from self._order(view, new, at)
            return
        yield status_of(new)

    def _next(self, case: RequestCase, step: str, by: str, now_ms: int, ground: str | None) -> RequestCase | None:
        """The case after `step`, or None where the step means nothing in its state."""
        replace = msgspec.structs.replace
        match step:
            case "identity_verified" if case.state in BEFORE_ORDER and not case.ordered and not case.verified_by:
                return replace(case, state=case.state if case.paused_ms is not None else "in_progress", verified_by=by)
            case "identity_failed" | "refused" if case.state in BEFORE_ORDER and not case.ordered:
                return replace(case, state="refused", ground=ground or ("identity" if step == "identity_failed" else None))
            case "withdrawn" if case.state in BEFORE_ORDER and not case.ordered:
                return replace(case, state="withdrawn", ground=ground)
            case "approved" if case.state in BEFORE_ORDER and not case.ordered and by != case.verified_by:
                return replace(case, approved_by=by)
            # California knows no pause (11 CCR §7021); elsewhere the clock stands still until it is resumed.
            case "paused" if case.state in BEFORE_ORDER and case.regime != "ccpa" and case.paused_ms is None:
                return replace(case, state="paused", paused_ms=now_ms, ground=ground)
            case "resumed" if case.paused_ms is not None and case.closed_ms is None:
                state = "in_progress" if case.verified_by else "identity_pending"
                return replace(case, state=state, due_ms=case.due_ms + now_ms - case.paused_ms, paused_ms=None)
            # Art. 12(3): once, with notice inside the first period; by the time it is due it is too late.
            case "extended" if case.closed_ms is None and not case.extended and now_ms <= case.due_ms:
                stood_still = case.due_ms - response_due(case.regime, case.received_ms, extended=False)
                due = response_due(case.regime, case.received_ms, extended=True) + stood_still
                return replace(case, due_ms=due, extended=True, ground=ground)
        return None

    def _order(self, view: View, case: RequestCase, at: Receipt) -> Iterator[Effect]:
        """The ledger entry stands before the first destructive step: it is in the same commit as the orders."""
        targets = at.settings(at.controller).targets
        waits = {t.name: (at.receipt_ms + t.deadline_days * DAY_MS, dict[str, tuple[str, int]]()) for t in targets}
        case = msgspec.structs.replace(case, ordered=True, targets=waits)
        yield Put(case)
        yield Audit("erasure.ordered", at.controller, {"identifiers": str(len(case.refs)), "targets": str(len(targets)),
                    "verified_by": case.verified_by, "approved_by": case.approved_by}, named=False)  # fmt: skip
        by = min((d for d, _ in waits.values()), default=case.due_ms)
        for index, ref in enumerate(case.refs):
            yield Emit("subject.events", (ref,), EraseOrder(
                request_id=case.request_id, index=index, targets=tuple(waits), acknowledge_by_ms=by))  # fmt: skip
        yield status_of(case)

    def _acknowledge(self, view: View, case: RequestCase | None, event: ErasureAcknowledged, at: Receipt) -> Iterator[Effect]:
        facts = {"target": event.target, "outcome": event.outcome, "order": event.order_id}
        if case is None or event.target not in case.targets or event.order_id not in _orders(case):
            yield Audit("erasure.acknowledged", at.controller, facts | {"request": "none"}, named=False)
            return
        deadline, answers = case.targets[event.target]
        old = answers.get(event.order_id)
        if old is not None and old[0] == "done":
            return
        answers = {**answers, event.order_id: (event.outcome, at.receipt_ms)}
        yield Audit("erasure.acknowledged", at.controller, facts, named=False)
        case = msgspec.structs.replace(case, targets={**case.targets, event.target: (deadline, answers)})
        yield from self._settle(view, case, at.receipt_ms)

    def _settle(self, view: View, case: RequestCase, now_ms: int) -> Iterator[Effect]:
        """Close the request when nothing is open; otherwise say how far it is."""
        if case.closed_ms is not None:
            return
        everyone = len(case.reports) == len(case.refs)
        final = everyone and all(done for _, _, done in case.reports.values())
        answered = all(answers.get(o, ("", 0))[0] == "done" for _, answers in case.targets.values() for o in case.orders)
        if final and answered:
            yield from self._close(view, msgspec.structs.replace(case, state="fulfilled"), now_ms)
            return
        if everyone and not final:
            case = msgspec.structs.replace(case, state="partially_fulfilled")
        yield Put(case)
        yield status_of(case)

    def _close(self, view: View, case: RequestCase, now_ms: int) -> Iterator[Effect]:
        refs = [""] * len(case.refs)  # after completion a ref may exist only in fence and suppression
        case = msgspec.structs.replace(case, closed_ms=now_ms, refs=refs, claims=None)
        yield Put(case)
        yield Shred(CLAIMS)
        yield Wake(OVERDUE, None)
        yield Audit("request.closed", case.controller, {"state": case.state}, named=False)
        yield status_of(case)


def _orders(case: RequestCase) -> set[str]:
    """The orders that may be acknowledged: the first of each identifier, and those told of since."""
    return {*case.orders, *(f"{case.request_id}.{n}" for n in range(len(case.refs)))}


def status_of(case: RequestCase) -> Emit:
    """Say where a request stands, as `requests.state` carries it."""
    targets = tuple(_target(name, deadline, answers, case.orders) for name, (deadline, answers) in case.targets.items())
    return Emit("requests.state", (case.request_id,), RequestStatus(
        request_id=case.request_id, controller=case.controller, state=case.state, right=case.right, regime=case.regime,  # type: ignore[arg-type]
        clock=RequestClock(received_ms=case.received_ms, due_ms=case.due_ms, paused_ms=case.paused_ms, extended=case.extended),
        ground=case.ground, targets=targets, closed_ms=case.closed_ms, identifiers=tuple(
            IdentifierStatus(index=n, erased=e, held=h, final=f) for n, (e, h, f) in sorted(case.reports.items())),
    ))  # fmt: skip


def _target(name: str, deadline_ms: int, answers: dict[str, tuple[str, int]], orders: list[str]) -> TargetStatus:
    outcomes = {answers[o][0] if o in answers else "open" for o in orders} or {"open"}
    outcome: Any = next(o for o in ("failed", "held", "open", "done") if o in outcomes)
    answered = max((when for _, when in answers.values()), default=None)
    return TargetStatus(target=name, outcome=outcome, acknowledge_by_ms=deadline_ms, answered_ms=answered)
