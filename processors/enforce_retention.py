"""Destroys what is due and only that: due-time alarms per item, stopped by legal holds, resumed by their release."""

from collections.abc import Generator, Iterator
from hashlib import sha256
from typing import Any, ClassVar, assert_never

import msgspec

from processors.exceptions import TAG
from processors.fence import refuses
from processors.grounds import told_of, with_terms
from processors.item import EXPIRE, REPLAN, SWEEP, HeldBy, Item, Planned, Pointer
from processors.item_end import Asked, destroy_item, forget_nonce, sweep
from processors.kernel import (
    Alarm,
    Audit,
    Context,
    Delete,
    Effect,
    Emit,
    Incurious,
    Instant,
    Put,
    Receipt,
    State,
    View,
    Wake,
)  # fmt: skip
from processors.planning import (
    erasures_go_on,
    is_asked_for,
    next_ms_of,
    order_due_media,
    planned_of,
    redaction_goes_on,
    tell_of_plan,
)
from processors.policies import in_force
from processors.terms import DAY_MS, notice_by
from processors.traits import window_for
from processors.weighing import Scales, overruled, weigh_holds
from processors.windows import Window, law_stamp
from schemas.base import Record
from schemas.routed import Hold, HoldTerms, ItemEnded, ItemOpened, ItemPointed, ItemRecording
from schemas.topics import ControllerState, ErasureNotice

ITEMS_PER_RELEASE = 100  # items woken by one step of a hold's release; the next step wakes itself
ITEMS_PER_REPLAN = 100  # items looked at by one step after a change of policies or law
LOOK_AGAIN_MS = 30 * DAY_MS  # at what is held past its time: an item without an alarm would not be found by a review
RELEASE = "release\x1f"


class EnforceRetention(Incurious):
    """Every item has a due time from the moment it is here: 24 months after its end, unless policies or law say otherwise.

    * `windows.py` says what holds for an item: its floors and ceilings, by the policies and packs in force now. What it says is
      kept (`Planned`) where it is more than the default period, and looked at again whenever the item's alarm rings.
    * A floor keeps an item like a hold with an end: from erasures too. Once its time is over, or its erasure is ordered, the item
      is restricted to what the floor is for. The end of the last floor lets it go by itself.
    * A hold on the conversation, or on the person, keeps the item past all that; the last release lets it go by itself.
    * When policies or law change, the engine has each dossier looked at (`basis`, `engine/reviewing.py`), and items whose window
      changed are woken, `ITEMS_PER_REPLAN` a step.
    """

    name = "enforce_retention"
    REVIEW: ClassVar[str] = REPLAN
    READS: ClassVar[tuple[type[Record], ...]] = (ItemOpened, ItemPointed, ItemRecording, ItemEnded, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = (HeldBy, Planned)

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
                yield from self._plan(view, event.conversation_id, item, at, at.receipt_ms)
            case ItemPointed():
                held = view.get(HeldBy, "*") or HeldBy()
                for hold in told_of(held.holds, held.terms):
                    there = Hold(
                        hold_id=hold.hold_id, placed=True, conversation_id=event.conversation_id, ground=hold.ground,
                        until_ms=hold.until_ms,
                    )  # fmt: skip
                    yield Emit("subject.events", (event.home,), there)
            case ItemRecording():
                planned, item = view.get(Planned, event.conversation_id), view.get(Item, event.conversation_id)
                # A recording that is told of after its time: others of the conversation have been ordered away.
                late = planned is not None and planned.media_ms is not None and planned.media_ms <= at.receipt_ms
                if item is not None and late:
                    yield from self._plan(view, event.conversation_id, item, at, at.receipt_ms)
            case ItemEnded():
                item = view.get(Item, event.conversation_id)
                if item is not None:
                    yield from self._plan(view, event.conversation_id, item, at, at.receipt_ms)
            case Hold() if event.ceiling:
                yield from self._ceil(view, event, at)
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
            yield from self._rearm(view, alarm.name.removeprefix(RELEASE), now, now.now_ms)
            return
        if alarm.name.startswith(REPLAN):
            yield from _replan(view, alarm.name.removeprefix(REPLAN), now)
            return
        conversation_id = alarm.name.removeprefix(EXPIRE)
        item = view.get(Item, conversation_id)
        if item is None:
            return
        window = yield from self._plan(view, conversation_id, item, now, now.now_ms, ringing=True)
        by = Scales(now, item.controller, now.now_ms)
        holds = weigh_holds(view, conversation_id, by)
        if holds.standing:
            if window.goes_ms <= now.now_ms:  # a release arms the alarm for what is due
                yield Wake(EXPIRE + conversation_id, now.now_ms + LOOK_AGAIN_MS)
            return
        settings = now.settings(item.controller)
        by_ms = notice_by(now.now_ms, (t.deadline_days for t in settings.targets))
        asked = Asked(acknowledge_by_ms=by_ms)
        if window.goes_ms > now.now_ms:
            if window.media is not None and window.media_ms is not None and window.media_ms <= now.now_ms:
                yield from order_due_media(view, conversation_id, item, window.media, asked, now.now_ms)
            return
        if is_asked_for(view, conversation_id, item):
            return  # an erasure that waited for this goes first, and tells more
        yield from overruled(item, holds, asked, by)
        yield from destroy_item(view, item, conversation_id, "retention", now.now_ms, asked, window.erase.facts)
        order_id = f"ret_{now.derive(0)}"
        yield Emit("erasure.notices", (order_id,), ErasureNotice(
            order_id=order_id, controller=item.controller, subject_ref=view.owner, items=(conversation_id,),
            cause="retention", targets=tuple(t.name for t in settings.targets),
            acknowledge_by_ms=by_ms,
        ))  # fmt: skip
        yield from forget_nonce(view)

    def basis(self, settings: ControllerState, at: Context, now_ms: int) -> str:
        """What due times rest on besides an item itself; when it changes, dossiers are looked at again."""
        policies = in_force(settings.policies, now_ms)
        law = law_stamp(at.law(settings.controller), now_ms)
        return sha256(msgspec.json.encode((settings.default_region, policies, law))).hexdigest()[:16]

    def _plan(
        self, view: View, conversation_id: str, item: Item, at: Context, now_ms: int, *, ringing: bool = False
    ) -> Generator[Effect, None, Window]:  # fmt: skip
        """Keep what rules make of an item now, tell who must know, and set the alarm for what comes next.

        Returns the window. `ringing`: what is due by now is the caller's to do.
        """
        window = window_for(view, conversation_id, item, at, now_ms)
        old = view.get(Planned, conversation_id)
        new = planned_of(view, conversation_id, item, window, old, now_ms)
        if new != old:
            yield Delete(Planned, (conversation_id,)) if new is None else Put(new, (conversation_id,))
            yield from tell_of_plan(view, conversation_id, item, window, old, new, now_ms)
        next_ms = next_ms_of(view, conversation_id, item, window, now_ms, ringing=ringing)
        if next_ms is not None:
            yield Wake(EXPIRE + conversation_id, next_ms)
        return window

    def _hold(self, view: View, event: Hold, at: Receipt) -> Iterator[Effect]:
        if event.placed and event.conversation_id is not None and view.get(Item, event.conversation_id) is None:
            return  # it went while the word was on its way: nothing may stay behind, for nobody would tell of the release
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
            yield from self._rearm(view, "", at, at.receipt_ms)
        elif (item := view.get(Item, event.conversation_id)) is not None:
            yield from self._plan(view, event.conversation_id, item, at, at.receipt_ms)

    def _rearm(self, view: View, after: str, at: Context, now_ms: int) -> Iterator[Effect]:
        armed = 0
        for (conversation_id,), item in view.scan(Item):
            if conversation_id <= after:
                continue
            if armed == ITEMS_PER_RELEASE:
                yield Wake(RELEASE + after, now_ms)
                return
            armed, after = armed + 1, conversation_id
            window = window_for(view, conversation_id, item, at, now_ms)
            yield Wake(EXPIRE + conversation_id, next_ms_of(view, conversation_id, item, window, now_ms))

    def _ceil(self, view: View, event: Hold, at: Receipt) -> Iterator[Effect]:
        """A mark under which the conversation must go was set, or taken away; the roster has it on record."""
        conversation_id = event.conversation_id or ""
        item = view.get(Item, conversation_id)
        if item is None:
            return
        held = view.get(HeldBy, conversation_id) or HeldBy()
        name = event.hold_id.removeprefix(TAG)
        ceilings = {*held.ceilings, name} if event.placed else {*held.ceilings} - {name}
        left = msgspec.structs.replace(held, ceilings=sorted(ceilings))
        if left != held:
            yield Put(left, (conversation_id,)) if left.holds or ceilings else Delete(HeldBy, (conversation_id,))
            yield from self._plan(view, conversation_id, item, at, at.receipt_ms)


def _replan(view: View, after: str, now: Instant) -> Iterator[Effect]:
    """Look at the next items; wake those whose window is another one now, and erasures that wait: law may keep less for them."""
    looked = 0
    if not after:
        yield from erasures_go_on(view, now.now_ms)
    for (conversation_id,), item in view.scan(Item):
        if conversation_id <= after:
            continue
        if looked == ITEMS_PER_REPLAN:
            yield Wake(REPLAN + after, now.now_ms)
            return
        looked, after = looked + 1, conversation_id
        yield from redaction_goes_on(view, conversation_id, now.now_ms)
        old = view.get(Planned, conversation_id)
        window = window_for(view, conversation_id, item, now, now.now_ms)
        if planned_of(view, conversation_id, item, window, old, now.now_ms) != old:
            yield Wake(EXPIRE + conversation_id, now.now_ms)
