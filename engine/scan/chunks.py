"""What a source hands to a scan: some bytes, and where they stand, in words that name nobody."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from engine.scan.needles import EDGE_BYTES
from engine.scan.tokens import CUT_BYTES_MAX

WINDOW_BYTES: Final = 1 << 20
OVERLAP_BYTES: Final = CUT_BYTES_MAX + EDGE_BYTES  # of two windows: a token, or a spelling, that begins in one ends in it
_KINDS: Final = {b"k": "key", b"a": "alarm", b"t": "alarm", b"m": "frontier"}
_KIND: Final = re.compile(rb"[a-z_]{1,40}")


# Where a ref may stand once its person is forgotten (design, section 6): fences keep an erasure done, suppressions stay.
KEPT_KINDS: Final = frozenset({"fence", "fenced", "permissions"})  # `permissions` is the record that holds suppressions
KEPT_TOPICS: Final = frozenset({"suppression.state"})
EXPIRING_TOPICS: Final = frozenset({"erasure.notices", "media.orders"})  # they carry their own expiry, as tombstones do


class Place(NamedTuple):
    """Where bytes stand. `source`: `data`, `kafka` …; `kind`: `state`, `log`, `table`, `file` …; `name`: of the kind, or topic.

    `tombstone`: a record without a value, which goes by itself.
    """

    source: str
    kind: str
    name: str
    tombstone: bool = False


class Chunk(NamedTuple):
    """Some bytes and where they stood.

    `whole`: they are one value. Otherwise they are a window of a file: hits that begin at or after `until` are the next one's.
    `file` ties a file's raw bytes to the values that were read from it. `cut`: octets of a token, at most, in a window.
    """

    place: Place
    data: bytes
    whole: bool = True
    until: int | None = None
    file: str = ""
    cut: int = CUT_BYTES_MAX


class Unread(NamedTuple):
    """Something that should have been read and could not be; `why` is a text of ours."""

    place: Place
    why: str


Found = Chunk | Unread


def windows(place: Place, pieces: Iterable[bytes], file: str = "", cut: int = CUT_BYTES_MAX) -> Iterator[Chunk]:
    """A file's bytes in windows that overlap. `pieces` may be of any size."""
    held = b""
    for piece in pieces:
        held += piece
        while len(held) >= WINDOW_BYTES + OVERLAP_BYTES:
            yield Chunk(place, held[: WINDOW_BYTES + OVERLAP_BYTES], False, WINDOW_BYTES, file, cut)
            held = held[WINDOW_BYTES:]
    if held:
        yield Chunk(place, held, False, len(held), file, cut)


def state_place(source: str, task: str, key: bytes) -> Place:
    """Where a state record stands, by its key (`engine/layout.py`): its task, where that is known, and its kind."""
    name = _KINDS.get(key[:1], "other")
    if key[:1] == b"s":
        parts = key.split(b"\0", 2)
        name = parts[1].decode() if len(parts) > 2 and _KIND.fullmatch(parts[1]) else "other"
    return Place(source, "state", f"{task} {name}".strip())


def kind_after(data: bytes, end: int) -> str:
    """The kind of state in whose key a ref stands that ends at `end`; empty when it is no such key."""
    if data[end : end + 1] != b"\0":
        return ""
    match = _KIND.match(data, end + 1)
    return match[0].decode() if match is not None and data[match.end() : match.end() + 1] == b"\0" else ""
