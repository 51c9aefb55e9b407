"""What an identifier keeps of a conversation: its records, and how what stays of one is sealed anew."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, NamedTuple

from processors.exceptions import TAG
from processors.grounds import told_of
from processors.kernel import (
    Delete,
    Effect,
    Mint,
    Put,
    Sealed,
    Shred,
    State,
    View,
    Wake,
)
from processors.terms import erase_by
from schemas.base import Record
from schemas.routed import HoldTerms
from schemas.topics import ProtectedConversation

# A conversation is published whole under one key, so a line does not publish it: the view follows within this time, and
# within 50 ms more per line already published, which keeps the work of a long call linear.
PUBLISH_DELAY_MS = 1_000
PUBLISH_DELAY_PER_LINE_MS = 50
SWEEP, PUBLISH, EXPIRE = "sweep\x1f", "publish\x1f", "expire\x1f"  # alarms about one conversation, whose id follows
STEP = "step\x1f"  # of `erase_subject` and `mask_item`: go on with what is under way
REPLAN = "replan\x1f"  # of `enforce_retention`: look at all items again; the last conversation done follows


class Item(State):
    """One party's part in one conversation. `effective_ms` is the effective time of its opening: the fence looks at it."""

    KIND: ClassVar[str] = "item"
    SEALED: ClassVar[dict[str, str]] = {"name": "name", "identifiers": "identifiers", "metadata": "metadata"}
    SEALED_IN: ClassVar[type[Record] | None] = ProtectedConversation
    controller: str
    party: int
    role: str
    employee: bool
    channel: str
    direction: str
    started_ms: int
    received_ms: int
    effective_ms: int
    others: list[str] = []
    name: Sealed = None
    identifiers: Sealed = None
    metadata: Sealed = None
    jurisdiction: str | None = None
    time_zone: str | None = None
    campaign: str | None = None
    queue: str | None = None
    brand: str | None = None
    purposes: list[str] = []
    basis: str | None = None
    ended_ms: int | None = None
    disposition: str | None = None
    lines_published: int = 0


class ItemLine(State):
    """One line, note or tag of an item; its place in the key is its time, then its event."""

    KIND: ClassVar[str] = "line"
    SEALED: ClassVar[dict[str, str]] = {"text": "lines.text"}
    SEALED_IN: ClassVar[type[Record] | None] = ProtectedConversation
    party: int
    employee: bool
    kind: str
    text: Sealed
    offset_ms: int | None = None
    tag: str | None = None


class ItemMedia(State):
    """One recording of an item. `changed_ms` orders what is heard about it."""

    KIND: ClassVar[str] = "media"
    SEALED: ClassVar[dict[str, str]] = {"uri": "recordings.uri"}
    SEALED_IN: ClassVar[type[Record] | None] = ProtectedConversation
    state: str
    confirmed: bool
    changed_ms: int
    event_id: str = ""  # decides between two words of one moment
    uri: Sealed = None
    uri_ms: int = 0
    fate: Literal["", "planned_for_deletion", "deleted"] = ""


class MediaOwed(State):
    """An order for a recording of a destroyed item that nobody has answered yet; its part is the order."""

    KIND: ClassVar[str] = "owed"
    conversation_id: str
    recording_id: str


class Pointer(State):
    """Says that this identifier was on the conversation, but the content is with the party's home."""

    KIND: ClassVar[str] = "pointer"
    home: str
    controller: str
    effective_ms: int


class HeldBy(State):
    """The legal holds on one conversation of this identifier, or (parts `*`) on all of them."""

    KIND: ClassVar[str] = "held"
    holds: list[str] = []
    terms: dict[str, tuple[str, int | None]] = {}  # hold → ground (a code), until
    ceilings: list[str] = []  # marks under which the conversation must go, whatever holds it


class Redacted(State):
    """Parties of a conversation that were erased: their lines, and every employee line, stay out of this copy.

    `alone`: employees of whom only their own lines go. `pending`: a legal hold keeps the copy whole until its release.
    """

    KIND: ClassVar[str] = "redacted"
    parties: list[int] = []
    pending: bool = False
    alone: list[int] = []


class Masked(State):
    """The groups of fields that a partial erasure took from a conversation; what comes later comes without them."""

    KIND: ClassVar[str] = "masked"
    groups: list[str] = []


class Untagged(State):
    """A tag of a conversation was taken away: setting it up to this time is overtaken.

    Its parts are the conversation and what the tag says: its mark, or its text without regard to case.
    """

    KIND: ClassVar[str] = "untagged"
    at_ms: int


class Tagged(State):
    """The tags that a conversation has, as they were first spelled, each once: rules of retention look at them."""

    KIND: ClassVar[str] = "tagged"
    tags: list[str] = []


class Floor(NamedTuple):
    """A duty that keeps an item until its end: `ground` is a code, `purpose` what the item may still be used for, "" if unnamed.

    `rule` and `origin` as in `windows.Bound`. `media`: it keeps the recordings only (True), all but them (False), or both (None).
    """

    rule: str
    origin: str
    ground: str
    purpose: str
    until_ms: int
    media: bool | None = None


class Planned(State):
    """What rules have made of an item's end, where it is not the default period alone.

    `restricted_ms`: since when only what its floors are for may use it.
    """

    KIND: ClassVar[str] = "planned"
    erase_by_ms: int
    rule: str
    floors: list[Floor] = []
    media_ms: int | None = None
    restricted_ms: int | None = None


class Unpublished(State):
    """The item changed since it was last published; an alarm is set."""

    KIND: ClassVar[str] = "unpublished"
    due_ms: int = 0


def is_on_hold(view: View, conversation_id: str, *, marks: bool = True) -> bool:
    """Whether a legal hold, or (`marks`) a compliance tag, keeps this item (or everything of this identifier)."""
    return any(marks or not hold.hold_id.startswith(TAG) for hold in holds_on(view, conversation_id))


def holds_on(view: View, conversation_id: str) -> tuple[HoldTerms, ...]:
    """The legal holds and compliance tags that keep this item, or everything of this identifier."""
    standing = [held for scope in (conversation_id, "*") if (held := view.get(HeldBy, scope)) is not None]
    return tuple(hold for held in standing for hold in told_of(held.holds, held.terms))


def due_ms(item: Item) -> int:
    """When the item goes by the default period: counted from its end, or from its start while no end is known."""
    return erase_by(item.ended_ms or item.started_ms, item.received_ms)


def reseal(view: View, item: Item, conversation_id: str, change: Callable[[State], State | None]) -> Iterator[Effect]:
    """Seal what stays of an item under a new key: each record, opened, as `change` gives it back (None: it goes).

    Earlier copies of the item, here and with every reader, hold what went under the old key: with it they are gone.
    """
    records: list[tuple[tuple[str, ...], State]] = [((conversation_id,), item), *view.scan(ItemMedia, conversation_id)]
    records += view.scan(ItemLine, conversation_id)
    changed: list[tuple[tuple[str, ...], type[State], State | None]] = []
    for parts, record in records:
        opened = view.opened(record, conversation_id)
        assert opened is not None, "an item's key lives as long as the item"
        changed.append((parts, type(record), change(opened)))
    yield Shred(conversation_id)
    yield Mint(conversation_id, item.controller)
    for parts, kind, kept in changed:
        yield Delete(kind, parts) if kept is None else Put(kept, parts, scope=conversation_id)


def publish_soon(view: View, conversation_id: str, receipt_ms: int) -> Iterator[Effect]:
    """Have the item's protected view published, together with what comes within the delay."""
    if view.get(Unpublished, conversation_id) is None:
        item = view.get(Item, conversation_id)
        delay = PUBLISH_DELAY_MS + PUBLISH_DELAY_PER_LINE_MS * (item.lines_published if item and not item.ended_ms else 0)
        yield Put(Unpublished(receipt_ms + delay), (conversation_id,))
        yield Wake(PUBLISH + conversation_id, receipt_ms + delay, of="protect_item")
