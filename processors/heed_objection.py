"""Heeds an objection: legitimate interests alone keep nothing any more of who objects (GDPR Art. 17(1)(c), 21(1))."""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

from processors.exceptions import INTERESTS, OBJECTION, TAG
from processors.item import HeldBy, Pointer
from processors.kernel import Alarm, Audit, Effect, Emit, Incurious, Instant, Receipt, State, View, Wake
from processors.permissions import Permissions
from schemas.base import Record
from schemas.events import SuppressionChanged
from schemas.routed import Hold, ItemOpened, ItemPointed

STEP = "heed\x1f"
ENDED_PER_STEP = 100
MARK = TAG + INTERESTS


class HeedObjection(Incurious):
    """An objection on a person's list ends the mark 6(1)(f) on all that this person has here, now and later, and only there.

    The others on a conversation have not objected. Grounds that override an objection (Art. 21(1)) are a hold's, not a tag's; an
    objection that is taken back gives nothing back: what was let go may be gone.
    """

    name = "heed_objection"
    READS: ClassVar[tuple[type[Record], ...]] = (SuppressionChanged, ItemOpened, ItemPointed, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = ()

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the end of a mark to whoever has the item."""
        match event:
            case SuppressionChanged():
                if event.list == OBJECTION and _objects(view):
                    yield Wake(STEP, at.receipt_ms)
            case ItemOpened():
                if MARK in event.holds and _objects(view):
                    yield _end(view.owner, event.conversation_id)
            case ItemPointed():
                if _objects(view):
                    yield _end(event.home, event.conversation_id)
            case Hold():
                if event.hold_id == MARK and event.placed and event.conversation_id is not None and _objects(view):
                    pointer = view.get(Pointer, event.conversation_id)
                    yield _end(view.owner if pointer is None else pointer.home, event.conversation_id)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """End the mark on what is here, and at the homes that pointers lead to, a bounded number at a time."""
        if not _objects(view):
            return  # taken back at once
        after = alarm.name.removeprefix(STEP)
        marked = {parts[0]: view.owner for parts, held in view.scan(HeldBy) if MARK in held.holds}
        marked |= {parts[0]: pointer.home for parts, pointer in view.scan(Pointer)}
        left = sorted(conversation_id for conversation_id in marked if conversation_id > after)
        for conversation_id in left[:ENDED_PER_STEP]:
            yield _end(marked[conversation_id], conversation_id)
        known = view.get(Permissions)
        if not after and left and known is not None:
            yield Audit("mark.ended", known.controller, {"mark": INTERESTS, "by": OBJECTION})
        if len(left) > ENDED_PER_STEP:
            yield Wake(STEP + left[ENDED_PER_STEP - 1], now.now_ms)


def _objects(view: View) -> bool:
    known = view.get(Permissions)
    return known is not None and (entry := known.suppressions.get(OBJECTION)) is not None and entry.on


def _end(home: str, conversation_id: str) -> Emit:
    return Emit("subject.events", (home,), Hold(hold_id=MARK, placed=False, conversation_id=conversation_id))
