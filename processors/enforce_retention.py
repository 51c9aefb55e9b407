"""Destroys what is due and only that: due-time alarms per item, stopped by legal holds, resumed by their release."""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.erase_subject import is_ordered
from processors.exceptions import TAG
from processors.fence import refuses
from processors.grounds import told_of, with_terms
from processors.item import EXPIRE, SWEEP, Asked, HeldBy, Item, Pointer, destroy_item, due_ms, forget_nonce, is_held, sweep
from processors.kernel import Alarm, Audit, Delete, Effect, Emit, Incurious, Instant, Put, Receipt, State, View, Wake
from processors.terms import notice_by
from schemas.base import Record
from schemas.routed import Hold, HoldTerms, ItemEnded, ItemOpened, ItemPointed
from schemas.topics import ErasureNotice

ITEMS_PER_RELEASE = 100  # items woken by one step of a hold's release; the next step wakes itself
RELEASE = "release\x1f"


class EnforceRetention(Incurious):
    """Every item has a due time from the moment it is here: 24 months after its end, never sooner than 30 days after receipt.

    A hold on the conversation, or on the person, keeps the item past that time; the last release lets it go by itself.
    """

    name = "enforce_retention"
    READS: ClassVar[tuple[type[Record], ...]] = (ItemOpened, ItemPointed, ItemEnded, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = (HeldBy,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield alarms for new due times, and what a hold or its release changes."""
        match event:
            case ItemOpened():
                item = view.get(Item, event.conversation_id)
                if item is None or refuses(view, at.effective_ms, event.conversation_id):
                    return
                if (event.holds or event.ceilings) and view.get(HeldBy, event.conversation_id) is None:
                    terms = with_terms({}, event.terms)
                    yield Put(HeldBy(sorted(event.holds), terms, sorted(event.ceilings)), (event.conversation_id,))
                yield Wake(EXPIRE + event.conversation_id, due_ms(item))
            case ItemPointed():
                held = view.get(HeldBy, "*") or HeldBy()
                for hold in told_of(held.holds, held.terms):
                    there = Hold(
                        hold_id=hold.hold_id, placed=True, conversation_id=event.conversation_id, ground=hold.ground,
                        until_ms=hold.until_ms,
                    )  # fmt: skip
                    yield Emit("subject.events", (event.home,), there)
            case ItemEnded():
                item = view.get(Item, event.conversation_id)
                if item is not None:
                    yield Wake(EXPIRE + event.conversation_id, due_ms(item))
            case Hold() if event.ceiling:
                yield from _ceil(view, event)
            case Hold():
                yield from self._hold(view, event, at)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Destroy what is due, unless it is held or its due time moved."""
        if alarm.name.startswith(SWEEP):
            yield from sweep(view, alarm.name.removeprefix(SWEEP), now.now_ms)
            return
        if alarm.name.startswith(RELEASE):
            yield from self._rearm(view, alarm.name.removeprefix(RELEASE), now.now_ms)
            return
        conversation_id = alarm.name.removeprefix(EXPIRE)
        item = view.get(Item, conversation_id)
        if item is None or is_held(view, conversation_id) or is_ordered(view, conversation_id, item):
            return  # a release arms the alarm again; an erasure that waited for it goes first, and tells more
        due = due_ms(item)
        if due > now.now_ms:
            yield Wake(alarm.name, due)
            return
        settings = now.settings(item.controller)
        by_ms = notice_by(now.now_ms, (t.deadline_days for t in settings.targets))
        yield from destroy_item(view, item, conversation_id, "retention", now.now_ms, Asked(acknowledge_by_ms=by_ms))
        order_id = f"ret_{now.derive(0)}"
        yield Emit("erasure.notices", (order_id,), ErasureNotice(
            order_id=order_id, controller=item.controller, subject_ref=view.owner, items=(conversation_id,),
            cause="retention", targets=tuple(t.name for t in settings.targets),
            acknowledge_by_ms=by_ms,
        ))  # fmt: skip
        yield from forget_nonce(view)

    def _hold(self, view: View, event: Hold, at: Receipt) -> Iterator[Effect]:
        if event.hold_id.startswith(TAG) and view.get(Item, event.conversation_id or "") is None:
            return  # it went while the tag was on its way: nothing may stay behind
        scope = event.conversation_id or "*"
        held = view.get(HeldBy, scope) or HeldBy()
        holds, terms = set(held.holds), held.terms
        if event.placed:
            terms = with_terms(terms, [HoldTerms(hold_id=event.hold_id, ground=event.ground, until_ms=event.until_ms)])
        known = event.placed == (event.hold_id in holds)
        if known and terms == held.terms:
            return
        facts = {"hold": event.hold_id, "scope": "conversation" if event.conversation_id else "person"}
        if event.conversation_id is None:
            # The content is with the homes, so a hold on a person goes where that person's pointers point.
            for (conversation_id,), pointer in list(view.scan(Pointer)):
                there = msgspec.structs.replace(event, conversation_id=conversation_id)
                yield Emit("subject.events", (pointer.home,), there)
        if event.placed:
            yield Put(HeldBy(sorted(holds | {event.hold_id}), terms, held.ceilings), (scope,))
            if not known:  # else it only ends later, which its own case has on record
                yield Audit("hold.placed", at.controller, facts)
            return
        holds -= {event.hold_id}
        terms = {hold_id: told for hold_id, told in terms.items() if hold_id != event.hold_id}
        left = HeldBy(sorted(holds), terms, held.ceilings)
        yield Put(left, (scope,)) if holds or held.ceilings else Delete(HeldBy, (scope,))
        yield Audit("hold.released", at.controller, facts)
        if event.conversation_id is None:
            yield from self._rearm(view, "", at.receipt_ms)
        elif (item := view.get(Item, event.conversation_id)) is not None:
            yield Wake(EXPIRE + event.conversation_id, due_ms(item))

    def _rearm(self, view: View, after: str, now_ms: int) -> Iterator[Effect]:
        armed = 0
        for (conversation_id,), item in view.scan(Item):
            if conversation_id <= after:
                continue
            if armed == ITEMS_PER_RELEASE:
                yield Wake(RELEASE + after, now_ms)
                return
            armed, after = armed + 1, conversation_id
            yield Wake(EXPIRE + conversation_id, due_ms(item))


def _ceil(view: View, event: Hold) -> Iterator[Effect]:
    """A mark under which the conversation must go was set, or taken away; the roster has it on record."""
    scope = event.conversation_id or "*"
    if view.get(Item, scope) is None:
        return
    held = view.get(HeldBy, scope) or HeldBy()
    name = event.ground if event.placed else event.hold_id.removeprefix(TAG)
    ceilings = {*held.ceilings, name} if event.placed else {*held.ceilings} - {name}
    left = msgspec.structs.replace(held, ceilings=sorted(ceilings))
    if left != held:
        yield Put(left, (scope,)) if left.holds or ceilings else Delete(HeldBy, (scope,))
