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
    Ledger,
    Mint,
    Put,
    Receipt,
    Refuse,
    Remove,
    Shred,
    State,
    View,
    Wake,
)
from processors.request_case import DEADLINES, RequestCase, deadline_of, orders_of, status_of, warn, with_media, with_report
from processors.request_clock import clock_here
from processors.request_grounds import exempted, right_of
from processors.request_limits import facts_of, fields_of, limits_of, order_of
from processors.request_links import CLOSURE_REVIEWED_MAX, open_follow_ons, probe, with_links
from processors.request_steps import after_step
from processors.terms import DAY_MS
from schemas.base import Record
from schemas.events import ErasureAcknowledged, RequestOpened, RequestScanned, RequestStep
from schemas.routed import EraseReport, FollowOn, LinksFound, MediaAnswered, ProbeEnded
from schemas.topics import ErasureNotice

CLAIMS = "request"  # data-key scope of what the person told us; shredded at the final state
OVERDUE = "due"
FINAL_STATES = ("fulfilled", "refused", "withdrawn", "expired")
WORKING = ("in_progress", "partially_fulfilled")


class RunRequest(Incurious):
    """GDPR Art. 12, 17; 11 CCR §7021. An erasure is ordered once identity is verified and, with four eyes, approved by another.

    It is fulfilled when every identifier has answered that all is gone and every registered target has acknowledged; with held
    items it is partially fulfilled until the last hold is released. A fulfilled erasure never reopens.

    Its clock is the law pack's (`processors/request_clock.py`), in the controller's place: when the answer is due, by how much it
    can be extended, and whether it may stand still. Entries of the audit log name the pack's version.
    """

    name = "run_request"
    READS: ClassVar[tuple[type[Record], ...]] = (
        RequestOpened, RequestStep, RequestScanned, LinksFound, FollowOn, EraseReport, MediaAnswered, ErasureAcknowledged,
    )  # fmt: skip
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
            case RequestScanned():
                yield Refuse("unknown-request", "request_id") if case is None else _scanned(case, event, at)
            case LinksFound():
                if case is not None:
                    yield from self._linked(case, event, at)
            case FollowOn():
                if case is None:
                    yield from self._follow(event, at)
            case EraseReport():
                if case is not None and not case.reports.get(event.index, (0, 0, False))[2]:  # what is final stays
                    case = yield from exempted(with_report(case, event), at)
                    yield deadline_of(case, at.receipt_ms)
                    yield from self._settle(case, at.receipt_ms)
            case MediaAnswered():
                if case is not None and case.closed_ms is None:
                    case = yield from exempted(with_media(case, event), at)
                    yield deadline_of(case, at.receipt_ms)
                    yield from self._settle(case, at.receipt_ms)
            case ErasureAcknowledged():
                yield from self._acknowledge(case, event, at)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """A request that is open when it is due is overdue, which is on record; so is a target, with warnings before."""
        case = view.get(RequestCase)
        if case is None or case.closed_ms is not None:
            return
        if alarm.name == DEADLINES:
            yield from warn(case, now.now_ms)
        elif case.due_ms <= now.now_ms:
            facts = {"state": case.state, "regime": case.regime, "request": case.request_id}
            yield Audit("request.overdue", case.controller, facts, named=False, law=case.law)

    def _open(self, view: View, event: RequestOpened, at: Receipt) -> Iterator[Effect]:
        refs = list(dict.fromkeys(r for r in at.envelope.refs if r))
        if not refs:
            yield Refuse("never-a-subject", "identifiers")
            return
        limits = limits_of(event, at)
        if limits is not None and not limits.fields:
            yield Refuse("nothing-chosen", "scope")
            return
        clock = clock_here(event.regime, event.right, at)
        due, confirm = clock.due_ms(), clock.confirm_ms
        told = {"identifiers": event.identifiers, "claims": event.claims, "agent": event.agent}
        case = RequestCase(
            event.request_id, at.controller, event.right, event.regime, "identity_pending", at.receipt_ms, due, refs,
            msgspec.json.encode(told).decode(), limits=limits, place=clock.place, law=clock.law, confirm_ms=confirm,
            plea=event.ground or "",
        )  # fmt: skip
        yield Mint(CLAIMS, at.controller)
        yield Put(case, (), scope=CLAIMS)
        yield Wake(OVERDUE, due)
        yield Audit("request.opened", at.controller, {"right": event.right, "regime": event.regime, "due_ms": str(due),
                    "received_via": event.received_via, "request": event.request_id, "rule": clock.row.rule, "place": clock.place}
                    | ({} if confirm is None else {"confirm_by_ms": str(confirm)}) | right_of(event, at) | facts_of(limits),
                    named=False, law=clock.law)  # fmt: skip
        yield status_of(view.get(RequestCase) or case)

    def _advance(self, view: View, case: RequestCase, event: RequestStep, at: Receipt) -> Iterator[Effect]:
        step = at.envelope.type.removeprefix("request.")
        by = at.actor_hash(at.controller, at.envelope.actor)
        new = after_step(case, step, by, at, event.ground)
        if new is None:
            facts = {"step": step, "state": case.state, "by": by, "request": case.request_id}
            yield Audit("request.step_ignored", at.controller, facts, named=False, law=case.law)
            return
        yield Put(new)
        facts = {"state": new.state, "by": by, "ground": event.ground or "", "request": case.request_id}
        if new.due_ms != case.due_ms:
            facts["due_ms"] = str(new.due_ms)
        yield Audit(f"request.{step}", at.controller, facts, named=False, law=new.law)
        if step == "retried":
            yield from _tell_again(new, event.target or "")
        if (new.due_ms, new.paused_ms) != (case.due_ms, case.paused_ms):  # what has rung once is on record
            yield Wake(OVERDUE, new.due_ms if new.paused_ms is None else None)  # a clock that stands still runs out for nobody
        if new.state in FINAL_STATES:
            yield from self._close(new, at.receipt_ms)
            return
        yield from self._go_on(new, at)

    def _go_on(self, case: RequestCase, at: Receipt) -> Iterator[Effect]:
        """Do what the request is ready for: ask its identifiers whom they are linked to; once all have answered, order."""
        four_eyes = at.settings(at.controller).four_eyes
        if case.state in WORKING and (not four_eyes or case.approved_by not in ("", case.verified_by)):
            if not case.gathered:
                case = msgspec.structs.replace(case, gathered=True, probing=list(case.refs))
                yield from probe(case, case.refs)
            elif case.wide and case.beyond and (room := CLOSURE_REVIEWED_MAX - len(case.refs)) > 0:
                more, left = case.beyond[:room], case.beyond[room:]  # with more than that it stays open, and says why
                case = msgspec.structs.replace(
                    case, refs=[*case.refs, *more], probing=[*case.probing, *more], beyond=left,
                    ground=case.ground if left else None,
                )  # fmt: skip
                yield from probe(case, more)
            elif not case.probing and not case.beyond and case.told < len(case.refs):
                yield from self._order(case, at)
                return
        yield Put(case)
        yield status_of(case)

    def _linked(self, case: RequestCase, event: LinksFound, at: Receipt) -> Iterator[Effect]:
        """Take what an identifier tells of its links; what comes too late for this request opens one of its own."""
        if case.closed_ms is not None:
            if case.ordered and not event.answer and case.limits is None:
                yield from open_follow_ons(case, event)
            return
        grown = yield from with_links(case, event, at)
        if grown.probing or grown.beyond:
            yield Put(grown)
        else:
            yield from self._go_on(grown, at)

    def _follow(self, event: FollowOn, at: Receipt) -> Iterator[Effect]:
        """Open the erasure of what a late link says was the same person's: verified, as its parent was."""
        clock = clock_here(event.regime, "erasure", at)
        due = clock.due_ms()
        case = RequestCase(
            event.request_id, at.controller, "erasure", event.regime, "in_progress", at.receipt_ms, due, list(event.refs),
            verified_by=event.verified_by, approved_by=event.approved_by, erased=list(event.erased),
            place=clock.place, law=clock.law, plea=event.ground,
        )  # fmt: skip
        yield Wake(OVERDUE, due)
        facts = {"right": "erasure", "regime": event.regime, "due_ms": str(due), "received_via": "follow-on"}
        for request_id in (event.request_id, event.parent):
            yield Audit("request.opened", at.controller, facts | {"request": request_id}, named=False, law=clock.law)
        yield from self._go_on(case, at)

    def _order(self, case: RequestCase, at: Receipt) -> Iterator[Effect]:
        """The ledger entry stands before the first destructive step: it is written before the orders are committed."""
        targets = at.settings(at.controller).targets
        waits = {t.name: (at.receipt_ms + t.deadline_days * DAY_MS, dict[str, tuple[str, int]]()) for t in targets}
        for name, (deadline, answers) in case.targets.items():  # ordered before, or answered before a restore
            waits[name] = (deadline or waits.get(name, (case.due_ms,))[0], answers)
        by = min((d for d, _ in waits.values()), default=case.due_ms)
        fresh = case.refs[case.told :]
        yield Audit("erasure.ordered", at.controller, {"identifiers": str(len(fresh)), "targets": str(len(targets)),
                    "verified_by": case.verified_by, "approved_by": case.approved_by, "request": case.request_id},
                    named=False)  # fmt: skip
        yield Ledger(tuple(
            Emit("subject.events", (ref,), order_of(case, index, tuple(waits), by, at.receipt_ms))
            for index, ref in enumerate(fresh, case.told)
        ))  # fmt: skip
        case = msgspec.structs.replace(case, ordered=True, targets=waits, told=len(case.refs), media_by_ms=case.media_by_ms or by)
        yield deadline_of(case, at.receipt_ms)
        yield from self._settle(case, at.receipt_ms)

    def _acknowledge(self, case: RequestCase | None, event: ErasureAcknowledged, at: Receipt) -> Iterator[Effect]:
        facts = {"target": event.target, "outcome": event.outcome, "order": event.order_id}
        early = case is not None and not case.ordered and event.order_id in case.orders
        if case is None or event.order_id not in orders_of(case) or not (early or event.target in case.targets):
            yield Audit("erasure.acknowledged", at.controller, facts | {"request": "none"}, named=False)
            return
        deadline, answers = case.targets.get(event.target, (0, {}))
        old = answers.get(event.order_id)
        if old is not None and old[0] == "done":
            return
        answers = {**answers, event.order_id: (event.outcome, at.receipt_ms)}
        ground = {"ground": event.ground} if event.ground else {}
        yield Audit("erasure.acknowledged", at.controller, facts | {"request": case.request_id} | ground, named=False)
        case = msgspec.structs.replace(case, targets={**case.targets, event.target: (deadline, answers)})
        yield from self._settle(case, at.receipt_ms)

    def _settle(self, case: RequestCase, now_ms: int) -> Iterator[Effect]:
        """Close the request when nothing is open; otherwise say how far it is."""
        if case.closed_ms is not None:
            return
        everyone = case.ordered and not case.probing and not case.beyond and len(case.reports) == case.told == len(case.refs)
        final = everyone and all(done for _, _, done in case.reports.values())
        answered = all(answers.get(o, ("", 0))[0] == "done" for _, answers in case.targets.values() for o in case.orders)
        if final and answered and all(outcome == "done" for outcome in case.media.values()):
            yield from self._close(msgspec.structs.replace(case, state="fulfilled"), now_ms)
            return
        if everyone and (case.kept_media or not final):
            case = msgspec.structs.replace(case, state="partially_fulfilled")
        yield Put(case)
        yield status_of(case)

    def _close(self, case: RequestCase, now_ms: int) -> Iterator[Effect]:
        if case.gathered and (case.limits is not None or not case.ordered):  # an erased identifier forgets it by itself
            for ref in case.refs:
                yield Emit("subject.events", (ref,), ProbeEnded(request_id=case.request_id))
        refs = [""] * len(case.refs)  # after completion a ref may exist only in fence and suppression
        case = msgspec.structs.replace(
            case, closed_ms=now_ms, refs=refs, probing=[], beyond=[], erased=[], claims=None, kept={}, kept_media={}
        )  # fmt: skip
        yield Put(case)
        yield Shred(CLAIMS, {"request": case.request_id})
        yield Wake(OVERDUE, None)
        yield Wake(DEADLINES, None)
        facts = {"state": case.state, "request": case.request_id}
        yield Audit("request.closed", case.controller, facts, named=False, law=case.law)
        if case.ordered:
            yield Remove({"request": case.request_id}, bounds=True)
        yield status_of(case)


def _scanned(case: RequestCase, event: RequestScanned, at: Receipt) -> Audit:
    """Put a scan's result on record, whatever the request's state, which it does not change."""
    facts = {"verdict": event.verdict, "digest": event.digest, "scanned_at": event.scanned_at.isoformat(timespec="seconds"),
             "needles": str(event.needles), "found": str(event.found), "sources": "+".join(event.sources),
             "by": at.actor_hash(at.controller, at.envelope.actor), "request": case.request_id}  # fmt: skip
    if event.control is not None:
        facts |= {"control": event.control, "controlled": str(event.controlled or 0)}
    if event.epochs is not None:
        facts["epochs"] = event.epochs
    return Audit("request.scanned", case.controller, facts, named=False)


def _tell_again(case: RequestCase, target: str) -> Iterator[Effect]:
    """Send one target the notices that it has not answered with `done`: without items, which the first ones named."""
    deadline, answers = case.targets.get(target, (0, {}))
    if target not in case.targets:
        return
    for order_id in case.orders:
        if answers.get(order_id, ("", 0))[0] != "done":
            index = int(order_id.removeprefix(case.request_id + ".").partition("r")[0])
            yield Emit("erasure.notices", (order_id,), ErasureNotice(
                order_id=order_id, controller=case.controller, subject_ref=case.refs[index], items=(), cause="request",
                acknowledge_by_ms=deadline, targets=(target,), request_id=case.request_id, fields=fields_of(case),
            ))  # fmt: skip
