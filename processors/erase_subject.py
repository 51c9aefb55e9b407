"""Forgets an identifier: the fence first, then keys, state and tombstones in bounded steps, then the answer to the request."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, ClassVar, assert_never

import msgspec

from processors.erase_consents import forget_consents
from processors.exceptions import Plea
from processors.fence import Fence, Fenced, mark_of
from processors.grounds import ITEMS_TOLD_MAX, OTHER, facts_of
from processors.home_erasures import Waiting, erase_for, free
from processors.item import REPLAN, STEP, SWEEP, HeldBy, Item, MediaOwed, Planned, Pointer
from processors.item_end import ITEMS_PER_STEP, Asked, destroy_item, forget_nonce, media_orders, sweep
from processors.kernel import (
    Alarm,
    Audit,
    Delete,
    Effect,
    Emit,
    Incurious,
    Instant,
    Put,
    Receipt,
    Remove,
    State,
    View,
    Wake,
)  # fmt: skip
from processors.link_identity import Probed, unlink_all
from processors.notices import notice_of, order_id_of
from processors.permissions import ALWAYS_MS, Permissions
from processors.terms import notice_by
from processors.weighing import Scales, kept_against, overrule
from schemas.base import Record
from schemas.routed import EraseOrder, EraseReport, HeldItem, Hold, ItemErase, ItemErased, MediaErase

POINTERS_PER_STEP = 50
REQUESTS_MAX = 64  # that a fence remembers


class Erasure(State):
    """An erasure under way here: what was ordered, by which request, and how far it is."""

    KIND: ClassVar[str] = "erasure"
    controller: str
    index: int
    targets: list[str]
    acknowledge_by_ms: int
    fence_ms: int
    erased: int = 0
    awaiting: list[str] = []  # conversations whose home was asked and has not answered
    held: list[str] = []  # conversations that a hold keeps here
    held_at_homes: dict[str, HeldItem] = {}  # conversations that a hold keeps at their home
    reports: int = 0  # each begins a new round of notices, with an order id of its own
    noticed: bool = False  # in this round
    media: list[str] = []  # orders for recordings of what is gone
    unfinished: bool = False  # a further step is due: homes may answer before it, and must not end the erasure
    told: str = ""  # hash of what the last report said: nothing is reported twice
    regime: str = ""  # by which law it is asked for, and on which ground of Art. 17(1)
    ground: str = ""


def is_ordered(view: View, conversation_id: str, item: Item) -> bool:
    """Whether the item's erasure was ordered and only waits for a hold: then it goes by that, not by its age."""
    if any(True for _ in view.scan(Waiting, conversation_id)):
        return True
    return any(item.effective_ms <= erasure.fence_ms for _, erasure in view.scan(Erasure))


class EraseSubject(Incurious):
    """GDPR Art. 17 for one identifier. The order of things is the promise: nothing is destroyed before the fence stands.

    Held items stay, are reported, and go by themselves when the last hold is released. Suppressions stay as keyed hashes:
    forgetting someone must not make them callable.
    """

    name = "erase_subject"
    READS: ClassVar[tuple[type[Record], ...]] = (EraseOrder, ItemErase, ItemErased, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = (Erasure, Waiting, Fence, Fenced)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the effects of an order, of a home's answer, or of a hold's release."""
        match event:
            case EraseOrder():
                yield from self._begin(view, event, at)
            case ItemErase():
                yield from erase_for(view, event, at)
            case ItemErased():
                yield from self._answered(view, event, at)
            case Hold():
                # What a new hold, or a later end of one, says of items that are held already is to be reported as well.
                if not event.placed or any(True for kind in (Waiting, Erasure) for _ in view.scan(kind)):
                    yield Wake(STEP, at.receipt_ms)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Go on with what is under way."""
        if alarm.name.startswith(SWEEP):
            yield from sweep(view, alarm.name.removeprefix(SWEEP), now.now_ms)
            return
        if (yield from free(view, now)):
            return
        for (request_id,), erasure in list(view.scan(Erasure)):
            by_ms = notice_by(now.now_ms, (t.deadline_days for t in now.settings(erasure.controller).targets))
            yield from self._step(view, request_id, erasure, now, by_ms)

    def _begin(self, view: View, event: EraseOrder, at: Receipt) -> Iterator[Effect]:
        old = view.get(Fence) or Fence()
        if event.request_id in old.requests:  # given again after a restore, or by a turn that was lost
            if view.get(Erasure, event.request_id) is None:  # done; who asks may have been restored and not know it
                yield Emit("case.events", ("request", event.request_id), EraseReport(
                    request_id=event.request_id, index=event.index, erased=0, held=0, final=True,
                    order_id=f"{event.request_id}.{event.index}",
                ))  # fmt: skip
            return
        known = view.get(Permissions)
        epoch = max(old.epoch, known.epoch + 1 if known else 0)
        requests = [*old.requests, event.request_id][-REQUESTS_MAX:]
        yield Put(Fence(max(old.at_ms, at.receipt_ms), old.incarnation + 1, epoch, requests))
        for event_id, until_ms in known.seen.items() if known else ():
            if until_ms == ALWAYS_MS:  # from a fast clock: published again, its time would lie behind the fence
                yield Put(Fenced(at.receipt_ms), (mark_of(view.owner, event_id),))
        yield Audit("erasure.fenced", at.controller, {"request": event.request_id, "index": str(event.index)})
        erasure = Erasure(
            at.controller, event.index, list(event.targets), event.acknowledge_by_ms, at.receipt_ms, regime=event.regime,
            ground=event.ground,
        )  # fmt: skip
        for (order,), owed in list(view.scan(MediaOwed)):  # of items that are gone already: this request waits for them too
            erasure.media.append(order)
            yield Emit("case.events", ("media", order), MediaErase(
                conversation_id=owed.conversation_id, recording_id=owed.recording_id, cause="request",
                acknowledge_by_ms=event.acknowledge_by_ms, request_id=event.request_id, asker=view.owner, regime=event.regime,
                ground=event.ground,
            ))  # fmt: skip
        yield Put(erasure, (event.request_id,))
        yield Wake(STEP, at.receipt_ms)
        if any(True for _ in view.scan(Planned)):  # what a duty keeps is restricted to it from now on
            yield Wake(REPLAN, at.receipt_ms, of="enforce_retention")

    def _step(self, view: View, request_id: str, erasure: Erasure, now: Instant, by_ms: int) -> Iterator[Effect]:
        now_ms, by, plea = now.now_ms, Scales(now, erasure.controller, now.now_ms), plea_of(erasure)
        gone: list[str] = []
        held: list[str] = []
        media: list[str] = []
        asked_by = Asked(request_id, _in_round(erasure, by_ms).acknowledge_by_ms, plea)
        more = yield from forget_consents(view, erasure.controller, erasure.fence_ms, request_id)
        for (conversation_id,), item in list(view.scan(Item)):
            if item.effective_ms > erasure.fence_ms:
                continue  # a new incarnation: not what was asked for
            if kept_against(view, conversation_id, plea, by) is not None:
                held.append(conversation_id)
            elif len(gone) == ITEMS_PER_STEP:
                more = True
                break
            else:
                gone.append(conversation_id)
                media += media_orders(view, item, conversation_id)
                yield from overrule(view, item, conversation_id, asked_by, by)
                yield from destroy_item(view, item, conversation_id, "request", now_ms, asked_by)
        asked: list[str] = []
        for (conversation_id,), pointer in list(view.scan(Pointer)):
            if pointer.effective_ms > erasure.fence_ms:
                continue
            if kept_against(view, conversation_id, plea, by) is not None:
                held.append(conversation_id)
                continue
            if len(asked) == POINTERS_PER_STEP:
                more = True
                break
            asked.append(conversation_id)
            yield Put(Fenced(now_ms), (mark_of(view.owner, conversation_id),))
            yield Delete(Pointer, (conversation_id,))
            order = ItemErase(
                conversation_id=conversation_id, request_id=request_id, asker=view.owner,
                acknowledge_by_ms=erasure.acknowledge_by_ms, regime=plea.regime, ground=plea.ground,
            )  # fmt: skip
            yield Emit("subject.events", (pointer.home,), order)
        erasure = msgspec.structs.replace(
            erasure, erased=erasure.erased + len(gone), awaiting=sorted({*erasure.awaiting, *asked}),
            held=sorted(held), media=sorted({*erasure.media, *media}), unfinished=more,
        )  # fmt: skip
        if gone:
            erasure = _in_round(erasure, by_ms)
        if gone or not (erasure.reports or erasure.noticed):  # consents go too, so there is a notice without any item
            yield notice_of(view.owner, request_id, erasure, tuple(gone))
            erasure = msgspec.structs.replace(erasure, noticed=True)
        yield Put(erasure, (request_id,))
        if more:
            yield Wake(STEP, now_ms)
        else:
            yield from self._report(view, request_id, erasure, by)

    def _report(self, view: View, request_id: str, erasure: Erasure, by: Scales) -> Iterator[Effect]:
        if erasure.awaiting or erasure.unfinished:
            return
        standing = (kept_against(view, name, plea_of(erasure), by) for name in erasure.held)
        here = [item for item in standing if item is not None]
        if len(here) < len(erasure.held):
            return  # a release has armed the next step, which reports
        kept = [*here, *erasure.held_at_homes.values()]
        done = not kept
        report = EraseReport(
            request_id=request_id, index=erasure.index, erased=erasure.erased, held=len(kept), final=done,
            order_id=order_id_of(request_id, erasure) if erasure.noticed else "", media=tuple(erasure.media),
            kept=tuple(kept[:ITEMS_TOLD_MAX]), acknowledge_by_ms=erasure.acknowledge_by_ms,
        )  # fmt: skip
        grounds = facts_of(kept)
        said = (report.erased, report.held, report.media, report.kept, grounds)
        told = sha256(msgspec.json.encode(said)).hexdigest()[:16]
        if not done and not erasure.noticed and told == erasure.told:
            return
        yield Emit("case.events", ("request", request_id), report)
        yield Audit("erasure.done" if done else "erasure.held", erasure.controller, {
            "request": request_id, "index": str(erasure.index), "items": str(erasure.erased), "held": str(len(kept)),
        } | grounds)  # fmt: skip
        yield Remove({"request": request_id})
        if not done:
            round_over = msgspec.structs.replace(erasure, reports=erasure.reports + 1, noticed=False, told=told)
            yield Put(round_over, (request_id,))
            return
        yield Delete(Erasure, (request_id,))
        if view.get(Probed, request_id) is not None:
            yield Delete(Probed, (request_id,))
        yield from unlink_all(view)
        if not any(True for kind in (Item, Pointer) for _ in view.scan(kind)):
            for parts, _ in list(view.scan(HeldBy)):
                yield Delete(HeldBy, parts)
        yield from forget_nonce(view)

    def _answered(self, view: View, event: ItemErased, at: Receipt) -> Iterator[Effect]:
        erasure = view.get(Erasure, event.request_id)
        if erasure is None:
            return
        awaiting = [c for c in erasure.awaiting if c != event.conversation_id]
        held = {name: kept for name, kept in erasure.held_at_homes.items() if name != event.conversation_id}
        if event.held:
            unstated = HeldItem(conversation_id=event.conversation_id, grounds=(OTHER,))
            held[event.conversation_id] = event.kept or unstated
        erased = erasure.erased + (1 if event.home else 0)
        media = sorted({*erasure.media, *event.media})
        erasure = msgspec.structs.replace(erasure, awaiting=awaiting, held_at_homes=held, erased=erased, media=media)
        if event.home:
            by_ms = notice_by(at.receipt_ms, (t.deadline_days for t in at.settings(erasure.controller).targets))
            erasure = _in_round(erasure, by_ms)
            yield notice_of(event.home, event.request_id, erasure, (event.conversation_id,))
            erasure = msgspec.structs.replace(erasure, noticed=True)
        yield Put(erasure, (event.request_id,))
        yield from self._report(view, event.request_id, erasure, Scales(at, erasure.controller, at.receipt_ms))


def _in_round(erasure: Erasure, by_ms: int) -> Erasure:
    """The erasure with the deadline of its notices: a round that follows a release begins anew."""
    first = not erasure.reports or erasure.noticed
    return erasure if first else msgspec.structs.replace(erasure, acknowledge_by_ms=max(erasure.acknowledge_by_ms, by_ms))


def plea_of(order: Erasure) -> Plea:
    """What an order says against holds."""
    return Plea(order.regime, order.ground)
