"""Every file of a folder, by what it is: its values as its own format tells them, and its raw bytes in any case."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from engine.embedded.layout import PAGE_BYTES
from engine.scan import rdb, segments, sqlite, sst
from engine.scan.chunks import Chunk, Found, Place, Unread, windows
from engine.scan.faults import Unreadable
from engine.scan.streams import PIECE_BYTES, packed, unpacked
from engine.scan.tokens import CUT_BYTES_MAX

HEAD_BYTES: Final = 16
ARCHIVE_DEPTH_MAX: Final = 3
# Names of files that we, Kafka, RocksDB or Redis give, which therefore name nobody. All others are known by place and ending.
_OWN: Final = re.compile(
    r"consentinel\.db(?:-wal|-shm|-journal)?|tokens\.json|service\.json|(?:worker\.)?lock|LOCK|CURRENT|IDENTITY|LOG(?:\.old\.[0-9]+)?|DAMAGED"
    r"|MANIFEST-[0-9]+|OPTIONS-[0-9]+|[0-9]{6}\.(?:sst|log|dbtmp)|rocksdict-config\.json|dump\.rdb|appendonly\.aof[a-z0-9.]*"
    r"|[0-9]{20}(?:-[0-9]{10})?\.(?:log|index|timeindex|txnindex|snapshot|checkpoint)(?:\.deleted|\.cleaned|\.swap)?"
    r"|(?:leader-epoch|recovery-point-offset|replication-offset|log-start-offset|cleaner-offset)-checkpoint"
    r"|partition\.metadata|meta\.properties|bootstrap\.checkpoint|quorum-state|\.kafka_cleanshutdown|\.lock"
)
_ENDING: Final = re.compile(r"\.[a-zA-Z][a-zA-Z0-9]{0,4}")
_PARQUET: Final = b"PAR1"


class Walk:
    """The files of a folder, or one file. `source` names it in places; `prefix` is the deployment's on Kafka."""

    def __init__(self, root: Path, source: str, prefix: str = "") -> None:
        self._root, self._source, self._prefix = root, source, prefix

    def found(self) -> Iterator[Found]:
        """Everything in it. Links are not followed; what is no regular file holds nothing."""
        for number, path in enumerate(self._paths(), 1):
            own = str(path.relative_to(self._root.parent)).encode("utf-8", "surrogateescape")
            yield Chunk(Place(self._source, "file", "names"), own)
            name = path.name if _OWN.fullmatch(path.name) else f"{number}{_ending(path)}"
            yield from self._file(path, name)

    def _paths(self) -> list[Path]:
        if not self._root.is_dir():
            return [self._root]
        return sorted(path for path in self._root.rglob("*") if path.is_file() and not path.is_symlink())

    def _file(self, path: Path, name: str) -> Iterator[Found]:
        place = Place(self._source, "file", name)
        file = str(sqlite.belongs_to(path))
        try:
            with path.open("rb") as stream:
                head = stream.read(HEAD_BYTES)
                stream.seek(0)
                in_pages = head.startswith((sqlite.MAGIC, *sqlite.WAL_MAGICS))
                yield from windows(place, _pieces(stream), file, PAGE_BYTES if in_pages else CUT_BYTES_MAX)
            yield from self._values(path, head, place, file)
        except FileNotFoundError:
            return  # it went since: a segment, a compacted table
        except OSError:
            yield Unread(place, "the file cannot be read")

    def _values(self, path: Path, head: bytes, place: Place, file: str) -> Iterator[Found]:
        """What a file says in its own format. SQLite's locks bear no other reader in this process: raw bytes are read before."""
        if head.startswith(sqlite.MAGIC):
            yield from sqlite.cells(path, self._source, file)
        elif segments.NAME.fullmatch(path.name) and segments.FOLDER.fullmatch(path.parent.name):
            topic = segments.topic_of(path.parent.name, self._prefix)
            yield from segments.segment(path, self._source, topic, file)
        elif head.startswith(rdb.MAGIC):
            yield from rdb.dump(path, self._source, file)
        elif sst.is_table(path):
            yield from sst.table(path, self._source, file)
        elif path.name.startswith("MANIFEST-") or (path.suffix == ".log" and path.with_name("CURRENT").exists()):
            for record in sst.log_records(path):
                yield from windows(place, [record], file)
        else:
            with path.open("rb") as stream:
                yield from _unwrapped(stream, place, file, 1)


def _unwrapped(stream: BinaryIO, place: Place, file: str, depth: int) -> Iterator[Found]:
    """What a compressed file or an archive holds, in windows."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    inner = place._replace(name=f"{place.name} unpacked")
    make = packed(head)
    if make is not None:
        try:
            yield from windows(inner, unpacked(_pieces(stream), make))
        except Unreadable:
            yield Unread(place, "a compressed file is damaged")
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _archive(stream, inner, depth)
    elif head.startswith(_PARQUET):
        yield Unread(place, "the pages of a Parquet file may be compressed: give it unpacked as well")


def _archive(stream: BinaryIO, place: Place, depth: int) -> Iterator[Found]:
    """The members of a zip file."""
    try:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                yield from windows(place, [member.filename.encode(), member.comment])
                with archive.open(member) as inside:
                    yield from windows(place, iter(lambda: inside.read(PIECE_BYTES), b""))
                if depth < ARCHIVE_DEPTH_MAX:
                    with archive.open(member) as inside:
                        yield from _unwrapped(inside, place, "", depth + 1)  # type: ignore[arg-type]
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, OSError, EOFError):
        yield Unread(place, "an archive is damaged, encrypted or of a form that is not known here")


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(PIECE_BYTES), b"")


def _ending(path: Path) -> str:
    return path.suffix.lower() if _ENDING.fullmatch(path.suffix) else ""
