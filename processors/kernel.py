"""What a processor is: a pure function of one owner's state and one event, answering with effects.

No I/O, no clock, no randomness, no keys: everything here can be replayed, simulated and property-tested. The engine
(`engine/loop.py`) applies the effects one by one, so a processor that reads its view after yielding a `Put` sees what it put,
with sealed fields already sealed.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import msgspec

from law.book import Book
from schemas.base import Record
from schemas.routed import Envelope
from schemas.topics import ControllerState

EFFECTS_PER_STEP_MAX = 200  # a step of large work; the next step wakes itself, so a commit stays small and others get their turn


if TYPE_CHECKING:
    Sealed = str | bytes | None  # text until the engine has sealed it, a token afterwards
else:
    Sealed = Any  # msgspec decodes no union of text and bytes; msgpack itself tells them apart


class State(msgspec.Struct, array_like=True, kw_only=False):
    """A record of an owner's state. `KIND` names it in the store; `SEALED` maps its sealed fields to their public names.

    A sealed field is annotated `Sealed`: text until the engine has sealed it, a token afterwards. `SEALED_IN` is the topic
    record whose schema id the token binds. Fields are only ever appended, with a default (they are stored as arrays).
    """

    KIND: ClassVar[str] = ""
    SEALED: ClassVar[dict[str, str]] = {}
    SEALED_IN: ClassVar[type[Record] | None] = None


S = TypeVar("S", bound=State)


class Nonce(State):
    """What an owner's audit entries are named by. The engine makes it at the first entry; an erasure deletes it last."""

    KIND: ClassVar[str] = "nonce"
    value: bytes = b""


class View(Protocol):
    """Read access to one owner's state (a dossier, a conversation, a request, an incident)."""

    owner: str

    def get(self, kind: type[S], *parts: str) -> S | None:
        """The record of `kind` at `parts`, with this event's own effects seen. Do not change it: `msgspec.structs.replace`."""
        ...

    def scan(self, kind: type[S], *prefix: str) -> Iterator[tuple[tuple[str, ...], S]]:
        """All records of `kind` whose parts begin with `prefix`, in key order, as (parts, record)."""
        ...

    def has_key(self, scope: str) -> bool:
        """Whether a data key lives for `scope` (a conversation id, or another scope of this owner)."""
        ...

    def opened(self, record: S, scope: str) -> S | None:
        """`record` with its sealed fields as text again, or None when the key is gone."""
        ...


class Context(Protocol):
    """What both an event and an alarm know besides the state."""

    def settings(self, controller: str) -> ControllerState:
        """The controller's settings in force here; defaults when it was never configured."""
        ...

    def law(self, controller: str) -> Book:
        """The law packs in force for the controller: the versions that it activated, else the newest."""
        ...

    def ref(self, controller: str, kind: str, normal: str) -> str:
        """subject_ref of a normalised identifier: a keyed hash, pure for a processor."""
        ...

    def actor_hash(self, controller: str, actor: str) -> str:
        """Keyed hash of an actor's name, for audit entries."""
        ...

    def derive(self, index: int) -> str:
        """An id from (deployment, topic, partition, offset, index): the same in every replay."""
        ...


class Receipt(Context, Protocol):
    """An event's envelope, as far as a processor may know it. Times are epoch milliseconds."""

    envelope: Envelope
    controller: str
    owner: str  # whose state is folded: the key of the record
    event_id: str  # hash of (source, id), 24 hexadecimal characters
    time_ms: int
    receipt_ms: int

    @property
    def effective_ms(self) -> int:
        """The earlier of time and receipt: a publisher's fast clock cannot outrank a withdrawal."""
        ...


class Instant(Context, Protocol):
    """When an alarm rang."""

    now_ms: int


class Alarm(msgspec.Struct, frozen=True):
    """A timer that is due: the name its processor gave it."""

    name: str
    due_ms: int


class Put(msgspec.Struct, frozen=True):
    """Write `record` at `parts`. With `scope`, its sealed fields are sealed under that scope's living data key."""

    record: State
    parts: tuple[str, ...] = ()
    scope: str | None = None


class Delete(msgspec.Struct, frozen=True):
    """Delete the record of `kind` at `parts`."""

    kind: type[State]
    parts: tuple[str, ...] = ()


class Emit(msgspec.Struct, frozen=True):
    """Append to `topic`. `value` None is a tombstone, which needs a `Record` before it in the same fold.

    On a topic of enveloped messages the value is an event's data or a `Routed` record; the engine wraps it in an envelope that
    carries on the causing event's (source, id, times, actor), or those of `like`.
    """

    topic: str
    key: tuple[str, ...]
    value: Record | None
    refs: tuple[str, ...] = ()
    like: Envelope | None = None


class Ledger(msgspec.Struct, frozen=True):
    """Send orders that must never be lost: they stand in the erasure ledger, outside the data, before this turn is committed.

    A deployment that was restored from a backup finds them there, and carries them out again before it serves anybody.
    """

    orders: tuple[Emit, ...]


class Forward(msgspec.Struct, frozen=True):
    """Append the event's own envelope, unchanged but for `refs`, to an enveloped topic."""

    topic: str
    key: tuple[str, ...]
    refs: tuple[str, ...]
    like: Envelope | None = None


class Wake(msgspec.Struct, frozen=True):
    """Ring the alarm `name` of this owner at `due_ms`; None cancels it. One due time per (owner, processor, name).

    `of` names another processor's alarm: whoever destroys what an alarm is about silences it.
    """

    name: str
    due_ms: int | None
    of: str = ""


class Mint(msgspec.Struct, frozen=True):
    """Make a data key for `scope`, unless one lives."""

    scope: str
    controller: str


class Shred(msgspec.Struct, frozen=True):
    """Destroy the data key of `scope`: whatever was sealed under it is gone. `facts` go into its audit entry."""

    scope: str
    facts: dict[str, str] = {}


class Audit(msgspec.Struct, frozen=True):
    """Append an audit entry (`Record` in the design). `facts` are codes, counts and times: never personal.

    `named` False leaves the subject out: for entries about someone who was forgotten. `law` names the packs that were asked.
    """

    kind: str
    controller: str
    facts: dict[str, str] = {}
    named: bool = True
    law: str = ""


class Remove(msgspec.Struct, frozen=True):
    """Have what was deleted here leave the files as well; once it has, an audit entry `removal.done` says so, with `facts`.

    With `bounds` an entry `removal.bound` says now until when, by configuration, copies on the log may rest, place by place.
    """

    facts: dict[str, str] = {}
    bounds: bool = False


class Refuse(msgspec.Struct, frozen=True):
    """Say that this event is of no use here: quarantine it under `code`. It must be a fold's only effect.

    With `like`, an event that was set aside earlier is quarantined; that may stand among other effects.
    """

    code: str
    field: str = ""
    like: Envelope | None = None


Effect = Put | Delete | Emit | Ledger | Forward | Wake | Mint | Shred | Audit | Remove | Refuse


Asked = tuple[tuple[type[State], tuple[str, ...]], ...]


class Processor(Protocol):
    """One verb on one object. `READS` are the record classes (or CloudEvents types) it folds; `STATE` is what it keeps."""

    name: str
    READS: ClassVar[tuple[type[Record], ...]]
    STATE: ClassVar[tuple[type[State], ...]]

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Effects of `event`, whose class is one of `READS`."""
        ...

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Effects of an alarm that this processor set."""
        ...

    def asks(self, event: Any, event_id: str) -> Asked:
        """What a fold of `event` is sure to get: the engine reads it for a whole batch at once. A hint, never a promise."""
        ...


@runtime_checkable
class Porter(Protocol):
    """A processor that knows by some envelopes alone what becomes of their events."""

    def hand_on(self, envelope: Envelope) -> Forward | None:
        """Where an event goes whose data a door has checked, as `fold` would say; None: only a fold can tell."""
        ...


@runtime_checkable
class Reviewer(Processor, Protocol):
    """A processor whose alarms rest on settings and law as well. When these change, its owners are looked at again, bit by bit.

    Whoever has an alarm of it is woken with the name `REVIEW`.
    """

    REVIEW: ClassVar[str]

    def basis(self, settings: ControllerState, at: Context, now_ms: int) -> str:
        """What alarms of this controller's owners rest on now, as a short text: another text, another basis."""
        ...


class Incurious:
    """A processor whose reads are not worth a hint."""

    def asks(self, event: Any, event_id: str) -> Asked:
        """See `Processor`."""
        return ()


class Quiet(Incurious):
    """A processor that sets no alarms."""

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Nobody set this alarm: a bug."""
        raise AssertionError(f"{type(self).__name__} sets no alarms")
        yield  # pragma: no branch


