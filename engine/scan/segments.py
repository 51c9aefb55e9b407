"""Records in Kafka's log segments, inside their compressed batches: record batches of version 2, read from the file itself.

Source: Kafka's documentation, "Message Format". Control batches and records of aborted transactions are read like all others.
"""

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from engine.scan.chunks import Chunk, Found, Place, Unread, state_place
from engine.scan.faults import Unreadable
from engine.scan.unpack import gzip, lz4, snappy, varint
from engine.scan.zstd import zstd

NAME: Final = re.compile(r"[0-9]{20}\.log(?:\.deleted|\.cleaned|\.swap)?")
FOLDER: Final = re.compile(r"(?P<topic>[a-zA-Z0-9._-]{1,249})-[0-9]+(?:\.[0-9a-zA-Z_-]{1,32}-(?:delete|future|stray))?")
CHANGELOG: Final = "changelog."
HEAD_BYTES: Final = 61
BATCH_BYTES_MAX: Final = 256 << 20
_HEAD: Final = struct.Struct(">qiiBIhiqqqhii")
_CODECS: Final[dict[int, Callable[[bytes], bytes]]] = {0: bytes, 1: gzip, 2: snappy, 3: lz4, 4: zstd}
DAMAGED: Final = "a record batch is damaged, or of a form that is not known here"


class Record(NamedTuple):
    """A record's key and value, either of which may be null, and the names and values of its headers, joined."""

    key: bytes | None
    value: bytes | None
    headers: bytes


def topic_of(folder: str, prefix: str) -> str:
    """The topic whose partition a folder is, without the deployment's prefix."""
    match = FOLDER.fullmatch(folder)
    return "other" if match is None else match["topic"].removeprefix(prefix)


def record_chunks(source: str, topic: str, record: Record, file: str = "") -> Iterator[Chunk]:
    """A record's parts and where they stand: a changelog's by kind of state, others by topic."""
    if topic.startswith(CHANGELOG):
        place = state_place(source, topic.removeprefix(CHANGELOG), record.key or b"")._replace(tombstone=record.value is None)
    else:
        place = Place(source, "log", topic, record.value is None)
    for part in (record.key, record.value, record.headers):
        if part:
            yield Chunk(place, part, file=file)


def segment(path: Path, source: str, topic: str, file: str) -> Iterator[Found]:
    """Every record of a segment. A batch that cannot be read is told of, and the next one is read."""
    with path.open("rb") as stream:
        while True:
            try:
                body = _batch(stream)
            except Unreadable:
                yield Unread(Place(source, "log", topic), DAMAGED)
                return  # where the next one begins is not known
            if body is None:
                return
            try:
                for record in records(*body):
                    yield from record_chunks(source, topic, record, file)
            except (Unreadable, KeyError):
                yield Unread(Place(source, "log", topic), DAMAGED)


def _batch(stream: BinaryIO) -> tuple[int, int, bytes] | None:
    """(attributes, count, records) of the next batch; None at the end, also where only zeros follow. Raises `Unreadable`."""
    head = stream.read(HEAD_BYTES)
    if not head.strip(b"\0"):
        return None
    if len(head) < HEAD_BYTES:
        raise Unreadable("cut off")
    fields = _HEAD.unpack(head)
    length, magic, attributes, count = fields[1], fields[3], fields[5], fields[12]
    body = length - (HEAD_BYTES - 12)
    if magic != 2 or not 0 <= body <= BATCH_BYTES_MAX:
        raise Unreadable("another form")
    data = stream.read(body)
    if len(data) < body:
        raise Unreadable("cut off")
    return attributes, count, data


def records(attributes: int, count: int, body: bytes) -> Iterator[Record]:
    """The records of one batch. Raises `Unreadable`, and `KeyError` for a codec that does not exist."""
    data = _CODECS[attributes & 7](body)
    at = 0
    for _ in range(count):
        length, at = _zigzag(data, at)
        end = at + length
        if length < 0 or end > len(data):
            raise Unreadable("a record beyond its end")
        _, at = _zigzag(data, at + 1)
        _, at = _zigzag(data, at)
        key, at = _octets(data, at)
        value, at = _octets(data, at)
        headers, at = _zigzag(data, at)
        joined = b""
        for _ in range(2 * max(0, min(headers, len(data)))):
            part, at = _octets(data, at)
            joined += part or b""
        yield Record(key, value, joined)
        at = end


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _octets(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _zigzag(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise Unreadable("a part beyond its end")
    return data[at : at + length], at + length
