"""Which tags an item has: retention rules select by them, and marks are among them."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from processors.item import EXPIRE, Item, ItemLine, Tagged, Untagged, publish_soon
from processors.kernel import Delete, Effect, Put, Receipt, View, Wake
from processors.tags import mark_named
from schemas.routed import ItemUntagged


def untag(view: View, event: ItemUntagged, at: Receipt) -> Iterator[Effect]:
    """A tag was taken away: its lines go, in whatever spelling, and those that come later but were said before."""
    if view.get(Item, event.conversation_id) is None:
        return
    said = spelled(event.tag)
    old = view.get(Untagged, event.conversation_id, said)
    if old is not None and old.at_ms >= at.effective_ms:
        return
    yield Put(Untagged(at.effective_ms), (event.conversation_id, said))
    for parts, line in list(view.scan(ItemLine, event.conversation_id)):
        # A line's place begins with the time of its event.
        if line.tag and spelled(line.tag) == said and int(parts[1].partition("-")[0]) <= at.effective_ms:
            yield Delete(ItemLine, parts)
            yield from publish_soon(view, event.conversation_id, at.receipt_ms)
    left = {line.tag for _, line in view.scan(ItemLine, event.conversation_id) if line.tag}
    known = view.get(Tagged, event.conversation_id) or Tagged()
    gone = {tag for tag in known.tags if spelled(tag) == said} - left
    yield from note_tags(view, event.conversation_id, frozenset(), gone, at)


def note_tags(
    view: View, conversation_id: str, added: AbstractSet[str], gone: AbstractSet[str], at: Receipt
) -> Iterator[Effect]:  # fmt: skip
    """Keep which tags the conversation has, and have its retention planned anew when that changed."""
    if not added and not gone:
        return
    old = view.get(Tagged, conversation_id) or Tagged()
    tags = sorted(({*old.tags} | added) - gone)
    if tags != old.tags:
        yield Put(Tagged(tags), (conversation_id,))
        yield Wake(EXPIRE + conversation_id, at.receipt_ms, of="enforce_retention")


def spelled(tag: str) -> str:
    """What a tag says, in whatever spelling: its mark, or its text without regard to case."""
    return mark_named(tag) or tag.casefold()
