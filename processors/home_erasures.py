"""What a home does for the erasures of further identifiers of its people: they ask for single items, and are answered."""

from collections.abc import Generator, Iterator
from typing import ClassVar

import msgspec

from processors.exceptions import Plea
from processors.item import EXPIRE, STEP, Item, Planned
from processors.item_end import ITEMS_PER_STEP, Asked, destroy_item, forget_nonce, media_orders
from processors.kernel import Delete, Effect, Emit, Instant, Put, Receipt, Remove, State, View, Wake
from processors.terms import notice_by
from processors.weighing import Scales, kept_against, overrule
from schemas.routed import HeldItem, ItemErase, ItemErased

ASKERS_PER_STEP = 50


class Waiting(State):
    """A held item whose erasure was asked for by a further identifier of the same party."""

    KIND: ClassVar[str] = "waiting"
    request_id: str
    asker: str
    acknowledge_by_ms: int = 0
    told: HeldItem | None = None  # what the asker knows of the holds
    regime: str = ""
    ground: str = ""


def erase_for(view: View, event: ItemErase, at: Receipt) -> Iterator[Effect]:
    """Erase an item that a further identifier asks for, or have it wait for what keeps it; answer."""
    item = view.get(Item, event.conversation_id)
    by, plea = Scales(at, at.controller, at.receipt_ms), Plea(event.regime, event.ground)
    kept = kept_against(view, event.conversation_id, plea, by)
    waiting = Waiting(event.request_id, event.asker, event.acknowledge_by_ms, kept, *plea)
    if item is None or kept is None:
        yield from _erase_and_answer(view, event.conversation_id, item, waiting, by)
        return
    yield Put(waiting, (event.conversation_id, event.request_id, event.asker))
    if view.get(Planned, event.conversation_id) is not None:
        yield Wake(EXPIRE + event.conversation_id, at.receipt_ms, of="enforce_retention")
    if event.asker:
        yield _still_held(waiting, kept)


def free(view: View, now: Instant) -> Generator[Effect, None, bool]:
    """Look again at what waits: tell askers of changed grounds first (then True), or erase what nothing keeps."""
    kept_now = {p: kept_against(view, p[0], _plea_of(w), _scales(view, p[0], now)) for p, w in view.scan(Waiting)}
    moved = [(p, w, k) for p, w in view.scan(Waiting) if (k := kept_now[p]) is not None and k != w.told]
    for parts, waiting, kept in moved[:ASKERS_PER_STEP]:
        yield Put(msgspec.structs.replace(waiting, told=kept), parts)
        if waiting.asker:
            yield _still_held(waiting, kept)
    if moved:
        yield Wake(STEP, now.now_ms)
        return True
    freed = [(p[0], w) for p, w in view.scan(Waiting) if kept_now[p] is None]
    for conversation_id, waiting in freed[:ITEMS_PER_STEP]:
        yield Delete(Waiting, (conversation_id, waiting.request_id, waiting.asker))
        item = view.get(Item, conversation_id)
        days = (t.deadline_days for t in now.settings(item.controller if item else "").targets)
        by_ms = max(waiting.acknowledge_by_ms, notice_by(now.now_ms, days))
        order = msgspec.structs.replace(waiting, acknowledge_by_ms=by_ms)
        yield from _erase_and_answer(view, conversation_id, item, order, _scales(view, conversation_id, now))
    if len(freed) > ITEMS_PER_STEP:
        yield Wake(STEP, now.now_ms)
    return False


def _plea_of(order: Waiting) -> Plea:
    return Plea(order.regime, order.ground)


def _scales(view: View, conversation_id: str, now: Instant) -> Scales:
    item = view.get(Item, conversation_id)
    return Scales(now, item.controller if item is not None else "", now.now_ms)


def _still_held(waiting: Waiting, kept: HeldItem) -> Emit:
    """At the home: the asker is told on which grounds the item stays, and again when these change."""
    return Emit("subject.events", (waiting.asker,), ItemErased(
        conversation_id=kept.conversation_id, request_id=waiting.request_id, held=True, kept=kept))  # fmt: skip


def _erase_and_answer(view: View, conversation_id: str, item: Item | None, order: Waiting, by: Scales) -> Iterator[Effect]:
    """At the home: erase an item that a further identifier's erasure reached, and answer; the asker notifies targets."""
    media: tuple[str, ...] = ()
    if item is not None:
        media = media_orders(view, item, conversation_id)
        asked = Asked(order.request_id, order.acknowledge_by_ms, _plea_of(order))
        yield from overrule(view, item, conversation_id, asked, by)
        yield from destroy_item(view, item, conversation_id, "request", by.now_ms, asked)
        yield Remove({"request": order.request_id})
    if order.asker:
        yield Emit("subject.events", (order.asker,), ItemErased(
            conversation_id=conversation_id, request_id=order.request_id, held=False,
            home=view.owner if item is not None else "", media=media))  # fmt: skip
    yield from forget_nonce(view)
