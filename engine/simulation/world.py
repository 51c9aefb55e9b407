"""The simulated cluster as a whole: workers, a publisher, faults, and one stream of random numbers that decides everything.

A seed is one story: some workers, some dozens of events, some blows of fate. While a worker is inside a call, others may be
run, for moments or beyond its session (`_meanwhile`): that is how, in one thread, a zombie wakes up in the middle of a commit
into a group that has moved on. Then all faults cease, the cluster drains, and the auditor compares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from random import Random
from typing import Protocol

import msgspec
from confluent_kafka import KafkaException

from engine.declarations import Topology
from engine.kafka.edge import BrokerAway
from engine.kafka.names import RESERVED, Names
from engine.kafka.store import META
from engine.runtime import TaskSpec
from engine.secrets import Secrets
from engine.simulation.bugs import NONE, Bug
from engine.simulation.cluster import At, Cluster, Odds
from engine.simulation.disk import Change, Database, Disks
from engine.simulation.errors import TIMED_OUT, kafka_fault
from engine.simulation.fate import REFUSABLE, Fate
from engine.simulation.log import Transaction
from engine.simulation.process import Killed, Process
from engine.simulation.ring import SeededRing
from engine.simulation.virtual import virtual
from engine.simulation.worker import Worker
from processors.kernel import Processor

START_MS = 1_772_000_000_000  # 2026-02-25T06:13:20Z
TICKS_MS = (0, 0, 1, 1, 5, 20, 100, 400)
TRACE_LINES_MAX = 2_000
DRAIN_ROUNDS_MAX = 1_500
DRAIN_TICK_MS = 100
SOON_MS = 60_000  # an alarm within this is waited for; retention's are years away
NESTED_MAX = 2  # workers that stand in the middle of something while others go on
SLOW_MARKERS_MS = (0, 0, 1_000, 4_000, 9_000)
FREEZES_MS = (300, 2_000, 8_000, 9_000, 16_000)  # a session is 6 s, a transaction may take 10 s
MOMENTS_MS = (5, 100, 1_000)
RESTART_MS = (50, 1_000, 9_000)


class Finding(BaseException):
    """Something that must never be. `what` says it in one line."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Job(Protocol):
    """What the workers do, what is published to them, and what must have come of it."""

    topology: Topology
    tasks: list[TaskSpec]
    processors: dict[str, Processor]

    def publish(self, world: World) -> None:
        """Append one event."""
        ...

    def faults(self, world: World) -> Iterable[str]:
        """What is wrong with the outcome, in the order of importance."""
        ...


class World:
    """One story. `run` raises `Finding`, or returns how many faults there were."""

    def __init__(
        self, seed: int, job: Job, *, events: int = 30, bug: Bug = NONE, trace: bool = False, fate: Fate | None = None
    ) -> None:
        self.seed, self.job, self.bug, self.events = seed, job, bug, events
        self.random = Random(seed)
        self.topology, self.tasks = job.topology, job.tasks
        self.names = Names("", self.tasks)
        topics = {name: topic.partitions for name, topic in self.topology.topics.items()}
        topics |= {self.names.changelog(task.name): task.partitions for task in self.tasks}
        topics[self.names.shards] = len(self.names.units)
        self.cluster = Cluster(self.random, topics, START_MS)
        self.octets = self.random.randbytes
        self.ring = SeededRing(self.octets)
        self.secrets = Secrets(self.ring, self.octets)
        self.workers = [Worker(self, f"w{n}") for n in range(1, self.random.choice((2, 2, 3)) + 1)]
        self.cluster.tell = lambda what: self.tell("kafka", what)
        self.disks = Disks(self.random)
        self.passed: dict[Transaction, str] = {}  # transactions that stores have passed by, undecided → which store
        self.fate = Fate(self.random, self.random.choice((0.002, 0.006, 0.02)), self.random.randint(1, 7))
        self.blows = 0
        self.trace: deque[str] | None = deque(maxlen=TRACE_LINES_MAX) if trace else None
        self.tolerated: tuple[type[Exception], ...] = (KafkaException, BrokerAway)
        self._stack: list[Worker] = []
        self._calm = False
        # Each story has a temper of its own: calm networks and bad ones, slow markers, restless groups.
        if self.random.random() < 0.3:
            self.cluster.marker_ms = SLOW_MARKERS_MS
        restless = self.random.random() < 0.3
        self._trouble_odds = 0.04 if restless else 0.01
        self._troubles = 2 * self.fate.left + 3 if restless else self.fate.left
        if self.random.random() < 0.5:
            self.cluster.odds = Odds(0.02, 0.02, 0.002, 0.1)
        if fate is not None:  # this one blow, and nothing else
            self.fate, self._troubles, self.cluster.odds = fate, 0, Odds()

    def clock(self) -> int:
        """Epoch ms."""
        return self.cluster.now_ms

    def tell(self, who: str, what: str) -> None:
        """Note something for the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.cluster.now_ms - START_MS:>7} {'  ' * max(0, len(self._stack) - 1)}{who} {what}")

    def run(self) -> int:
        """Tell the story."""
        teller = None if self.trace is None else lambda line: self.tell(self._stack[-1].name if self._stack else "-", line)
        with virtual(self.cluster, self._open, self._wipe, teller), self.bug.applied():
            published = 0
            for worker in self.workers:
                worker.start_ms = self.cluster.now_ms + self.random.choice((0, 0, 500, 5_000))
            while published < self.events or self.random.random() < 0.99:
                drawn = self.random.random()
                if drawn < 0.08 and published < self.events:
                    for _ in range(self.random.choice((1, 2, 5))):
                        if published < self.events and not self.cluster.down:
                            self.job.publish(self)
                            published += 1
                elif drawn < 0.08 + self._trouble_odds:
                    self._trouble()
                else:
                    self._work_one()
                self.cluster.advance(self.random.choice(TICKS_MS))
            self._drain()
            faults = list(self.job.faults(self))
            if faults:
                raise Finding("; ".join(faults[:3]))
        return self.blows

    # Faults

    def strike(self, process: Process, call: str, when: str) -> None:
        """Let fate have its say around a call of `process`."""
        if self._calm or not self._stack:
            return
        blow = self.fate.draw(call)
        if blow is None:
            return
        self.blows += 1
        worker = self._stack[-1]
        self.tell(worker.name, f"fate: {blow} {when} {call}")
        if blow == "kill":
            worker.end("killed")
            worker.start_ms = self.cluster.now_ms + self.random.choice(RESTART_MS)
            self.disks.harm(worker.name)
        elif blow == "refuse":
            if call in REFUSABLE and when == "before":
                raise kafka_fault(TIMED_OUT, "no leader for a while")
        elif blow == "outage":
            self.cluster.go_down(self.random.choice(self.fate.outages_ms))
        elif len(self._stack) <= NESTED_MAX:
            process.paused = blow == "freeze"
            self._meanwhile(self.random.choice(FREEZES_MS if blow == "freeze" else MOMENTS_MS))
            process.paused = False
            self.tell(worker.name, "goes on")

    def _meanwhile(self, ms: int) -> None:
        """Others go on for a while, and whoever is inside a call does not."""
        until_ms = self.cluster.now_ms + ms
        while self.cluster.now_ms < until_ms:
            self._work_one()
            self.cluster.advance(max(1, ms // 40))

    def _trouble(self) -> None:
        """Something that no call is part of."""
        if self._troubles <= 0:
            return
        self._troubles -= 1
        self.blows += 1
        worker = self.random.choice(self.workers)
        match self.random.choice(("kill", "leave", "leave", "leave", "join", "join", "outage")):
            case "kill" if worker.alive:
                worker.end("killed between calls")
                worker.start_ms = self.cluster.now_ms + self.random.choice(RESTART_MS)
                self.disks.harm(worker.name)
            case "leave" if worker.alive and worker not in self._stack:
                self._do(worker, "leave")
                worker.start_ms = self.cluster.now_ms + self.random.choice(RESTART_MS)
            case "join" if len(self.workers) < 4:
                self.workers.append(Worker(self, f"w{len(self.workers) + 1}"))
            case "outage":
                self.tell("-", "outage")
                self.cluster.go_down(self.random.choice(self.fate.outages_ms))
            case _:
                pass

    # Work

    def _work_one(self) -> None:
        free = [w for w in self.workers if w not in self._stack]
        if free:
            self._do(self.random.choice(free), "work")

    def _do(self, worker: Worker, what: str) -> None:
        """Let one worker do something; it may die of it."""
        self._stack.append(worker)
        try:
            if not worker.alive:
                if self.cluster.now_ms >= worker.start_ms:
                    worker.start()
            elif what == "leave":
                worker.leave()
            elif what == "both":
                worker.work_both()
            else:
                worker.work(self.random)
        except Killed:
            pass
        except self.tolerated as fault:
            if self._calm:
                raise Finding(f"{worker.name} stopped in calm weather: {fault!r}") from fault
            worker.end(f"stopped: {fault!r}")  # a supervisor starts it anew
            worker.start_ms = self.cluster.now_ms + 1_000
        except Exception as fault:
            raise Finding(f"{worker.name} stopped: {fault!r}") from fault
        finally:
            self._stack.pop()

    def _drain(self) -> None:
        """All faults cease; everything must come to rest by itself."""
        self._calm = self.cluster.calm = True
        self.cluster.down_until_ms = min(self.cluster.down_until_ms, self.cluster.now_ms)
        self.tell("-", "calm")
        for number in range(DRAIN_ROUNDS_MAX):
            for worker in self.workers:
                self._do(worker, "both")
            self.cluster.advance(DRAIN_TICK_MS)
            if number % 5 == 0 and self._at_rest():
                return
        raise Finding("it does not come to rest: " + self._unrest())

    def _at_rest(self) -> bool:
        return not self._unrest()

    def _unrest(self) -> str:
        cluster = self.cluster
        for at, log in cluster.logs.items():
            if log.open:
                return f"a transaction is open on {at[0]}/{at[1]}"
        if any(cluster.pending.values()):
            return "offsets are pending"
        owners = self.owners()
        if len(owners) < len(self.names.units):
            return f"{len(self.names.units) - len(owners)} units have no owner that is ready"
        for task in self.tasks:
            for n in range(task.partitions):
                for topic in task.inputs:
                    at = (self.names.topic(topic), n)
                    unread, _ = cluster.logs[at].visible(max(0, cluster.offsets.get(at, (0, ""))[0]), 1_000_000, True)
                    if any(not (e.key or b"").startswith(RESERVED) for e in unread):
                        return f"{topic}/{n} is not read to its end"
                due = [int.from_bytes(key[1:9], "big") for key in self.changelog(task.name, n) if key[:1] == b"t"]
                if any(ms <= cluster.now_ms + SOON_MS for ms in due):
                    return f"alarms of {task.name}/{n} have not rung"
        return ""

    # What is there, for the auditor

    def owners(self) -> dict[tuple[str, int], Worker]:
        """Who works on each unit now."""
        found: dict[tuple[str, int], Worker] = {}
        for worker in self.workers:
            if worker.alive and worker.runtime is not None:
                for task in self.tasks:
                    for n in worker.runtime.owned(task.name):
                        if (task.name, n) in found and self._calm:
                            self.tell("-", f"{task.name}/{n} has two owners")
                        found[task.name, n] = worker
        return found

    def changelog(self, task: str, partition: int) -> dict[bytes, bytes]:
        """The last committed value per key of a changelog partition."""
        found: dict[bytes, bytes] = {}
        for entry in self.cluster.logs[self.names.changelog(task), partition].committed_entries():
            if entry.value is None:
                found.pop(entry.key or b"", None)
            else:
                found[entry.key or b""] = entry.value
        return found

    def outputs(self, topic: str) -> Iterable[tuple[At, bytes, bytes | None]]:
        """Every committed record of a topic: its place, key and value."""
        for n in range(self.topology.topics[topic].partitions):
            for entry in self.cluster.logs[self.names.topic(topic), n].committed_entries():
                if not (entry.key or b"").startswith(RESERVED):
                    yield (topic, n), entry.key or b"", entry.value

    # Disks

    def _open(self, folder: str) -> Database:
        name = folder.split("/")[1]
        process = next(w.process for w in self.workers if w.name == name)
        assert process is not None
        return self.disks.open(folder, process, lambda changes: self._written(folder, changes))

    def _wipe(self, folder: str) -> None:
        self.tell("-", f"{folder} is wiped")
        self.disks.wipe(folder)

    def _written(self, folder: str, changes: list[Change]) -> None:
        """A store was written: it must not know of anything that is not decided."""
        task, _, number = folder.rpartition("/")[2].rpartition("-")
        for key, value in changes:
            if key == META and value is not None:
                position = msgspec.msgpack.decode(value)[1]
                log = self.cluster.logs[self.names.changelog(task), int(number)]
                if position > log.end:
                    raise Finding(f"the store of {task}/{number} is ahead of its changelog")
                for transaction, first in log.open.items():
                    if transaction.outcome == "open" and first < position:  # a dead owner's: then it must never commit
                        self.passed[transaction] = f"{task}/{number}"


