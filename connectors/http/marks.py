"""A withdrawal that was answered 202 denies at once: deny-only marks stand until the tasks have folded it.

A mark is set before the append, so that nothing slips in between, and taken back when the append is known to have failed.
It goes when the engine's beat is past the time at which its record was durable. Who decides must look here first and
read the state afterwards: then either the mark is still here, or what it stands for is in the state.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from time import monotonic

from processors.decide_use import BLOCKS, Mark
from schemas.base import EventData
from schemas.events import ConsentChanged, SuppressionChanged

MARKS_MAX = 100_000  # some 50 MB; a beat a second takes a hundred thousand withdrawals a second to fill it
DENIALS = frozenset({"consent.withdrawn", "consent.refused", "suppression.added"})


class Entry:
    """One mark on one ref. `until_ms` is when its record was durable; infinite until that is known."""

    __slots__ = ("mark", "ref", "set_secs", "until_ms", "uses")

    def __init__(self, ref: str, mark: Mark, uses: frozenset[str] | None) -> None:
        self.ref, self.mark, self.uses = ref, mark, uses
        self.until_ms = inf
        self.set_secs = monotonic()


class Marks:
    """All marks of this door, bounded: without room for one, every decision is `blind` until its record is folded."""

    def __init__(self, marks_max: int = MARKS_MAX) -> None:
        self._marks_max = marks_max
        self._lock = threading.Lock()
        self._by_ref: dict[str, list[Entry]] = {}
        self._settled: deque[Entry] = deque()
        self._count = 0
        self._unmarked = 0  # denials under way that found no room
        self._blind_until_ms = -inf

    def __len__(self) -> int:
        return self._count

    def add(self, type_: str, event: EventData, refs: Iterable[str]) -> "list[Entry | None]":
        """Set the marks of one event; None stands for one that found no room. Hand the list to `settle` or `withdraw`."""
        if type_ not in DENIALS:
            return []
        uses: frozenset[str] | None = None
        mark = Mark()
        if isinstance(event, ConsentChanged):
            mark = Mark(event.purposes, event.channels, event.brand)
        elif isinstance(event, SuppressionChanged):
            uses = frozenset(BLOCKS.get(event.list, {}))
        made: list[Entry | None] = []
        with self._lock:
            for ref in {ref for ref in refs if ref}:
                if self._count >= self._marks_max:
                    self._unmarked += 1
                    made.append(None)
                    continue
                entry = Entry(ref, mark, uses)
                self._by_ref.setdefault(ref, []).append(entry)
                self._count += 1
                made.append(entry)
        return made

    def settle(self, entries: Sequence[Entry | None], now_ms: int, seen_ms: int) -> None:
        """The records are durable since `now_ms`. A clock that was set back cannot end a mark.

        `seen_ms` is the latest time that a turn of the loop has begun at: only a turn after it can have read the record.
        """
        until_ms = max(now_ms, seen_ms)
        with self._lock:
            for entry in entries:
                if entry is None:
                    self._unmarked -= 1
                    self._blind_until_ms = max(self._blind_until_ms, until_ms)
                else:
                    entry.until_ms = until_ms
                    self._settled.append(entry)

    def withdraw(self, entries: Sequence[Entry | None]) -> None:
        """The append did not happen and never will."""
        with self._lock:
            for entry in entries:
                if entry is None:
                    self._unmarked -= 1
                else:
                    self._drop(entry)

    def on(self, ref: str, use: str) -> tuple[Mark, ...]:
        """The marks that stand against a use of this ref's data."""
        entries = self._by_ref.get(ref)
        if entries is None:
            return ()
        with self._lock:
            return tuple(entry.mark for entry in entries if entry.uses is None or use in entry.uses)

    def blind(self, beat_ms: int) -> bool:
        """Whether a denial is under way that has no mark: then nobody can be allowed anything."""
        return self._unmarked > 0 or beat_ms <= self._blind_until_ms

    def sweep(self, beat_ms: int) -> list[float]:
        """Drop the marks that the beat has passed; returns for how many seconds each of them stood."""
        stood: list[float] = []
        with self._lock:
            now = monotonic()
            while self._settled and self._settled[0].until_ms < beat_ms:
                entry = self._settled.popleft()
                self._drop(entry)
                stood.append(now - entry.set_secs)
        return stood

    def _drop(self, entry: Entry) -> None:
        entries = self._by_ref[entry.ref]
        # A new list, since a reader may hold the old one.
        left = [other for other in entries if other is not entry]
        if left:
            self._by_ref[entry.ref] = left
        else:
            del self._by_ref[entry.ref]
        self._count -= 1
