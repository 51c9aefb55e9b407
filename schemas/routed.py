"""What tasks say to each other: every message on `subject.events` and `case.events` rests sealed under the hour's raw key.

Public events travel on unchanged inside an `Envelope`; the records here are what only the inside knows. A party is an index here,
and a person is a `subject_ref`. Times are epoch milliseconds, UTC.
"""

from typing import Annotated, ClassVar, Literal

from schemas.base import Record, personal
from schemas.events import Identifier

LineKind = Literal["line", "note", "tag"]
Ref = Annotated[str, personal("user.unique_id.pseudonymous")]  # subject_ref: `sub_` + 26 base32 characters; "" = never a subject


class Envelope(Record, frozen=True, kw_only=True, array_like=True):
    """One event on its way: CloudEvents attributes, who sent it, and `data` in the encoding `content_type` names.

    `refs` are the subject_refs of the identifiers in `data`, in document order ("" for one that is never a subject). The door
    sets them, on what it has checked, or else intake; a publisher cannot. `type` is the CloudEvents type, or the record name of
    a message between tasks. Fields are only ever appended, with a default: it is stored as an array (`schemas/codec.py`).
    """

    SCHEMA: ClassVar[str] = "Envelope"
    id: str
    source: str
    type: str
    controller: str
    time_ms: int
    receipt_ms: int
    actor: str = ""
    content_type: Literal["application/json", "application/avro"] = "application/avro"
    refs: tuple[Ref, ...] = ()
    data: bytes = b""


class Routed(Record, frozen=True, kw_only=True):
    """A message between tasks; its record name is its envelope type."""


class HoldTerms(Record, frozen=True, kw_only=True):
    """A legal hold as those whom it keeps know it. `ground` is a code; `until_ms` None: until it is released."""

    hold_id: str
    ground: str = ""
    until_ms: int | None = None


class HeldItem(Record, frozen=True, kw_only=True):
    """One party's part in a conversation (or its recording) that holds keep. `until_ms` None: until the last is released."""

    conversation_id: str
    grounds: tuple[str, ...]
    until_ms: int | None = None


class ItemOpened(Routed, frozen=True, kw_only=True):
    """case → a party's home: you were on this conversation. Employees get no name, identifier or metadata: participation only."""

    SCHEMA: ClassVar[str] = "ItemOpened"
    conversation_id: str
    party: int
    role: str
    employee: bool
    channel: str
    direction: str
    started_ms: int
    others: tuple[Ref, ...] = ()  # the same party's further identifiers: they hold pointers
    identifiers: tuple[Identifier, ...] = ()
    name: Annotated[str, personal("user.name")] | None = None
    jurisdiction: str | None = None
    time_zone: str | None = None
    campaign: str | None = None
    queue: str | None = None
    brand: str | None = None
    purposes: tuple[str, ...] = ()
    lawful_basis: str | None = None
    metadata: Annotated[dict[str, str], personal("user.behavior")] = {}
    holds: tuple[str, ...] = ()  # legal holds on the conversation that were placed before this party came
    terms: tuple[HoldTerms, ...] = ()  # of these holds
    ceilings: tuple[str, ...] = ()  # marks on the conversation under which it must go, whatever holds it


class ItemPointed(Routed, frozen=True, kw_only=True):
    """case → a party's further identifier: the content is with `home`."""

    SCHEMA: ClassVar[str] = "ItemPointed"
    conversation_id: str
    home: Ref


class Line(Record, frozen=True, kw_only=True):
    """Something said, written or noted. `party` is -1 when nobody is named."""

    party: int
    employee: bool
    kind: LineKind
    text: Annotated[str, personal("user.content.private")]
    offset_ms: int | None = None
    tag: str | None = None


class ItemLines(Routed, frozen=True, kw_only=True):
    """case → each customer and third party: what was said."""

    SCHEMA: ClassVar[str] = "ItemLines"
    conversation_id: str
    lines: tuple[Line, ...]


class ItemUntagged(Routed, frozen=True, kw_only=True):
    """case → each party: a tag was taken away."""

    SCHEMA: ClassVar[str] = "ItemUntagged"
    conversation_id: str
    tag: str


class ItemRecording(Routed, frozen=True, kw_only=True):
    """case → each customer and third party: a recording changed."""

    SCHEMA: ClassVar[str] = "ItemRecording"
    conversation_id: str
    recording_id: str
    state: Literal["started", "paused", "resumed", "stopped"]
    confirmed: bool
    uri: Annotated[str, personal("user.unique_id")] | None = None


class ItemEnded(Routed, frozen=True, kw_only=True):
    """case → each party: the conversation ended."""

    SCHEMA: ClassVar[str] = "ItemEnded"
    conversation_id: str
    ended_ms: int
    disposition: str | None = None


class ItemRedacted(Routed, frozen=True, kw_only=True):
    """case → co-parties: this party was erased; drop its lines and every employee line (`alone`: its lines only)."""

    SCHEMA: ClassVar[str] = "ItemRedacted"
    conversation_id: str
    party: int
    alone: bool = False


class ItemErase(Routed, frozen=True, kw_only=True):
    """A pointer's dossier → the home: this item goes, by the erasure that reached its pointer."""

    SCHEMA: ClassVar[str] = "ItemErase"
    conversation_id: str
    request_id: str
    asker: Ref  # the dossier that waits for the answer; "" when nobody does
    acknowledge_by_ms: int = 0
    regime: str = ""  # as in `EraseOrder`
    ground: str = ""


class ItemErased(Routed, frozen=True, kw_only=True):
    """The home → the pointer's dossier: the item is gone, or held by these holds."""

    SCHEMA: ClassVar[str] = "ItemErased"
    conversation_id: str
    request_id: str
    held: bool
    home: Ref = ""  # "" when there was nothing to erase, or it is held
    media: tuple[str, ...] = ()  # orders for its recordings
    kept: HeldItem | None = None  # by which grounds it is held, and until when


class PointerDropped(Routed, frozen=True, kw_only=True):
    """The home → a further identifier: the item it points to is gone."""

    SCHEMA: ClassVar[str] = "PointerDropped"
    conversation_id: str


class PartyDropped(Routed, frozen=True, kw_only=True):
    """The home → the conversation's roster: forget who this party was. `erased`: the co-parties' copies lose its lines."""

    SCHEMA: ClassVar[str] = "PartyDropped"
    conversation_id: str
    party: int
    erased: bool


class PartySilenced(Routed, frozen=True, kw_only=True):
    """The home → the conversation's roster: what this party said was erased; the others' copies lose it, now and later."""

    SCHEMA: ClassVar[str] = "PartySilenced"
    conversation_id: str
    party: int


class Hold(Routed, frozen=True, kw_only=True):
    """A hold → dossiers or conversations: you are held. `conversation_id` None: the whole person. Told again, it ends later.

    A compliance tag that keeps a conversation is told as a hold, `tag:MARK` (`processors/marks.py`). `ceiling`: the opposite, a
    tag under which the conversation must go, whatever holds it.
    """

    SCHEMA: ClassVar[str] = "Hold"
    hold_id: str
    placed: bool  # False: released
    conversation_id: str | None = None
    ground: str = ""  # a code
    until_ms: int | None = None  # None: until it is released
    ceiling: bool = False


class LinkTold(Routed, frozen=True, kw_only=True):
    """intake → each end of a link: this other identifier is the same person's, or is not (`on` False)."""

    SCHEMA: ClassVar[str] = "LinkTold"
    peer: Ref
    on: bool
    link_source: str


class LinkProbe(Routed, frozen=True, kw_only=True):
    """A request → an identifier: whom are you linked to? Until it is erased it also tells of every link that comes later."""

    SCHEMA: ClassVar[str] = "LinkProbe"
    request_id: str


class LinksFound(Routed, frozen=True, kw_only=True):
    """An identifier → the request: its links. `answer`: to the probe; else a link that came, or met the fence, since."""

    SCHEMA: ClassVar[str] = "LinksFound"
    request_id: str
    ref: Ref
    peers: tuple[Ref, ...]
    answer: bool


class ProbeEnded(Routed, frozen=True, kw_only=True):
    """A request → an identifier: the request is closed without an erasure; tell no more."""

    SCHEMA: ClassVar[str] = "ProbeEnded"
    request_id: str


class MediaErase(Routed, frozen=True, kw_only=True):
    """A home → the media order: this recording goes, or (`uri` None) tell me and the request when it is gone.

    `request_id` "" when no request waits for it.
    """

    SCHEMA: ClassVar[str] = "MediaErase"
    conversation_id: str
    recording_id: str
    cause: Literal["request", "retention", "partial"]
    acknowledge_by_ms: int
    request_id: str = ""
    uri: Annotated[str, personal("user.unique_id")] | None = None
    asker: Ref = ""
    regime: str = ""  # as in `EraseOrder`; "" where no request asks
    ground: str = ""


class MediaCheck(Routed, frozen=True, kw_only=True):
    """A media order → the conversation → its homes, one after the other: it asks whether a hold keeps this recording.

    Whoever is held keeps the question until its release, and then asks the conversation anew.
    """

    SCHEMA: ClassVar[str] = "MediaCheck"
    conversation_id: str
    order_id: str
    left: tuple[Ref, ...] = ()  # homes to be asked after this one
    regime: str = ""  # as in `EraseOrder`; "" where no request asks
    ground: str = ""


class MediaChecked(Routed, frozen=True, kw_only=True):
    """The conversation, or one of its homes → the media order: holds keep the recording, or (None) nobody is held."""

    SCHEMA: ClassVar[str] = "MediaChecked"
    order_id: str
    kept: HeldItem | None = None


class MediaMarked(Routed, frozen=True, kw_only=True):
    """A media order → the conversation → its homes: a recording is planned for deletion (it still plays), or deleted."""

    SCHEMA: ClassVar[str] = "MediaMarked"
    conversation_id: str
    recording_id: str
    state: Literal["planned_for_deletion", "deleted"]


class MediaGone(Routed, frozen=True, kw_only=True):
    """A media order → a home that asked: the recording is gone."""

    SCHEMA: ClassVar[str] = "MediaGone"
    order_id: str


class MediaAnswered(Routed, frozen=True, kw_only=True):
    """A media order → a request that waits for it: what became of the recording. `open`: it was held, and is on order now."""

    SCHEMA: ClassVar[str] = "MediaAnswered"
    request_id: str
    order_id: str
    outcome: Literal["done", "held", "failed", "open"]
    kept: HeldItem | None = None  # of `held`, where a legal hold keeps it here: it is not on order
    acknowledge_by_ms: int = 0  # of `open`: by when it must be answered now


class FollowOn(Routed, frozen=True, kw_only=True):
    """A closed erasure → a new one: an identifier that was the same person's all the time, as a late link says."""

    SCHEMA: ClassVar[str] = "FollowOn"
    request_id: str
    parent: str
    regime: str
    refs: tuple[Ref, ...]
    erased: tuple[Ref, ...]  # by the parent: who comes back under these is not asked for
    verified_by: str
    approved_by: str
    ground: str = ""  # of Art. 17(1), as the parent's


class EraseOrder(Routed, frozen=True, kw_only=True):
    """A verified request → an identifier: be forgotten. `index` is the identifier's place in the request.

    `regime` and `ground` say by which law it asks, and on which ground of Art. 17(1): what holds against that is the law packs'.
    """

    SCHEMA: ClassVar[str] = "EraseOrder"
    request_id: str
    index: int
    targets: tuple[str, ...] = ()
    acknowledge_by_ms: int = 0
    regime: str = ""
    ground: str = ""


class MaskOrder(Routed, frozen=True, kw_only=True):
    """A verified request, or a pointer's dossier (`asker`) → an identifier: these fields of these conversations go.

    No `conversation_ids`: all that began between `since_ms` (inclusive) and `until_ms` (exclusive), where these are set, and not
    after `before_ms`, when it was ordered. `fields` as in `processors/fields.py`.
    """

    SCHEMA: ClassVar[str] = "MaskOrder"
    request_id: str
    index: int
    fields: tuple[str, ...]
    before_ms: int
    conversation_ids: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    targets: tuple[str, ...] = ()
    acknowledge_by_ms: int = 0
    asker: Ref = ""
    regime: str = ""  # as in `EraseOrder`
    ground: str = ""


class EraseReport(Routed, frozen=True, kw_only=True):
    """An identifier → the request: done so far. `final`: nothing is left to do but `held` items. Counts, no names."""

    SCHEMA: ClassVar[str] = "EraseReport"
    request_id: str
    index: int
    erased: int
    held: int
    final: bool
    order_id: str  # the notices sent since the last report; "" when there were none
    media: tuple[str, ...] = ()  # orders for recordings that must be answered as well
    kept: tuple[HeldItem, ...] = ()  # the held items; at most 100, `held` counts all of them
    acknowledge_by_ms: int = 0  # of the notices: a round that follows a release has a deadline of its own


ROUTED: tuple[type[Routed], ...] = (
    ItemOpened, ItemPointed, ItemLines, ItemUntagged, ItemRecording, ItemEnded, ItemRedacted, ItemErase, ItemErased,
    PointerDropped, PartyDropped, Hold, LinkTold, LinkProbe, LinksFound, ProbeEnded, MediaErase, MediaCheck, MediaChecked,
    MediaMarked, MediaGone, MediaAnswered, FollowOn, EraseOrder, EraseReport, MaskOrder, PartySilenced,
)  # fmt: skip
