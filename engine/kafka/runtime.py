"""The cluster runtime: the seam of `engine/runtime.py` on Apache Kafka, exactly once through crashes, rebalances and zombies.

A worker is one member of the group, one transactional producer, and one store per unit (task partition) that it owns. One
turn of the loop is one transaction (`transactor.py` has its steps). Between turns no transaction is open, and only then does
ownership change: `tend` lets the group speak, hands gained units to recovery and adopts those that are restored. Every error
takes one path: the transaction is aborted, every cursor forgotten, and `rewind` takes every unit again from what the broker
says is committed.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from engine.clock import Clock
from engine.kafka.beats import BEAT_MS, Beats, beat_value
from engine.kafka.clients import At, Clients
from engine.kafka.edge import Edge
from engine.kafka.fetcher import Fetcher
from engine.kafka.membership import Membership
from engine.kafka.names import BEAT_KEY, DEPLOYMENT, POSITION, Names, Unit
from engine.kafka.owned import Owned, Writes
from engine.kafka.recovery import Recovered, Recovery
from engine.kafka.store import Store
from engine.kafka.tail import Tail
from engine.kafka.transactor import Transactor
from engine.layout import RUNG
from engine.runtime import Batch, Commit, CommitLost, LogRecord, Output, TaskSpec, TopicSpec

log = logging.getLogger("consentinel.kafka")

RUNG_MS = 5_000  # between two notes of how far alarms have rung: who waits for them waits for more
REJOIN_MS = 60_000  # a restore that reads anything is no reason; a session that ended is found out long before


class KafkaRuntime:
    """See `engine.runtime` for the promises."""

    def __init__(
        self, clients: Clients, names: Names, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec], *, folder: Path,
        worker: str, clock: Clock, tables: Sequence[str] = (), recovery: Recovery | None = None, threaded: bool = True,
        deployment: str = "", standby: bool = False, accept_loss: bool = False,
    ) -> None:  # fmt: skip
        self.names, self.worker = names, worker
        self._stamp = {DEPLOYMENT: deployment.encode()} if deployment else {}
        self.may_serve: Callable[[], bool] = lambda: True  # while not, no beat is passed on: gateways deny, and show nothing
        self.rung_ms: Callable[[], int] = lambda: 0  # `TaskLoop.rung_ms`
        self.ends: dict[At, int] = {}  # high watermarks of the inputs, as of the last beat
        self.beats = Beats(names, tasks)
        self._clients, self._clock = clients, clock
        self._tasks = {task.name: task for task in tasks}
        self._partitions = {topic.name: topic.partitions for topic in topics}
        self._kafka = {name: names.topic(name) for name in self._partitions}
        self._owned: dict[Unit, Owned] = {}
        self._stores: dict[Unit, Store] = {}  # also of units that were lost: for reading, until they come back
        self._moved: list[tuple[str, int]] = []
        self._token = 0
        self._beat_ms = self._rung_ms = 0
        self._looper = 0
        self._progress, self._progress_ms = (0, 0), clock()  # how far recovery has come, and since when it has come no further
        self._lost = False  # a transaction was lost, and the loop has not come back by `rewind` yet
        self._closed = False
        self.edge = Edge(clients, names, self._partitions)
        self.recovery = recovery or Recovery(
            clients, names, tasks, folder, worker, clock, deployment=deployment, standby=standby, accept_loss=accept_loss
        )  # fmt: skip
        self._fetcher = Fetcher(clients, worker, tasks, self._kafka, self.beats)
        self._tails = {table: Tail(clients, (self._kafka[table], 0)) for table in tables}
        self.transactor = Transactor(clients, names, self._kafka, worker, clock)
        self.membership = Membership(clients, names, worker)
        self._thread = threading.Thread(target=self.recovery.run, args=(lambda: self._closed,), name="recovery", daemon=True)
        if threaded:
            self._thread.start()

    # Ownership ------------------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the group has spoken and every unit it gave us is restored."""
        return self.membership.joined and self.membership.units <= self._owned.keys()

    def owned(self, task: str) -> Sequence[int]:
        """The partitions of `task` that are ours and restored."""
        return sorted(unit.partition for unit in list(self._owned) if unit.task == task)  # a list: other threads ask as well

    def tend(self) -> Sequence[tuple[str, int]]:
        """See `engine.runtime`. Raises what recovery stopped at."""
        self._looper = threading.get_ident()
        lost, gained = self.membership.tend()
        self._lose(lost)
        self._claim(gained)
        while not self.recovery.ready.empty():
            found = self.recovery.ready.get()
            if isinstance(found, BaseException):
                raise found
            self._adopt(found)
        self._watch()
        for owned in self._owned.values():
            owned.store.tend()
        if self.transactor.renewed():
            self._beat()
        moved, self._moved = self._moved, []
        return moved

    def _watch(self) -> None:
        """Join the group anew when units that it gave us cannot be had.

        After a broker's restart it may have given them to others, and the client does not always hear of it.
        """
        now_ms, progress = self._clock(), (len(self._owned), self.recovery.restored)
        if self.membership.units <= self._owned.keys() or progress != self._progress:
            self._progress, self._progress_ms = progress, now_ms
        elif abs(now_ms - self._progress_ms) > REJOIN_MS:
            log.warning("units that were claimed cannot be had: joining the group anew")
            self._progress_ms = now_ms
            self._lose(self.membership.units | set(self._owned))
            self.membership.close()
            self.membership = Membership(self._clients, self.names, self.worker)

    def _claim(self, units: Iterable[Unit]) -> None:
        self._token += 1
        claims = dict.fromkeys(sorted(units), self._token)  # in one order, so that a simulated story can be told again
        if claims:
            log.info("claimed %d units", len(claims))
            self.recovery.claim(claims)

    def _adopt(self, found: Recovered) -> None:
        unit = found.unit
        self._stores[unit] = found.store
        if unit not in self.membership.units or found.token != self.recovery.token_of(unit):
            self.recovery.release({unit: found.store}, keep=unit in self.membership.units)
            return
        self._owned[unit] = Owned(unit, found.store, found.positions)
        self._moved.append((unit.task, unit.partition))
        self._fetcher.begin(unit, found.positions)
        log.info("adopted %s/%d", unit.task, unit.partition)

    def _lose(self, units: Iterable[Unit]) -> None:
        released: dict[Unit, Store | None] = {}
        for unit in sorted(units):
            owned = self._owned.pop(unit, None)
            released[unit] = None
            if owned is not None:
                released[unit] = owned.store
                owned.store.settle()
                self._moved.append((unit.task, unit.partition))
                self._fetcher.end(unit, owned.cursors)
        self.beats.forget(released)
        if released:
            self.recovery.release(released)

    # Reading ------------------------------------------------------------------------------------------------------------------

    def poll(self, task: str, records_max: int) -> list[Batch]:
        """At most `records_max` records of what the client has fetched for the task."""
        return self._fetcher.poll(task, records_max, self._owned)

    def rewind(self) -> None:
        """Take every unit again from what is committed."""
        units = set(self.membership.units)
        self._lose(units | set(self._owned))
        self._claim(units)
        self._lost = False

    def wait(self, timeout_secs: float) -> None:
        """Return when a task may have something to poll, at the latest after `timeout_secs`."""
        self._fetcher.wait(timeout_secs, self._owned, lambda: self._closed)

    # Committing ---------------------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> None:
        """Make one turn durable; see the module for the steps."""
        self._checked(commit)
        touched: dict[Unit, Writes] = {Unit(*at): dict(w) for at, w in commit.writes.items() if w}
        positions: dict[Unit, dict[str, int]] = {}
        for (task, topic, partition), position in commit.positions.items():
            unit = Unit(task, partition)
            positions.setdefault(unit, {})[topic] = position
        if touched or positions or commit.outputs:
            self._transact(commit.outputs, touched, positions, commit.now_ms)

    def _checked(self, commit: Commit) -> None:
        """Refuse what cannot be right before anything is begun."""
        for output in commit.outputs:
            if output.partition is not None and not 0 <= output.partition < self._partitions[output.topic]:
                raise ValueError(f"{output.topic} has no such partition")
        for (task, topic, partition), position in commit.positions.items():
            if topic not in self._tasks[task].inputs:
                raise ValueError(f"task {task} does not read {topic}")
            owned = self._owned.get(Unit(task, partition))
            if owned is not None and not 0 <= position <= owned.cursors[topic]:
                at = (self._kafka[topic], partition)
                if position < 0 or position > self._clients.ends([at], committed=False)[at]:
                    raise ValueError(f"a position of task {task} lies outside {topic}")

    def _transact(
        self, outputs: Sequence[Output], touched: dict[Unit, Writes], positions: dict[Unit, dict[str, int]], now_ms: int
    ) -> None:
        for unit, moved in positions.items():
            rows = touched.setdefault(unit, {})
            for topic, position in moved.items():
                rows[POSITION + topic.encode()] = position.to_bytes(8, "big")
        if self._stamp:
            for unit, writes in touched.items():
                owned = self._owned.get(unit)
                if owned is not None and not owned.stamped:
                    owned.stamped = owned.store.get(DEPLOYMENT) is not None
                    if not owned.stamped:
                        writes.update(self._stamp)
        try:
            self.transactor.transact(outputs, touched, positions, self._owned, self.membership.metadata, now_ms)
        except CommitLost:
            self._lost = True
            self._lose(list(self._owned))
            raise

    # Freshness ----------------------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Pass on, once a second, up to when each unit is complete; between turns, so that all of it is committed."""
        while not self.recovery.ends.empty():
            asked_ms, ends = self.recovery.ends.get()
            self.ends.update(ends)
            self.beats.ends(asked_ms, ends, self._owned)
        now_ms = self._clock()
        if abs(now_ms - self._beat_ms) < BEAT_MS or not self._owned or self._moved or not self.may_serve():
            return
        self._beat_ms = now_ms
        for unit, owned in self._owned.items():
            self.beats.advance(unit, {(self._kafka[t], unit.partition): offset for t, offset in owned.reached.items()})
        news = list(self.beats.news(self._owned))
        inputs = [(self._kafka[topic], unit.partition) for unit, owned in self._owned.items() for topic in owned.cursors]
        self.recovery.ask(inputs, now_ms)
        if not news:
            return
        outputs = [
            Output(topic, BEAT_KEY + f"{unit.task}/{unit.partition}".encode(), beat_value(ms), partition=n)
            for unit, ms in news for topic, n in self.beats.listeners(unit.task)
        ]  # fmt: skip
        touched: dict[Unit, Writes] = {unit: {BEAT_KEY: beat_value(ms)} for unit, ms in news}
        if (rung_ms := self.rung_ms()) - self._rung_ms >= RUNG_MS:
            self._rung_ms = rung_ms
            for writes in touched.values():
                writes[RUNG] = beat_value(rung_ms)
        moved = {unit: self._owned[unit].ahead() for unit, _ in news}  # past the beats that came in since
        try:
            self._transact(outputs, touched, moved, now_ms)
            self.beats.told(news)
        except CommitLost:
            self.rewind()  # later beats make up for this one

    # State and log --------------------------------------------------------------------------------------------------------------

    def get(self, task: str, partition: int, key: bytes) -> bytes | None:
        """The committed value of `key`; None for a unit this worker never had."""
        store = self._stores.get(Unit(task, partition))
        return None if store is None else store.get(key)

    def get_many(self, task: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The committed value of each key, in the order of `keys`."""
        store = self._stores.get(Unit(task, partition))
        return [None] * len(keys) if store is None else store.get_many(keys)

    def scan(
        self, task: str, partition: int, prefix: bytes, after: bytes = b"", limit: int = 1_000_000
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs whose key begins with `prefix` and is greater than `after`, in key order."""
        store = self._stores.get(Unit(task, partition))
        return iter(()) if store is None else store.scan(prefix, after, limit)

    def scour(self, owners: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Leave nothing that was deleted in the files of these partitions' stores; answers for which it was done. Any thread.

        Raises `StoreDamaged`.
        """
        ours = [(at, self._owned.get(Unit(*at))) for at in owners]
        return [at for at, owned in ours if owned is not None and owned.store.scour()]

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        """See `engine.kafka.edge`."""
        self.edge.append(outputs, now_ms)

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """See `engine.kafka.edge`; a table that every task keeps a copy of is read from that copy, by the loop only."""
        tail = self._tails.get(topic)
        if tail is not None and threading.get_ident() == self._looper:
            return tail.read(offset, records_max)
        return self.edge.read(topic, partition, offset, records_max)

    def end(self, topic: str, partition: int) -> int:
        """See `engine.kafka.edge`."""
        return self.edge.end(topic, partition)

    def position(self, task: str, topic: str, partition: int) -> int:
        """The committed position of an owned unit; of another's, what this worker last knew of it."""
        owned = self._owned.get(Unit(task, partition))
        if owned is not None:
            return owned.positions[topic]
        data = self.get(task, partition, POSITION + topic.encode())
        return 0 if data is None else int.from_bytes(data, "big")

    def reached(self, task: str, topic: str, partition: int) -> int:
        """Up to where an owned unit has handed out its input, records or not; 0 when it is not ours."""
        owned = self._owned.get(Unit(task, partition))
        return 0 if owned is None else owned.reached[topic]

    def close(self) -> None:
        """Leave the group, flush the stores, let go of every client."""
        if self._closed:
            return
        self.membership.close()
        self._lose(list(self._owned))
        self._closed = True
        if self._thread.is_alive():
            self._thread.join()
        self.recovery.close()
        self._fetcher.close()
        for tail in self._tails.values():
            tail.close()
        self.edge.close()
