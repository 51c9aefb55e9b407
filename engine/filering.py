"""A key ring (`engine/keyring.py`) in one private file beside the data folder; a destroyed key is nowhere in it.

Key-encryption keys are drawn one by one, not derived from a master: what can be derived again cannot be destroyed.
A controller's first use draws all 4,096 of them in one transaction, so that no later subject waits for the disk.

How a key goes: key bytes stand in a table of their own, `secrets`, whose rows have one size, are only ever appended,
and are overwritten in place by zeros. SQLite never moves such a row; `secure_delete` alone would leave copies in the
slack of rebalanced pages. The journal goes at each commit. Out of reach are blocks that the file system or an SSD has
freed but not overwritten, and memory that Python has let go: put the ring on an encrypted disk.

Several processes may share a ring. Each keeps what it has read, and sees what others changed after `refresh`, which
runs by itself once a second. So a rotation is acknowledged after a `refresh`, and keys are destroyed later than that.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from engine.keyring import (
    RAW_SPAN_MS,
    KeyInUse,
    KeyRing,
    OpenRing,
    RawClass,
    RingDamaged,
    RingExposed,
    RingMissing,
    RingUnavailable,
)
from engine.sealing import KEY_BYTES, SHARDS

K = TypeVar("K")
V = TypeVar("V")

BUSY_SECS_MAX = 10.0  # the longest transaction of another process, a controller's first, takes far below a second
STALE_SECS_MAX = 1.0
CACHED_MAX = 65_536  # keys of one sort in memory: the shards of 16 controllers, some 10 MB
CONTROLLERS_MAX = 4_096  # a ring of 1.5 GB; more is somebody inventing controllers
LEDGER_READ_MAX = 1_000

_FORMAT = 2
_NOTES = "CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"  # what format 1 has not
_TABLES = (
    "CREATE TABLE secrets (id INTEGER PRIMARY KEY, key BLOB NOT NULL)",
    "CREATE TABLE named (kind TEXT, name TEXT, secret INTEGER NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID",
    "CREATE TABLE keks (controller TEXT, shard INTEGER, epoch INTEGER, state TEXT NOT NULL, secret INTEGER NOT NULL,"
    " PRIMARY KEY (controller, shard, epoch)) WITHOUT ROWID",
    # AUTOINCREMENT: the number of a destroyed key is never given again.
    "CREATE TABLE raw_keys (id INTEGER PRIMARY KEY AUTOINCREMENT, class TEXT NOT NULL, opened_ms INTEGER NOT NULL,"
    " closed_ms INTEGER, secret INTEGER NOT NULL)",
    "CREATE TABLE ledger (mark INTEGER PRIMARY KEY AUTOINCREMENT, entry BLOB NOT NULL)",
    "CREATE TRIGGER ledger_kept BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TRIGGER ledger_fixed BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TABLE facts (deployment TEXT NOT NULL)",
    _NOTES,
)
_MINTING = "SELECT epoch, key FROM keks JOIN secrets ON id = secret WHERE controller = ? AND shard = ? AND state = 'minting'"
_RETIRE = "UPDATE keks SET state = 'living' WHERE controller = ? AND shard = ? AND epoch = ?"
_KEK_AT = (
    "SELECT key FROM keks JOIN secrets ON id = secret WHERE controller = ? AND shard = ? AND epoch = ? AND state <> 'destroyed'"
)
_KEK_STATE = "SELECT state, secret FROM keks WHERE controller = ? AND shard = ? AND epoch = ?"
_KEK_GONE = "UPDATE keks SET state = 'destroyed' WHERE controller = ? AND shard = ? AND epoch = ?"
_EPOCHS = "SELECT shard, epoch, state = 'minting' FROM keks WHERE controller = ? AND state <> 'destroyed' ORDER BY shard, epoch"
_RAW_OPEN = "SELECT r.id, opened_ms, key FROM raw_keys r JOIN secrets s ON s.id = secret WHERE class = ? AND closed_ms IS NULL"
_RAW_AT = "SELECT key FROM raw_keys r JOIN secrets s ON s.id = secret WHERE r.id = ?"
_NAMED = "SELECT key FROM named JOIN secrets ON id = secret WHERE kind = ? AND name = ?"
_ALIVE = """
    SELECT kind || '/' || name, key FROM named JOIN secrets ON id = secret UNION ALL
    SELECT 'kek/' || controller || '/' || shard || '/' || epoch, key FROM keks JOIN secrets ON id = secret
        WHERE state <> 'destroyed' UNION ALL
    SELECT class || '/' || r.id, key FROM raw_keys r JOIN secrets s ON s.id = secret"""

_OPENING = threading.Lock()  # POSIX: closing any descriptor of a file drops all locks of this process on it


def ring_of(ring: Path | OpenRing | None, folder: Path, *, create: bool) -> KeyRing:
    """Open the key ring of a data folder: the file beside it, another file, or what `ring` opens. Raises `RingFault`."""
    if callable(ring):
        return ring(create)
    return FileRing(ring or folder.with_name(folder.name + ".ring"), create=create)


class FileRing:
    """A `KeyRing` in one SQLite file of mode 0600; not to be carried across a fork.

    `create` when the data folder is new; otherwise a missing ring is refused. `random` is seeded in the simulation.
    """

    def __init__(self, path: Path, create: bool, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._lock = threading.RLock()
        self._keys: dict[tuple[str | int, ...], bytes] = {}  # ("pepper", controller), (controller, shard, epoch), ..
        self._minting: dict[tuple[str, int], tuple[int, bytes]] = {}
        self._raw_now: dict[RawClass, tuple[int, int, bytes]] = {}  # (number, opened_ms, key)
        self._seen, self._fresh_until = -1, 0.0
        with _OPENING:
            _claim(path, create)
            with _faults():
                self._db = sqlite3.connect(
                    f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECS_MAX, isolation_level=None,
                    check_same_thread=False,
                )  # fmt: skip
        try:
            self._begin(create)
        except BaseException:
            self.close()
            raise

    def _begin(self, create: bool) -> None:
        # EXTRA is FULL, and the journal's removal outlives a power cut: no roll-back brings a destroyed key back.
        # Temporary files would hold page images, so they stay in memory.
        for pragma in ("secure_delete=ON", "journal_mode=DELETE", "synchronous=EXTRA", "temp_store=MEMORY"):
            self._rows(f"PRAGMA {pragma}")
        with self._change():
            found = self._rows("PRAGMA user_version")[0][0]
            if found == 0 and not self._rows("SELECT 1 FROM sqlite_schema"):
                if not create:
                    raise RingMissing("the key ring was never finished")
                for table in _TABLES:
                    self._rows(table)
                self._rows("INSERT INTO facts VALUES (?)", self._random(16).hex())
                self._rows("INSERT INTO named VALUES ('signing', '', ?)", self._draw(1))
                self._rows(f"PRAGMA user_version={_FORMAT}")
            elif found == 1:
                self._rows(_NOTES)
                self._rows(f"PRAGMA user_version={_FORMAT}")
            elif found != _FORMAT:
                raise RingDamaged("not a key ring of this version")
            self._deployment = str(self._rows("SELECT deployment FROM facts")[0][0])
        self.refresh()

    def refresh(self) -> None:
        """See what other processes changed: rotations, closed and destroyed keys."""
        with self._lock:
            seen = self._rows("PRAGMA data_version")[0][0]
            if seen != self._seen:
                self._forget()
            self._seen, self._fresh_until = seen, monotonic() + STALE_SECS_MAX

    def close(self) -> None:
        """Forget every key and let go of the file."""
        with self._lock:
            self._forget()
            self._db.close()

    def pepper(self, controller: str) -> bytes:
        """Give the controller's pepper, drawn at first use."""
        return self._keys.get(("pepper", controller)) or self._named("pepper", controller)

    def signing_seed(self) -> bytes:
        """Give the Ed25519 seed."""
        return self._named("signing", "")

    def deployment(self) -> str:
        """Give this deployment's id."""
        return self._deployment

    def kek(self, controller: str, shard: int) -> tuple[int, bytes]:
        """Give (epoch, key) that the shard mints under now."""
        self._catch_up()
        if found := self._minting.get((controller, shard)):
            return found
        if not 0 <= shard < SHARDS:
            raise ValueError("no such shard")
        with self._lock:
            rows = self._rows(_MINTING, controller, shard)
            if not rows:
                self._draw_shards(controller)
                rows = self._rows(_MINTING, controller, shard)
            return _keep(self._minting, (controller, shard), (rows[0][0], rows[0][1]))

    def kek_at(self, controller: str, shard: int, epoch: int) -> bytes | None:
        """Give the key of an epoch, None when it was destroyed or never was."""
        return self._key((controller, shard, epoch), _KEK_AT, controller, shard, epoch)

    def together(self) -> AbstractContextManager[object]:
        """Make the changes of a `with` block durable in one transaction, all or none."""
        return self._change()

    def controllers(self) -> list[str]:
        """List the controllers that have key-encryption keys, in order."""
        return [name for (name,) in self._rows("SELECT DISTINCT controller FROM keks ORDER BY controller")]

    def epochs(self, controller: str) -> list[tuple[int, int, bool]]:
        """List the controller's living epochs as (shard, epoch, whether it is minted under), in order."""
        return [(shard, epoch, bool(minting)) for shard, epoch, minting in self._rows(_EPOCHS, controller)]

    def rotate_kek(self, controller: str, shard: int, after: int) -> int:
        """Mint under a new epoch if the shard still mints under `after`; give the epoch it mints under."""
        with self._change():
            self._minting.pop((controller, shard), None)  # another process may have rotated since
            epoch, _ = self.kek(controller, shard)
            if epoch == after:
                self._rows(_RETIRE, controller, shard, epoch)
                epoch += 1
                self._rows("INSERT INTO keks VALUES (?, ?, ?, 'minting', ?)", controller, shard, epoch, self._draw(1))
                del self._minting[controller, shard]
            return epoch

    def destroy_kek(self, controller: str, shard: int, epoch: int) -> None:
        """Destroy an epoch that nothing is minted under any more, else `KeyInUse`. Once or again: the same."""
        place = (controller, shard, epoch)
        with self._change():
            rows = self._rows(_KEK_STATE, *place)
            if rows and rows[0][0] == "minting":
                raise KeyInUse("the epoch is still minted under")
            for _, secret in rows:
                self._zero(secret)
                self._rows(_KEK_GONE, *place)
            self._keys.pop(place, None)

    def notes(self, prefix: str) -> dict[str, bytes]:
        """Give all notes whose names begin with `prefix`, read from the file itself."""
        return dict(self._rows("SELECT name, value FROM notes WHERE substr(name, 1, ?) = ?", len(prefix), prefix))

    def put_note(self, name: str, value: bytes, expected: bytes | None) -> bool:
        """Write a note durably if it is still `expected` (None: there is none); returns whether it was."""
        with self._change():
            rows = self._rows("SELECT value FROM notes WHERE name = ?", name)
            if (rows[0][0] if rows else None) != expected:
                return False
            self._rows("INSERT OR REPLACE INTO notes VALUES (?, ?)", name, value)
            return True

    def raw_key(self, class_: RawClass, now_ms: int) -> tuple[int, bytes]:
        """Give (number, key) to seal with now; a new one when the last has been open for its span."""
        self._catch_up()
        span = RAW_SPAN_MS[class_]
        # A key from the future, by a clock set back since, counts as old too: else it would stay open until then.
        if (now := self._raw_now.get(class_)) and abs(now_ms - now[1]) < span:
            return now[0], now[2]
        with self._lock:
            with self._change():
                rows = self._rows(_RAW_OPEN, class_)
                if not rows or abs(now_ms - rows[0][1]) >= span:
                    self.close_raw(class_, now_ms)
                    self._rows("INSERT INTO raw_keys VALUES (NULL, ?, ?, NULL, ?)", class_, now_ms, self._draw(1))
                    rows = self._rows(_RAW_OPEN, class_)
            self._raw_now[class_] = rows[0]  # after the commit: other threads look without the lock
            return rows[0][0], rows[0][2]

    def raw_key_by_id(self, number: int) -> bytes | None:
        """Give the raw or quarantine key of a number, None when it was destroyed or never was."""
        return self._key(("raw", number), _RAW_AT, number)

    def raw_keys(self) -> list[tuple[int, RawClass, int, int | None]]:
        """List the living ones as (number, class, opened_ms, closed_ms), oldest first."""
        return self._rows("SELECT id, class, opened_ms, closed_ms FROM raw_keys ORDER BY id")

    def close_raw(self, class_: RawClass, now_ms: int) -> None:
        """Seal no more under the open key of the class: the next use opens another."""
        with self._change():
            self._rows("UPDATE raw_keys SET closed_ms = ? WHERE class = ? AND closed_ms IS NULL", now_ms, class_)
            self._raw_now.pop(class_, None)

    def destroy_raw(self, numbers: Iterable[int]) -> None:
        """Destroy closed raw or quarantine keys, all or (`KeyInUse`) none. Once or again: the same."""
        with self._change():
            for number in numbers:
                for closed_ms, secret in self._rows("SELECT closed_ms, secret FROM raw_keys WHERE id = ?", number):
                    if closed_ms is None:
                        raise KeyInUse("the raw key is still sealed under")
                    self._zero(secret)
                    self._rows("DELETE FROM raw_keys WHERE id = ?", number)
                self._keys.pop(("raw", number), None)

    def all_keys_alive(self) -> Iterator[tuple[str, bytes]]:
        """Walk all living keys as (what it is, key), read from the file itself."""
        yield from self._rows(_ALIVE)

    def ledger_append(self, entry: bytes) -> int:
        """Keep a sealed entry of the erasure ledger for ever; give its mark."""
        with self._change():
            self._rows("INSERT INTO ledger (entry) VALUES (?)", entry)
            return self.ledger_mark()

    def ledger_mark(self) -> int:
        """Give the mark of the last entry, 0 when there is none. It never falls."""
        return int(self._rows("SELECT coalesce(max(mark), 0) FROM ledger")[0][0])

    def ledger_since(self, mark: int) -> list[tuple[int, bytes]]:
        """List at most 1,000 (mark, entry) after `mark`, in order."""
        return self._rows("SELECT mark, entry FROM ledger WHERE mark > ? ORDER BY mark LIMIT ?", mark, LEDGER_READ_MAX)

    def _key(self, name: tuple[str | int, ...], sql: str, *values: str | int) -> bytes | None:
        self._catch_up()
        if found := self._keys.get(name):
            return found
        with self._lock:  # reading and keeping in one: a destruction between them would leave the key in memory
            rows = self._rows(sql, *values)
            return _keep(self._keys, name, rows[0][0]) if rows else None

    def _named(self, kind: str, name: str) -> bytes:
        if found := self._key((kind, name), _NAMED, kind, name):
            return found
        with self._change():
            if not self._rows(_NAMED, kind, name):
                if self._rows("SELECT count(*) FROM named")[0][0] > CONTROLLERS_MAX:
                    raise RingUnavailable("the key ring is full: too many controllers")
                self._rows("INSERT INTO named VALUES (?, ?, ?)", kind, name, self._draw(1))
        return self._named(kind, name)

    def _draw_shards(self, controller: str) -> None:
        self.pepper(controller)  # counts controllers
        with self._change():
            if self._rows("SELECT 1 FROM keks WHERE controller = ? LIMIT 1", controller):
                return  # another process was faster
            first = self._draw(SHARDS)
            rows = ((controller, shard, first + shard) for shard in range(SHARDS))
            self._db.executemany("INSERT INTO keks VALUES (?, ?, 1, 'minting', ?)", rows)

    def _draw(self, count: int) -> int:
        first = int(self._rows("SELECT coalesce(max(id), 0) + 1 FROM secrets")[0][0])
        drawn = self._random(KEY_BYTES * count)
        keys = ((first + at, drawn[at * KEY_BYTES : (at + 1) * KEY_BYTES]) for at in range(count))
        self._db.executemany("INSERT INTO secrets VALUES (?, ?)", keys)
        return first

    def _zero(self, secret: int) -> None:
        # Of the same size, so SQLite writes over the very octets.
        self._rows("UPDATE secrets SET key = ? WHERE id = ?", bytes(KEY_BYTES), secret)

    def _catch_up(self) -> None:
        if monotonic() >= self._fresh_until:
            self.refresh()

    def _forget(self) -> None:
        self._keys.clear()
        self._minting.clear()
        self._raw_now.clear()

    def _rows(self, sql: str, *values: str | int | bytes) -> list[Any]:
        with self._lock, _faults():
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction, this thread's and this process's alone; within one, a part of it."""
        with self._lock, _faults():
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._forget()  # what was kept from a transaction that never was
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError):  # busy, full, unreadable; closed
        raise RingUnavailable("the key ring cannot be used now") from None
    except sqlite3.DatabaseError:
        raise RingDamaged("the key ring is broken") from None


def _keep(kept: dict[K, V], name: K, value: V) -> V:
    if len(kept) >= CACHED_MAX:
        kept.pop(next(iter(kept)))
    kept[name] = value
    return value


def _claim(path: Path, create: bool) -> None:
    """Create the file when asked to, private from its first byte, and refuse one that others reach or that is not ours.

    An empty file is one whose creator was killed: SQLite's first transaction makes all of it, or leaves it empty.
    """
    if create:
        with suppress(FileExistsError), _unusable():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    with _unusable():
        try:
            found = path.lstat()
        except FileNotFoundError:
            raise RingMissing("there is no key ring") from None
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise RingExposed("the key ring must be a regular file of ours with mode 0600")


@contextmanager
def _unusable() -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError:
        raise RingUnavailable("the key ring cannot be reached") from None
