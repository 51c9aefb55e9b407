"""Keeps a recording back while anybody who was on the conversation is held: it holds everybody's voice.

Before a recording is ordered away, the order asks the conversation, and the conversation the homes of all who were there, one
after the other (`MediaCheck`). Whoever is held keeps the question, and asks the conversation anew after the release: others may
be held by then. When nobody is left to be asked, the order is told that nobody is held.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.exceptions import Plea
from processors.grounds import held_item
from processors.item import Item
from processors.kernel import Alarm, Delete, Effect, Emit, Incurious, Instant, Put, Receipt, State, View, Wake
from processors.order_media import media_case
from processors.weighing import Scales, weigh_item
from schemas.base import Record
from schemas.routed import HeldItem, Hold, MediaCheck, MediaChecked

REVIEW = "review"
CHECKS_PER_STEP = 50


class KeptMedia(State):
    """An order for a recording that waits for this identifier's release; its parts are (conversation, order)."""

    KIND: ClassVar[str] = "keptmedia"
    controller: str
    kept: HeldItem
    regime: str = ""  # by which law the recording is asked for, and on which ground of Art. 17(1)
    ground: str = ""


class HoldMedia(Incurious):
    """One home's part of the question: whose item is held keeps the recording, whoever wants it gone, and for whatever cause.

    A hold that comes when the order has been sent does not call it back.
    """

    name = "hold_media"
    READS: ClassVar[tuple[type[Record], ...]] = (MediaCheck, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = (KeptMedia,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the question to the next home, or the answer."""
        match event:
            case MediaCheck():
                plea = Plea(event.regime, event.ground)
                kept = _kept(view, event.conversation_id, plea, Scales(at, at.controller, at.receipt_ms))
                if kept is None:
                    if view.get(KeptMedia, event.conversation_id, event.order_id) is not None:
                        yield Delete(KeptMedia, (event.conversation_id, event.order_id))
                    yield ask_next(event)
                else:
                    waiting = KeptMedia(at.controller, kept, event.regime, event.ground)
                    yield Put(waiting, (event.conversation_id, event.order_id))
                    yield kept_back(event.order_id, kept)
            case Hold():
                if any(True for _ in view.scan(KeptMedia)):
                    yield Wake(REVIEW, at.receipt_ms)  # once the hold itself has been noted
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Ask the conversation anew about what is not held here any more; tell on which grounds the rest is."""
        every = [(parts, old, self._now(view, parts[0], old, now)) for parts, old in view.scan(KeptMedia)]
        changed = [(parts, old, kept) for parts, old, kept in every if kept != old.kept]
        for parts, old, kept in changed[:CHECKS_PER_STEP]:
            conversation_id, order_id = parts
            if kept is not None:
                yield Put(msgspec.structs.replace(old, kept=kept), parts)
                yield kept_back(order_id, kept)
                continue
            yield Delete(KeptMedia, parts)
            again = MediaCheck(conversation_id=conversation_id, order_id=order_id, regime=old.regime, ground=old.ground)
            yield Emit("case.events", ("conversation", old.controller, conversation_id), again)
        if len(changed) > CHECKS_PER_STEP:
            yield Wake(REVIEW, now.now_ms)

    def _now(self, view: View, conversation_id: str, old: KeptMedia, now: Instant) -> HeldItem | None:
        return _kept(view, conversation_id, Plea(old.regime, old.ground), Scales(now, old.controller, now.now_ms))


def ask_next(check: MediaCheck) -> Emit:
    """The question to the next home that has not been asked; the answer, where there is none."""
    if not check.left:
        return Emit("case.events", _order(check.order_id), MediaChecked(order_id=check.order_id))
    after = msgspec.structs.replace(check, left=check.left[1:])
    return Emit("subject.events", (check.left[0],), after)


def kept_back(order_id: str, kept: HeldItem) -> Emit:
    """The answer that a hold keeps the recording."""
    return Emit("case.events", _order(order_id), MediaChecked(order_id=order_id, kept=kept))


def _order(order_id: str) -> tuple[str, str]:
    name = media_case(order_id)
    assert name is not None, "only orders for recordings are asked about"
    return "media", name


def _kept(view: View, conversation_id: str, plea: Plea, by: Scales) -> HeldItem | None:
    if view.get(Item, conversation_id) is None:
        return None
    return held_item(conversation_id, weigh_item(view, conversation_id, plea, by, recording=True).standing)
