"""Keeps what was said and done on a conversation, sealed under a key of its own, and publishes the protected view."""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.fence import Fence, fenced_off, refuses
from processors.item import (
    PUBLISH,
    Item,
    ItemLine,
    ItemMedia,
    Masked,
    MediaOwed,
    Pointer,
    Redacted,
    Tagged,
    Unpublished,
    Untagged,
    publish_soon,
    reseal,
)
from processors.item_end import order_recordings
from processors.item_tags import note_tags, spelled, untag
from processors.item_view import render
from processors.kernel import (
    Alarm,
    Asked,
    Audit,
    Delete,
    Effect,
    Emit,
    Instant,
    Mint,
    Nonce,
    Put,
    Receipt,
    Refuse,
    State,
    View,
    Wake,
)
from processors.order_media import late_order
from processors.weighing import Scales, is_kept
from schemas.base import Record
from schemas.markers import CONTENT
from schemas.routed import (
    Hold,
    ItemEnded,
    ItemErase,
    ItemLines,
    ItemOpened,
    ItemPointed,
    ItemRecording,
    ItemRedacted,
    ItemUntagged,
    Line,
    MediaGone,
    MediaMarked,
    PartyDropped,
    PointerDropped,
)  # fmt: skip

# A day of uninterrupted talk; beyond it lines go to quarantine. Counted at publication, so that a line costs no counter: a burst
# may pass it by what comes within one delay.
LINES_MAX = 20_000
REVIEW = "review\x1f"  # after a hold: publish again, and redact what it kept whole; the last conversation done follows
REVIEW_ONE = "review-one\x1f"
ITEMS_PER_REVIEW = 50
READS = (
    ItemOpened, ItemPointed, ItemLines, ItemUntagged, ItemRecording, ItemEnded, ItemRedacted, MediaMarked,
    MediaGone, PointerDropped, Hold,
)  # fmt: skip


class ProtectItem:
    """Holds the item of one identifier × conversation: plain what a machine must know, sealed what a person said or is.

    Only homes of customers and third parties hold content; employees' dossiers have the participation, further identifiers a
    pointer. What the fence refuses leaves an audit entry and nothing else, and the roster is told to forget the party.
    """

    name = "protect_item"
    READS: ClassVar[tuple[type[Record], ...]] = READS
    STATE: ClassVar[tuple[type[State], ...]] = (
        Item, ItemLine, ItemMedia, MediaOwed, Pointer, Redacted, Tagged, Unpublished, Untagged,
    )  # fmt: skip

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the effects of one message about a conversation."""
        match event:
            case ItemOpened():
                yield from self._open(view, event, at)
            case ItemPointed():
                yield from self._point(view, event, at)
            case ItemLines():
                yield from self._add_lines(view, event, at)
            case ItemRecording():
                yield from self._recording(view, event, at)
            case ItemEnded():
                yield from self._end(view, event, at)
            case ItemUntagged():
                yield from untag(view, event, at)
            case MediaMarked():
                yield from self._mark(view, event, at)
            case MediaGone():
                if view.get(MediaOwed, event.order_id) is not None:
                    yield Delete(MediaOwed, (event.order_id,))
            case ItemRedacted():
                yield from self._redact(view, event, at)
            case PointerDropped():
                if view.get(Pointer, event.conversation_id) is not None:
                    yield Delete(Pointer, (event.conversation_id,))
            case Hold():
                scope = REVIEW if event.conversation_id is None else REVIEW_ONE + event.conversation_id
                yield Wake(scope, at.receipt_ms)  # once the hold itself has been noted
            case _:
                assert_never(event)

    def asks(self, event: Any, event_id: str) -> Asked:
        """See `Processor`."""
        if isinstance(event, ItemLines):
            scope = (event.conversation_id,)
            return ((Item, scope), (Unpublished, scope), (Redacted, scope), (Masked, scope))
        return ((Fence, ()), (Nonce, ())) if isinstance(event, ItemOpened) else ()

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Publish what changed."""
        if alarm.name.startswith(REVIEW_ONE):
            yield from self._review_one(view, alarm.name.removeprefix(REVIEW_ONE), now)
            return
        if alarm.name.startswith(REVIEW):
            yield from self._review(view, alarm.name.removeprefix(REVIEW), now)
            return
        conversation_id = alarm.name.removeprefix(PUBLISH)
        item = view.get(Item, conversation_id)
        if item is None:
            return
        yield Delete(Unpublished, (conversation_id,))
        published = render(view, item, conversation_id)
        yield Put(msgspec.structs.replace(item, lines_published=len(published.lines)), (conversation_id,))
        yield Emit("conversations.protected", (view.owner, conversation_id), published)

    def _open(self, view: View, event: ItemOpened, at: Receipt) -> Iterator[Effect]:
        conversation_id = event.conversation_id
        if view.get(Item, conversation_id) is not None:
            return  # an import of what is here already changes nothing, also when a hold keeps it past an erasure
        if refuses(view, at.effective_ms, conversation_id):
            yield Audit("event.refused", at.controller, {"reason": "fenced"}, named=False)
            yield from fenced_off(view, conversation_id, at.receipt_ms)
            gone = PartyDropped(conversation_id=conversation_id, party=event.party, erased=True)
            yield Emit("case.events", ("conversation", at.controller, conversation_id), gone)
            for other in event.others:
                yield Emit("subject.events", (other,), PointerDropped(conversation_id=conversation_id))
            return
        identifiers = msgspec.json.encode([_as_sent(i) for i in event.identifiers]).decode() if event.identifiers else None
        metadata = msgspec.json.encode(event.metadata).decode() if event.metadata else None
        item = Item(
            controller=at.controller, party=event.party, role=event.role, employee=event.employee, channel=event.channel,
            direction=event.direction, started_ms=event.started_ms, received_ms=at.receipt_ms, effective_ms=at.effective_ms,
            others=list(event.others), jurisdiction=event.jurisdiction, time_zone=event.time_zone, campaign=event.campaign,
            queue=event.queue, brand=event.brand, purposes=list(event.purposes), basis=event.lawful_basis, name=event.name,
            identifiers=identifiers, metadata=metadata,
        )  # fmt: skip
        yield Mint(conversation_id, at.controller)
        yield Put(item, (conversation_id,), scope=conversation_id)
        yield Audit("item.protected", at.controller, {"party_role": event.role, "channel": event.channel})
        yield from publish_soon(view, conversation_id, at.receipt_ms)

    def _point(self, view: View, event: ItemPointed, at: Receipt) -> Iterator[Effect]:
        if refuses(view, at.effective_ms, event.conversation_id):
            yield Audit("event.refused", at.controller, {"reason": "fenced"}, named=False)
            yield from fenced_off(view, event.conversation_id, at.receipt_ms)
            # Who was erased by this identifier does not come back by another one on an old conversation.
            erase = ItemErase(conversation_id=event.conversation_id, request_id="", asker="")
            yield Emit("subject.events", (event.home,), erase)
        elif view.get(Pointer, event.conversation_id) is None:
            yield Put(Pointer(event.home, at.controller, at.effective_ms), (event.conversation_id,))

    def _add_lines(self, view: View, event: ItemLines, at: Receipt) -> Iterator[Effect]:
        conversation_id = event.conversation_id
        item = view.get(Item, conversation_id)
        if item is None or not view.has_key(conversation_id):
            yield from _nobody(view, conversation_id, at)
            return
        if item.lines_published + len(event.lines) > LINES_MAX:
            yield Refuse("too-many-lines", "segments")
            return
        redacted, masked = view.get(Redacted, conversation_id), view.get(Masked, conversation_id)
        tags: set[str] = set()
        for n, line in enumerate(event.lines):
            untagged = view.get(Untagged, conversation_id, spelled(line.tag)) if line.tag else None
            if untagged is not None and at.effective_ms <= untagged.at_ms:
                continue
            if redacted is None or not _is_redacted(line, redacted):
                key = (conversation_id, f"{at.effective_ms:014d}-{at.event_id}-{n:04d}")
                text = CONTENT if masked is not None and "content" in masked.groups else line.text
                record = ItemLine(line.party, line.employee, line.kind, text, line.offset_ms, line.tag)
                yield Put(record, key, scope=conversation_id)
                if line.kind == "tag" and line.tag:
                    tags.add(line.tag)
        yield from note_tags(view, conversation_id, tags, frozenset(), at)
        yield from publish_soon(view, conversation_id, at.receipt_ms)

    def _recording(self, view: View, event: ItemRecording, at: Receipt) -> Iterator[Effect]:
        conversation_id = event.conversation_id
        item = view.get(Item, conversation_id)
        if item is None or not view.has_key(conversation_id):
            yield from _nobody(view, conversation_id, at)
            if event.uri is not None and refuses(view, at.effective_ms, conversation_id):
                yield late_order(at, conversation_id, event.recording_id, event.uri)
            return
        old = view.get(ItemMedia, conversation_id, event.recording_id)
        media = ItemMedia(event.state, event.confirmed, at.effective_ms, at.event_id)
        if old is not None and (old.changed_ms, old.event_id) > (at.effective_ms, at.event_id):
            media = old
        # The address is the last one that was told, whichever event told it.
        if event.uri is not None and (old is None or old.uri is None or old.uri_ms <= at.effective_ms):
            media = msgspec.structs.replace(media, uri=event.uri, uri_ms=at.effective_ms)
        elif old is not None:
            media = msgspec.structs.replace(media, uri=old.uri, uri_ms=old.uri_ms)
        if old is not None and old.fate:
            media = msgspec.structs.replace(media, fate=old.fate)
        yield Put(media, (conversation_id, event.recording_id), scope=conversation_id)
        masked = view.get(Masked, conversation_id)
        if old is None and masked is not None and "media" in masked.groups:
            yield from order_recordings(view, item, conversation_id, "partial", only=event.recording_id)
        yield from publish_soon(view, conversation_id, at.receipt_ms)

    def _mark(self, view: View, event: MediaMarked, at: Receipt) -> Iterator[Effect]:
        """Show what becomes of a recording; of one that is deleted the address goes as well."""
        media = view.get(ItemMedia, event.conversation_id, event.recording_id)
        if media is None or media.fate == "deleted":
            return
        uri = None if event.state == "deleted" else media.uri
        yield Put(msgspec.structs.replace(media, fate=event.state, uri=uri), (event.conversation_id, event.recording_id))
        yield from publish_soon(view, event.conversation_id, at.receipt_ms)

    def _end(self, view: View, event: ItemEnded, at: Receipt) -> Iterator[Effect]:
        item = view.get(Item, event.conversation_id)
        if item is None:
            yield from _nobody(view, event.conversation_id, at)
            return
        ended = max(event.ended_ms, item.ended_ms or 0)
        changed = msgspec.structs.replace(item, ended_ms=ended, disposition=event.disposition or item.disposition)
        yield Put(changed, (event.conversation_id,))
        yield from publish_soon(view, event.conversation_id, at.receipt_ms)

    def _redact(self, view: View, event: ItemRedacted, at: Receipt) -> Iterator[Effect]:
        conversation_id = event.conversation_id
        item = view.get(Item, conversation_id)
        if item is None:
            return
        old = view.get(Redacted, conversation_id)
        # Where an erasure went through, no mark stood against it, so none keeps these lines in another's copy either.
        held = is_kept(view, conversation_id, Scales(at, item.controller, at.receipt_ms))
        parties, alone = {*(old.parties if old else ())}, {*(old.alone if old else ())}
        (alone if event.alone else parties).add(event.party)
        redacted = Redacted(sorted(parties), held, sorted(alone))
        yield Put(redacted, (conversation_id,))
        if not held:
            yield from self._drop_lines(view, item, conversation_id, redacted, at.receipt_ms)

    def _drop_lines(self, view: View, item: Item, conversation_id: str, redacted: Redacted, now_ms: int) -> Iterator[Effect]:
        gone = sum(_is_redacted(line, redacted) for _, line in view.scan(ItemLine, conversation_id))
        yield Audit("item.redacted", item.controller, {"lines": str(gone)})
        yield from reseal(
            view, item, conversation_id, lambda r: None if isinstance(r, ItemLine) and _is_redacted(r, redacted) else r
        )
        yield from publish_soon(view, conversation_id, now_ms)

    def _review(self, view: View, after: str, now: Instant) -> Iterator[Effect]:
        for n, (conversation_id,) in enumerate(parts for parts, _ in list(view.scan(Item)) if parts[0] > after):
            if n == ITEMS_PER_REVIEW:
                yield Wake(REVIEW + after, now.now_ms)
                return
            after = conversation_id
            yield from self._review_one(view, conversation_id, now)

    def _review_one(self, view: View, conversation_id: str, now: Instant) -> Iterator[Effect]:
        item = view.get(Item, conversation_id)
        if item is None:
            return
        redacted, by = view.get(Redacted, conversation_id), Scales(now, item.controller, now.now_ms)
        if redacted is not None and redacted.pending and not is_kept(view, conversation_id, by):
            yield Put(msgspec.structs.replace(redacted, pending=False), (conversation_id,))
            yield from self._drop_lines(view, item, conversation_id, redacted, now.now_ms)
        yield from publish_soon(view, conversation_id, now.now_ms)


def _nobody(view: View, conversation_id: str, at: Receipt) -> Iterator[Effect]:
    """Content for an item that is not here: fenced or expired. Nothing is kept, and that is on record."""
    reason = "fenced" if refuses(view, at.effective_ms, conversation_id) else "no-item"
    yield Audit("event.refused", at.controller, {"reason": reason}, named=False)


def _is_redacted(line: Line | ItemLine, redacted: Redacted) -> bool:
    if line.party in redacted.alone:
        return True
    # A line of nobody in particular may be the erased person's, so it goes too.
    return bool(redacted.parties) and (line.employee or line.party in redacted.parties or line.party < 0)


def _as_sent(identifier: Any) -> dict[str, Any]:
    sent = {"kind": identifier.kind, "value": identifier.value}
    return sent | ({"jurisdiction": identifier.jurisdiction} if identifier.jurisdiction else {})
