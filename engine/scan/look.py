"""The search itself: two passes over all sources, the first for keys, the second for needles in all that can be opened.

Bounded: a window of a file, or one value, is in memory at a time, and what was unwrapped of it. Data keys are kept by commitment
(32 octets and the expanded key), so their number is what a scan's memory grows with.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from engine.scan.chunks import KEPT_KINDS, Chunk, Found, Place, Unread, kind_after
from engine.scan.needles import Hit, Needles
from engine.scan.tokens import WRAPPED, Opener
from engine.scan.views import decoded, unescaped

DEPTH_MAX: Final = 6  # a token in base64 in an opened token in a quarantined record in …
RAW_PER_VALUE: Final = 2  # its key in a block of a table, and in the table's index
ESCAPES_MAX: Final = 3  # JSON in JSON in JSON

How = tuple[str, ...]
Sources = Callable[[], Iterable[Found]]


class At(NamedTuple):
    """Where a needle was found: its number, the place, and through what one gets there (`opened`, `base64` …)."""

    needle: int
    place: Place
    how: How


class Looked(NamedTuple):
    """What a search saw. `found`: how often, by where. `unread`: what could not be read, and how often."""

    found: Counter[At]
    unread: Counter[Unread]
    octets: Counter[str]  # by source
    values: int
    windows: int
    opener: Opener


class _Part(NamedTuple):
    """Bytes to search: the chunk's own, or what is in them."""

    data: bytes
    until: int
    cut: int | None
    how: How = ()


def look(needles: Needles, opener: Opener, sources: Sources) -> Looked:
    """Look for `needles` in everything that `sources` gives; it is called twice, and its contents may change between."""
    if opener.ring_keys:
        for chunk in sources():
            if isinstance(chunk, Chunk):
                for _ in _parts(_whole(chunk), opener):
                    pass
        opener.opened.clear()
    looked = Looked(Counter(), Counter(), Counter(), 0, 0, opener)
    values = windows = 0
    refs = {needle.number for needle in needles.all if needle.kind == "ref"}
    raw = _Raw(refs)
    for chunk in sources():
        if isinstance(chunk, Unread):
            looked.unread[chunk] += 1
            continue
        looked.octets[chunk.place.source] += len(chunk.data) if chunk.until is None else chunk.until
        values, windows = values + chunk.whole, windows + (not chunk.whole)
        for part in _parts(_whole(chunk), opener):
            for how, hits in _hits(needles, part):
                for hit in hits:
                    kind = kind_after(part.data, hit.end) if hit.number in refs and how == part.how else ""
                    raw.count(chunk, kind, At(hit.number, chunk.place, how), looked.found)
    raw.settle(looked.found)
    return looked._replace(values=values, windows=windows)


def _whole(chunk: Chunk) -> _Part:
    return _Part(chunk.data, len(chunk.data) if chunk.until is None else chunk.until, None if chunk.whole else chunk.cut)


def _parts(part: _Part, opener: Opener, depth: int = 0) -> Iterator[_Part]:
    """The part itself and everything inside it, as deep as anybody wraps."""
    yield part
    if depth == DEPTH_MAX:
        return
    for form, plain in opener.open(part.data, part.until, part.cut):
        if form == WRAPPED:
            opener.learn(plain)
        else:
            yield from _parts(_Part(plain, len(plain), None, (*part.how, "opened")), opener, depth + 1)
    for how, inner in decoded(part.data, part.until):
        yield from _parts(_Part(inner, len(inner), None, (*part.how, how)), opener, depth + 1)


def _hits(needles: Needles, part: _Part) -> Iterator[tuple[How, list[Hit]]]:
    """The needles in a part, as it stands and, where that shows more, with its escapes resolved."""
    plain = needles.within(part.data, part.until)
    yield part.how, plain
    resolved = unescaped(part.data)
    if resolved is None:
        return
    counts = Counter(hit.number for hit in plain)
    after = part.data[part.until :]
    for _ in range(ESCAPES_MAX):
        # Where the window ends in what is resolved is not known: what begins after it is counted apart and left to the next.
        beyond = Counter(hit.number for hit in needles.within(unescaped(after) or after)) if after else Counter[int]()
        found = needles.within(resolved)
        now = Counter(hit.number for hit in found) - beyond
        more = now - counts
        yield (*part.how, "escaped"), [Hit(number, 0, 0) for number in more.elements()]
        counts |= now
        again = unescaped(resolved)
        if again is None or again == resolved:
            return
        resolved, after = again, b""


class _Raw:
    """Refs in raw bytes of a file whose values were read as well: only those that no value explains say something new.

    A ref in a key of state says itself which kind of state it stands in; but compression may cut that short in a table's block,
    and its index names a shortened key where a block ends. So a value that may stay explains raw bytes that do not tell their
    kind, twice, less what other bytes tell to be that value's.
    """

    def __init__(self, refs: set[int]) -> None:
        self._refs = refs
        self._explained: Counter[tuple[str, int, How]] = Counter()
        self._kept: Counter[tuple[str, int, How]] = Counter()  # values that may stay, less the raw bytes that are theirs
        self._met: Counter[tuple[str, bool, At]] = Counter()

    def count(self, chunk: Chunk, kind: str, at: At, found: Counter[At]) -> None:
        """Take a hit: into `found`, or aside until `settle`. `kind`: of state, where a ref stands in a key of it."""
        if at.needle not in self._refs or not chunk.file:
            found[at] += 1
        elif kind in KEPT_KINDS:
            found[at if chunk.whole else at._replace(place=at.place._replace(kind="state", name=kind))] += 1
            self._kept[chunk.file, at.needle, at.how] += RAW_PER_VALUE if chunk.whole else -1
        elif chunk.whole:
            found[at] += 1
            self._explained[chunk.file, at.needle, at.how] += 1
        else:
            self._met[chunk.file, bool(kind), at] += 1

    def settle(self, found: Counter[At]) -> None:
        """Put into `found` what no value explains."""
        for (file, told, at), count in sorted(self._met.items(), key=lambda met: not met[0][1]):  # first what tells its kind
            left = count
            for values in (self._explained,) if told else (self._explained, self._kept):
                explained = min(left, max(0, values[file, at.needle, at.how]))
                values[file, at.needle, at.how] -= explained
                left -= explained
            if left:
                found[at] += left
