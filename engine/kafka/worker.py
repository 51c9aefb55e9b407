"""One worker of a cluster, as its host sees it: open, start, look at, stop. Its threads fold, restore and keep house.

Housekeeping is at the edge: checkpoints of the audit trees that this worker owns, and, for the owner of the first intake unit,
the end of raw payloads and of their keys.
"""

import fcntl
import logging
import os
import threading
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import IO

import msgspec

from engine.checkpoints import sign_checkpoints
from engine.clock import Clock, system_clock
from engine.context import Shared, reason_of, withheld
from engine.filering import ring_of
from engine.kafka.clients import Clients, ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names, Unit
from engine.kafka.retention import RawRetention
from engine.kafka.runtime import KafkaRuntime
from engine.kafka.topics import removal_bounds
from engine.keyring import KeyRing, OpenRing, RingUnavailable
from engine.loop import CONTROLLERS, TaskLoop, plans
from engine.notes import Signer
from engine.outside import LookUp, Registered
from engine.removing import Removals
from engine.rotating import READERS_BEHIND_MS, KeyRotation
from engine.rotation import Rotations, keepers
from engine.runtime import FolderInUse, RuntimeFault
from engine.secrets import Secrets
from engine.service import IDLE_SECS, STOP_SECS_MAX, WIPE_SECS, Limits, tune_interpreter
from engine.topology import Topology, default_topology
from law.book import Library
from processors.registry import processors

log = logging.getLogger("consentinel.worker")

RECORDS_PER_TASK_MAX = 5_000  # of one task in one transaction
FULL_TURN = RECORDS_PER_TASK_MAX // 2  # a turn that handled so much has more waiting: the next one begins at once
BATCH_BOUNDS = (1, 10, 100, 1_000, 10_000)  # records
TURN_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds
ALARM_WORK_MIN = 500  # keys and records that the alarms of one transaction may write; see `engine/loop.py`
ON_THEIR_WAY_MS = 1_000  # what was committed is fetched by then, where the brokers are well
FIRST_INTAKE = Unit("intake", 0)
UNITS = "stores"
SCOUR_REST = 20  # to scour is to rewrite a store: after it, housekeeping leaves the disk alone for so many times as long
LOCK = "worker.lock"


class Lag(msgspec.Struct, frozen=True):
    """What a task partition has not folded of one input: `records`, and `secs` since the time up to which it is complete.

    `secs` is None until the first beat.
    """

    task: str
    topic: str
    partition: int
    records: int
    secs: float | None


class Histogram(msgspec.Struct):
    """Counts per upper bound (the last one is of what exceeds all), and the sum."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def over(cls, bounds: tuple[float, ...]) -> "Histogram":
        """An empty one."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Figures(msgspec.Struct, frozen=True):
    """What `/metrics` shows of a worker. `restoring`: records to go per unit; `counts`: the engine's counters by name."""

    transactions: int
    aborts: dict[str, int]
    batch_records: Histogram
    batch_secs: Histogram
    restored: int
    restoring: dict[Unit, int]
    counts: dict[tuple[str, ...], int]
    units: int


class Worker:
    """See the module. `failed` names what ended it; then nothing here goes on, and the host must end as well."""

    def __init__(
        self, runtime: KafkaRuntime, clients: Clients, topology: Topology, ring: KeyRing, lock: IO[bytes], *, clock: Clock,
        limits: Limits, interval_ms: int, look_up: LookUp | None = None, library: Library | None = None,
    ) -> None:  # fmt: skip
        self.runtime, self.topology, self.ring, self.clock, self.limits = runtime, topology, ring, clock, limits
        self.failed: str | None = None
        self.reason = ""
        self.secrets = Secrets(ring, os.urandom)
        self.shared = Shared(self.secrets, topology, None if look_up is None else Registered(look_up), library)
        self.loop = TaskLoop(
            runtime, plans(topology, processors()), self.shared, clock, RECORDS_PER_TASK_MAX,
            quiet_ms=ON_THEIR_WAY_MS, alarm_work_min=ALARM_WORK_MIN,
        )  # fmt: skip
        runtime.may_serve, runtime.rung_ms = lambda: self.loop.obeyed, self.loop.rung_ms
        rotations = Rotations(ring, keepers(topology))
        leader = (FIRST_INTAKE.task, FIRST_INTAKE.partition)
        self.rotation = KeyRotation(rotations, runtime, self.shared, leader=leader, behind_ms=READERS_BEHIND_MS)
        self._removals = Removals(runtime)
        self.loop.upkeep += [self.rotation, self._removals]
        self.shared.bounds = removal_bounds(topology)
        self._scour_at = 0.0
        self._ready = False
        self.signer = Signer(f"consentinel/{ring.deployment()}", ring.signing_seed())
        self.batch_records, self.batch_secs = Histogram.over(BATCH_BOUNDS), Histogram.over(TURN_BOUNDS)
        self._retention = RawRetention(
            clients, runtime.names, topology, runtime.edge, ring, self.secrets, limits.raw_retention_secs
        )  # fmt: skip
        self._interval_secs = interval_ms / 1_000
        self._lock = lock
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._closed = False

    @classmethod
    def open(
        cls, connection: Connection, folder: Path, *, ring: Path | OpenRing | None = None, name: str,
        topology: Topology | None = None, clock: Clock = system_clock, limits: Limits | None = None, accept_loss: bool = False,
        look_up: LookUp | None = None, library: Library | None = None,
    ) -> "Worker":  # fmt: skip
        """Open the worker `name` with its stores in `folder`. Raises `RuntimeFault` (Kafka's, the folder's), `RingFault`.

        `look_up` asks a schema registry, where publishers use one.
        """
        topology = topology or default_topology()
        tasks = topology.task_specs()
        names = Names(connection.prefix, tasks)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder / LOCK)
        keys: KeyRing | None = None
        try:
            clients = ConfluentClients(connection, names)
            keys = ring_of(ring, folder, create=not (folder / UNITS).exists())
            runtime = KafkaRuntime(
                clients, names, topology.topic_specs(), tasks, folder=folder / UNITS, worker=name, clock=clock,
                deployment=keys.deployment(), tables=(CONTROLLERS,), standby=connection.standby, accept_loss=accept_loss,
            )  # fmt: skip
        except BaseException:
            if keys is not None:
                keys.close()
            lock.close()
            raise
        interval_ms = connection.commit_interval_ms
        return cls(
            runtime, clients, topology, keys, lock, clock=clock, limits=limits or Limits(), interval_ms=interval_ms,
            look_up=look_up, library=library,
        )  # fmt: skip

    def start(self) -> None:
        """Start folding and keeping house."""
        tune_interpreter()
        for name, body in (("engine", self._run), ("maintenance", self._maintain)):
            thread = threading.Thread(target=self._guarded, args=(body,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Finish the turn under way, leave the group, flush the stores. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_SECS_MAX)
        self.runtime.close()
        self.ring.close()
        self._lock.close()

    @property
    def ready(self) -> bool:
        """Whether everything the group gave us is restored, and no order of the erasure ledger was forgotten in it."""
        return self.failed is None and self._ready

    def lag(self) -> list[Lag]:
        """What is not folded yet, of the units that this worker owns, as of the last beat."""
        now_ms = self.clock()
        found = []
        for task in self.loop.tasks:
            for n in self.runtime.owned(task.name):
                beat_ms = self.runtime.beats.low_ms.get(Unit(task.name, n))
                secs = None if beat_ms is None else max(0.0, (now_ms - beat_ms) / 1_000)
                for topic in task.inputs:
                    end = self.runtime.ends.get((self.runtime.names.topic(topic), n), 0)
                    records = max(0, end - self.runtime.reached(task.name, topic, n))
                    found.append(Lag(task.name, topic, n, records, secs))
        return found

    def figures(self) -> Figures:
        """The counters as they stand."""
        runtime = self.runtime
        return Figures(
            transactions=runtime.transactor.count, aborts=runtime.transactor.aborts.copy(), batch_records=self.batch_records,
            batch_secs=self.batch_secs, restored=runtime.recovery.restored, restoring=runtime.recovery.pending.copy(),
            counts=self.shared.counts.copy(), units=len(runtime.membership.units),
        )  # fmt: skip

    def maintain(self) -> None:
        """Sign checkpoints; for the deployment, end raw payloads and keys."""
        sign_checkpoints(self.runtime, self.loop.tasks, self.shared.deployment, self.signer, self.clock())
        if FIRST_INTAKE.partition in self.runtime.owned(FIRST_INTAKE.task):
            self._retention.run(self.clock())
        if monotonic() >= self._scour_at and (asked := self._removals.take()):
            began = monotonic()
            # All of them: rosters, and what others lost of what was said, are with whoever it concerns.
            owned = [(task.name, n) for task in self.loop.tasks for n in self.runtime.owned(task.name)]
            self._removals.done(asked, self.runtime.scour(owned))
            self._scour_at = monotonic() + max(WIPE_SECS, SCOUR_REST * (monotonic() - began))

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = monotonic()
            handled = self.loop.turn()
            self._ready = self.runtime.ready and self.loop.obeyed  # of one turn: what it adopted is in both
            took = monotonic() - began
            if handled:
                self.batch_records.observe(handled)
                self.batch_secs.observe(took)
            if not handled:
                due = self.loop.next_alarm_ms()
                left = IDLE_SECS if due is None else min(IDLE_SECS, max(0.0, (due - self.clock()) / 1_000))
                self.runtime.wait(left)
            elif handled < FULL_TURN and not self.loop.crowded:
                # A transaction costs the same for one record as for a thousand: let some more come.
                self._stopping.wait(max(0.0, self._interval_secs - took))

    def _maintain(self) -> None:
        while not self._stopping.wait(self.limits.maintenance_secs):
            try:
                self.maintain()
            except (RingUnavailable, RuntimeFault, OSError) as fault:  # a broker, a disk or a ring that is away
                self.shared.count("maintenance_failed")
                log.warning("maintenance failed and is tried again: %s", type(fault).__name__)

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception as fault:  # a dead engine must be seen: the host ends with it
            self.reason = reason_of(fault)
            self.failed = type(fault).__name__
            who = threading.current_thread().name
            log.error("the %s stopped: %s %s", who, self.failed, self.reason, exc_info=withheld(fault))


def _locked(path: Path) -> IO[bytes]:
    """Hold the folder for this process alone. Raises `FolderInUse`."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise FolderInUse("another worker has this folder") from None
    return file
