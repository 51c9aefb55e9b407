"""A unit's state on local disk (RocksDB): always a prefix of the committed changelog, never a step ahead of it.

What was committed waits in memory and goes down in one write batch together with its changelog position, so that the two cannot
disagree. There is no write-ahead log: the changelog is the log. A crash loses the batches since the last flush, and recovery
reads them again from the changelog (`REPLAY_MAX` bounds how many).

What is deleted or superseded stays in table files until RocksDB happens to compact them, which may be never: `scour` rewrites all
of them, a part at a time, and the manifest forgets the keys of files that are no more.

A block that cannot be read or written stops the worker, and leaves word in the folder: the store is not opened again but wiped.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import msgspec
from rocksdict import BottommostLevelCompaction, CompactOptions, Options, Rdict, WriteBatch, WriteOptions

from engine.kafka.names import RESERVED
from engine.runtime import StoreDamaged

META: Final = RESERVED + b"m"
RENEWED: Final = RESERVED + b"r"  # says nothing
DAMAGED: Final = "DAMAGED"  # a file beside RocksDB's own
APPLY_SECS = 1.0  # committed writes wait at most so long, or until so many keys, before they go down
APPLY_KEYS_MAX = 50_000
REPLAY_MAX = 200_000  # changelog records a crash may make us read again
MEMTABLE_BYTES = 16 << 20
UNLINKED_SECS_MAX = 5.0  # RocksDB removes files that were compacted away in a thread of its own


def _whole() -> CompactOptions:
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
    return options


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """Where the store stands: the changelog's incarnation, the next offset to read, and when that was written (epoch ms)."""

    incarnation: str
    position: int
    written_ms: int


_meta = msgspec.msgpack.Decoder(Meta)


class Store:
    """One unit's store. `get` is free for all threads; whoever owns the unit applies."""

    def __init__(self, folder: Path) -> None:
        """Open or begin. Raises `StoreDamaged`."""
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        options.set_keep_log_file_num(2)
        options.set_max_manifest_file_size(1)  # made anew at each change: it names the first and last key of each file it knows
        if Path(f"{folder}/{DAMAGED}").exists():
            raise StoreDamaged("the local store could not be read the last time")
        try:
            self._db = Rdict(str(folder), options=options)
            self._get: Callable[[Any], Any] = self._db.get
            found = self._get(META)
            meta = Meta("", 0, 0) if found is None else _meta.decode(found)
        except Exception as fault:  # rocksdict raises plain Exceptions
            raise StoreDamaged(f"the local store cannot be read ({type(fault).__name__})") from None
        self._write = WriteOptions()
        setattr(self._write, "disable_wal", True)  # noqa: B010 -- a property, which its stubs call a method
        self.incarnation, self.position, self.written_ms = meta.incarnation, meta.position, meta.written_ms
        self._flushed = meta.position
        self._pending: dict[bytes, bytes | None] = {}
        self._since = 0.0
        self._closed = False
        self._lock = threading.Lock()
        self._scouring = threading.Lock()  # held while RocksDB rewrites a part, so that nobody closes it under that

    @staticmethod
    def wipe(folder: Path) -> None:
        """Remove a store that cannot be trusted."""
        shutil.rmtree(folder, ignore_errors=True)

    def get(self, key: bytes) -> bytes | None:
        """The committed value of `key`."""
        pending = self._pending
        if key in pending:
            with suppress(KeyError):  # it went down in between
                return pending[key]
        try:
            found: bytes | None = self._get(key)
        except Exception as fault:  # rocksdict raises plain Exceptions
            raise self._unusable(fault) from None
        return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The committed value of each key."""
        pending = self._pending
        missing = [key for key in keys if key not in pending]
        if len(missing) == len(keys):
            return self._below(missing)
        below = dict(zip(missing, self._below(missing), strict=True))
        return [pending[key] if key in pending else below[key] for key in keys]

    def _below(self, keys: list[bytes]) -> list[bytes | None]:
        try:
            found: list[bytes | None] = self._get(keys) if keys else []
        except Exception as fault:
            raise self._unusable(fault) from None
        return found

    def scan(self, prefix: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs in key order, as they are at this call; the runtime's own keys are not shown."""
        if limit <= 0:
            return iter(())
        self.settle()
        start = max(prefix, after + b"\0") if after else prefix
        pairs: list[tuple[bytes, bytes]] = []
        whole = start > META
        try:
            items: Any = self._db.items(from_key=start)
            for key, value in items:
                if not key.startswith(prefix) or len(pairs) == limit:
                    break
                if key.startswith(RESERVED):
                    whole = True
                else:
                    pairs.append((key, value))
            else:
                # At a block that it cannot read RocksDB's iterator ends as if nothing followed. Our own records come last.
                if not whole and self._get(META) is not None:
                    raise EOFError
        except Exception as fault:
            raise self._unusable(fault) from None
        return iter(pairs)

    def committed(self, writes: Mapping[bytes, bytes | None], position: int, now_ms: int) -> None:
        """Take what a commit wrote; `position` is the changelog offset after it."""
        with self._lock:
            if not self._pending:
                self._since = monotonic()
            self._pending.update(writes)
            self.position, self.written_ms = position, now_ms
        self.tend()

    def tend(self) -> None:
        """Write down what has waited long enough."""
        if self._pending and (len(self._pending) >= APPLY_KEYS_MAX or monotonic() - self._since >= APPLY_SECS):
            self.settle()

    def settle(self) -> None:
        """Write down everything that waits, with its position, in one batch."""
        with self._lock:
            if not self._pending:
                return
            batch = WriteBatch(raw_mode=True)
            put, delete = batch.put, batch.delete
            for key, value in self._pending.items():
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            put(META, msgspec.msgpack.encode(Meta(self.incarnation, self.position, self.written_ms)))
            try:
                self._db.write(batch, self._write)  # one batch is never split between memtables
            except Exception as fault:
                raise self._unusable(fault) from None
            self._pending = {}
        if self.position - self._flushed >= REPLAY_MAX:
            self.flush()

    def begin(self, incarnation: str, now_ms: int) -> None:
        """Say which changelog this store follows, from its beginning."""
        self.incarnation, self.written_ms = incarnation, now_ms

    def flush(self) -> None:
        """Make everything durable."""
        position = self.position
        self.settle()
        try:
            self._db.flush()
        except Exception as fault:
            raise self._unusable(fault) from None
        self._flushed = position

    def scour(self) -> bool:
        """Rewrite every file, so that nothing that was deleted or superseded until now is left in any; whether that was done.

        Any thread but the owner's. It reads and writes the whole store once; the owner goes on, and may close it in between.
        """
        try:
            self.flush()
            before = self._tables()
            files: Any = self._db.live_files()
            starts: list[bytes | None] = [*sorted({bytes(file["start_key"]) for file in files})[1:]]
            for begin, end in pairwise([None, *starts, None]):  # a part is as much as one file, and what lies over it
                with self._scouring:
                    if self._closed:
                        return False
                    self._db.compact_range(begin, end, _whole())
            with self._scouring:
                if self._closed:
                    return False
                batch = WriteBatch(raw_mode=True)
                batch.put(RENEWED, b"")  # one more change, so that the manifest that knew the old files goes as well
                self._db.write(batch, self._write)
                self._db.flush()
            until = monotonic() + UNLINKED_SECS_MAX
            while before & self._tables():
                if monotonic() > until:
                    return False
                sleep(0.05)
        except Exception as fault:
            if self._closed:
                return False
            raise self._unusable(fault) from None
        return True

    def _tables(self) -> set[str]:
        return {path.name for path in self.folder.glob("*.sst")}

    def close(self) -> None:
        """Flush and let go."""
        self.flush()
        self._closed = True
        with self._scouring:
            self._db.close()

    def drop_unwritten(self) -> None:
        """Close without writing what waits, as a crash would: of a store that is not trusted nothing is kept."""
        self._pending = {}
        self._closed = True
        with self._scouring:
            self._db.close()

    def _unusable(self, fault: Exception) -> StoreDamaged:
        if not self._closed:
            with suppress(OSError):
                (self.folder / DAMAGED).touch()
        return StoreDamaged(f"the local store cannot be used ({type(fault).__name__}): it is restored at the next start")


