"""Notices to targets: what an identifier's erasure has them drop, and the order ids that their answers name."""

from collections.abc import Sequence
from typing import Protocol

from processors.kernel import Emit
from schemas.topics import ErasureNotice


class Ordered(Protocol):
    """An erasure under way at an identifier. `reports`: each begins a new round of notices, with an order id of its own."""

    controller: str
    index: int
    targets: list[str]
    acknowledge_by_ms: int
    reports: int


def order_id_of(request_id: str, order: Ordered) -> str:
    """Name the notices of one round: what an acknowledgement is about. Later rounds follow a hold's release."""
    return f"{request_id}.{order.index}" + (f"r{order.reports}" if order.reports else "")


def notice_of(owner: str, request_id: str, order: Ordered, items: Sequence[str], fields: Sequence[str] = ()) -> Emit:
    """Tell the targets that these items of `owner` go, or these fields of them."""
    order_id = order_id_of(request_id, order)
    return Emit("erasure.notices", (order_id,), ErasureNotice(
        order_id=order_id, controller=order.controller, subject_ref=owner, items=tuple(items), cause="request",
        acknowledge_by_ms=order.acknowledge_by_ms, targets=tuple(order.targets), request_id=request_id, fields=tuple(fields),
    ))  # fmt: skip
