"""What rules make of one item, as its state keeps it: its window noted, its next alarm, and who must know when it changes."""

from collections.abc import Iterator

from processors.erase_subject import Erasure, is_ordered
from processors.hold_media import REVIEW, KeptMedia
from processors.home_erasures import Waiting
from processors.item import EXPIRE, STEP, Floor, Item, ItemMedia, MediaOwed, Planned, Redacted, publish_soon
from processors.item_end import Asked, order_recordings
from processors.kernel import Audit, Effect, View, Wake
from processors.mask_item import Masking, is_taken
from processors.order_media import case_of
from processors.protect_item import REVIEW_ONE
from processors.windows import Bound, Window

RECORDINGS_PER_STEP = 60  # ordered away by one alarm: two effects each; the next step wakes itself


def is_asked_for(view: View, conversation_id: str, item: Item) -> bool:
    """Whether the item's erasure was ordered, its person's or its own, and only waits: then it goes by that, not by its age."""
    return is_ordered(view, conversation_id, item) or is_taken(view, conversation_id, item)


def planned_of(view: View, conversation_id: str, item: Item, window: Window, old: Planned | None, now_ms: int) -> Planned | None:
    """The window as the item's state keeps it; None where only the default period speaks."""
    if window.is_default:
        return None
    floors = [Floor(f.rule, f.origin, f.ground, f.purpose, f.at_ms, f.media) for f in window.floors]
    restricted_ms: int | None = None
    if floors and (window.erase.at_ms <= now_ms or is_asked_for(view, conversation_id, item)):
        restricted_ms = old.restricted_ms if old is not None and old.restricted_ms is not None else now_ms
    return Planned(window.erase.at_ms, window.erase.rule, floors, window.media_ms, restricted_ms)


def next_ms_of(
    view: View, conversation_id: str, item: Item, window: Window, now_ms: int, *, ringing: bool = False
) -> int | None:  # fmt: skip
    """When something is to be done next; what is past is due, or (`ringing`) being done."""
    times = [window.goes_ms]
    if window.media_ms is not None and (window.media_ms > now_ms or unordered(view, conversation_id, item)):
        times.append(window.media_ms)
    if ringing:
        times = [at_ms for at_ms in times if at_ms > now_ms]
    for at_ms in (window.erase.at_ms, *(floor.at_ms for floor in window.floors)) if window.floors else ():
        if at_ms > now_ms:
            times.append(at_ms)
    return min(times, default=None)


def tell_of_plan(
    view: View, conversation_id: str, item: Item, window: Window, old: Planned | None, new: Planned | None, now_ms: int
) -> Iterator[Effect]:  # fmt: skip
    """What follows from a changed window: entries for the restriction, a new view, and a word to what waits for the floors."""
    was, is_ = old is not None and old.restricted_ms is not None, new is not None and new.restricted_ms is not None
    if is_ and not was and new is not None:
        last = window.floors[0]
        facts = last.facts | {"ground": last.ground, "until_ms": str(last.at_ms), "floors": str(len(new.floors))}
        facts |= {"cause": "ceiling" if window.erase.at_ms <= now_ms else "request", "ceiling": window.erase.rule}
        yield Audit("item.restricted", item.controller, facts)
    elif was and not is_ and window.goes_ms > now_ms:
        yield Audit("item.unrestricted", item.controller, window.erase.facts)
    yield from publish_soon(view, conversation_id, now_ms)
    if (old.floors if old is not None else []) == (new.floors if new is not None else []):
        return
    yield from erasures_go_on(view, now_ms)
    yield from redaction_goes_on(view, conversation_id, now_ms)


def erasures_go_on(view: View, now_ms: int) -> Iterator[Effect]:
    """Have erasures that wait here, and orders for recordings, look again at what keeps them."""
    if any(True for kind in (Waiting, Erasure) for _ in view.scan(kind)):
        yield Wake(STEP, now_ms, of="erase_subject")
    if any(True for _ in view.scan(Masking)):
        yield Wake(STEP, now_ms, of="mask_item")
    if any(True for _ in view.scan(KeptMedia)):
        yield Wake(REVIEW, now_ms, of="hold_media")


def redaction_goes_on(view: View, conversation_id: str, now_ms: int) -> Iterator[Effect]:
    """Have the redaction of an item look again at what keeps the item whole."""
    redacted = view.get(Redacted, conversation_id)
    if redacted is not None and redacted.pending:
        yield Wake(REVIEW_ONE + conversation_id, now_ms, of="protect_item")


def unordered(view: View, conversation_id: str, item: Item) -> list[str]:
    """The item's recordings that nobody has been told to delete."""
    found = [(recording_id, media) for (_, recording_id), media in view.scan(ItemMedia, conversation_id)]
    return [
        recording_id for recording_id, media in found
        if not media.fate and view.get(MediaOwed, case_of(item.controller, conversation_id, recording_id)) is None
    ]  # fmt: skip


def order_due_media(view: View, conversation_id: str, item: Item, due: Bound, asked: Asked, now_ms: int) -> Iterator[Effect]:
    """Recordings go before their conversation: the order only, which asks itself whether anybody else's hold keeps them."""
    found = unordered(view, conversation_id, item)
    recordings = found[:RECORDINGS_PER_STEP]
    if len(found) > len(recordings):
        yield Wake(EXPIRE + conversation_id, now_ms)
    if recordings:
        yield Audit("item.recordings_due", item.controller, due.facts | {"recordings": str(len(recordings))})
    for recording_id in recordings:
        yield from order_recordings(view, item, conversation_id, "retention", asked, only=recording_id)
