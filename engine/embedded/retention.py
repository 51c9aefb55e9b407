"""What retention and compaction remove is really gone: after `vacuum` no file of the folder holds the bytes.

A record is only removed when every task that reads its topic has committed a position after it, but for a record that a newer
one of the same key supersedes. All work is cut into transactions of some thousand records, so that the loop and the doors get
their turn.
Methods may be called from any thread; two calls wait for each other.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from engine.embedded.layout import PAGE_BYTES, first_id
from engine.embedded.runtime import EmbeddedRuntime
from engine.embedded.scrub import scrub

RECORDS_PER_TRANSACTION = 2_000  # some 20 ms of the writer
COMPACT_RECORDS_MAX = 20_000  # new records looked at by one call of `compact`; it says whether there are more
VACUUM_PAGES_PER_TURN = 1_000
CHECKPOINT_TRIES = 40  # with the pause and the connection's busy time some 4 s; a reader's statement lasts milliseconds
CHECKPOINT_PAUSE_SECS = 0.05


@dataclass(frozen=True, slots=True)
class Compaction:
    """What one call of `compact` did; when it is not `finished`, another call goes on where it stopped."""

    removed: int
    finished: bool


class Retention:
    """Removes records of an open `EmbeddedRuntime`. Rules and times come from the caller."""

    def __init__(self, runtime: EmbeddedRuntime) -> None:
        self._store = runtime.store
        self._catalogue = runtime.catalogue
        self._turn = threading.Lock()
        self._is_clean = False  # the last vacuum succeeded; what is written after it goes through the WAL, which it left empty

    def delete_before(self, topics: Iterable[str], ts_ms_cutoff: int) -> int:
        """Remove these topics' records that are older than the cutoff and committed by every reading task.

        Returns how many. Raises ValueError for a compacted topic: there the newest record of a key has no age.
        """
        chosen = [self._catalogue.topics[name] for name in topics]
        for topic in chosen:
            if topic.compact:
                raise ValueError(f"{topic.name} is compacted, not retained by time")
        with self._turn:
            return sum(self._delete_before(tp, ts_ms_cutoff) for topic in chosen for tp in topic.places())

    def _delete_before(self, tp: int, cutoff: int) -> int:
        removed = 0
        bound = self._committed(tp)
        _, disorder_ms = self._store.ages.get(tp, (0, 0))
        # No record behind this one can be older than the cutoff, see `Store.ages`.
        stop = self._store.query_aside(
            "SELECT id FROM log WHERE id >= ? AND id < ? AND ts_ms >= ? ORDER BY id LIMIT 1",
            (first_id(tp), bound, cutoff + disorder_ms),
        )
        bound = stop[0][0] if stop else bound
        while True:
            with self._store.transaction() as writer:
                count = writer.execute(
                    "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE id >= ? AND id < ? AND ts_ms < ? ORDER BY id LIMIT ?)",
                    (first_id(tp), bound, cutoff, RECORDS_PER_TRANSACTION),
                ).rowcount
                removed += count
                if count < RECORDS_PER_TRANSACTION:
                    self._forget_age_of_empty(writer, tp)
                    return removed

    def compact(self, topic: str, delete_retention_ms: int, now_ms: int) -> Compaction:
        """Keep the newest record of each key, and a tombstone only until `delete_retention_ms` after the log took it.

        The work is proportional to the records that came since the last call, and to the tombstones that fall due.
        """
        chosen = self._catalogue.topics[topic]
        if not chosen.compact:
            raise ValueError(f"{topic} is not compacted")
        with self._turn:
            removed, left = 0, COMPACT_RECORDS_MAX
            for tp in chosen.places():
                while left > 0:
                    seen, gone = self._supersede(tp, min(left, RECORDS_PER_TRANSACTION))
                    left -= seen
                    removed += gone
                    if seen == 0:
                        break
            removed += sum(self._bury(tp, now_ms - delete_retention_ms) for tp in chosen.places())
            return Compaction(removed, finished=left > 0)

    def _supersede(self, tp: int, records_max: int) -> tuple[int, int]:
        """Take the next records into `latest`, remove what they supersede. Returns (records seen, records removed)."""
        store = self._store
        cleaned = store.query_aside("SELECT next FROM cleaned WHERE tp = ?", (tp,))
        start, end = cleaned[0][0] if cleaned else first_id(tp), store.ends.get(tp, 0)
        if start >= end:
            return 0, 0
        rows = store.query_aside(
            "SELECT id, ts_ms, key, value IS NULL FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (start, end, records_max),
        )
        newest: dict[bytes, tuple[int, int, int]] = {}
        losers: list[tuple[int]] = []
        for row, ts_ms, key, dead in rows:
            if key in newest:
                losers.append((newest[key][0],))
            newest[key] = (row, ts_ms, dead)
        with store.transaction() as writer:
            for key in newest:
                before = writer.execute("SELECT id FROM latest WHERE tp = ? AND key = ?", (tp, key)).fetchone()
                if before is not None:
                    losers.append(before)
            writer.executemany("DELETE FROM log WHERE id = ?", losers)
            writer.executemany("DELETE FROM graves WHERE id = ?", losers)
            writer.executemany(
                "INSERT OR REPLACE INTO latest (tp, key, id) VALUES (?,?,?)",
                sorted((tp, key, row) for key, (row, _, _) in newest.items()),
            )
            writer.executemany(
                "INSERT INTO graves (id, ts_ms) VALUES (?,?)", [(row, ts) for row, ts, dead in newest.values() if dead]
            )
            done = rows[-1][0] + 1 if len(rows) == records_max else end
            writer.execute("INSERT OR REPLACE INTO cleaned (tp, next) VALUES (?,?)", (tp, done))
        return len(rows), len(losers)

    def _bury(self, tp: int, cutoff: int) -> int:
        """Remove tombstones that are older than the cutoff and seen by every reader, and the last trace of their keys."""
        buried = 0
        while True:
            with self._store.transaction() as writer:
                due = writer.execute(
                    "SELECT graves.id, log.key FROM graves CROSS JOIN log USING (id)"
                    " WHERE graves.id >= ? AND graves.id < ? AND graves.ts_ms <= ? ORDER BY graves.id LIMIT ?",
                    (first_id(tp), self._committed(tp), cutoff, RECORDS_PER_TRANSACTION),
                ).fetchall()
                writer.executemany("DELETE FROM log WHERE id = ?", [(row,) for row, _ in due])
                writer.executemany("DELETE FROM graves WHERE id = ?", [(row,) for row, _ in due])
                writer.executemany("DELETE FROM latest WHERE tp = ? AND key = ?", [(tp, key) for _, key in due])
                buried += len(due)
                if len(due) < RECORDS_PER_TRANSACTION:
                    self._forget_age_of_empty(writer, tp)
                    return buried

    def oldest_ts_ms(self, topic: str) -> int | None:
        """The timestamp of the oldest record that is left in any partition, None when there is none."""
        oldest = [ts_ms for tp in self._catalogue.topics[topic].places() if (ts_ms := self._oldest(tp)) is not None]
        return min(oldest, default=None)

    def _oldest(self, tp: int) -> int | None:
        end = self._store.ends.get(tp, 0)
        first = self._store.query_aside(
            "SELECT id, ts_ms FROM log WHERE id >= ? AND id < ? ORDER BY id LIMIT 1", (first_id(tp), end)
        )
        if not first:
            return None
        row, oldest = first[0]
        _, disorder_ms = self._store.ages[tp]
        # Only records before the first one that is younger than the first by more than the disorder can be older than the first.
        stop = self._store.query_aside(
            "SELECT id FROM log WHERE id > ? AND id < ? AND ts_ms >= ? ORDER BY id LIMIT 1", (row, end, oldest + disorder_ms)
        )
        among = (row, stop[0][0] if stop else end)
        found: list[tuple[int | None]] = self._store.query_aside("SELECT min(ts_ms) FROM log WHERE id >= ? AND id < ?", among)
        return found[0][0] if found[0][0] is not None else self._oldest(tp)

    def vacuum(self) -> bool:
        """Give free pages back to the file system and leave no old page image; returns whether that succeeded.

        1. Move pages out of the file's end and cut it off, some at a time.
        2. Fold the WAL into the file and truncate it; readers in the middle of a statement are waited for, within bounds.
        3. Still with the writer's lock, zero what rebalancing left in the pages (`scrub.py`): about a second per GB.

        A store that nobody has written to since the last time is left alone: an idle hour costs the same whatever is stored.
        """
        with self._turn:
            while self._give_back_pages():
                pass
            for _ in range(CHECKPOINT_TRIES):
                with self._store.exclusive() as writer:
                    if self._is_clean and self._store.folder.is_wal_empty():
                        return True
                    self._is_clean = False
                    busy, _, _ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    if not busy:
                        scrub(self._store.folder.db_fd, PAGE_BYTES)
                        # The writer's cache still has the old gaps, and would write them back with the next change of the page.
                        self._store.reopen_writer()
                        self._is_clean = True
                        return True
                time.sleep(CHECKPOINT_PAUSE_SECS)
            return False

    def _give_back_pages(self) -> bool:
        with self._store.exclusive() as writer:
            before: int = writer.execute("PRAGMA freelist_count").fetchone()[0]
            # A row per page, but without columns: `execute` stops at the first of such rows, `executescript` goes through all.
            writer.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES_PER_TURN})")
            after: int = writer.execute("PRAGMA freelist_count").fetchone()[0]
            return 0 < after < before

    def _committed(self, tp: int) -> int:
        """The id up to which every task that reads the partition has committed; the partition's end when none reads it."""
        readers = self._catalogue.readers_of.get(tp)
        if not readers:
            return self._store.ends.get(tp, 0)
        return min(reader.positions.get(tp, 0) for reader in readers)

    def _forget_age_of_empty(self, writer: sqlite3.Connection, tp: int) -> None:
        if (
            tp in self._store.ends
            and not writer.execute(
                "SELECT 1 FROM log WHERE id >= ? AND id < ? LIMIT 1", (first_id(tp), self._store.ends[tp])
            ).fetchone()
        ):
            self._store.forget_age(writer, tp)
