"""What doors see of a deployment, wherever it runs: durable writes, state with its age, and what other doors deny already.

Embedded it is `engine/service.py`: one process, whose store is read itself. On a cluster it is `engine/kafka/door.py`: the log is
Kafka, and state is read from a read model that follows the changelogs. A door knows neither, only `Deployment`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from engine.layout import STATE, data_key, parts_of, state_key, state_prefix
from engine.merkle import Frontier
from engine.notes import Signer
from engine.overlay import decode_state
from engine.rotation import KeyStatus
from engine.runtime import LogRecord, RuntimeFault, partition_of
from engine.sealing import Erased, Opened, TokenForeign
from engine.secrets import Secrets
from engine.topology import Topology
from law.book import Book
from processors.kernel import State
from schemas.codec import decode_as
from schemas.routed import Envelope
from schemas.topics import ControllerState, WrappedKey

S = TypeVar("S", bound=State)
OWNERS_MAX = 1_000
RING_SECS_MAX = 60.0  # how long a caller waits for all that is due to be rung; it goes on by itself
CLOCKS_APART_MS = 2_000  # clocks of one cluster's hosts are taken to differ by less: a beat is one host's time, read by others


class Unreachable(RuntimeFault):
    """The read model, or what doors share, cannot be asked now; trying again may help. Part of `RuntimeFault`'s tree."""


class NotOffered(Exception):
    """The deployment has no such call at its doors."""


class Look(msgspec.Struct, frozen=True):
    """One owner as of one moment: its records in the order they were asked for, None where there is none.

    `beat_ms`: everything that was received up to then is in them (epoch ms; 0: nobody knows). `denials`: notes of denials that
    doors have accepted and that are not certain to be in the records yet. `whole`: no such note can have been lost.
    """

    beat_ms: int
    records: tuple[State | None, ...]
    denials: tuple[bytes, ...] = ()
    whole: bool = True


class RawLook(msgspec.Struct, frozen=True):
    """A `Look` before its records are decoded."""

    beat_ms: int
    values: tuple[bytes | None, ...]
    denials: tuple[bytes, ...]
    whole: bool


class Question(msgspec.Struct, frozen=True):
    """Keys of one owner in the store of one task partition."""

    task: str
    partition: int
    owner: str
    keys: tuple[bytes, ...]


class Rung(msgspec.Struct, frozen=True):
    """What came of ringing by hand. `finished`: nothing that was due at `as_of_ms` is left, and no due time is unnoticed.

    `audited_from`: by partition of the audit topic, where it ended before.
    """

    as_of_ms: int
    finished: bool
    audited_from: dict[int, int]


class Keyed(Protocol):
    """Committed keys and values of task partitions: a runtime's own store, or a copy of it."""

    def get(self, task: str, partition: int, key: bytes) -> bytes | None:
        """The value of `key`."""
        ...

    def scan(
        self, task: str, partition: int, prefix: bytes, after: bytes = b"", limit: int = 1_000_000
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) pairs whose key begins with `prefix` and is greater than `after`, in key order."""
        ...


class ReadModel(Keyed, Protocol):
    """A copy of the tasks' state that follows their changelogs. Every method raises `Unreachable`."""

    def look(self, questions: Sequence[Question]) -> list[RawLook]:
        """Answer all questions as of one moment, in one round trip."""
        ...

    def beats(self) -> dict[tuple[str, int], int]:
        """The beat of each (task, partition) that it follows, epoch ms; 0 where it knows none."""
        ...

    def close(self) -> None:
        """Let go of the connections."""
        ...


class Note(msgspec.Struct, frozen=True):
    """A denial on its way, told to all doors: whom it is about, its id, and what only doors understand."""

    owner: str
    id: str
    text: bytes


class Board(Protocol):
    """Where the doors of a cluster tell each other what must deny at once. Every method raises `Unreachable`."""

    def post(self, notes: Sequence[Note]) -> None:
        """From now on every door sees these notes."""
        ...

    def settle(self, notes: Sequence[Note], until_ms: int) -> None:
        """A note ends when its owner's beat is past `until_ms`."""
        ...

    def take_back(self, notes: Sequence[Note]) -> None:
        """End these notes now: what they stand for did not happen."""
        ...


class Reads:
    """State records of owners, from whatever keeps the tasks' keys."""

    def __init__(self, keyed: Keyed, topology: Topology, secrets: Secrets) -> None:
        self.topology, self.secrets = topology, secrets
        self._keyed = keyed

    def record(self, task: str, owner: str, kind: type[S], *parts: str) -> S | None:
        """One committed state record."""
        data = self._keyed.get(task, self.home(task, owner), state_key(owner, kind.KIND, parts))
        return None if data is None else decode_state(kind, data)

    def records(self, task: str, owner: str, kind: type[S], *prefix: str) -> Iterator[tuple[tuple[str, ...], S]]:
        """Committed state records of one owner, in key order."""
        base = len(state_key(owner, kind.KIND, ()))
        for key, data in self._keyed.scan(task, self.home(task, owner), state_key(owner, kind.KIND, prefix)):
            yield parts_of(key, base), decode_state(kind, data)

    def owners(self, task: str, prefix: str, kind: type[S], limit: int = OWNERS_MAX) -> Iterator[tuple[str, S]]:
        """Records of `kind` without parts, of all owners whose name begins with `prefix` (at most `limit`)."""
        found = 0
        start, end = state_prefix(prefix)[:-1], b"\0" + kind.KIND.encode() + b"\0"
        for partition in range(self.topology.tasks[task].partitions):
            for key, data in self._keyed.scan(task, partition, start):
                if key.endswith(end) and key.count(b"\0") == 2:
                    yield key[1 : -len(end)].decode(), decode_state(kind, data)
                    found += 1
                    if found == limit:
                        return

    def every(self, task: str, kind: type[S], after: str = "") -> Iterator[tuple[str, str, tuple[str, ...], S]]:
        """All records of `kind`, dossier by dossier, as (place, owner, parts, record).

        `after` a place that was given before, from there on; else from the beginning. Raises `ValueError` for what is no place.
        """
        number, _, text = after.partition(".")
        first, low = (int(number), bytes.fromhex(text)) if after else (0, b"")
        if after and not (0 <= first and low.startswith(STATE)):
            raise ValueError("no place")
        for partition in range(first, self.topology.tasks[task].partitions):
            key = low or self._key_after(task, partition, b"")
            while key:
                owner = key[1:].split(b"\0", 1)[0].decode()
                prefix = state_key(owner, kind.KIND, ())
                for found, data in self._keyed.scan(task, partition, prefix, after=max(low, prefix)):
                    yield f"{partition}.{found.hex()}", owner, parts_of(found, len(prefix)), decode_state(kind, data)
                low = state_prefix(owner) + b"\xff"  # the dossier's other records are passed by
                key = self._key_after(task, partition, low)
            low = b""

    def _key_after(self, task: str, partition: int, low: bytes) -> bytes:
        """The first key of state behind `low`; b"" where there is none."""
        return next((key for key, _ in self._keyed.scan(task, partition, STATE, after=low, limit=1)), b"")

    def open_field(self, controller: str, owner: str, scope: str, field: str, token: bytes, category: str) -> Opened:
        """Open a sealed field of a dossier; `Erased` when its key is gone.

        Raises `SealingFault` when it is no such field of this controller: whose key it is decides, not what the caller says.
        """
        task = "subject"
        data = self._keyed.get(task, self.home(task, owner), data_key(owner, scope))
        if data is None:
            return Erased(category)
        wrapped = decode_as(WrappedKey, data)
        if wrapped.controller != controller:
            raise TokenForeign("another controller's")
        return self.secrets.open_field(self.secrets.unwrap(wrapped, owner, scope), token, field, category)

    def home(self, task: str, owner: str) -> int:
        """The partition that everything of `owner` is in."""
        return partition_of(owner.encode(), self.topology.tasks[task].partitions)


class Deployment(Protocol):
    """A deployment as its doors hold it. Methods block, are thread-safe, and raise `RuntimeFault` or `RingFault`."""

    clock: Callable[[], int]
    secrets: Secrets
    signer: Signer
    topology: Topology
    failed: str | None  # what it stopped of; None while it lives

    @property
    def ready(self) -> bool:
        """Whether all that was there at the start is known: before that no decision is an allow."""
        ...

    @property
    def turns(self) -> int:
        """Turns of the task loop that did something, when it runs here."""
        ...

    @property
    def counts(self) -> Mapping[tuple[str, ...], int]:
        """Counters, by name and labels."""
        ...

    # How old state is

    def beat_ms(self) -> int:
        """Everything that was received up to then is in everybody's state. Never blocks; what it says may lag a little."""
        ...

    def lane(self, owner: str) -> int:
        """The lane, an index into `beats`, whose beat speaks for the owner's dossier."""
        ...

    def beats(self) -> Sequence[int]:
        """The beat of each lane of dossiers. Never blocks."""
        ...

    def passed_ms(self) -> int:
        """The time that a beat must be past to be certain to include what was durable before this call. Never blocks."""
        ...

    # Writing

    def publish(self, events: Iterable[tuple[str, str, Envelope]]) -> None:
        """Append envelopes as (topic, key, envelope), sealed, in order; returns when they are durable.

        `CommitLost`: none of them is there or ever will be. After any other error nobody knows.
        """
        ...

    def append(self, topic: str, key: str, value: bytes) -> None:
        """Append one record that holds nothing personal, as it is."""
        ...

    # Reading

    def settings(self, controller: str) -> ControllerState:
        """The controller's settings in force."""
        ...

    def law(self, controller: str) -> Book:
        """The law packs in force for the controller. Raises `PackRefused`, see `Shared.law_of`."""
        ...

    def look(self, owners: Sequence[str], kinds: Sequence[type[State]]) -> list[Look]:
        """What each dossier holds of `kinds` (records without parts), with its age; one round trip at most for all."""
        ...

    def record(self, task: str, owner: str, kind: type[S], *parts: str) -> S | None:
        """See `Reads`."""
        ...

    def records(self, task: str, owner: str, kind: type[S], *prefix: str) -> Iterator[tuple[tuple[str, ...], S]]:
        """See `Reads`."""
        ...

    def owners(self, task: str, prefix: str, kind: type[S], limit: int = OWNERS_MAX) -> Iterator[tuple[str, S]]:
        """See `Reads`."""
        ...

    def every(self, task: str, kind: type[S], after: str = "") -> Iterator[tuple[str, str, tuple[str, ...], S]]:
        """See `Reads`."""
        ...

    def open_field(self, controller: str, owner: str, scope: str, field: str, token: bytes, category: str) -> Opened:
        """See `Reads`."""
        ...

    def topic(self, topic: str, *, after: dict[int, int] | None = None) -> Iterator[tuple[int, LogRecord]]:
        """All committed records of a topic as (partition, record), partition by partition."""
        ...

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records of `topic` from `offset` on."""
        ...

    def lag(self) -> dict[tuple[str, str, int], int]:
        """Unread records per (task, topic, partition)."""
        ...

    # The audit log

    def frontiers(self) -> dict[str, Frontier]:
        """The committed frontier of every audit tree that has an entry, by origin: no older than entries read before."""
        ...

    def notes(self) -> dict[str, str]:
        """The newest signed checkpoint of each origin on the log."""
        ...

    def checkpoint(self) -> list[str]:
        """Sign a checkpoint of every audit tree that grew; returns all latest notes."""
        ...

    # Keys

    def keys(self, controller: str | None = None) -> list[KeyStatus]:
        """Key-encryption keys and their newest rotation, of one controller or of all that have some."""
        ...

    def rotate_keys(self, controller: str, actor: str) -> None:
        """Begin a rotation, or see that the one under way goes on; returns at once. Raises `NothingToRotate`."""
        ...

    # Life

    def retain_raw(self, *, at_once: bool = False) -> int:
        """End raw retention for what is past it; returns records deleted. Raises `NotOffered`."""
        ...

    def ring_due(self) -> Rung:
        """Notice every due time now, and ring all that is due by now, or wait until that is done. Raises `Unreachable`."""
        ...

    def stop(self) -> None:
        """Let go of everything. Safe to call twice."""
        ...

