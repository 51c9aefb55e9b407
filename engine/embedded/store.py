"""One writer, many readers, one file: what was committed is what `ends` and every reader shows, and nothing else ever is.

All changes go through `transaction`. An error in it either undid everything (`CommitLost`), or leaves unknown what is on disk
(`StoreDamaged`), after which the store refuses to write: opening the folder anew tells which it was.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from engine.embedded.layout import Folder, connect_reader, connect_writer, first_id
from engine.runtime import CommitLost, RuntimeFault, StoreDamaged

# Every `sqlite3_step` lets go of the interpreter lock, and beside a busy second thread each time may cost a switch interval
# (5 ms). A statement of many rows is one step: 500 rows were measured to take 12 to 17 times less wall time than by executemany.
ROWS_PER_STATEMENT = 100
LOG_COLUMNS = 5
STATE_COLUMNS = 3
CLOSE_WAIT_SECS = 5.0  # for readers in the middle of a statement, each of which lasts milliseconds
# The primary result codes after which the file's content is in doubt: I/O error, corrupt, not a database.
DAMAGE_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

# The records of one `append` or `commit`: columns of the log's rows, flat, per topic partition. `insert` fills in the ids.
Cells = list[int | bytes | None]
Draft = dict[int, Cells]


@cache
def _insert_log(rows: int) -> str:
    # OR FAIL spares SQLite a journal per statement; an error undoes the whole transaction anyway.
    return "INSERT OR FAIL INTO log VALUES " + ",".join(["(?,?,?,?,?)"] * rows)  # noqa: S608 -- a number makes the text


@cache
def _upsert_state(rows: int) -> str:
    return "INSERT OR REPLACE INTO state VALUES " + ",".join(["(?,?,?)"] * rows)  # noqa: S608 -- a number makes the text


class Store:
    """The open file. `ends` is the next record id per topic partition, as committed; read it from any thread."""

    ends: dict[int, int]
    # Per topic partition the highest timestamp so far, and how far a later record ever fell behind it: how much further a search
    # by time must look (`retention.py`).
    ages: dict[int, tuple[int, int]]

    def __init__(self, path: Path) -> None:
        self.folder = Folder(path)
        try:
            self._writer = connect_writer(self.folder.db_path)
        except BaseException:
            self.folder.release()
            raise
        self._lock = threading.Lock()
        self._damaged = False
        self._closed = False
        self._idle: deque[sqlite3.Connection] = deque()
        self._lent = 0
        self._lent_lock = threading.Lock()
        # What the open transaction makes of them. It is taken over before the lock is let go: the next writer counts on from it.
        self._coming_ends: dict[int, int] = {}
        self._coming_ages: dict[int, tuple[int, int]] = {}
        try:
            rows = self.query("SELECT tp, next, ts_max_ms, disorder_ms FROM ends")
        except BaseException:
            self.close()
            raise
        self.ends = {tp: next_id for tp, next_id, _, _ in rows}
        self.ages = {tp: (ts_max_ms, disorder_ms) for tp, _, ts_max_ms, disorder_ms in rows}

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The writer inside one transaction: durable when the block ends, undone when it raises."""
        with self._lock:
            self._refuse_if_unfit()
            writer = self._writer
            try:
                writer.execute("BEGIN IMMEDIATE")
                yield writer
                writer.execute("COMMIT")
                self.ages.update(self._coming_ages)
                self.ends.update(self._coming_ends)
            except BaseException as fault:
                self._undo()
                if isinstance(fault, sqlite3.Error):
                    raise self._verdict(fault, CommitLost("the store undid a transaction")) from fault
                raise
            finally:
                self._coming_ages, self._coming_ends = {}, {}

    @contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
        """The writer outside a transaction, for maintenance that SQLite does not allow inside one."""
        with self._lock:
            self._refuse_if_unfit()
            try:
                yield self._writer
            except sqlite3.Error as fault:
                raise self._verdict(fault) from fault
            except (StoreDamaged, OSError):
                self._damaged = True
                raise

    def reopen_writer(self) -> None:
        """Begin with an empty page cache. Call it inside `exclusive`, after changing the file behind SQLite's back."""
        self._writer.close()
        self._writer = connect_writer(self.folder.db_path)

    def insert(self, writer: sqlite3.Connection, drafts: Sequence[tuple[Draft, int]]) -> None:
        """Write drafts, each with its timestamp, in this order. Once in a transaction."""
        ends, ages = self._coming_ends, self._coming_ages
        merged: Draft = {}
        for draft, ts_ms in drafts:
            for tp, cells in draft.items():
                start = ends.get(tp)
                if start is None:
                    start = self.ends.get(tp) or first_id(tp)
                    ts_max_ms, disorder_ms = self.ages.get(tp, (ts_ms, 0))
                    merged[tp] = cells
                else:
                    ts_max_ms, disorder_ms = ages[tp]
                ends[tp] = stop = start + len(cells) // LOG_COLUMNS
                cells[0::LOG_COLUMNS] = range(start, stop)
                if merged[tp] is not cells:
                    merged[tp] = merged[tp] + cells
                if ts_ms >= ts_max_ms:
                    ages[tp] = (ts_ms, disorder_ms)
                else:
                    ages[tp] = (ts_max_ms, max(disorder_ms, ts_max_ms - ts_ms))
        # Neighbours in the file are written together: each leaf of the tree is found and balanced once.
        flat: Cells = []
        for tp in sorted(merged):
            flat += merged[tp]
        _write_rows(writer, _insert_log, LOG_COLUMNS, flat)
        writer.executemany(
            "INSERT OR REPLACE INTO ends (tp, next, ts_max_ms, disorder_ms) VALUES (?,?,?,?)",
            [(tp, end, *ages[tp]) for tp, end in ends.items()],
        )

    def forget_age(self, writer: sqlite3.Connection, tp: int) -> None:
        """The partition has no records left, so neither has its disorder. Its end stays: offsets are never used twice."""
        writer.execute("UPDATE ends SET ts_max_ms = 0, disorder_ms = 0 WHERE tp = ?", (tp,))
        self._coming_ages[tp] = (0, 0)

    @staticmethod
    def write_state(writer: sqlite3.Connection, tp: int, writes: dict[bytes, bytes | None]) -> None:
        """Put and delete keys of one task partition."""
        flat: Cells = []
        gone = []
        for key in sorted(writes):
            value = writes[key]
            if value is None:
                gone.append((tp, key))
            else:
                flat += (tp, key, value)
        _write_rows(writer, _upsert_state, STATE_COLUMNS, flat)
        if gone:
            writer.executemany("DELETE FROM state WHERE tp = ? AND key = ?", gone)

    def query(self, sql: str, values: Iterable[int | bytes] = ()) -> list[Any]:
        """All rows of a short statement, as committed, from any thread.

        The writer's page cache is warm and outlives commits, so it answers when it is free; its lock is never held between
        transactions, so it shows nothing uncommitted. Nobody waits for it: a busy writer may be in the middle of an fsync.
        """
        if not self._lock.acquire(blocking=False):
            return self.query_aside(sql, values)
        try:
            return self._writer.execute(sql, tuple(values)).fetchall()
        except sqlite3.Error as fault:
            raise self._verdict(fault) from fault
        finally:
            self._lock.release()

    def query_aside(self, sql: str, values: Iterable[int | bytes] = ()) -> list[Any]:
        """The same on a connection of its own: for long answers, which must not hold up the writer."""
        with self._lent_lock:
            if self._closed:
                raise RuntimeFault("the store is closed")
            self._lent += 1
        reader = None
        try:
            try:
                reader = self._idle.pop()
            except IndexError:
                reader = connect_reader(self.folder.db_path)
            rows = reader.execute(sql, tuple(values)).fetchall()
            self._idle.append(reader)
            return rows
        except sqlite3.Error as fault:
            if reader is not None:
                reader.close()
            raise self._verdict(fault) from fault
        finally:
            with self._lent_lock:
                self._lent -= 1

    def close(self) -> None:
        """Close every connection, then let the next process in. The last close folds the WAL into the file and removes it."""
        with self._lock, self._lent_lock:
            if self._closed:
                return
            self._closed = True
        give_up = time.monotonic() + CLOSE_WAIT_SECS
        while self._lent and time.monotonic() < give_up:
            time.sleep(0.005)
        for reader in self._idle:
            reader.close()
        self._writer.close()
        self.folder.release()

    def _refuse_if_unfit(self) -> None:
        if self._damaged:
            raise StoreDamaged("an earlier write left the store in doubt")
        if self._closed:
            raise CommitLost("the store is closed")

    def _undo(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            self._damaged = True

    def _verdict(self, fault: sqlite3.Error, otherwise: RuntimeFault | None = None) -> RuntimeFault:
        """What an error of SQLite means. An I/O error at a commit may or may not have left the commit in the WAL."""
        code = getattr(fault, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in DAMAGE_CODES:
            self._damaged = True
        if self._damaged:
            return StoreDamaged("the store cannot be read or written reliably")
        if self._closed:
            return RuntimeFault("the store is closed")
        return otherwise or RuntimeFault("the store did not answer")


def _write_rows(writer: sqlite3.Connection, statement: Callable[[int], str], columns: int, flat: Cells) -> None:
    step = ROWS_PER_STATEMENT * columns
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        writer.execute(statement(len(part) // columns), part)
