"""The values of the topics that others read (contract, section 3). Times are epoch milliseconds, UTC.

A field annotated `sealed` holds a sealed token (`engine/sealing.py`), never text. Changes are additive within a major version.
"""

from typing import Annotated, ClassVar, Literal

from schemas.base import Record, sealed
from schemas.events import RecordingDuty, RetentionSelector, Target
from schemas.routed import HeldItem, Ref

ConsentStatus = Literal["given", "refused", "withdrawn", "renewed", "expired", "unknown"]
Verdict = Literal["allow", "deny"]
RequestState = Literal[
    "received", "identity_pending", "in_progress", "paused", "extended", "fulfilled", "partially_fulfilled", "refused",
    "withdrawn", "expired", "duplicate_of",
]  # fmt: skip


class RetentionPolicy(Record, frozen=True, kw_only=True):
    """One version of a policy of `retention.policy_set`: it holds from `since_ms` until `until_ms`, or the next version.

    `set_ms` and `event_id` are those of the event, its effective time and the hash of its source and id.
    """

    policy_id: str
    selector: RetentionSelector
    keep_for: str
    since_ms: int
    set_ms: int
    event_id: str
    ground: str | None = None
    ceiling: str | None = None
    until_ms: int | None = None


class ControllerState(Record, frozen=True, kw_only=True):
    """`controllers`: a controller's settings in force, with their version. Every task keeps a read-only copy."""

    SCHEMA: ClassVar[str] = "ControllerState"
    controller: str
    version: int = 0
    default_region: str | None = None
    own_refs: tuple[str, ...] = ()  # of the controller's own numbers and addresses: nobody's, so not personal
    employee_basis: str | None = None
    four_eyes: bool = False
    sealed_fields: dict[str, bool] = {}
    targets: tuple[Target, ...] = ()
    merge_keys: tuple[str, ...] = ()
    law: dict[str, str] = {}  # pack → the version that `law.activated` chose; of every other pack the newest is in force
    national_dnc_as_of_ms: int | None = None
    recording_duty: tuple[RecordingDuty, ...] = ()
    policies: tuple[RetentionPolicy, ...] = ()  # in force, or to come


class ConsentState(Record, frozen=True, kw_only=True):
    """`consent.state`: what holds for one purpose × channel × brand of one identifier.

    `status` is a DPV 2.3 consent status (ConsentGiven, ConsentRefused, ConsentWithdrawn, RenewedConsentGiven, ConsentExpired,
    ConsentUnknown) in lower case; `effective_ms` is the earlier of the event's time and its receipt.
    """

    SCHEMA: ClassVar[str] = "ConsentState"
    subject_ref: Ref
    purpose: str
    channel: str
    brand: str
    controller: str
    status: ConsentStatus
    effective_ms: int
    method: str
    evidence_ref: str  # id of the event that proves it
    epoch: int
    valid_until_ms: int | None = None
    jurisdiction: str | None = None
    notice_version: str | None = None
    law_pack: str = "builtin-1"


class SuppressionState(Record, frozen=True, kw_only=True):
    """`suppression.state`: an identifier stands on a list."""

    SCHEMA: ClassVar[str] = "SuppressionState"
    subject_ref: Ref
    list: str
    controller: str
    since_ms: int
    source: str
    epoch: int
    expires_ms: int | None = None


class ProtectedLine(Record, frozen=True, kw_only=True):
    """One line of a protected conversation."""

    party: int
    employee: bool
    kind: str
    text: Annotated[bytes, sealed("user.content.private")]
    offset_ms: int | None = None
    tag: str | None = None


class ProtectedRecording(Record, frozen=True, kw_only=True):
    """One recording of a protected conversation; its address rests sealed."""

    recording_id: str
    state: str
    confirmed: bool
    uri: Annotated[bytes, sealed("user.unique_id")] | None = None


class ProtectedConversation(Record, frozen=True, kw_only=True):
    """`conversations.protected`: one party's view of one conversation, personal fields sealed.

    `identifiers` opens to JSON `[{kind, value, jurisdiction?}]` as sent, `metadata` to a JSON object of text.
    """

    SCHEMA: ClassVar[str] = "ProtectedConversation"
    subject_ref: Ref
    conversation_id: str
    controller: str
    party: int
    role: str
    channel: str
    direction: str
    started_ms: int
    received_ms: int
    ended_ms: int | None = None
    disposition: str | None = None
    campaign: str | None = None
    queue: str | None = None
    brand: str | None = None
    purposes: tuple[str, ...] = ()
    basis: str | None = None
    jurisdiction: str | None = None
    time_zone: str | None = None
    name: Annotated[bytes, sealed("user.name")] | None = None
    identifiers: Annotated[bytes, sealed("user.contact")] | None = None
    metadata: Annotated[bytes, sealed("user.behavior")] | None = None
    lines: tuple[ProtectedLine, ...] = ()
    recordings: tuple[ProtectedRecording, ...] = ()
    media: Literal["none", "recorded", "planned_for_deletion", "deleted"] = "none"
    keep_until_ms: int | None = None
    erase_by_ms: int = 0
    held: bool = False
    reviewable: bool = True
    anonymised: tuple[str, ...] = ()  # groups of fields that a partial erasure took: they open to their markers
    restricted: bool = False  # its time is over, or its erasure is ordered: only what `kept_for` names may still use it
    kept_for: tuple[str, ...] = ()  # purposes of the duties that keep it (grounds, where a duty names no purpose)


class WrappedKey(Record, frozen=True, kw_only=True):
    """`keys.wrapped`: a data key under a key-encryption key. `wrapped` follows the grammar of `engine/sealing.py`."""

    SCHEMA: ClassVar[str] = "WrappedKey"
    controller: str
    shard: int
    epoch: int
    wrapped: bytes


class Leg(Record, frozen=True, kw_only=True):
    """One place of one party of a decision: ISO 3166 code (empty: unknown) and time zones.

    `revoked_since`: consent to calls was revoked for another matter, as late as it was given for this one.
    """

    region: str = ""
    zones: tuple[str, ...] = ()
    revoked_since: bool = False


class Decision(Record, frozen=True, kw_only=True):
    """`decisions`: a verdict with every reason. Names nobody.

    `rules`: ids of the law's rules behind the reasons, or of those that an `allow` has met, as `law_pack` has them. What else the
    law was told is here as well, so that the verdict can be reached under another one.
    """

    SCHEMA: ClassVar[str] = "Decision"
    decision_id: str
    controller: str
    use: str
    verdict: Verdict
    reasons: tuple[str, ...]
    at_ms: int
    epoch: int
    purpose: str | None = None
    channel: str | None = None
    brand: str | None = None
    campaign: str | None = None
    conversation_id: str | None = None
    law_pack: str = "builtin-1"
    fresh_as_of_ms: int = 0
    rules: tuple[str, ...] = ()
    legs: tuple[Leg, ...] = ()
    callback: bool = False
    national_dnc_as_of_ms: int | None = None


class TargetStatus(Record, frozen=True, kw_only=True):
    """What one registered target has answered."""

    target: str
    outcome: Literal["open", "done", "held", "failed"]
    acknowledge_by_ms: int
    answered_ms: int | None = None
    kept: tuple[HeldItem, ...] = ()  # of `media`: recordings that a legal hold keeps, which are not on order; at most 100


class IdentifierStatus(Record, frozen=True, kw_only=True):
    """How far the erasure of one identifier of a request is, by counts, and what holds keep until when.

    `kept` lists held items while the request is open: at most 100 of an identifier, and 500 of a request.
    """

    index: int
    erased: int
    held: int
    final: bool
    kept: tuple[HeldItem, ...] = ()


class RequestClock(Record, frozen=True, kw_only=True):
    """A request's clock: due, and what moved it."""

    received_ms: int
    due_ms: int
    paused_ms: int | None = None
    extended: bool = False
    confirm_by_ms: int | None = None  # by when the receipt must be confirmed, where the regime asks for that


class RequestStatus(Record, frozen=True, kw_only=True):
    """`requests.state`: where a data-subject request stands."""

    SCHEMA: ClassVar[str] = "RequestStatus"
    request_id: str
    controller: str
    state: RequestState
    right: str
    regime: str
    clock: RequestClock
    ground: str | None = None
    identifiers: tuple[IdentifierStatus, ...] = ()
    targets: tuple[TargetStatus, ...] = ()
    closed_ms: int | None = None
    fields: tuple[str, ...] = ()  # of a partial erasure: the groups of fields that go; empty: the whole person
    law_pack: str = ""  # the pack, with its version, whose clock it runs by


class ErasureNotice(Record, frozen=True, kw_only=True):
    """`erasure.notices`: what every registered target must drop, and by when."""

    SCHEMA: ClassVar[str] = "ErasureNotice"
    order_id: str
    controller: str
    subject_ref: Ref
    items: tuple[str, ...]  # conversation ids; at most 200, further ones in further notices of the same order
    cause: Literal["request", "retention", "withdrawal", "hold_released"]
    acknowledge_by_ms: int
    targets: tuple[str, ...]
    request_id: str | None = None
    recordings: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()  # of a partial erasure: only these groups of fields of the items; empty: the items


class MediaOrder(Record, frozen=True, kw_only=True):
    """`media.orders`: delete this recording, every version and copy; answered by `erasure.acknowledged` of the target `media`.

    `uri` is sealed under the hour's raw key, so an order is repeated for as long as nobody has answered it.
    """

    SCHEMA: ClassVar[str] = "MediaOrder"
    SEALED_RAW: ClassVar[tuple[str, ...]] = ("uri",)
    order_id: str
    controller: str
    conversation_id: str
    recording_id: str
    cause: Literal["request", "retention", "partial"]
    acknowledge_by_ms: int
    uri: Annotated[bytes, sealed("user.unique_id")] | None = None  # None: the publisher never said where it is


class BreachAlert(Record, frozen=True, kw_only=True):
    """`breach.alerts`: a legal clock of an incident and the headroom that is left."""

    SCHEMA: ClassVar[str] = "BreachAlert"
    incident_id: str
    controller: str
    clock: str
    level: Literal["started", "48h", "24h", "6h", "overdue", "stopped"]
    due_ms: int
    headroom_ms: int
    risk: str
    affected: int = 0


class AuditEntry(Record, frozen=True, kw_only=True):
    """`audit.entries`: what happened, without personal data. Its Avro bytes are a leaf of its origin's Merkle tree.

    `subject` is SHA-256(nonce ‖ owner) in hexadecimal; the nonce dies with the dossier. `actor` is a keyed hash. `facts` are
    codes, counts and times only.
    """

    SCHEMA: ClassVar[str] = "AuditEntry"
    origin: str
    index: int
    at_ms: int
    kind: str
    controller: str
    subject: str = ""
    actor: str = ""
    event: str = ""  # SHA-256 of the source and id of the event that caused it, 12 bytes in hexadecimal; "" for an alarm
    settings_version: int = 0
    law_pack: str = "builtin-1"
    facts: dict[str, str] = {}


class AuditCheckpoint(Record, frozen=True, kw_only=True):
    """`audit.checkpoints`: a signed note (C2SP tlog-checkpoint)."""

    SCHEMA: ClassVar[str] = "AuditCheckpoint"
    note: str


class QuarantineEntry(Record, frozen=True, kw_only=True):
    """`quarantine`: an event that could not be used: where it was, why (a code from a closed list), and the sealed original."""

    SCHEMA: ClassVar[str] = "QuarantineEntry"
    topic: str
    partition: int
    offset: int
    code: str
    at_ms: int
    controller: str
    task: str
    field: str = ""
    original: Annotated[bytes, sealed("user")] = b""  # sealed under the day's quarantine key


TOPIC_VALUES: tuple[type[Record], ...] = (
    ControllerState, ConsentState, SuppressionState, ProtectedConversation, WrappedKey, Decision, RequestStatus,
    ErasureNotice, MediaOrder, BreachAlert, AuditEntry, AuditCheckpoint, QuarantineEntry,
)  # fmt: skip

