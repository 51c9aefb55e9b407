"""The cells of a SQLite database, named by what they are where the database is a store of ours (`engine/embedded/layout.py`)."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from engine.embedded.layout import OFFSET_BITS, PARTITION_BITS
from engine.scan.chunks import Chunk, Found, Place, Unread, state_place

MAGIC: Final = b"SQLite format 3\0"
WAL_MAGICS: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
TAILS: Final = ("-wal", "-shm", "-journal")
_NAME: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")


def cells(path: Path, source: str, file: str) -> Iterator[Found]:
    """Every text and every blob of every table. The database is only read; nobody may write to it meanwhile."""
    place = Place(source, "table", "other")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
            db.text_factory = bytes
            tables = [name.decode() for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            ours = {"log", "state", "topics", "tasks", "latest"} <= set(tables)
            if ours:
                yield from _ours(db, source, file)
            for table in tables:
                if not (ours and table in ("log", "state", "latest")):
                    place = Place(source, "table", table if _NAME.fullmatch(table) else "other")
                    quoted = '"' + table.replace('"', '""') + '"'
                    for row in db.execute(f"SELECT * FROM {quoted}"):  # noqa: S608 -- a name cannot be a parameter
                        for cell in row:
                            if isinstance(cell, bytes) and cell:
                                yield Chunk(place, cell, file=file)
    except (sqlite3.Error, UnicodeDecodeError):
        yield Unread(place, "the database is damaged, or not to be read now")


def _ours(db: sqlite3.Connection, source: str, file: str) -> Iterator[Chunk]:
    topics = {number: name.decode() for number, name in db.execute("SELECT id, name FROM topics")}
    tasks = {number: name.decode() for number, name in db.execute("SELECT id, name FROM tasks")}
    for number, key, value, headers in db.execute("SELECT id, key, value, headers FROM log"):
        place = Place(source, "log", topics.get(number >> OFFSET_BITS + PARTITION_BITS, "other"), value is None)
        yield from (Chunk(place, cell, file=file) for cell in (key, value, headers) if cell)
    newest = "SELECT l.tp, l.key, r.id IS NOT NULL AND r.value IS NULL FROM latest l LEFT JOIN log r ON r.id = l.id"
    for tp, key, tombstone in db.execute(newest):
        yield Chunk(Place(source, "latest", topics.get(tp >> PARTITION_BITS, "other"), bool(tombstone)), key, file=file)
    for tp, key, value in db.execute("SELECT tp, key, value FROM state"):
        place = state_place(source, tasks.get(tp >> PARTITION_BITS, ""), key)
        yield from (Chunk(place, cell, file=file) for cell in (key, value) if cell)


def belongs_to(path: Path) -> Path:
    """The database that a file is of: itself, or the one whose WAL or journal it is."""
    for tail in TAILS:
        with suppress(OSError):
            if path.name.endswith(tail) and (own := path.with_name(path.name.removesuffix(tail))).is_file():
                return own
    return path
