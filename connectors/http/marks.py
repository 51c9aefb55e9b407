"""A withdrawal that was answered 202 denies at once: deny-only marks stand until the tasks have folded it.

A mark is set before the append, so that nothing slips in between, and taken back when the append is known to have failed.
It goes when the beat of its ref's lane is past the time at which its record was durable. Who decides must look here first and
read the state afterwards: then either the mark is still here, or what it stands for is in the state.

On a cluster a withdrawal comes in by one door and the next call is decided at another. So a mark also goes on a board that all
doors read together with the state (`engine.deployment.Board`). Without the board a denial is appended all the same, because the
state will have it within seconds, but it is not answered 202: at other doors it does not hold at once. The 503 asks the
publisher to send it again, which changes nothing but the answer.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import monotonic
from uuid import uuid4

import msgspec

from engine.deployment import Board, Note, Unreachable
from processors.decide_use import BLOCKS
from processors.uses import Mark
from schemas.base import EventData
from schemas.events import ConsentChanged, SuppressionChanged

MARKS_MAX = 100_000  # some 50 MB; a beat a second takes a hundred thousand withdrawals a second to fill it
DENIALS = frozenset({"consent.withdrawn", "consent.refused", "suppression.added"})
ANY_USE = "*"


class Denial(msgspec.Struct, frozen=True, array_like=True):
    """What a mark says: these uses (`*`: all of them) are denied for what `mark` meets."""

    mark: Mark
    uses: tuple[str, ...] = (ANY_USE,)

    def stands_against(self, use: str) -> bool:
        """Whether it is about this use."""
        return ANY_USE in self.uses or use in self.uses


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Denial).decode


def denial_of(type_: str, event: EventData) -> Denial | None:
    """What an event denies at once; None for all that deny nothing."""
    if type_ not in DENIALS:
        return None
    if isinstance(event, ConsentChanged):
        return Denial(Mark(event.purposes, event.channels, event.brand))
    if isinstance(event, SuppressionChanged):
        return Denial(Mark(), tuple(sorted(BLOCKS.get(event.list, {}))))
    return Denial(Mark())


def posted(texts: Iterable[bytes], use: str) -> tuple[Mark, ...]:
    """The marks on a board that stand against a use. A note that this release cannot read stands against everything."""
    found: list[Mark] = []
    for text in texts:
        try:
            denial = _decode(text)
        except msgspec.DecodeError:
            denial = Denial(Mark())
        if denial.stands_against(use):
            found.append(denial.mark)
    return tuple(found)


class Entry:
    """One mark on one ref. `until_ms` is when its record was durable; infinite until that is known.

    `kept`: there was room for it here; without room every decision is blind while it stands.
    """

    __slots__ = ("denial", "kept", "lane", "note", "ref", "set_secs", "until_ms")

    def __init__(self, ref: str, denial: Denial, lane: int, *, kept: bool) -> None:
        self.ref, self.denial, self.lane, self.kept = ref, denial, lane, kept
        self.until_ms = inf
        self.set_secs = monotonic()
        self.note: Note | None = None  # on the board, once it is there


class Marks:
    """All marks of this door, bounded: without room for one, every decision is `blind` until its record is folded."""

    def __init__(
        self, marks_max: int = MARKS_MAX, lane: Callable[[str], int] = lambda ref: 0, board: Board | None = None
    ) -> None:  # fmt: skip
        self._marks_max, self._lane, self._board = marks_max, lane, board
        self._lock = threading.Lock()
        self._by_ref: dict[str, list[Entry]] = {}
        self._settled: dict[int, deque[Entry]] = {}
        self._count = 0
        self._unmarked = 0  # denials under way that found no room
        self._blind_until_ms = -inf

    def __len__(self) -> int:
        return self._count

    def add(self, type_: str, event: EventData, refs: Iterable[str]) -> list[Entry]:
        """Set the marks of one event at this door. Hand the list to `post`, then to `settle` or `withdraw`."""
        denial = denial_of(type_, event)
        if denial is None:
            return []
        made: list[Entry] = []
        with self._lock:
            for ref in {ref for ref in refs if ref}:
                entry = Entry(ref, denial, self._lane(ref), kept=self._count < self._marks_max)
                if entry.kept:
                    self._by_ref.setdefault(ref, []).append(entry)
                    self._count += 1
                else:
                    self._unmarked += 1
                made.append(entry)
        return made

    def post(self, entries: Sequence[Entry]) -> bool:
        """Tell the other doors, before the append; False when they cannot be told."""
        if self._board is None or not entries:
            return True
        notes = [Note(entry.ref, uuid4().hex, _encode(entry.denial)) for entry in entries]
        try:
            self._board.post(notes)
        except Unreachable:
            return False  # some may be there all the same: they can only deny, and end by themselves
        for entry, note in zip(entries, notes, strict=True):
            entry.note = note
        return True

    def settle(self, entries: Sequence[Entry], until_ms: int) -> None:
        """The records are durable, and every beat past `until_ms` includes them."""
        with self._lock:
            for entry in entries:
                if entry.kept:
                    entry.until_ms = until_ms
                    self._settled.setdefault(entry.lane, deque()).append(entry)
                else:
                    self._unmarked -= 1
                    self._blind_until_ms = max(self._blind_until_ms, until_ms)
        notes = [entry.note for entry in entries if entry.note is not None]
        if self._board is not None and notes:
            try:
                self._board.settle(notes, until_ms)
            except Unreachable:
                return  # what is not settled denies until it ends by itself

    def withdraw(self, entries: Sequence[Entry]) -> None:
        """The append did not happen and never will."""
        with self._lock:
            for entry in entries:
                if entry.kept:
                    self._drop(entry)
                else:
                    self._unmarked -= 1
        notes = [entry.note for entry in entries if entry.note is not None]
        if self._board is not None and notes:
            try:
                self._board.take_back(notes)
            except Unreachable:
                return

    def on(self, ref: str, use: str) -> tuple[Mark, ...]:
        """The marks of this door that stand against a use of this ref's data."""
        entries = self._by_ref.get(ref)
        if entries is None:
            return ()
        with self._lock:
            return tuple(entry.denial.mark for entry in entries if entry.denial.stands_against(use))

    def blind(self, beat_ms: int) -> bool:
        """Whether a denial is under way that has no mark: then nobody can be allowed anything."""
        return self._unmarked > 0 or beat_ms <= self._blind_until_ms

    def sweep(self, beat_ms: int, lane: int = 0) -> list[float]:
        """Drop the marks of a lane that its beat has passed; returns for how many seconds each of them stood."""
        stood: list[float] = []
        with self._lock:
            now = monotonic()
            settled = self._settled.get(lane)
            while settled and settled[0].until_ms < beat_ms:
                entry = settled.popleft()
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
