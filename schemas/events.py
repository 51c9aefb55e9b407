"""The events that publishers, analysts and operators send: one class per shape of `data` (contract, section 2)."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from schemas.base import LIST_ITEMS_MAX, EventData, Moment, Name, Names, Record, Text, personal

IdentifierKind = Literal["tel", "email", "ip", "crm", "device", "social", "employee"]
Role = Literal["customer", "agent", "supervisor", "third_party", "bot"]
Channel = Literal["voice", "video", "chat", "email", "sms", "screen"]
Direction = Literal["inbound", "outbound", "internal"]
LawfulBasis = Literal["art6_1_a", "art6_1_b", "art6_1_c", "art6_1_d", "art6_1_e", "art6_1_f"]
Method = Literal["verbal", "dtmf", "web", "sms", "paper", "agent", "gpc"]
Right = Literal[
    "access", "portability", "rectification", "erasure", "restriction", "objection", "no_automated_decision",
    "withdraw_consent", "know", "know_categories", "correct", "opt_out_sale", "limit_sensitive", "opt_in_sale",
]  # fmt: skip
Regime = Literal["gdpr", "uk_gdpr", "ccpa"]
# GDPR Art. 17(1)(a)-(f), in this order: on which of them an erasure is asked for, where the controller has established it.
ErasureGround = Literal["no_longer_needed", "consent_withdrawn", "objection", "unlawful", "legal_obligation", "child"]
SuppressionList = Literal["company_dnc", "national_dnc", "objection", "gpc"]
Risk = Literal["unlikely", "risk", "high"]

Jurisdiction = Annotated[str, Meta(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?(?!\n)$")]
PersonName = Annotated[str, Meta(max_length=512), personal("user.name")]
Actor = Annotated[str, Meta(max_length=256), personal("user.authorizing")]
Uri = Annotated[str, Meta(max_length=4096), personal("user.unique_id")]


class Identifier(Record, frozen=True, kw_only=True):
    """One identifier of a person, as sent. Its normal form is `schemas.identifiers.normalise`."""

    kind: IdentifierKind
    value: Annotated[str, Meta(min_length=1, max_length=512), personal("user.contact")]
    jurisdiction: Jurisdiction | None = None


Identifiers = Annotated[tuple[Identifier, ...], Meta(min_length=1, max_length=32)]


class Party(Record, frozen=True, kw_only=True):
    """Someone on a conversation. `party_id` is the publisher's; inside, a party is its index."""

    party_id: Annotated[str, Meta(min_length=1, max_length=512), personal("user.unique_id")]
    role: Annotated[str, Meta(max_length=64)]  # unknown roles are customers: the strictest reading of the contract
    identifiers: Annotated[tuple[Identifier, ...], Meta(max_length=32)]
    name: PersonName | None = None
    jurisdiction: Jurisdiction | None = None
    time_zone: Annotated[str, Meta(max_length=64)] | None = None


class CallStarted(EventData, frozen=True, kw_only=True):
    """A conversation began (or is imported): who is on it and why it may be processed."""

    SCHEMA: ClassVar[str] = "CallStarted"
    TYPES: ClassVar[tuple[str, ...]] = ("call.started",)
    conversation_id: Name
    channel: Channel
    direction: Direction
    parties: Annotated[tuple[Party, ...], Meta(min_length=1, max_length=64)]
    campaign: Name | None = None
    queue: Name | None = None
    brand: Name | None = None
    purposes: Names | None = None
    lawful_basis: LawfulBasis | None = None
    metadata: Annotated[dict[str, Text], personal("user.behavior")] | None = None


class CallPartyJoined(EventData, frozen=True, kw_only=True):
    """Someone joined a conversation."""

    SCHEMA: ClassVar[str] = "CallPartyJoined"
    TYPES: ClassVar[tuple[str, ...]] = ("call.party_joined",)
    conversation_id: Name
    party: Party


class CallPartyLeft(EventData, frozen=True, kw_only=True):
    """Someone left a conversation."""

    SCHEMA: ClassVar[str] = "CallPartyLeft"
    TYPES: ClassVar[tuple[str, ...]] = ("call.party_left",)
    conversation_id: Name
    party_id: Annotated[str, Meta(max_length=512), personal("user.unique_id")]


class CallRecording(EventData, frozen=True, kw_only=True):
    """A recording started, paused, resumed or stopped. `confirmed`: observed on the device, not only asked for."""

    SCHEMA: ClassVar[str] = "CallRecording"
    TYPES: ClassVar[tuple[str, ...]] = (
        "call.recording_started", "call.recording_paused", "call.recording_resumed", "call.recording_stopped",
    )  # fmt: skip
    conversation_id: Name
    recording_id: Name
    confirmed: bool
    uri: Uri | None = None
    device: Name | None = None
    reason: Name | None = None


class TranscriptSegment(Record, frozen=True, kw_only=True):
    """One spoken or written line. Without `party_id` it belongs to every party who is not an employee."""

    text: Annotated[str, Meta(max_length=65_536), personal("user.content.private")]
    party_id: Annotated[str, Meta(max_length=512), personal("user.unique_id")] | None = None
    offset_ms: int | None = None


class CallTranscribed(EventData, frozen=True, kw_only=True):
    """Lines of a conversation, spoken or written."""

    SCHEMA: ClassVar[str] = "CallTranscribed"
    TYPES: ClassVar[tuple[str, ...]] = ("call.transcribed",)
    conversation_id: Name
    segments: Annotated[tuple[TranscriptSegment, ...], Meta(min_length=1, max_length=LIST_ITEMS_MAX)]


class CallAnnotated(EventData, frozen=True, kw_only=True):
    """A note or summary on a conversation; `author` is a party id."""

    SCHEMA: ClassVar[str] = "CallAnnotated"
    TYPES: ClassVar[tuple[str, ...]] = ("call.annotated",)
    conversation_id: Name
    note: Annotated[str, Meta(max_length=65_536), personal("user.content.private")]
    author: Annotated[str, Meta(max_length=512), personal("user.unique_id")]


class CallTagged(EventData, frozen=True, kw_only=True):
    """A tag was set on, or taken from, a conversation."""

    SCHEMA: ClassVar[str] = "CallTagged"
    TYPES: ClassVar[tuple[str, ...]] = ("call.tagged", "call.untagged")
    conversation_id: Name
    tag: Name
    value: Annotated[str, Meta(max_length=65_536), personal("user.content.private")] | None = None
    comment: Annotated[str, Meta(max_length=65_536), personal("user.content.private")] | None = None


class CallEnded(EventData, frozen=True, kw_only=True):
    """A conversation ended: retention counts from here."""

    SCHEMA: ClassVar[str] = "CallEnded"
    TYPES: ClassVar[tuple[str, ...]] = ("call.ended",)
    conversation_id: Name
    disposition: Name | None = None


class Evidence(Record, frozen=True, kw_only=True):
    """What proves a consent (GDPR Art. 7(1)); fields of ISO/IEC TS 27560 where it has them."""

    conversation_id: Name | None = None
    offset_ms: int | None = None
    notice_version: Name | None = None
    language: Name | None = None
    agent: Actor | None = None
    uri: Uri | None = None


class ConsentChanged(EventData, frozen=True, kw_only=True):
    """Consent given, refused, withdrawn or renewed, for purposes and channels. Missing channels and brand mean `*`.

    `age` is in years, when it was given. `by_guardian`: a holder of parental responsibility gave or authorised it (GDPR Art. 8).
    """

    SCHEMA: ClassVar[str] = "ConsentChanged"
    TYPES: ClassVar[tuple[str, ...]] = (
        "consent.given", "consent.refused", "consent.withdrawn", "consent.renewed",
    )  # fmt: skip
    identifiers: Identifiers
    purposes: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=32)]
    method: Method
    evidence: Evidence | None = None
    channels: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=8)] = ("*",)
    brand: Name = "*"
    jurisdiction: Jurisdiction | None = None
    valid_until: Moment | None = None
    guardian: PersonName | None = None
    age: Annotated[int, Meta(ge=0, le=150), personal("user.demographic")] | None = None
    by_guardian: bool = False


class RequestAgent(Record, frozen=True, kw_only=True):
    """Someone who asks on the person's behalf (11 CCR §7063)."""

    name: PersonName
    permission_uri: Uri | None = None


FIELD_GROUPS = ("numbers", "emails", "ips", "content", "media", "custom_metadata", "other_metadata")
METADATA_KEY = "metadata."  # what follows is one key of `call.started`'s metadata
FieldGroup = Annotated[str, Meta(pattern=rf"^(\*|{'|'.join(FIELD_GROUPS)}|metadata\..{{1,100}})$")]


class RequestScope(Record, frozen=True, kw_only=True, rename={"since": "from", "until": "to"}):
    """What a request is limited to: these conversations, or those that began in a period, and of them these groups of fields.

    Without `fields` it is the controller's choice (`sealed_fields`); `*` is everything of those conversations.
    """

    conversation_ids: Names = ()
    since: Moment | None = None
    until: Moment | None = None
    fields: Annotated[tuple[FieldGroup, ...], Meta(max_length=LIST_ITEMS_MAX)] = ()


class RequestOpened(EventData, frozen=True, kw_only=True):
    """A data-subject request was received; its clock runs from receipt."""

    SCHEMA: ClassVar[str] = "RequestOpened"
    TYPES: ClassVar[tuple[str, ...]] = ("request.opened",)
    request_id: Name
    right: Right
    regime: Regime
    identifiers: Identifiers
    received_via: Name
    claims: Annotated[dict[str, Text], personal("user")] | None = None
    agent: RequestAgent | None = None
    scope: RequestScope | None = None
    correction: Annotated[dict[str, Text], personal("user")] | None = None
    ground: ErasureGround | None = None  # of an erasure, as the controller found it; the person need not name any


class RequestStep(EventData, frozen=True, kw_only=True):
    """A step of a request; the type says which. `actor` is overwritten with the caller's own name."""

    SCHEMA: ClassVar[str] = "RequestStep"
    TYPES: ClassVar[tuple[str, ...]] = (
        "request.identity_verified", "request.identity_failed", "request.approved", "request.paused",
        "request.resumed", "request.extended", "request.refused", "request.withdrawn", "request.corrected", "request.retried",
    )  # fmt: skip
    request_id: Name
    actor: Actor = ""
    ground: Name | None = None
    reason: Annotated[str, Meta(max_length=4096), personal("user.content.private")] | None = None
    until: Moment | None = None
    notified_at: Moment | None = None
    target: Name | None = None  # of `request.retried`: who is told again; nobody else is


ScanVerdict = Literal["clean", "found", "incomplete", "uncontrolled", "all_found", "missing"]
ScanSource = Literal["data", "kafka_log", "kafka", "redis_dump", "redis", "path"]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class RequestScanned(EventData, frozen=True, kw_only=True):
    """A scan for the person of a request was made. It says what the report says, and holds no value: counts, codes, digests.

    `found`: needles that stand where they must not. `control` is the digest of the report of the run before the erasure, and
    `controlled` how many needles that one had found. `epochs`: the key epochs that lived, `LOWEST-HIGHEST`.
    """

    SCHEMA: ClassVar[str] = "RequestScanned"
    TYPES: ClassVar[tuple[str, ...]] = ("request.scanned",)
    request_id: Name
    verdict: ScanVerdict
    digest: Digest
    scanned_at: Moment
    needles: Annotated[int, Meta(ge=1, le=1_000_000)]
    found: Annotated[int, Meta(ge=0, le=1_000_000)]
    sources: Annotated[tuple[ScanSource, ...], Meta(min_length=1, max_length=64)]
    controlled: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    control: Digest | None = None
    epochs: Annotated[str, Meta(pattern=r"^[0-9]{1,9}-[0-9]{1,9}$")] | None = None
    actor: Actor = ""


class IdentityLink(EventData, frozen=True, kw_only=True):
    """Two identifiers belong to one person, or do not."""

    SCHEMA: ClassVar[str] = "IdentityLink"
    TYPES: ClassVar[tuple[str, ...]] = ("identity.linked", "identity.unlinked")
    a: Identifier
    b: Identifier
    source: Name
    actor: Actor = ""


class SuppressionChanged(EventData, frozen=True, kw_only=True):
    """Identifiers were put on, or taken from, a suppression list."""

    SCHEMA: ClassVar[str] = "SuppressionChanged"
    TYPES: ClassVar[tuple[str, ...]] = ("suppression.added", "suppression.removed")
    identifiers: Identifiers
    list: SuppressionList
    source: Name
    expires: Moment | None = None


class Scope(Record, frozen=True, kw_only=True):
    """What a hold or an incident covers: conversations, or people by identifier, or topics."""

    conversation_ids: Names = ()
    identifiers: Annotated[tuple[Identifier, ...], Meta(max_length=LIST_ITEMS_MAX)] = ()
    topics: Names = ()


class HoldSearch(Record, frozen=True, kw_only=True):
    """What a hold's conversations were found by, as counts: the search itself names people and is kept nowhere."""

    identifiers: Annotated[int, Meta(ge=0)] = 0
    conversation_ids: Annotated[int, Meta(ge=0)] = 0
    found: Annotated[int, Meta(ge=0)] = 0  # conversations


class HoldPlaced(EventData, frozen=True, kw_only=True):
    """A legal hold: what it covers is neither erased nor expired until its release."""

    SCHEMA: ClassVar[str] = "HoldPlaced"
    TYPES: ClassVar[tuple[str, ...]] = ("hold.placed",)
    hold_id: Name
    scope: Scope
    ground: Name
    authority: Name | None = None
    until: Moment | None = None
    actor: Actor = ""
    search: HoldSearch | None = None  # where its scope was found by a search


class HoldReleased(EventData, frozen=True, kw_only=True):
    """A legal hold ended. `scope` and `ground` may be left out: the hold knows its own."""

    SCHEMA: ClassVar[str] = "HoldReleased"
    TYPES: ClassVar[tuple[str, ...]] = ("hold.released",)
    hold_id: Name
    scope: Scope | None = None
    ground: Name | None = None
    authority: Name | None = None
    until: Moment | None = None
    actor: Actor = ""


class ErasureAcknowledged(EventData, frozen=True, kw_only=True):
    """A target says what became of an erasure notice."""

    SCHEMA: ClassVar[str] = "ErasureAcknowledged"
    TYPES: ClassVar[tuple[str, ...]] = ("erasure.acknowledged",)
    order_id: Name
    target: Name
    outcome: Literal["done", "held", "failed"]
    items: Names | None = None
    ground: Name | None = None
    evidence: Annotated[str, Meta(max_length=4096), personal("user")] | None = None


class Target(Record, frozen=True, kw_only=True):
    """A registered consumer that must act on erasure notices."""

    name: Name
    deadline_days: Annotated[int, Meta(ge=0, le=400)]


class RecordingDuty(Record, frozen=True, kw_only=True):
    """Conversations that the law wants recorded (MiFID II Art. 16(7)); nothing means all."""

    channel: Channel | None = None
    purpose: Name | None = None
    campaign: Name | None = None
    brand: Name | None = None


class ControllerConfigured(EventData, frozen=True, kw_only=True):
    """A controller's settings. A field that is missing keeps its default, not its former value.

    `national_dnc_as_of`: when the national do-not-call data that it goes by was obtained. `recording_duty`: see `RecordingDuty`.
    """

    SCHEMA: ClassVar[str] = "ControllerConfigured"
    TYPES: ClassVar[tuple[str, ...]] = ("controller.configured",)
    default_region: Annotated[str, Meta(pattern=r"^[A-Z]{2}(?!\n)$")]
    employee_basis: Name
    own_identifiers: Annotated[tuple[Identifier, ...], Meta(max_length=LIST_ITEMS_MAX)] = ()
    four_eyes: bool = False
    sealed_fields: dict[str, bool] = {}
    targets: Annotated[tuple[Target, ...], Meta(max_length=64)] = ()
    merge_keys: Names = ()  # metadata keys by which the publisher's systems merge conversations
    national_dnc_as_of: Moment | None = None
    recording_duty: Annotated[tuple[RecordingDuty, ...], Meta(max_length=64)] = ()


class RetentionSelector(Record, frozen=True, kw_only=True):
    """Which items a retention policy is about; nothing means all."""

    channel: Channel | None = None
    purpose: Name | None = None
    basis: LawfulBasis | None = None
    tag: Name | None = None
    media: bool | None = None


class RetentionPolicySet(EventData, frozen=True, kw_only=True, rename={"since": "from"}):
    """A retention policy, from a time on. `keep_for` and `ceiling` are ISO 8601 durations (`P24M`); `until` ends it.

    With a `ground`, a duty to keep, `keep_for` is how long an item must stay; without, when it goes. `ceiling` is the latter.
    """

    SCHEMA: ClassVar[str] = "RetentionPolicySet"
    TYPES: ClassVar[tuple[str, ...]] = ("retention.policy_set",)
    policy_id: Name
    selector: RetentionSelector
    keep_for: Name
    since: Moment
    ground: Name | None = None
    ceiling: Name | None = None
    until: Moment | None = None


class BreachEvent(EventData, frozen=True, kw_only=True):
    """An incident was reported, assessed, notified or closed (GDPR Art. 33, 34). `detected_at` and `aware_at` are two times."""

    SCHEMA: ClassVar[str] = "BreachEvent"
    TYPES: ClassVar[tuple[str, ...]] = ("breach.reported", "breach.assessed", "breach.notified", "breach.closed")
    incident_id: Name
    detected_at: Moment
    role: Literal["controller", "processor"]
    categories: Names
    risk: Risk
    aware_at: Moment | None = None
    scope: Scope | None = None
    phase: Name | None = None
    recipient: Name | None = None
    actor: Actor = ""


class DataAccessed(EventData, frozen=True, kw_only=True):
    """Someone looked at, played, exported or searched personal data."""

    SCHEMA: ClassVar[str] = "DataAccessed"
    TYPES: ClassVar[tuple[str, ...]] = ("data.accessed",)
    action: Literal["view", "play", "export", "search", "reveal", "download"]
    count: Annotated[int, Meta(ge=0)]
    actor: Actor = ""
    identifiers: Annotated[tuple[Identifier, ...], Meta(max_length=LIST_ITEMS_MAX)] | None = None
    conversation_ids: Names | None = None
    origin: Name | None = None


class LawActivated(EventData, frozen=True, kw_only=True):
    """A law pack's version comes into force here."""

    SCHEMA: ClassVar[str] = "LawActivated"
    TYPES: ClassVar[tuple[str, ...]] = ("law.activated",)
    pack: Name
    version: Name


EVENTS: tuple[type[EventData], ...] = (
    CallStarted, CallPartyJoined, CallPartyLeft, CallRecording, CallTranscribed, CallAnnotated, CallTagged, CallEnded,
    ConsentChanged, RequestOpened, RequestStep, RequestScanned, IdentityLink, SuppressionChanged, HoldPlaced, HoldReleased,
    ErasureAcknowledged, ControllerConfigured, RetentionPolicySet, BreachEvent, DataAccessed, LawActivated,
)  # fmt: skip
BY_TYPE: dict[str, type[EventData]] = {name: cls for cls in EVENTS for name in cls.TYPES}
