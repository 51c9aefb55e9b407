"""Folds a log again, in memory, under a book of the law that is told: what it comes to, step by step, and which rules were asked.

Two replays of one log draw the same keys and the same random bytes, so whatever differs between them differs by the law.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from random import Random
from typing import Any, NamedTuple

import msgspec

from engine.context import Shared
from engine.deployment import Look, Reads
from engine.loop import CONTROLLERS, TaskLoop, plans
from engine.memory import MemoryRuntime
from engine.runtime import Output
from engine.secrets import Secrets
from engine.simulation.ring import SeededRing
from engine.topology import Topology, default_topology
from law.book import Book, Library
from law.rows import Row
from processors.kernel import Processor, State
from schemas.codec import decode, encode
from schemas.routed import Envelope
from schemas.topics import ControllerState

WATCHED = ("requests.state", "conversations.protected", "consent.state", "suppression.state", "breach.alerts")
RECORDS_MAX = 10_000
SEED = 0  # every replay draws the same keys and bytes; nothing that is sealed by them outlives the process
ALARM_TIMES_MAX = 100_000  # moments at which something rings between two events: more is a loop that never ends
# What names the law itself, or rests sealed: never part of a comparison.
PASSED_OVER = frozenset({"law_pack", "law"})


class Question(NamedTuple):
    """What was asked of the law."""

    rule: str
    place: str
    on: date


class Step(NamedTuple):
    """What one event, or the time before it, came to: values by (topic, key), None is a tombstone; and what was asked."""

    values: Mapping[tuple[str, str], dict[str, Any] | None]
    asked: frozenset[Question]


class Witness(Book):
    """A book that remembers what it was asked. Every version of every pack stands for the one it has."""

    def __init__(self, book: Book) -> None:
        super().__init__(book.packs, proposed=book.proposed)
        self.asked: set[Question] = set()

    def row(self, rule: str, place: str, on: date, *, proposed: bool = False) -> Row | None:
        """See `Book`."""
        self.asked.add(Question(rule, place, on))
        return super().row(rule, place, on, proposed=proposed)

    def first(self, rule: str, place: str) -> Row:
        """See `Book`. It was asked about the row's first day, as far as anybody can look it up."""
        row = super().first(rule, place)
        self.asked.add(Question(rule, place, row.valid_from))
        return row

    def offers(self, chosen: Mapping[str, str]) -> bool:
        """What the log's controllers chose does not matter here."""
        return True


class _OneBook(Library):
    """A library with one book, whatever is chosen."""

    def __init__(self, book: Book) -> None:
        self._one = book
        super().__init__(book.packs)

    def book(self, chosen: Mapping[str, str]) -> Book:
        """The book."""
        return self._one


class _Ring(SeededRing):
    """Keys from the seed; where the log's own pepper is known, its refs stay what they are."""

    def __init__(self, random: Callable[[int], bytes], pepper: Callable[[str], bytes] | None) -> None:
        super().__init__(random)
        self._pepper = pepper

    def pepper(self, controller: str) -> bytes:
        """See `Keys`."""
        return super().pepper(controller) if self._pepper is None else self._pepper(controller)


class Replay(Reads):
    """One replay. `now_ms` is the time of what was folded last. It is a deployment as far as decisions look at one."""

    failed: str | None = None
    ready = True

    def __init__(
        self, book: Book, processors: Mapping[str, Processor], *, topology: Topology | None = None,
        settings: Iterable[ControllerState] = (), pepper: Callable[[str], bytes] | None = None,
    ) -> None:  # fmt: skip
        topology, octets = topology or default_topology(), Random(SEED).randbytes  # noqa: S311 -- see SEED
        self.book, self.now_ms = Witness(book), 0
        self._runtime = MemoryRuntime(topology.topic_specs(), topology.task_specs())
        super().__init__(self._runtime, topology, Secrets(_Ring(octets, pepper), octets))
        self._shared = Shared(self.secrets, topology, library=_OneBook(self.book))
        self._loop = TaskLoop(self._runtime, plans(topology, processors), self._shared, lambda: self.now_ms)
        self._read: dict[tuple[str, int], int] = {}
        self._runtime.append([Output(CONTROLLERS, s.controller.encode(), encode(s)) for s in settings], 0)

    def fold(self, topic: str, key: str, envelope: Envelope) -> Step:
        """Ring what is due by the event's receipt, then fold the event."""
        self.pass_time(envelope.receipt_ms)
        data = self.secrets.seal_raw(topic, encode(envelope), self.now_ms)
        self._runtime.append([Output(topic, key.encode(), data)], self.now_ms)
        self._loop.drain()
        return self.take()

    def pass_time(self, until_ms: int) -> None:
        """Ring every alarm that is due by then, each at its time."""
        for _ in range(ALARM_TIMES_MAX):
            due_ms = self._loop.next_alarm_ms()
            if self.now_ms == 0 or due_ms is None or due_ms > until_ms:
                self.now_ms = max(self.now_ms, until_ms)
                return
            self.now_ms = max(self.now_ms, due_ms)
            self._loop.drain()
        raise AssertionError("alarms that never end")

    def take(self) -> Step:
        """What came out since this was last asked, and what was asked of the law."""
        values: dict[tuple[str, str], dict[str, Any] | None] = {}
        for topic in WATCHED:
            for partition in range(self.topology.topics[topic].partitions):
                at = (topic, partition)
                while records := self._runtime.read(topic, partition, self._read.get(at, 0), RECORDS_MAX):
                    self._read[at] = records[-1].offset + 1
                    values |= {(topic, r.key.decode()): None if r.value is None else _plain(decode(r.value)) for r in records}
        asked, self.book.asked = frozenset(self.book.asked), set()
        return Step(values, asked)

    @property
    def refused(self) -> int:
        """Events that went to quarantine."""
        return sum(n for name, n in self._shared.counts.items() if name[0] == "quarantined")

    # What decisions look at -----------------------------------------------------------------------------------------------------

    def clock(self) -> int:
        """The time of the log."""
        return self.now_ms

    def beat_ms(self) -> int:
        """Everything is folded."""
        return self.now_ms

    def settings(self, controller: str) -> ControllerState:
        """The controller's settings in force."""
        return self._shared.settings_of(controller)

    def law(self, controller: str) -> Book:
        """The book."""
        return self.book

    def look(self, owners: Sequence[str], kinds: Sequence[type[State]]) -> list[Look]:
        """What each dossier holds."""
        return [Look(self.now_ms, tuple(self.record("subject", owner, kind) for kind in kinds)) for owner in owners]

    def append(self, topic: str, key: str, value: bytes) -> None:
        """Decisions of a replay stand nowhere."""


def _plain(record: Any) -> dict[str, Any]:
    """A record as plain values, without sealed bytes and without the names of packs."""
    built = msgspec.to_builtins(record, builtin_types=(bytes,))
    found: dict[str, Any] = _shown(built)
    return found


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _shown(v) for k, v in value.items() if k not in PASSED_OVER and not isinstance(v, bytes)}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value if not isinstance(item, bytes)]
    return value
