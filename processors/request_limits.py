"""What a partial erasure is limited to: read from the request, told to identifiers, targets and the audit log."""

from processors.fields import EVERYTHING, chosen
from processors.kernel import Receipt
from processors.request_case import Limits, RequestCase
from schemas.events import RequestOpened
from schemas.routed import EraseOrder, MaskOrder


def limits_of(event: RequestOpened, at: Receipt) -> Limits | None:
    """What the request is limited to, if anything; fields that it does not name are the controller's choice."""
    scope = event.scope
    if scope is None:
        return None
    fields = scope.fields or chosen(at.settings(at.controller).sealed_fields)
    since, until = (None if moment is None else round(moment.timestamp() * 1000) for moment in (scope.since, scope.until))
    return Limits([EVERYTHING] if EVERYTHING in fields else sorted({*fields}), sorted({*scope.conversation_ids}), since, until)


def facts_of(limits: Limits | None) -> dict[str, str]:
    """The limits as facts of an audit entry: fields, and how many conversations or which period."""
    if limits is None:
        return {}
    bounds = {"from_ms": limits.since_ms, "to_ms": limits.until_ms, "conversations": len(limits.conversation_ids) or None}
    return {"fields": ",".join(limits.fields)} | {name: str(n) for name, n in bounds.items() if n is not None}


def order_of(case: RequestCase, index: int, targets: tuple[str, ...], by_ms: int, now_ms: int) -> EraseOrder | MaskOrder:
    """The order for the identifier at `index`: to be forgotten, or to lose what the request is limited to."""
    limits = case.limits
    if limits is None:
        return EraseOrder(
            request_id=case.request_id, index=index, targets=targets, acknowledge_by_ms=by_ms, regime=case.regime,
            ground=case.plea,
        )  # fmt: skip
    return MaskOrder(
        request_id=case.request_id, index=index, fields=tuple(limits.fields), conversation_ids=tuple(limits.conversation_ids),
        since_ms=limits.since_ms, until_ms=limits.until_ms, before_ms=now_ms, targets=targets, acknowledge_by_ms=by_ms,
        regime=case.regime, ground=case.plea,
    )  # fmt: skip


def fields_of(case: RequestCase) -> tuple[str, ...]:
    """The fields as notices name them: none where the items go whole."""
    return () if case.limits is None or EVERYTHING in case.limits.fields else tuple(case.limits.fields)
