"""The one way an item is destroyed, whoever asks for it: fence and key first, then the rest, its lines in bounded steps."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from processors.exceptions import NO_PLEA, Plea
from processors.fence import Fenced, mark_of
from processors.item import (
    EXPIRE,
    PUBLISH,
    SWEEP,
    HeldBy,
    Item,
    ItemLine,
    ItemMedia,
    Masked,
    MediaOwed,
    Planned,
    Pointer,
    Redacted,
    Tagged,
    Unpublished,
    Untagged,
)
from processors.kernel import EFFECTS_PER_STEP_MAX, Audit, Delete, Effect, Emit, Nonce, Put, Shred, State, View, Wake
from processors.order_media import case_of
from processors.permissions import Permissions
from schemas.routed import MediaErase, PartyDropped, PointerDropped

Cause = Literal["request", "retention", "partial"]
ITEMS_PER_STEP = 6  # an item's destruction is some 12 effects and the first lines of its sweep
LINES_PER_SWEEP = 20  # lines deleted at once with an item: six items stay under kernel.EFFECTS_PER_STEP_MAX


class Asked(NamedTuple):
    """What asks for an item's end: a request (or retention, ""), and by when others must have done their part."""

    request_id: str = ""
    acknowledge_by_ms: int = 0
    plea: Plea = NO_PLEA


NOBODY = Asked()


def media_orders(view: View, item: Item, conversation_id: str) -> tuple[str, ...]:
    """The orders that the item's recordings need."""
    recordings = (parts[1] for parts, _ in view.scan(ItemMedia, conversation_id))
    return tuple(case_of(item.controller, conversation_id, recording_id) for recording_id in recordings)


def order_recordings(
    view: View, item: Item, conversation_id: str, cause: Cause, asked: Asked = NOBODY, only: str = ""
) -> Iterator[Effect]:  # fmt: skip
    """Order every recording of an item away, or `only` one, with its address."""
    for (_, recording_id), media in list(view.scan(ItemMedia, conversation_id)):
        if only and recording_id != only:
            continue
        opened = view.opened(media, conversation_id)
        uri = opened.uri if opened is not None and isinstance(opened.uri, str) else None
        order = case_of(item.controller, conversation_id, recording_id)
        yield Emit("case.events", ("media", order), MediaErase(
            conversation_id=conversation_id, recording_id=recording_id, cause=cause, uri=uri, request_id=asked.request_id,
            acknowledge_by_ms=asked.acknowledge_by_ms, asker=view.owner, regime=asked.plea.regime, ground=asked.plea.ground,
        ))  # fmt: skip
        yield Put(MediaOwed(conversation_id, recording_id), (order,))


def destroy_item(
    view: View, item: Item, conversation_id: str, cause: Cause, now_ms: int, asked: Asked = NOBODY,
    why: Mapping[str, str] = {},
) -> Iterator[Effect]:  # fmt: skip
    """Destroy one item: fence (when erased), audit entry, key, record, tombstone, then who else must forget; lines are swept.

    Lines are unreadable as soon as the key is gone; `sweep` deletes them in steps, the first of them at once. A recording goes
    by an order of its own, which takes its address along. `why` are further facts of the audit entry.
    """
    erased = cause == "request"
    if erased:
        yield Put(Fenced(now_ms), (mark_of(view.owner, conversation_id),))
    yield from order_recordings(view, item, conversation_id, cause, asked)
    by = {"request": asked.request_id} if asked.request_id else {}
    yield Audit("item.destroyed", item.controller, {"cause": cause, "party_role": item.role, **by, **why})
    yield Shred(conversation_id, by)
    yield Delete(Item, (conversation_id,))
    yield Emit("conversations.protected", (view.owner, conversation_id), None)
    for kind in (Unpublished, Redacted, HeldBy, Masked, Tagged, Planned):
        if view.get(kind, conversation_id) is not None:
            yield Delete(kind, (conversation_id,))
    for (_, tag), _untagged in list(view.scan(Untagged, conversation_id)):
        yield Delete(Untagged, (conversation_id, tag))
    yield Wake(PUBLISH + conversation_id, None, of="protect_item")
    yield Wake(EXPIRE + conversation_id, None, of="enforce_retention")
    for (_, recording_id), _media in list(view.scan(ItemMedia, conversation_id)):
        yield Delete(ItemMedia, (conversation_id, recording_id))
    drop = PartyDropped(conversation_id=conversation_id, party=item.party, erased=erased)
    yield Emit("case.events", ("conversation", item.controller, conversation_id), drop)
    for other in item.others:
        yield Emit("subject.events", (other,), PointerDropped(conversation_id=conversation_id))
    yield from sweep(view, conversation_id, now_ms, LINES_PER_SWEEP)


def forget_nonce(view: View) -> Iterator[Effect]:
    """Once nothing else of this owner is left, delete what names it in audit entries: from then on they are nobody's."""
    kinds: tuple[type[State], ...] = (Item, Pointer, Permissions, HeldBy)
    if not any(True for kind in kinds for _ in view.scan(kind)) and view.get(Nonce) is not None:
        yield Delete(Nonce)


def sweep(view: View, conversation_id: str, now_ms: int, lines_max: int = EFFECTS_PER_STEP_MAX - 1) -> Iterator[Effect]:
    """Delete the lines of a destroyed item, a bounded number at a time; what is left wakes itself."""
    for n, (parts, _) in enumerate(view.scan(ItemLine, conversation_id)):
        if n == lines_max:
            yield Wake(SWEEP + conversation_id, now_ms)
            return
        yield Delete(ItemLine, parts)
