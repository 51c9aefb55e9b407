"""What a step makes of a request: the states of its life, and its clock when it stands still or is extended."""

import msgspec

from processors.kernel import Receipt
from processors.request_case import RequestCase
from processors.request_clock import Clock, clock_of, place_of

BEFORE_ORDER = ("identity_pending", "in_progress", "paused", "extended")


def after_step(case: RequestCase, step: str, by: str, at: Receipt, ground: str | None) -> RequestCase | None:
    """The case after `step`, or None where the step means nothing in its state."""
    replace, now_ms = msgspec.structs.replace, at.receipt_ms
    match step:
        case "identity_verified" if case.state in BEFORE_ORDER and not case.ordered and not case.verified_by:
            return replace(case, state=case.state if case.paused_ms is not None else "in_progress", verified_by=by)
        case "identity_failed" | "refused" if case.state in BEFORE_ORDER and not case.ordered:
            return replace(case, state="refused", ground=ground or ("identity" if step == "identity_failed" else None))
        case "withdrawn" if case.state in BEFORE_ORDER and not case.ordered:
            return replace(case, state="withdrawn", ground=ground)
        case "approved" if case.beyond and case.closed_ms is None and by != case.verified_by:
            return replace(case, approved_by=by, wide=True)
        case "approved" if case.state in BEFORE_ORDER and not case.ordered and by != case.verified_by:
            return replace(case, approved_by=by)
        case "retried" if case.ordered and case.closed_ms is None:
            return case
        case "paused" if case.state in BEFORE_ORDER and case.paused_ms is None and _clock_of(case, at).may_pause:
            return replace(case, state="paused", paused_ms=now_ms, ground=ground)
        case "resumed" if case.paused_ms is not None and case.closed_ms is None:
            state = "in_progress" if case.verified_by else "identity_pending"
            pauses = [*case.pauses, (case.paused_ms, max(now_ms, case.paused_ms))]
            return _timed(replace(case, state=state, pauses=pauses, paused_ms=None), at)
        # Art. 12(3): once, with notice inside the first period; by the time it is due it is too late.
        case "extended" if case.closed_ms is None and not case.extended and now_ms <= case.due_ms:
            return _timed(replace(case, extended=True, ground=ground), at) if _clock_of(case, at).may_extend else None
    return None


def _clock_of(case: RequestCase, at: Receipt) -> Clock:
    """The clock of a case: its place and its receipt stay, the law is what the packs in force now say of that day."""
    place = case.place or place_of(case.regime, None)
    return clock_of(at.law(at.controller), case.regime, case.right, place, case.received_ms)


def _timed(case: RequestCase, at: Receipt) -> RequestCase:
    """The case with its due time counted anew; a pause or an extension never makes it earlier than it was."""
    clock = _clock_of(case, at)
    due = clock.due_ms(extended=case.extended, pauses=case.pauses)
    return msgspec.structs.replace(case, due_ms=max(due, case.due_ms), law=clock.law)
