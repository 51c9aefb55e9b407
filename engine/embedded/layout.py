"""How the store lies on disk: the tables, the packed record id, the settings of a connection, and who may open the folder.

A record's id is one 63-bit integer, so that the log is a plain rowid table: one B-tree, no second index to keep, and each
partition a contiguous, append-ordered range of it.

    bit  62        54 53          44 43                              0
        +------------+--------------+---------------------------------+
        | topic  (9) | partition(10)| offset                     (44) |
        +------------+--------------+---------------------------------+
        |<------- tp (19) -------->|

`tp` alone names a topic partition in the small tables, and in the same way (task id, partition) in `state`.
"""

import fcntl
import os
import sqlite3
from pathlib import Path

from engine.runtime import FolderInUse, StoreDamaged

OFFSET_BITS = 44  # 17.6e12 records a partition: at 100,000 records a second more than five years
PARTITION_BITS = 10
TOPIC_BITS = 9
OFFSET_MASK = (1 << OFFSET_BITS) - 1
PARTITIONS_MAX = 1 << PARTITION_BITS  # one machine has no use for more; what outgrows it moves to the cluster
TOPICS_MAX = (1 << TOPIC_BITS) - 1  # ids count from 1, also for tasks

DB_NAME = "consentinel.db"
LOCK_NAME = "lock"
LAYOUT_VERSION = 1

# A transaction writes whole pages, and its rows spread over as many pages as there are partitions: with 64 of them 4 KiB was
# measured to cost less than 8 or 16 KiB, and with few partitions the gain of larger pages is some percent.
PAGE_BYTES = 4096
WRITER_CACHE_KIB = 64 * 1024  # the loop's working set; interior pages and warm owners stay here between commits
READER_CACHE_KIB = 2 * 1024  # a reader's cache is dropped at each commit of the writer, so it is only worth a few pages
WAL_PAGES_MAX = 4000  # 16 MiB: less writes hot pages to the file more often (5 % of CPU), more only makes the pause longer
STATEMENTS_CACHED = 512  # the multi-row statements exist once per row count, see `store.py`
BUSY_MS = 50  # nobody else may write; only a checkpoint meets readers, and it is retried outside the lock

TABLES = f"""
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, compact INTEGER NOT NULL);
CREATE TABLE tasks (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL);
CREATE TABLE log (id INTEGER PRIMARY KEY, ts_ms INTEGER NOT NULL, key BLOB NOT NULL, value BLOB, headers BLOB);
CREATE TABLE ends (tp INTEGER PRIMARY KEY, next INTEGER NOT NULL, ts_max_ms INTEGER NOT NULL, disorder_ms INTEGER NOT NULL);
CREATE TABLE state (tp INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tp, key)) WITHOUT ROWID;
CREATE TABLE positions (task INTEGER NOT NULL, tp INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (task, tp)) WITHOUT ROWID;
CREATE TABLE latest (tp INTEGER NOT NULL, key BLOB NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (tp, key)) WITHOUT ROWID;
CREATE TABLE graves (id INTEGER PRIMARY KEY, ts_ms INTEGER NOT NULL);
CREATE TABLE cleaned (tp INTEGER PRIMARY KEY, next INTEGER NOT NULL);
PRAGMA user_version = {LAYOUT_VERSION};
"""


def pack_tp(group: int, partition: int) -> int:
    """(topic or task id, partition) as one integer."""
    return group << PARTITION_BITS | partition


def first_id(tp: int) -> int:
    """The id of offset 0 of a topic partition."""
    return tp << OFFSET_BITS


class Folder:
    """A data folder held by this process alone: mode 0700, its files 0600.

    `db_fd` stays open until `release`. POSIX drops all of a process's locks on a file when it closes any descriptor of it, so
    closing one while SQLite has the file open would take SQLite's own locks away.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        self.db_path = path / DB_NAME
        self._wal_path = path / f"{DB_NAME}-wal"
        self._lock_fd = _private_file(path / LOCK_NAME)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise FolderInUse("another process owns the data folder") from None
        self.db_fd = _private_file(self.db_path)
        folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)

    def is_wal_empty(self) -> bool:
        """Whether nothing was written since the WAL was last truncated. Ask with the writer's lock."""
        try:
            return self._wal_path.stat().st_size == 0
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Let the next process in. Every connection must be closed before."""
        os.close(self.db_fd)
        os.close(self._lock_fd)


def connect_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes, its settings checked. Raises `StoreDamaged` for a file that is not a store of ours."""
    # SQLite gives the WAL and its index the mode of the database file, which `Folder` has made 0600.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENTS_CACHED)
    try:
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            # These only count before the journal mode writes the first page; later they would be a write at each opening.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            "temp_store = MEMORY",  # a spilled statement journal would put old page images outside the folder
            f"cache_size = -{WRITER_CACHE_KIB}",
            f"wal_autocheckpoint = {WAL_PAGES_MAX}",
            f"busy_timeout = {BUSY_MS}",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        expected = {"page_size": PAGE_BYTES, "auto_vacuum": 2, "journal_mode": "wal", "synchronous": 2, "secure_delete": 1}
        for name, value in expected.items():
            if connection.execute(f"PRAGMA {name}").fetchone()[0] != value:
                raise StoreDamaged(f"the store's {name} is not ours")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")
        elif version != LAYOUT_VERSION:
            raise StoreDamaged("the store has another layout version")
    except sqlite3.DatabaseError as fault:
        connection.close()
        raise StoreDamaged("the store cannot be opened") from fault
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read. It sees the last commit before each statement."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return connection


def _private_file(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor
