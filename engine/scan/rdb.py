"""What is in Redis: every string of an RDB file, those that LZF has compressed included, and every key of a running server.

Source: Redis' `rdb.c` and `rdb.h`, versions of the file up to 13. Small collections stand in an RDB file as one packed string, in
which their members stand as they are. A type that is not known here ends the reading, and is told of: its bytes are searched raw.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from engine.scan.chunks import Chunk, Found, Place, Unread, state_place
from engine.scan.faults import Unreadable
from engine.scan.unpack import UNPACKED_BYTES_MAX, lzf

MAGIC: Final = b"REDIS"
SCAN_COUNT: Final = 1_000
_OURS: Final = re.compile(rb"consentinel:(?:(?:unit|keys):(?P<task>[a-z_]{1,40})/[0-9]+|(?P<board>board):.*)", re.DOTALL)
_EOF, _SELECT, _EXPIRE, _EXPIRE_MS, _RESIZE, _AUX = 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA
_FREQUENCY, _IDLE, _FUNCTION, _SLOT = 0xF9, 0xF8, 0xF5, 0xF4
_ONE_STRING: Final = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})  # a string, or a collection that is packed in one
_LISTS: Final = frozenset({1, 2, 14})
_SCORED, _SCORED_BINARY, _HASH, _QUICKLIST, _HASH_TTL_OLD, _PACKED_TTL_OLD, _HASH_TTL, _PACKED_TTL = 3, 5, 4, 18, 22, 23, 24, 25
_STREAMS: Final = frozenset({15, 19, 21})


def redis_place(source: str, key: bytes, member: bytes = b"", deployment: str = "") -> Place:
    """Where a value of Redis stands (`connectors/redis/layout.py`): by kind of state where it is a copy of a unit."""
    match = _OURS.fullmatch(key.removeprefix(deployment.encode())) or _OURS.search(key)
    if match is None:
        return Place(source, "key", "other")
    if match["board"]:
        return Place(source, "key", "board")
    if member in (b"", b"\0") or member.startswith(b"\0"):
        return Place(source, "key", "unit")
    return state_place(source, match["task"].decode(), member)


class _Reader:
    """An RDB file as the sequence of its strings, each with the key it is of and what it belongs to."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._key = b""

    def octets(self, count: int) -> bytes:
        if count > UNPACKED_BYTES_MAX:
            raise Unreadable("a string without end")
        data = self._stream.read(count)
        if len(data) < count:
            raise Unreadable("cut off")
        return data

    def length(self) -> tuple[int, bool]:
        """(length, whether it is a special encoding's number instead)."""
        head = self.octets(1)[0]
        if head >> 6 == 0:
            return head & 63, False
        if head >> 6 == 1:
            return (head & 63) << 8 | self.octets(1)[0], False
        if head >> 6 == 3:
            return head & 63, True
        return int.from_bytes(self.octets(8 if head & 1 else 4), "big"), False

    def string(self) -> bytes:
        size, special = self.length()
        if not special:
            return self.octets(size)
        if size < 3:
            return str(int.from_bytes(self.octets(1 << size), "little", signed=True)).encode()
        if size != 3:
            raise Unreadable("another encoding")
        packed, (whole, _) = self.length()[0], self.length()
        if whole > UNPACKED_BYTES_MAX:
            raise Unreadable("a string without end")
        return lzf(self.octets(packed), whole)

    def pairs(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(key, member or field, value or nothing) of everything. Raises `Unreadable`."""
        self.octets(9)
        while (code := self.octets(1)[0]) != _EOF:
            if code in (_AUX, _FUNCTION):
                yield b"", b"", self.string()
                if code == _AUX:
                    yield b"", b"", self.string()
            elif code in (_SELECT, _RESIZE, _IDLE, _SLOT):
                for _ in range({_RESIZE: 2, _SLOT: 3}.get(code, 1)):
                    self.length()
            elif code in (_EXPIRE, _EXPIRE_MS, _FREQUENCY):
                self.octets({_EXPIRE: 4, _EXPIRE_MS: 8}.get(code, 1))
            else:
                self._key = self.string()
                yield self._key, b"", self._key
                yield from ((self._key, *pair) for pair in self._value(code))

    def _value(self, code: int) -> Iterator[tuple[bytes, bytes]]:
        if code in (_PACKED_TTL, _HASH_TTL):
            self.octets(8)
        if code in _ONE_STRING or code in (_PACKED_TTL_OLD, _PACKED_TTL):
            yield b"", self.string()
            return
        count = self.length()[0]
        if code in _LISTS:
            yield from (_member(self.string()) for _ in range(count))
        elif code in (_HASH, _HASH_TTL, _HASH_TTL_OLD):
            for _ in range(count):
                if code != _HASH:
                    self.length()
                field = self.string()
                yield field, self.string()
        elif code == _SCORED_BINARY:
            for _ in range(count):
                yield _member(self.string())
                self.octets(8)
        elif code == _SCORED:
            for _ in range(count):
                yield _member(self.string())
                size = self.octets(1)[0]
                self.octets(size if size < 253 else 0)
        elif code == _QUICKLIST:
            for _ in range(count):
                self.length()
                yield b"", self.string()
        else:
            raise Unreadable("a stream, or a module's value" if code in _STREAMS else "another type")


def _member(member: bytes) -> tuple[bytes, bytes]:
    return member, b""


def dump(path: Path, source: str, file: str) -> Iterator[Found]:
    """Every string of an RDB file."""
    try:
        with path.open("rb") as stream:
            for key, member, value in _Reader(stream).pairs():
                place = redis_place(source, key, member)
                yield from (Chunk(place, part, file=file) for part in (member, value) if part)
    except Unreadable:
        yield Unread(Place(source, "key", "other"), "the RDB file is damaged, or holds a type that is not known here")


def server(client: Any, prefix: str) -> Iterator[Found]:
    """Every key of a running server that begins with `prefix`, by SCAN; `client` is redis-py's. Raises its errors."""
    wanted = re.sub(r"([*?\[\]\\^])", r"\\\1", prefix) + "*"
    for key in client.scan_iter(match=wanted, count=SCAN_COUNT):
        yield Chunk(redis_place("redis", key, deployment=prefix), key)
        kind = client.type(key)
        members = _MEMBERS.get(kind)
        if members is None:
            if kind != b"none":  # it went in between
                yield Unread(redis_place("redis", key, deployment=prefix), "a type of Redis that is not known here")
            continue
        for member, value in members(client, key):
            place = redis_place("redis", key, member, prefix)
            yield from (Chunk(place, part) for part in (member, value) if part)


def _entries_of_stream(client: Any, key: bytes) -> Iterator[tuple[bytes, bytes]]:
    last = "-"
    while entries := client.xrange(key, min=last, count=SCAN_COUNT):
        for _, fields in entries:
            yield from ((b"", part) for pair in fields.items() for part in pair)
        last = f"({entries[-1][0].decode()}"


_MEMBERS: Final[dict[bytes, Callable[[Any, bytes], Iterator[tuple[bytes, bytes]]]]] = {
    b"string": lambda client, key: iter([(b"", client.get(key) or b"")]),
    b"hash": lambda client, key: client.hscan_iter(key, count=SCAN_COUNT),
    b"set": lambda client, key: ((member, b"") for member in client.sscan_iter(key, count=SCAN_COUNT)),
    b"zset": lambda client, key: ((member, b"") for member, _ in client.zscan_iter(key, count=SCAN_COUNT)),
    b"list": lambda client, key: ((b"", value) for value in client.lrange(key, 0, -1)),
    b"stream": _entries_of_stream,
}
