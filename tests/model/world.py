"""The real deployment as a value: a state that can be kept, gone back to, and compared, under a clock that actions move.

A `Snapshot` is everything that a process finds when it starts: log, stores, positions, the ring's ledger, the clock, and what the
model itself knows (`Ghost`). Going back to one starts the loop anew, so every step of the model is also a restart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec

from engine.layout import due_alarm
from engine.loop import TaskLoop, plans
from engine.memory import MemoryRuntime, _Keyed
from engine.runtime import Commit, LogRecord, Output
from engine.simulation.ring import SeededRing
from engine.topology import default_topology
from processors.registry import processors
from schemas.codec import decode, unpacked
from tests.harness import Deployment

COMPACTED = ("controllers", "consent.state", "suppression.state", "conversations.protected", "keys.wrapped", "requests.state")
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
TURNS_MAX = 500
TIME = re.compile(r"(?<![0-9a-zA-Z])0?(1[789]\d{11})(?![0-9a-zA-Z])")  # 2023 to 2033, also padded as in the key of a line
OCTETS = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")  # tokens, keys and nonces: random, and opened elsewhere


class Row(NamedTuple):
    """One pair of a store. `family` is the first octet of its key (`engine/layout.py`)."""

    task: str
    family: str
    owner: str
    kind: str
    parts: tuple[str, ...]
    key: bytes
    data: bytes


@dataclass(frozen=True)
class Ghost:
    """What the model knows of its own doing. It goes back with a backup, but for `ordered_ms` and `ledgered`.

    `done` are the actions so far, `answered` the (order, target) that said `done`, `holds` those that stand. `consent` is the
    last word of A by effective time (`consent_ms`), `spoke_ms` when A was last named, `ordered_ms` the last order to forget A,
    `ledgered` the requests that ordered it.
    """

    done: tuple[str, ...] = ()
    answered: frozenset[tuple[str, str]] = frozenset()
    holds: frozenset[str] = frozenset()
    consent: str = ""
    consent_ms: int = 0
    suppressed: bool = False
    spoke_ms: int = 0
    ordered_ms: int = 0
    ledgered: frozenset[str] = frozenset()
    backup: Snapshot | None = None


class Snapshot(NamedTuple):
    """Everything, immutable by agreement."""

    log: dict[tuple[str, int], list[LogRecord]]
    stores: dict[tuple[str, int], dict[bytes, bytes]]
    positions: dict[tuple[str, str, int], int]
    ledger: list[bytes]
    now_ms: int
    ghost: Ghost
    digest: str


@dataclass
class Looked:
    """What one look at a state found, made once per state."""

    rows: list[Row] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Runtime(MemoryRuntime):
    """Knows when something changed, so that a state is looked at once."""

    changes = 0

    def commit(self, commit: Commit) -> None:
        super().commit(commit)
        self.changes += 1

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        super().append(outputs, now_ms)
        self.changes += 1


class World(Deployment):
    """A deployment in memory that goes back and forth between snapshots.

    `own_media`: a request waits only for recordings that it ordered away itself (an allowance of one scope, see the tests).
    """

    def __init__(self, folder: Path, *, own_media: bool = True) -> None:
        topology = default_topology()
        self.kept_ring = SeededRing(Random(1).randbytes)
        ring: Any = self.kept_ring
        super().__init__(folder, _Runtime(topology.topic_specs(), topology.task_specs()), ring)
        self.ghost, self.own_media = Ghost(), own_media
        self._seen: tuple[int, Looked] = (-1, Looked())
        self._plans = plans(self.topology, processors())
        self._clean: dict[bytes, str] = {}
        self._values: dict[bytes, Any] = {}

    # There and back -------------------------------------------------------------------------------------------------------

    def keep(self) -> Snapshot:
        """The state as it is now."""
        runtime = self.runtime
        return Snapshot(
            {at: list(log) for at, log in runtime._log.items() if log},
            {at: dict(store.values) for at, store in runtime._stores.items() if store.values},
            dict(runtime._positions), list(self.kept_ring._ledger), self.now_ms, self.ghost, self.digest(),
        )  # fmt: skip

    def back_to(self, kept: Snapshot) -> None:
        """Start again from `kept`, as a process that finds it."""
        self._load(kept)
        self.kept_ring._ledger[:] = kept.ledger
        self.now_ms, self.ghost = kept.now_ms, kept.ghost

    def restore(self, kept: Snapshot) -> None:
        """Put a backup of the data back; the ring and the clock stay, and so does what the ledger must remember."""
        self._load(kept)
        mine = self.ghost
        done = (*kept.ghost.done, "backup", "restore")
        self.ghost = replace(kept.ghost, done=done, ordered_ms=mine.ordered_ms, ledgered=mine.ledgered, backup=mine.backup)

    def _load(self, kept: Snapshot) -> None:
        runtime = self.runtime
        runtime._log.clear()
        runtime._stores.clear()
        for at, log in kept.log.items():
            runtime._log[at] = list(log)
        for at, values in kept.stores.items():
            store = runtime._stores[at] = _Keyed()
            store.values, store.ordered = dict(values), None
        runtime._positions = dict(kept.positions)
        runtime.rewind()
        runtime._published += 1
        runtime.changes += 1
        self.shared.counts.clear()
        self.loop = TaskLoop(runtime, self._plans, self.shared, lambda: self.now_ms)

    # Looking --------------------------------------------------------------------------------------------------------------

    def look(self) -> Looked:
        """Every row of the stores, and the compacted topics as compaction leaves them."""
        if self._seen[0] == self.runtime.changes:
            return self._seen[1]
        looked = Looked(list(self._rows()))
        for topic in COMPACTED:
            newest: dict[str, bytes] = {}
            for record in self._records(topic):
                if record.value is None:
                    newest.pop(record.key.decode(), None)
                else:
                    newest[record.key.decode()] = record.value
            looked.tables[topic] = newest
        self._seen = self.runtime.changes, looked
        return looked

    def value(self, data: bytes) -> Any:
        """A topic's value, decoded once."""
        found = self._values.get(data)
        if found is None:
            found = self._values[data] = decode(data)
        return found

    def records(self, topic: str) -> list[Any]:
        """Every value of a topic, tombstones left out."""
        return [self.value(record.value) for record in self._records(topic) if record.value is not None]

    def _records(self, topic: str) -> Iterator[LogRecord]:
        for partition in range(self.topology.topics[topic].partitions):
            yield from self.runtime._log.get((topic, partition), ())

    def _rows(self) -> Iterator[Row]:
        for (task, _), store in sorted(self.runtime._stores.items()):
            for key in store.keys():
                family = key[:1].decode()
                if family == "t":
                    due = due_alarm(key)
                    yield Row(task, family, due.owner, due.processor, (str(due.due_ms), due.name), key, b"")
                elif family in "ska":
                    owner, *rest = key[1:].decode().rstrip("\0").split("\0")
                    yield Row(task, family, owner, rest[0], tuple(rest[1:]), key, store.values[key])

    def next_alarm_ms(self) -> int | None:
        """When the next alarm is due."""
        return min((int(row.parts[0]) for row in self.look().rows if row.family == "t"), default=None)

    def stirs(self) -> bool:
        """Whether some task has a record to fold, or an alarm that is due."""
        due_ms = self.next_alarm_ms()
        return any(self.loop.lag().values()) or (due_ms is not None and due_ms <= self.now_ms)

    # Sameness -------------------------------------------------------------------------------------------------------------

    def digest(self) -> str:
        """The same for two states that no invariant and no later step can tell apart.

        Times count by their order and by their distance from now in hours: actions are minutes apart, and no period that the
        model crosses is shorter than hours. Tokens, nonces and keys count by where they stand.
        """
        looked = self.look()
        said = [f"{r.task} {r.family} {r.owner} {r.kind} {r.parts} {self._cleaned(r.family, r.data)}" for r in looked.rows]
        for topic, table in looked.tables.items():
            said += [f"{topic} {key} {self._shown(data)}" for key, data in sorted(table.items())]
        said += self._waiting()
        said.append(f"ledger {len(self.kept_ring._ledger)}")
        g = self.ghost
        said.append(
            f"{sorted(g.done)} {sorted(g.answered)} {sorted(g.holds)} {g.consent} {g.consent_ms} {g.suppressed} {g.spoke_ms} "
            f"{g.ordered_ms} {sorted(g.ledgered)} {g.backup.digest if g.backup else ''} now {self.now_ms}"
        )
        text = "\n".join(said)
        times = sorted({int(t) for t in TIME.findall(text)})
        names = {t: f"t{n}{round((t - self.now_ms) / HOUR_MS):+d}h" for n, t in enumerate(times)}
        return blake2b(TIME.sub(lambda m: names[int(m[1])], text).encode(), digest_size=12).hexdigest()

    def _cleaned(self, family: str, data: bytes) -> str:
        if family == "k":
            return "key"
        if not data:
            return ""
        found = self._clean.get(data)
        if found is None:
            found = self._clean[data] = OCTETS.sub("*", repr(msgspec.msgpack.decode(data)))
        return found

    def _shown(self, data: bytes) -> str:
        found = self._clean.get(data)
        if found is None:
            found = self._clean[data] = OCTETS.sub("*", repr(self.value(data)))
        return found

    def _waiting(self) -> Iterator[str]:
        """What is on its way between tasks."""
        for (task, topic, partition), lag in self.loop.lag().items():
            if lag:
                opened = self.secrets.opening(topic)
                start = self.runtime.position(task, topic, partition)
                for record in self.runtime._log[topic, partition][start:]:
                    e = unpacked(opened(record.value) or b"")
                    yield f"{task} {topic} {record.key!r} {e.type} {e.id} {e.refs} {e.time_ms} {e.receipt_ms} {e.data!r}"

