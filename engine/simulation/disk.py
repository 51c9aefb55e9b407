"""A worker's disk: what was flushed stays, and of what was written since, a crash keeps a beginning of any length.

RocksDB without its write-ahead log behaves so: a batch is in one memtable as a whole, and memtables reach the disk in order.
`Platter` is what is left when a process is gone, `Database` what a living one has open; it stands in for `rocksdict.Rdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

import msgspec

from engine.kafka.store import META, Meta
from engine.simulation.process import Process

# What may have become of a disk after a crash, and how often; else it is as the crash left it.
HARMS: Final = {"wiped": 0.1, "damaged": 0.06, "foreign": 0.06, "ahead": 0.06}
GHOST: Final = b"s" + b"\xffghost"  # a record that only a store has which must not be trusted
AHEAD: Final = 100_000
Change = tuple[bytes, bytes | None]


class Batch:
    """A write batch."""

    def __init__(self, raw_mode: bool = True) -> None:
        self.changes: list[Change] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Add a write."""
        self.changes.append((key, value))

    def delete(self, key: bytes) -> None:
        """Add a deletion."""
        self.changes.append((key, None))


class Platter:
    """One store on disk."""

    def __init__(self) -> None:
        self.durable: dict[bytes, bytes] = {}
        self.written: list[list[Change]] = []  # batches that no flush has reached
        self.damaged = False

    def contents(self) -> dict[bytes, bytes]:
        """Everything, as the process that wrote it sees it."""
        found = dict(self.durable)
        for batch in self.written:
            _apply(found, batch)
        return found

    def flush(self) -> None:
        """Everything is on disk now."""
        self.durable, self.written = self.contents(), []

    def crash(self, random: Random) -> None:
        """Keep a beginning of what was not flushed."""
        del self.written[random.randint(0, len(self.written)) :]
        self.flush()


class Database:
    """An open store. Reading and writing it are the process's own, so fate may strike around each write."""

    def __init__(self, platter: Platter, process: Process, wrote: Callable[[list[Change]], None]) -> None:
        if platter.damaged:
            raise Exception("Corruption: bad block")
        self._platter, self._process, self._wrote = platter, process, wrote
        self._values = platter.contents()
        self._order: list[bytes] | None = None

    def get(self, key: bytes | list[bytes]) -> Any:
        """One value, or a list of them."""
        return [self._values.get(k) for k in key] if isinstance(key, list) else self._values.get(key)

    def items(self, from_key: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs in key order."""
        if self._order is None:
            self._order = sorted(self._values)
        return ((key, self._values[key]) for key in self._order if key >= from_key)

    def write(self, batch: Batch, options: Any = None) -> None:
        """Write a batch, whole."""
        with self._process.crossing("store write"):
            self._platter.written.append(batch.changes)
            before = len(self._values)
            _apply(self._values, batch.changes)
            if len(self._values) != before or any(value is None for _, value in batch.changes):
                self._order = None
            self._wrote(batch.changes)

    def flush(self) -> None:
        """Make everything durable."""
        with self._process.crossing("store flush"):
            self._platter.flush()

    def close(self) -> None:
        """Let go."""
        self._process.check()


class Disks:
    """All platters, by folder (`/worker/task-partition`)."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._platters: dict[str, Platter] = {}

    def open(self, folder: str, process: Process, wrote: Callable[[list[Change]], None]) -> Database:
        """Open a store, a new one where there is none."""
        return Database(self._platters.setdefault(folder, Platter()), process, wrote)

    def wipe(self, folder: str) -> None:
        """Remove a store."""
        self._platters.pop(folder, None)

    def crash(self, worker: str) -> None:
        """A process died: what it had not flushed is lost, from some point on."""
        for folder in self._of(worker):
            self._platters[folder].crash(self._random)

    def harm(self, worker: str) -> None:
        """Now and then a disk comes back with stores that are gone, do not open, or must not be trusted."""
        harm = self._random.choices(["", *HARMS], [1 - sum(HARMS.values()), *HARMS.values()])[0]
        for folder in self._of(worker):
            platter = self._platters[folder]
            found = platter.durable.get(META)
            if harm == "wiped":
                self.wipe(folder)
            elif harm == "damaged" and self._random.random() < 0.5:
                platter.damaged = True
            elif harm and found is not None:
                meta = msgspec.msgpack.decode(found, type=Meta)
                meta = (
                    msgspec.structs.replace(meta, incarnation="another") if harm == "foreign"
                    else msgspec.structs.replace(meta, position=meta.position + AHEAD)
                )  # fmt: skip
                platter.durable |= {META: msgspec.msgpack.encode(meta), GHOST: b"\x90"}

    def _of(self, worker: str) -> list[str]:
        return sorted(folder for folder in self._platters if folder.startswith(f"/{worker}/"))


def _apply(values: dict[bytes, bytes], batch: list[Change]) -> None:
    for key, value in batch:
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
