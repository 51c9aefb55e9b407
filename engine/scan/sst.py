"""Every entry of a RocksDB table file, also of one that no manifest names and of versions that a later file supersedes.

RocksDB's own reader shows the newest version of a key, and only what its manifest knows. So the file is read here: block-based
tables of format versions 2 to 6, blocks with all of RocksDB's codecs but XPRESS. Sources: RocksDB's `table/format.cc`,
`table/block_based/block.cc`, `db/log_format.h`.
"""

import bz2
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from engine.scan.chunks import Chunk, Found, Place, Unread, state_place
from engine.scan.faults import Unreadable
from engine.scan.unpack import UNPACKED_BYTES_MAX, inflate, lz4_block, snappy, varint
from engine.scan.zstd import zstd

MAGIC: Final = (0x88E241B785F4CFF7).to_bytes(8, "little")
FOOTER_BYTES: Final = 53
TRAILER_BYTES: Final = 5  # codec and checksum
OWN_BYTES: Final = 8  # what RocksDB puts after a key: its sequence number and type
BLOCK_BYTES_MAX: Final = 64 << 20
_EXTENDED: Final = b"\x3e\0\x7a\0"
LOG_BLOCK_BYTES: Final = 32 << 10
RECORD_BYTES_MAX: Final = 64 << 20


class Handle(NamedTuple):
    """Where a block stands in its file."""

    offset: int
    size: int


def _sized(unpack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A codec whose blocks begin with their length before."""

    def unpacked(data: bytes) -> bytes:
        size, at = varint(data, 0)
        if size > UNPACKED_BYTES_MAX:
            raise Unreadable("larger than anything we write")
        return unpack(data[at:])

    return unpacked


def _bzip2(data: bytes) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(data, UNPACKED_BYTES_MAX)
    except OSError:
        raise Unreadable("no bzip2 stream") from None


def _lz4(data: bytes) -> bytes:
    return bytes(lz4_block(data))


def _raw_deflate(data: bytes) -> bytes:
    return inflate(data, -15)


_CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {
    0: bytes, 1: snappy, 2: _sized(_raw_deflate), 3: _sized(_bzip2), 4: _sized(_lz4), 5: _sized(_lz4), 7: _sized(zstd),
}  # fmt: skip


def is_table(path: Path) -> bool:
    """Whether a file ends as a block-based table does."""
    with path.open("rb") as stream:
        stream.seek(0, 2)
        if stream.tell() < FOOTER_BYTES:
            return False
        stream.seek(-8, 2)
        return stream.read(8) == MAGIC


def table(path: Path, source: str, file: str) -> Iterator[Found]:
    """Every key and every value of a table, in whatever version; deletions are tombstones."""
    unread = Unread(Place(source, "state", "other"), "a table file is damaged, or of a form that is not known here")
    try:
        with path.open("rb") as stream:
            version, index = _index(stream)
            for handle in _handles(_block(stream, index), version):
                try:
                    for key, value, deleted in _pairs(_block(stream, handle)):
                        place = state_place(source, "", key)._replace(tombstone=deleted)
                        yield from (Chunk(place, part, file=file) for part in (key, value) if part)
                except (Unreadable, IndexError):
                    yield unread
    except (Unreadable, IndexError, struct.error):
        yield unread


def _index(stream: BinaryIO) -> tuple[int, Handle]:
    """(format version, where the index stands)."""
    end = stream.seek(-FOOTER_BYTES, 2)
    footer = stream.read(FOOTER_BYTES)
    version = int.from_bytes(footer[41:45], "little")
    if footer[45:] != MAGIC or version < 2:
        raise Unreadable("an older form")
    if version < 6:
        _, at = _handle(footer, 1)
        return version, _handle(footer, at)[0]
    size = int.from_bytes(footer[13:17], "little")
    if footer[1:5] != _EXTENDED:
        raise Unreadable("another form")
    for key, value, _ in _entries(_block(stream, Handle(end - TRAILER_BYTES - size, size))):
        if key == b"rocksdb.index":
            return version, _handle(value, 0)[0]
    raise Unreadable("a table without index")


def _handle(data: bytes, at: int) -> tuple[Handle, int]:
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return Handle(offset, size), at


def _block(stream: BinaryIO, handle: Handle) -> bytes:
    if handle.size > BLOCK_BYTES_MAX:
        raise Unreadable("a block without end")
    stream.seek(handle.offset)
    data = stream.read(handle.size + TRAILER_BYTES)
    codec = _CODECS.get(data[handle.size]) if len(data) == handle.size + TRAILER_BYTES else None
    if codec is None:
        raise Unreadable("a block beyond the end, or of a codec that is not known")
    return codec(data[: handle.size])


def _end_of_entries(block: bytes) -> int:
    """Where a block's restart points begin."""
    packed = int.from_bytes(block[-4:], "little")
    end = len(block) - 4
    if packed >> 31:  # with a hash index: its buckets, and how many
        end -= 2 + int.from_bytes(block[-6:-4], "little")
    end -= 4 * (packed & 0x0FFF_FFFF)
    if end < 0:
        raise Unreadable("a block that does not add up")
    return end


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(key, value, whether the key shares its beginning with the one before)."""
    end, at, key = _end_of_entries(block), 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or at + own + size > end:
            raise Unreadable("an entry beyond its end")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + size], shared > 0
        at += own + size


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(key, value, whether it is a deletion), as they were written."""
    for key, value, _ in _entries(block):
        if len(key) < OWN_BYTES:
            raise Unreadable("a key without a number")
        yield key[:-OWN_BYTES], value, key[-OWN_BYTES] in (0, 7)


def _handles(block: bytes, version: int) -> Iterator[Handle]:
    """The blocks that an index names. From version 4 on its values have no length, and may be told by their difference."""
    if version < 4:
        yield from (_handle(value, 0)[0] for _, value, _ in _entries(block))
        return
    end, at, last = _end_of_entries(block), 0, Handle(0, 0)
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        at += own
        if shared:
            change, at = varint(block, at)
            last = Handle(last.offset + last.size + TRAILER_BYTES, last.size + ((change >> 1) ^ -(change & 1)))
        else:
            last, at = _handle(block, at)
        yield last


def log_records(path: Path) -> Iterator[bytes]:
    """The records of a write-ahead log or a manifest, put together from their fragments; what is broken is left out."""
    joined = b""
    with path.open("rb") as stream:
        while block := stream.read(LOG_BLOCK_BYTES):
            at = 0
            while at + 7 <= len(block):
                size, kind = int.from_bytes(block[at + 4 : at + 6], "little"), block[at + 6]
                head = 11 if kind >= 5 else 7  # a recycled log repeats its number
                part = block[at + head : at + head + size]
                at += head + size
                if kind in (1, 2, 5, 6):
                    joined = b""
                if not kind or len(joined) + len(part) > RECORD_BYTES_MAX:
                    break
                joined += part
                if kind in (1, 4, 5, 8) and joined:
                    yield joined
                    joined = b""
