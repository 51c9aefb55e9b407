"""Decompression, bounds-checked and with nothing but the standard library: of what Kafka, RocksDB and Redis compress with.

Every function takes one compressed value and gives it whole, or raises `Unreadable`: what cannot be read is not clean.
Sources: Snappy's `format_description.txt`, LZ4's block and frame formats 1.6, liblzf's `lzf_d.c`; Zstandard is in `zstd.py`.
"""

import zlib

from engine.scan.faults import Unreadable

UNPACKED_BYTES_MAX = 256 << 20  # of one value; a record batch has at most some MiB, a bomb has no end
_XERIAL = b"\x82SNAPPY\0"  # how Kafka's Java clients frame snappy: blocks with their lengths
_LZ4_FRAME = b"\x04\x22\x4d\x18"
LITERAL_CHUNKS = 60  # Snappy: a longer literal has its length in the octets that follow


def varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends) of an unsigned LEB128 number. Raises `Unreadable`."""
    value = shift = 0
    while True:
        try:
            octet = data[at]
        except IndexError:
            raise Unreadable("a number goes beyond its end") from None
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise Unreadable("a number without end")


def copy_back(out: bytearray, distance: int, length: int) -> None:
    """Append `length` octets from `distance` back; they may overlap with what is being written. Raises `Unreadable`."""
    start = len(out) - distance
    if distance <= 0 or start < 0 or len(out) + length > UNPACKED_BYTES_MAX:
        raise Unreadable("a copy from before the beginning, or without end")
    if distance >= length:
        out += out[start : start + length]
    else:
        seed = bytes(out[start:])
        out += (seed * (length // distance + 1))[:length]


def _take(data: bytes, at: int, length: int) -> bytes:
    if length < 0 or at + length > len(data):
        raise Unreadable("a piece goes beyond its end")
    return data[at : at + length]


def snappy(data: bytes) -> bytes:
    """A raw Snappy block, or several in the frame of Kafka's Java clients."""
    if not data.startswith(_XERIAL):
        return _snappy_block(data)
    out, at = bytearray(), 16
    while at < len(data):
        size = int.from_bytes(_take(data, at, 4), "big")
        out += _snappy_block(_take(data, at + 4, size))
        at += 4 + size
    return bytes(out)


def _snappy_block(data: bytes) -> bytes:
    size, at = varint(data, 0)
    if size > UNPACKED_BYTES_MAX:
        raise Unreadable("larger than anything we write")
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        kind = tag & 3
        if kind == 0:
            length = tag >> 2
            if length >= LITERAL_CHUNKS:
                octets = length - LITERAL_CHUNKS + 1
                length = int.from_bytes(_take(data, at, octets), "little")
                at += octets
            out += _take(data, at, length + 1)
            at += length + 1
            continue
        octets = (0, 1, 2, 4)[kind]
        distance = int.from_bytes(_take(data, at, octets), "little")
        at += octets
        length = (tag >> 2) + 1
        if kind == 1:
            distance |= tag >> 5 << 8
            length = (tag >> 2 & 7) + 4
        copy_back(out, distance, length)
    if len(out) != size:
        raise Unreadable("another length than it says")
    return bytes(out)


def lz4_block(data: bytes, out: bytearray | None = None) -> bytearray:
    """A raw LZ4 block; `out` holds what came before in its frame, which it may copy from and is appended to."""
    out = bytearray() if out is None else out
    at = 0
    while at < len(data):
        token = data[at]
        length, at = _lz4_length(data, at + 1, token >> 4)
        out += _take(data, at, length)
        at += length
        if at == len(data):  # the last sequence is literals alone
            break
        distance = int.from_bytes(_take(data, at, 2), "little")
        length, at = _lz4_length(data, at + 2, token & 15)
        copy_back(out, distance, length + 4)
    return out


def _lz4_length(data: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while True:
            more = _take(data, at, 1)[0]
            at += 1
            length += more
            if more != 255:
                break
    return length, at


def lz4(data: bytes) -> bytes:
    """An LZ4 frame, or several. Checksums are not looked at: what is damaged may still be read."""
    whole, at = bytearray(), 0
    while at < len(data):
        if not data.startswith(_LZ4_FRAME, at):
            raise Unreadable("no LZ4 frame")
        flags = _take(data, at + 4, 1)[0]
        at += 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)  # flags, block size, header checksum; size; dictionary
        linked, out = not flags & 0x20, bytearray()
        while size := int.from_bytes(_take(data, at, 4), "little"):
            block = _take(data, at + 4, size & 0x7FFF_FFFF)
            at += 4 + len(block) + (4 if flags & 0x10 else 0)
            if size >> 31:
                out += block
            elif linked:
                lz4_block(block, out)
            else:
                out += lz4_block(block)
        at += 4 + (4 if flags & 4 else 0)
        whole += out
    return bytes(whole)


def lzf(data: bytes, size: int) -> bytes:
    """A string that Redis compressed in an RDB file; `size` is its length before."""
    out, at = bytearray(), 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += _take(data, at, control + 1)
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += _take(data, at, 1)[0]
            at += 1
        copy_back(out, ((control & 31) << 8 | _take(data, at, 1)[0]) + 1, length + 2)
        at += 1
    if len(out) != size:
        raise Unreadable("another length than it says")
    return bytes(out)


def inflate(data: bytes, window_bits: int) -> bytes:
    """DEFLATE: `window_bits` 31 for gzip (all members of it), 15 for zlib, -15 for neither's frame."""
    out = bytearray()
    while data:
        packed = zlib.decompressobj(window_bits)
        try:
            out += packed.decompress(data, UNPACKED_BYTES_MAX - len(out) + 1)
        except zlib.error:
            if out:  # padding, or something else, after the last member
                break
            raise Unreadable("no DEFLATE stream") from None
        if len(out) > UNPACKED_BYTES_MAX or not packed.eof:
            raise Unreadable("larger than anything we write, or cut off")
        data = packed.unused_data if window_bits == 31 else b""
    return bytes(out)


def gzip(data: bytes) -> bytes:
    """All members of a gzip file."""
    return inflate(data, 31)
