"""The one seam between the task loop and where it runs: a partitioned log, a keyed store per task partition, one atomic commit.

The embedded runtime (`engine/embedded/`) is SQLite, the memory runtime (`engine/memory.py`) serves tests and the simulation, the
cluster runtime (`engine/kafka/`) is Apache Kafka. `tests/conformance/` runs against each of them, unchanged.

What every runtime promises:

1. `poll` hands out each record of an input partition in offset order, from the last committed position on.
2. `commit` is atomic and durable: all outputs, all writes and all positions of one `Commit`, or none of them. A writer whose
   ownership was lost gets `CommitLost` and nothing of its commit is ever seen.
3. `get` and `scan` see committed writes only. What is not committed lives in the loop's overlay.
4. Outputs of one commit to one partition stand together, in order. Readers never see records of an uncommitted commit.
5. After an error the loop calls `rewind`; the next `poll` starts from the committed positions.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol
from zlib import crc32

import msgspec

Headers = tuple[tuple[str, bytes], ...]


class RuntimeFault(Exception):
    """Base of what a runtime raises.

    RuntimeFault
    ├── CommitLost     the commit did not happen and never will; rewind and go on
    ├── FolderInUse    another process owns the data folder
    ├── StoreDamaged   the store cannot be trusted; stop
    └── …              `engine/kafka/` has its own, of positions and of the cluster
    """


class CommitLost(RuntimeFault):
    """The commit did not happen and never will; rewind and go on."""


class FolderInUse(RuntimeFault):
    """Another process owns the data folder."""


class StoreDamaged(RuntimeFault):
    """The store cannot be trusted; stop."""


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of the log. `ts_ms` is when the log took it (epoch ms); `value` None is a tombstone."""

    offset: int
    ts_ms: int
    key: bytes
    value: bytes | None
    headers: Headers = ()


class Batch(msgspec.Struct, frozen=True):
    """Consecutive records of one input partition of a task."""

    task: str
    topic: str
    partition: int
    records: list[LogRecord]


class Output(msgspec.Struct, frozen=True, gc=False):
    """A record to append. Its partition follows from its key, or is given."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Commit(msgspec.Struct):
    """Everything one turn of the loop changed.

    `writes` are per (task, partition), None deletes; `positions` are the next offset to read per (task, topic, partition).
    """

    outputs: list[Output]
    writes: dict[tuple[str, int], dict[bytes, bytes | None]]
    positions: dict[tuple[str, str, int], int]
    now_ms: int


class TopicSpec(msgspec.Struct, frozen=True):
    """What a runtime must know of a topic."""

    name: str
    partitions: int
    compact: bool


class TaskSpec(msgspec.Struct, frozen=True):
    """What a runtime must know of a task: its co-partitioned inputs, and the tasks whose beats say how complete they are."""

    name: str
    inputs: tuple[str, ...]
    partitions: int
    awaits: tuple[str, ...] = ()


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of `key`: CRC-32 modulo partitions, librdkafka's `consistent` partitioner."""
    return crc32(key) % partitions


class Runtime(Protocol):
    """See the module's promises. Methods are called by one thread, the loop's, but for `append`, `read`, `get` and `scan`."""

    def tend(self) -> Sequence[tuple[str, int]]:
        """Between turns: let ownership change. Returns the (task, partition)s of which everything known must be forgotten."""
        ...

    def owned(self, task: str) -> Sequence[int]:
        """The partitions of `task` that this process owns now."""
        ...

    def poll(self, task: str, records_max: int) -> list[Batch]:
        """At most `records_max` unread records of the owned input partitions; empty when there is nothing. Never blocks."""
        ...

    def rewind(self) -> None:
        """Forget what was polled since the last commit."""
        ...

    def commit(self, commit: Commit) -> None:
        """Make one turn durable. Raises `CommitLost` when it did not and will not happen."""
        ...

    def get(self, task: str, partition: int, key: bytes) -> bytes | None:
        """The committed value of `key` in the task partition's store."""
        ...

    def get_many(self, task: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The committed value of each key, in the order of `keys`."""
        ...

    def scan(
        self, task: str, partition: int, prefix: bytes, after: bytes = b"", limit: int = 1_000_000
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed (key, value) pairs whose key begins with `prefix` and is greater than `after`, in key order."""
        ...

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        """Durably append records from outside the loop (doors and edges); returns when they are safe. Thread-safe."""
        ...

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records of `topic` from `offset` on. Thread-safe."""
        ...

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last committed record of the partition."""
        ...

    def position(self, task: str, topic: str, partition: int) -> int:
        """The committed position of `task` in an input partition."""
        ...

    def close(self) -> None:
        """Let go of everything; nothing uncommitted is kept."""
        ...
