"""Partial erasure: takes groups of fields from one person's part in some conversations, and leaves the rest.

Nothing is fenced and no consent goes: the person stays known, and goes on. What was taken stays away from what comes later.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.exceptions import Plea
from processors.fields import EVERYTHING, masks
from processors.grounds import ITEMS_TOLD_MAX, OTHER, facts_of
from processors.item import REPLAN, STEP, SWEEP, Item, Masked, Planned, Pointer, publish_soon, reseal
from processors.item_end import Asked, destroy_item, forget_nonce, media_orders, order_recordings, sweep
from processors.kernel import Alarm, Audit, Delete, Effect, Emit, Incurious, Instant, Put, Receipt, Remove, State, View, Wake
from processors.notices import notice_of, order_id_of
from processors.weighing import Scales, kept_against, overrule
from schemas.base import Record
from schemas.routed import EraseReport, HeldItem, Hold, ItemErased, MaskOrder, PartySilenced

ITEMS_PER_STEP = 6
POINTERS_PER_STEP = 50


class Masking(State):
    """A partial erasure under way here: its order, and how far it is. Its parts are (request, asker, conversation).

    `asker` and conversation are "" for the request's own order; else a pointer's dossier asks for the one conversation.
    """

    KIND: ClassVar[str] = "masking"
    controller: str
    index: int
    fields: list[str]
    conversation_ids: list[str]
    since_ms: int | None
    until_ms: int | None
    before_ms: int  # when it was ordered: what came later was not asked for
    targets: list[str]
    acknowledge_by_ms: int
    pointed: bool = False  # the pointers were followed
    masked: int = 0
    awaiting: list[str] = []  # conversations whose home was asked and has not answered
    held: list[str] = []
    held_at_homes: dict[str, HeldItem] = {}
    reports: int = 0
    noticed: bool = False
    media: list[str] = []
    unfinished: bool = True
    told: tuple[HeldItem, ...] = ()  # what the last report said is held: nothing is reported twice
    regime: str = ""  # by which law it is asked for, and on which ground of Art. 17(1)
    ground: str = ""


def is_taken(view: View, conversation_id: str, item: Item) -> bool:
    """Whether a partial erasure takes the whole of an item and only waits for a hold or a duty: then it goes by that."""
    return any(
        EVERYTHING in masking.fields and _is_meant(masking, item.effective_ms)
        and (not masking.conversation_ids or conversation_id in masking.conversation_ids)
        for _, masking in view.scan(Masking)
    )  # fmt: skip


class MaskItem(Incurious):
    """GDPR Art. 17 for a part: a choice of fields, of conversations or of a period.

    What is chosen is overwritten by its marker under a new key, so that no earlier copy opens any more; chosen recordings are
    ordered away; with chosen content the others on the call lose what this person said. An employee holds no content, but what
    they said is taken from the customers' copies. With everything chosen a conversation's item goes whole, and is fenced.
    """

    name = "mask_item"
    READS: ClassVar[tuple[type[Record], ...]] = (MaskOrder, ItemErased, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = (Masking, Masked)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the effects of an order, of a home's answer, or of a hold's release."""
        match event:
            case MaskOrder():
                yield from self._begin(view, event, at)
            case ItemErased():
                yield from self._answered(view, event, at)
            case Hold():
                if any(True for _ in view.scan(Masking)):  # also for one that is placed again: it may end later
                    yield Wake(STEP, at.receipt_ms)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Go on with what is under way."""
        if alarm.name.startswith(SWEEP):
            yield from sweep(view, alarm.name.removeprefix(SWEEP), now.now_ms)
            return
        for parts, masking in list(view.scan(Masking)):
            yield from self._step(view, parts, masking, Scales(now, masking.controller, now.now_ms))

    def _begin(self, view: View, event: MaskOrder, at: Receipt) -> Iterator[Effect]:
        place = (event.request_id, event.asker, event.conversation_ids[0] if event.asker else "")
        if view.get(Masking, *place) is not None:
            return
        facts = {"request": event.request_id, "index": str(event.index), "fields": ",".join(event.fields)}
        yield Audit("erasure.masking", at.controller, facts)
        yield Put(Masking(
            at.controller, event.index, list(event.fields), sorted(event.conversation_ids), event.since_ms, event.until_ms,
            event.before_ms, list(event.targets), event.acknowledge_by_ms, regime=event.regime, ground=event.ground,
        ), place)  # fmt: skip
        yield Wake(STEP, at.receipt_ms)
        if any(True for _ in view.scan(Planned)):  # what a duty keeps is restricted to it from now on
            yield Wake(REPLAN, at.receipt_ms, of="enforce_retention")

    def _step(self, view: View, place: tuple[str, ...], masking: Masking, by: Scales) -> Iterator[Effect]:
        (request_id, asker, _), now_ms = place, by.now_ms
        plea = Plea(masking.regime, masking.ground)
        asked = Asked(request_id, masking.acknowledge_by_ms, plea)
        done: list[str] = []
        held: list[str] = []
        media: list[str] = []
        more = False
        for conversation_id, item in _items(view, masking):
            if kept_against(view, conversation_id, plea, by) is not None:
                held.append(conversation_id)
            elif len(done) == ITEMS_PER_STEP:
                more = True
                break
            else:
                done.append(conversation_id)
                yield from overrule(view, item, conversation_id, asked, by)
                if EVERYTHING in masking.fields or "media" in masking.fields:
                    media += media_orders(view, item, conversation_id)
                if EVERYTHING in masking.fields:
                    yield from destroy_item(view, item, conversation_id, "request", now_ms, asked)
                else:
                    yield from _mask(view, item, conversation_id, masking, asked, now_ms)
        pointers = [] if masking.pointed else [p for p in _pointers(view, masking) if p[0] not in masking.awaiting]
        for conversation_id, pointer in pointers[:POINTERS_PER_STEP]:
            yield Emit("subject.events", (pointer.home,), MaskOrder(
                request_id=request_id, index=masking.index, fields=tuple(masking.fields), conversation_ids=(conversation_id,),
                before_ms=masking.before_ms, acknowledge_by_ms=masking.acknowledge_by_ms, asker=view.owner, regime=plea.regime,
                ground=plea.ground,
            ))  # fmt: skip
        more = more or len(pointers) > POINTERS_PER_STEP
        asking = [conversation_id for conversation_id, _ in pointers[:POINTERS_PER_STEP]]
        masking = msgspec.structs.replace(
            masking, masked=masking.masked + len(done), held=sorted(held), media=sorted({*masking.media, *media}),
            awaiting=sorted({*masking.awaiting, *asking}), pointed=len(pointers) <= POINTERS_PER_STEP, unfinished=more,
        )  # fmt: skip
        if not asker and (done or not (masking.reports or masking.noticed)):
            yield _notice(view.owner, request_id, masking, tuple(done))
            masking = msgspec.structs.replace(masking, noticed=True)
        yield Put(masking, place)
        if more:
            yield Wake(STEP, now_ms)
        else:
            yield from self._report(view, place, masking, by)

    def _report(self, view: View, place: tuple[str, ...], masking: Masking, by: Scales) -> Iterator[Effect]:
        if masking.awaiting or masking.unfinished:
            return
        request_id, asker, conversation_id = place
        plea = Plea(masking.regime, masking.ground)
        here = [item for name in masking.held if (item := kept_against(view, name, plea, by)) is not None]
        if len(here) < len(masking.held):
            return  # a release has armed the next step, which reports
        kept = [*here, *masking.held_at_homes.values()]
        told = tuple(kept[:ITEMS_TOLD_MAX])
        if kept and not masking.noticed and masking.reports and told == masking.told:
            return
        if asker:
            yield Emit("subject.events", (asker,), ItemErased(
                conversation_id=conversation_id, request_id=request_id, held=bool(kept), kept=kept[0] if kept else None,
                home=view.owner if masking.masked else "", media=tuple(masking.media)))  # fmt: skip
        else:
            yield Emit("case.events", ("request", request_id), EraseReport(
                request_id=request_id, index=masking.index, erased=masking.masked, held=len(kept), final=not kept,
                order_id=order_id_of(request_id, masking) if masking.noticed else "", media=tuple(masking.media), kept=told,
                acknowledge_by_ms=masking.acknowledge_by_ms,
            ))  # fmt: skip
        yield Audit("erasure.held" if kept else "erasure.done", masking.controller, {
            "request": request_id, "index": str(masking.index), "items": str(masking.masked), "held": str(len(kept)),
        } | facts_of(kept))  # fmt: skip
        yield Remove({"request": request_id})
        if kept:
            yield Put(msgspec.structs.replace(masking, reports=masking.reports + 1, noticed=False, told=told), place)
            return
        yield Delete(Masking, place)
        yield from forget_nonce(view)

    def _answered(self, view: View, event: ItemErased, at: Receipt) -> Iterator[Effect]:
        place = (event.request_id, "", "")
        masking = view.get(Masking, *place)
        if masking is None:
            return
        held = {name: item for name, item in masking.held_at_homes.items() if name != event.conversation_id}
        if event.held:
            held[event.conversation_id] = event.kept or HeldItem(conversation_id=event.conversation_id, grounds=(OTHER,))
        masking = msgspec.structs.replace(
            masking, awaiting=[c for c in masking.awaiting if c != event.conversation_id],
            held_at_homes=held, masked=masking.masked + (1 if event.home else 0), media=sorted({*masking.media, *event.media}),
        )  # fmt: skip
        if event.home:
            yield _notice(event.home, event.request_id, masking, (event.conversation_id,))
            masking = msgspec.structs.replace(masking, noticed=True)
        yield Put(masking, place)
        yield from self._report(view, place, masking, Scales(at, masking.controller, at.receipt_ms))


def _mask(
    view: View, item: Item, conversation_id: str, masking: Masking, asked: Asked, now_ms: int
) -> Iterator[Effect]:  # fmt: skip
    """Put markers in the place of what was chosen, under a new key; order recordings; silence the party for the others."""
    fields = masking.fields
    known = view.get(Masked, conversation_id) or Masked()
    if "media" in fields:
        yield from order_recordings(view, item, conversation_id, "partial", asked)
    facts = {"fields": ",".join(fields), "party_role": item.role, "request": asked.request_id}
    yield Audit("item.masked", item.controller, facts)
    yield Put(Masked(sorted({*known.groups, *fields})), (conversation_id,))
    yield from reseal(view, item, conversation_id, masks(fields))
    if "content" in fields:
        silenced = PartySilenced(conversation_id=conversation_id, party=item.party)
        yield Emit("case.events", ("conversation", item.controller, conversation_id), silenced)
    yield from publish_soon(view, conversation_id, now_ms)


def _items(view: View, masking: Masking) -> Iterator[tuple[str, Item]]:
    """The items of the order that it has not taken yet."""
    if masking.conversation_ids:
        found = ((c, item) for c in masking.conversation_ids if (item := view.get(Item, c)) is not None)
    else:
        found = ((parts[0], item) for parts, item in list(view.scan(Item)))
    for conversation_id, item in found:
        taken = view.get(Masked, conversation_id)
        if _is_meant(masking, item.effective_ms) and not (taken is not None and {*masking.fields} <= {*taken.groups}):
            yield conversation_id, item


def _pointers(view: View, masking: Masking) -> Iterator[tuple[str, Pointer]]:
    for (conversation_id,), pointer in list(view.scan(Pointer)):
        named = not masking.conversation_ids or conversation_id in masking.conversation_ids
        if named and _is_meant(masking, pointer.effective_ms):
            yield conversation_id, pointer


def _is_meant(masking: Masking, began_ms: int) -> bool:
    after = masking.since_ms is None or began_ms >= masking.since_ms
    return after and (masking.until_ms is None or began_ms < masking.until_ms) and began_ms <= masking.before_ms


def _notice(owner: str, request_id: str, masking: Masking, items: tuple[str, ...]) -> Emit:
    fields = () if EVERYTHING in masking.fields else tuple(masking.fields)
    return notice_of(owner, request_id, masking, items, fields)
