"""The seam on one machine: every promise of `engine.runtime` by one SQLite transaction a commit, and one process a folder.

All partitions are owned for as long as the folder is; a second process is refused at the door, so no writer ever loses ownership.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from engine.embedded.catalogue import Catalogue
from engine.embedded.group import GroupCommit
from engine.embedded.layout import OFFSET_MASK, first_id
from engine.embedded.store import LOG_COLUMNS, Draft, Store
from engine.runtime import Batch, Commit, Headers, LogRecord, Output, TaskSpec, TopicSpec

SCAN_ROWS_PER_READ = 256  # a scan never keeps a read open between two pairs: an abandoned one would block checkpoints for ever
SELECT_LOG = "SELECT id, ts_ms, key, value, headers FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
SELECT_STATE = "SELECT value FROM state WHERE tp = ? AND key = ?"
SELECT_STATES = "SELECT key, value FROM state WHERE tp = ? AND key IN ("
KEYS_PER_SELECT = 400  # bound variables of one statement; SQLite allows some thousand

_pack_headers = msgspec.msgpack.Encoder().encode
_unpack_headers = msgspec.msgpack.Decoder(Headers).decode


class EmbeddedRuntime:
    """See `engine.runtime` for the promises.

    Raises `FolderInUse` when another process has the folder, `StoreDamaged` when the file is not a store of these topics and
    tasks, ValueError when the declaration contradicts itself. `store` and `catalogue` are for `Retention`.
    """

    def __init__(self, folder: Path, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec]) -> None:
        self.store = Store(folder)
        try:
            self.catalogue = Catalogue(self.store, topics, tasks)
        except BaseException:
            self.store.close()
            raise
        self._topics = self.catalogue.topics
        self._readers = self.catalogue.readers
        self._changed = threading.Condition()
        self._closed = False
        self._group = GroupCommit(self._write_group)
        self.rewind()

    def tend(self) -> Sequence[tuple[str, int]]:
        """Nothing: one process owns everything for as long as the folder is open."""
        return ()

    def owned(self, task: str) -> Sequence[int]:
        """The partitions of `task`: all of them."""
        return range(self._readers[task].partitions)

    def poll(self, task: str, records_max: int) -> list[Batch]:
        """At most `records_max` unread records; empty when there is nothing, which costs no SQL. Never blocks.

        A partition with more than that goes to the back of the queue, so that one busy partition does not starve the others.
        """
        reader = self._readers[task]
        batches: list[Batch] = []
        left = records_max
        for _ in range(len(reader.ready)):
            if left <= 0:
                break
            # Taken out before `ends` is read: what is published in between puts the partition back.
            tp, _ = reader.ready.popitem(last=False)
            start, end = reader.cursors[tp], self.store.ends[tp]
            if start >= end:
                continue
            rows = self.store.query(SELECT_LOG, (start, end, left))
            # Retention and compaction leave holes, so fewer rows than asked for mean that the end was reached.
            reader.cursors[tp] = end if len(rows) < left else rows[-1][0] + 1
            if reader.cursors[tp] < end:
                reader.ready[tp] = None
            if rows:
                left -= len(rows)
                topic, partition = reader.inputs[tp]
                batches.append(Batch(task, topic, partition, _records(rows)))
        return batches

    def rewind(self) -> None:
        """Forget what was polled since the last commit."""
        ends = self.store.ends
        for reader in self._readers.values():
            for tp in reader.inputs:
                reader.cursors[tp] = reader.positions.get(tp) or first_id(tp)
                if reader.cursors[tp] < ends.get(tp, 0):
                    reader.ready[tp] = None

    def wait(self, timeout_secs: float) -> None:
        """Return when a task has something to poll, or at `close`, or at the latest after `timeout_secs`."""
        with self._changed:
            if not self._closed and not any(reader.ready for reader in self._readers.values()):
                self._changed.wait(timeout_secs)

    def commit(self, commit: Commit) -> None:
        """Make one turn durable. Raises `CommitLost` when it did not and will not happen.

        1. Route the outputs and check every name; nothing is written for a commit that makes no sense.
        2. In one transaction: outputs and ends, then state, then positions.
        3. Only when it is durable: show it to `poll`, `end` and `position`, and wake who waits.
        """
        draft = self._route(commit.outputs, commit.now_ms)
        writes = [(self._readers[task].place(partition), pairs) for (task, partition), pairs in commit.writes.items()]
        positions = []
        for (task, topic, partition), position in commit.positions.items():
            reader, tp = self._readers[task], self._topics[topic].place(partition)
            if tp not in reader.inputs:
                raise ValueError(f"task {task} does not read {topic}")
            coming = len(draft.get(tp, ())) // LOG_COLUMNS
            if not 0 <= position <= self.end(topic, partition) + coming:
                raise ValueError(f"a position of task {task} lies outside {topic}")
            positions.append((reader, tp, first_id(tp) + position))
        with self.store.transaction() as writer:
            if draft:
                self.store.insert(writer, [(draft, commit.now_ms)])
            for tp, pairs in writes:
                self.store.write_state(writer, tp, pairs)
            if positions:
                writer.executemany(
                    "INSERT OR REPLACE INTO positions (task, tp, next) VALUES (?,?,?)",
                    [(reader.id, tp, position) for reader, tp, position in positions],
                )
        for reader, tp, position in positions:
            reader.positions[tp] = position
        self._show(draft)

    def get(self, task: str, partition: int, key: bytes) -> bytes | None:
        """The committed value of `key` in the task partition's store. Thread-safe."""
        rows = self.store.query(SELECT_STATE, (self._readers[task].place(partition), key))
        return rows[0][0] if rows else None

    def get_many(self, task: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The committed value of each key, in the order of `keys`. Thread-safe."""
        tp, found = self._readers[task].place(partition), dict[bytes, bytes]()
        for start in range(0, len(keys), KEYS_PER_SELECT):
            chunk = keys[start : start + KEYS_PER_SELECT]
            found.update(self.store.query(SELECT_STATES + ",".join("?" * len(chunk)) + ")", (tp, *chunk)))
        return [found.get(key) for key in keys]

    def scan(
        self, task: str, partition: int, prefix: bytes, after: bytes = b"", limit: int = 1_000_000
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs whose key begins with `prefix` and is greater than `after`, in key order. Thread-safe.

        A long scan is read in steps, each as committed at that moment; the loop, which alone commits, sees one moment.
        """
        return self._scan(self._readers[task].place(partition), prefix, after, limit)

    def _scan(self, tp: int, prefix: bytes, after: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        stop = _after_prefix(prefix)
        upper, bounds = ("", ()) if stop is None else (" AND key < ?", (stop,))
        # The empty key is a key: only a caller who passed something has passed it by.
        compare, low = (">", after) if after >= prefix and after else (">=", prefix)
        while limit > 0:
            step = min(limit, SCAN_ROWS_PER_READ)
            sql = f"SELECT key, value FROM state WHERE tp = ? AND key {compare} ?{upper} ORDER BY key LIMIT ?"  # noqa: S608 -- fixed words
            rows: list[tuple[bytes, bytes]] = self.store.query(sql, (tp, low, *bounds, step))
            yield from rows
            if len(rows) < step:
                return
            limit -= step
            compare, low = ">", rows[-1][0]

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        """Durably append records from outside the loop; returns when they are safe. Thread-safe, merged with other callers.

        The records of one call to one partition stand together, in order. Raises `CommitLost` when none of them was appended.
        """
        draft = self._route(outputs, now_ms)
        if draft:
            self._group.add(draft, now_ms)

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records of `topic` from `offset` on. Thread-safe."""
        tp = self._topics[topic].place(partition)
        end = self.store.ends.get(tp)
        start = first_id(tp) + max(offset, 0)
        if end is None or start >= end:
            return []
        return _records(self.store.query_aside(SELECT_LOG, (start, end, max(records_max, 0))))

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last committed record of the partition."""
        return self.store.ends.get(self._topics[topic].place(partition), 0) & OFFSET_MASK

    def position(self, task: str, topic: str, partition: int) -> int:
        """The committed position of `task` in an input partition."""
        return self._readers[task].positions.get(self._topics[topic].place(partition), 0) & OFFSET_MASK

    def close(self) -> None:
        """Let go of everything; nothing uncommitted is kept. Whoever waits is woken; later calls are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.store.close()

    def _route(self, outputs: Iterable[Output], ts_ms: int) -> Draft:
        """The log's rows per topic partition, ids still 0. The hot path of every record: locals, one look-up, no call of ours."""
        topics = self._topics
        draft: Draft = {}
        for output in outputs:
            topic = topics[output.topic]
            key = output.key
            partition = output.partition
            # `partition_of`, written out: the call would cost as much as the rest of the line. Conformance compares the two.
            tp = topic.base | crc32(key) % topic.partitions if partition is None else topic.place(partition)
            headers = _pack_headers(output.headers) if output.headers else None
            cells = draft.get(tp)
            if cells is None:
                draft[tp] = [0, ts_ms, key, output.value, headers]
            else:
                cells += (0, ts_ms, key, output.value, headers)
        return draft

    def _write_group(self, drafts: Sequence[tuple[Draft, int]]) -> None:
        with self.store.transaction() as writer:
            self.store.insert(writer, drafts)
        for draft, _ in drafts:
            self._show(draft)

    def _show(self, draft: Draft) -> None:
        """Tell the tasks that read these partitions. `ends` already says so, thus whoever looks now finds the records."""
        wake = False
        for tp in draft:
            for reader in self.catalogue.readers_of.get(tp, ()):
                reader.ready[tp] = None
                wake = True
        if wake:
            with self._changed:
                self._changed.notify_all()


def _records(rows: list[Any]) -> list[LogRecord]:
    mask, unpack = OFFSET_MASK, _unpack_headers
    return [
        LogRecord(row & mask, ts_ms, key, value, () if packed is None else unpack(packed))
        for row, ts_ms, key, value, packed in rows
    ]


def _after_prefix(prefix: bytes) -> bytes | None:
    """The smallest key greater than every key with this prefix; None when there is none (only 0xff bytes, or nothing)."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None
