"""The protected view of an item, as `conversations.protected` carries it: sealed fields stay sealed."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from processors.item import Item, ItemLine, ItemMedia, Masked, Planned, due_ms, is_on_hold
from processors.kernel import Sealed, View
from schemas.topics import ProtectedConversation, ProtectedLine, ProtectedRecording

Media = Literal["none", "recorded", "planned_for_deletion", "deleted"]


def render(view: View, item: Item, conversation_id: str) -> ProtectedConversation:
    """One party's view of one conversation, as `conversations.protected` carries it; sealed fields stay sealed."""
    lines = tuple(
        ProtectedLine(party=x.party, employee=x.employee, kind=x.kind, text=_token(x.text), offset_ms=x.offset_ms, tag=x.tag)
        for _, x in view.scan(ItemLine, conversation_id)
    )
    recordings = tuple(
        ProtectedRecording(recording_id=parts[1], state=x.fate or x.state, confirmed=x.confirmed, uri=_optional(x.uri))
        for parts, x in view.scan(ItemMedia, conversation_id)
    )
    masked = view.get(Masked, conversation_id) or Masked()
    fates = {x.fate for _, x in view.scan(ItemMedia, conversation_id)}
    end = end_of(item, view.get(Planned, conversation_id))
    media: Media = "none" if not recordings else "recorded" if fates == {""} else "planned_for_deletion"
    return ProtectedConversation(
        subject_ref=view.owner, conversation_id=conversation_id, controller=item.controller, party=item.party, role=item.role,
        channel=item.channel, direction=item.direction, started_ms=item.started_ms, received_ms=item.received_ms,
        ended_ms=item.ended_ms, disposition=item.disposition, campaign=item.campaign, queue=item.queue, brand=item.brand,
        purposes=tuple(item.purposes), basis=item.basis, jurisdiction=item.jurisdiction, time_zone=item.time_zone,
        name=_optional(item.name), identifiers=_optional(item.identifiers), metadata=_optional(item.metadata), lines=lines,
        recordings=recordings, media="deleted" if fates == {"deleted"} else media, erase_by_ms=end.erase_by_ms,
        held=is_on_hold(view, conversation_id), anonymised=tuple(masked.groups),
        reviewable=is_reviewable(item, masked, fates), restricted=end.restricted,
        keep_until_ms=end.keep_until_ms, kept_for=end.kept_for,
    )  # fmt: skip


class End(NamedTuple):
    """What is to be seen of an item's end: when it goes, until when and for what it must stay, whether only that may use it."""

    erase_by_ms: int
    keep_until_ms: int | None
    restricted: bool
    kept_for: tuple[str, ...]


def end_of(item: Item, planned: Planned | None) -> End:
    """The end of an item: what rules made of it, else the default."""
    if planned is None:
        return End(due_ms(item), None, False, ())
    keep_until_ms = max((floor.until_ms for floor in planned.floors), default=None)
    purposes = tuple(sorted({floor.purpose or floor.ground for floor in planned.floors}))
    return End(planned.erase_by_ms, keep_until_ms, planned.restricted_ms is not None, purposes)


def is_reviewable(item: Item, masked: Masked, fates: Iterable[str]) -> bool:
    """Whether anything is left to look at: what was said, or a recording that is not deleted (`fates` of all)."""
    return not item.employee and ("content" not in masked.groups or any(fate != "deleted" for fate in fates))


def _token(value: Sealed) -> bytes:
    assert isinstance(value, bytes), "a sealed field left the engine unsealed"
    return value


def _optional(value: Sealed) -> bytes | None:
    return None if value is None else _token(value)
