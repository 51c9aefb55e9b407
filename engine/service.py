"""A deployment in one process, as the doors see it: publish durably, read state, open what may be opened, know what is fresh.

This is the engine's public face. It knows topics, owners and kinds of state, and no field of any of them.
"""

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic

import msgspec

from engine.checkpoints import frontiers, latest_notes, sign_checkpoints
from engine.clock import Clock, system_clock
from engine.context import Shared, reason_of, withheld
from engine.deployment import RING_SECS_MAX, Look, Reads, Rung
from engine.effects import AUDIT_TOPIC
from engine.embedded import EmbeddedRuntime, Retention
from engine.filering import ring_of
from engine.keyring import KeyRing, OpenRing, RawClass, RingUnavailable
from engine.loop import TaskLoop, plans
from engine.merkle import Frontier
from engine.notes import Signer
from engine.rawkeys import RawKeys
from engine.removing import Removals
from engine.rotating import KeyRotation
from engine.rotation import KeyStatus, Rotations, keepers
from engine.runtime import CommitLost, LogRecord, Output
from engine.secrets import Secrets
from engine.topology import Topology, default_topology
from law.book import Book, Library
from processors.kernel import State
from processors.registry import processors
from schemas.codec import encode
from schemas.routed import Envelope
from schemas.topics import ControllerState

log = logging.getLogger("consentinel.service")

SWITCH_SECS = 0.0005
GC_OBJECTS = 50_000  # new objects between two looks: several turns
IDLE_SECS = 0.25  # the loop looks at the clock at least this often
# Between two turns of alarms while more are due: large work leaves half of the interpreter to the doors. What comes ends it.
CROWDED_REST_SECS = 0.005
MAINTENANCE_SECS = 60.0
# How long freed bytes may rest in the files. Overwriting them holds the writer for up to 0.75 s a GB: not each minute.
WIPE_SECS = 900.0
STOP_SECS_MAX = 30.0
RING_POLL_SECS = 0.02
COMPACTION_DELETE_RETENTION_MS = 86_400_000  # how long readers of a compacted topic can still see a tombstone


def tune_interpreter() -> None:
    """Set what a process that runs a loop wants of Python.

    Loop and doors share one interpreter: with the default switch interval of 5 ms each SQLite statement waits that long for its
    turn. A turn makes many objects and few cycles, so the collector looks less often; what stands at the start it never looks at.
    """
    sys.setswitchinterval(SWITCH_SECS)
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)


class Limits(msgspec.Struct, frozen=True):
    """What an operator may set. Durations in seconds."""

    raw_retention_secs: int = 86_400
    maintenance_secs: float = MAINTENANCE_SECS


def bounds_of(topology: Topology, limits: Limits) -> dict[str, int]:
    """How long, in ms, what rests on the log beside the newest records stays in the folder's files, by place, while it runs.

    Superseded records are not among them: they go with the store, which is observed.
    """
    round_ms = round((limits.maintenance_secs + WIPE_SECS) * 1_000)  # a vacuum that meets readers is tried again a round later
    found = {"topics.raw": limits.raw_retention_secs * 1_000, "tombstones": COMPACTION_DELETE_RETENTION_MS}
    found |= {t.name: secs * 1_000 for t in topology.topics.values() if t.erase == "expiry" and (secs := t.retention_secs(0))}
    return {place: rest_ms + 2 * round_ms for place, rest_ms in found.items()}


class Service(Reads):
    """One embedded deployment. `open` it, then `start` its loop; or use it stopped, for what works offline."""

    def __init__(
        self, folder: Path, ring: KeyRing, runtime: EmbeddedRuntime, topology: Topology, clock: Clock, limits: Limits,
        library: Library | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.ring, self.runtime = folder, ring, runtime
        self.clock, self.limits = clock, limits
        super().__init__(runtime, topology, Secrets(ring, os.urandom))
        self.retention = Retention(runtime)
        self._raw_keys = RawKeys(ring, self.secrets, topology, runtime.read)
        self.shared = Shared(self.secrets, topology, library=library)
        self.loop = TaskLoop(runtime, plans(topology, processors()), self.shared, clock)
        self.rotations = Rotations(ring, keepers(topology))
        self._rotation, self.removals = KeyRotation(self.rotations, runtime, self.shared), Removals(runtime)
        self.loop.upkeep += [self._rotation, self.removals]
        self.shared.bounds = bounds_of(topology, limits)
        self.signer = Signer(f"consentinel/{ring.deployment()}", ring.signing_seed())
        self.failed: str | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._turning = threading.Lock()
        self._publishing: dict[int, int] = {}  # thread → when its publish began
        self._started_ms = 0

    @classmethod
    def open(
        cls, folder: Path, *, ring: Path | OpenRing | None = None, clock: Clock = system_clock, limits: Limits | None = None,
        topology: Topology | None = None, library: Library | None = None,
    ) -> "Service":  # fmt: skip
        """Open (or begin) the deployment in `folder`. Raises `FolderInUse`, `RingFault`, `StoreDamaged`."""
        topology = topology or default_topology()
        begun = (folder / "consentinel.db").exists()
        runtime = EmbeddedRuntime(folder, topology.topic_specs(), topology.task_specs())
        try:
            keys = ring_of(ring, folder, create=not begun)
            return cls(folder, keys, runtime, topology, clock, limits or Limits(), library)
        except BaseException:
            runtime.close()
            raise

    # Life ---------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the loop and the maintenance of topics and checkpoints."""
        tune_interpreter()
        self._started_ms = self.clock()
        for name, body in (("engine", self._run), ("maintenance", self._maintain)):
            thread = threading.Thread(target=self._guarded, args=(body,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Finish the turn under way, sign the last checkpoints, close everything. Safe to call twice."""
        if self._stopping.is_set() and not self._threads:
            return
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_SECS_MAX)
        self._threads = []
        if self.failed is None:
            self.checkpoint()
        self.runtime.close()
        self.ring.close()

    @property
    def ready(self) -> bool:
        """Whether everything that was in the log at the start has been folded: before that no decision is an allow."""
        return self.failed is None and self.loop.beat_ms >= self._started_ms > 0

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception as e:  # a dead engine must be seen: the doors deny and report not ready
            self.failed = type(e).__name__
            log.error("the %s stopped: %s %s", threading.current_thread().name, self.failed, reason_of(e), exc_info=withheld(e))

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self.turn():
                due = self.loop.next_alarm_ms()
                left = IDLE_SECS if due is None else min(IDLE_SECS, max(0.0, (due - self.clock()) / 1000))
                self.runtime.wait(left)
            elif self.loop.crowded:
                self.runtime.wait(CROWDED_REST_SECS)

    def turn(self) -> int:
        """One turn of the loop."""
        with self._turning:
            return self.loop.turn()

    def settle(self) -> None:
        """Fold everything that is there and ring everything that is due (a stopped loop only)."""
        with self._turning:
            self.loop.drain()

    def _maintain(self) -> None:
        wiped = monotonic()
        while not self._stopping.wait(self.limits.maintenance_secs):
            wipe = monotonic() - wiped >= WIPE_SECS
            try:
                self.maintain(wipe=wipe)
                wiped = monotonic() if wipe else wiped
            except (CommitLost, RingUnavailable) as e:  # a full disk, a busy ring: the next round tries again
                self.shared.count("maintenance_failed")
                log.warning("maintenance failed and is tried again: %s", type(e).__name__)

    def maintain(self, *, wipe: bool = True) -> None:
        """Sign checkpoints, end record retention, compact keys; with `wipe`, overwrite the bytes that all this has freed."""
        asked = self.removals.take()  # first: what was deleted until now, and what it superseded on the log, goes below
        self.checkpoint()
        self.retain_raw()
        now_ms = self.clock()
        for name, topic in self.topology.topics.items():
            if topic.cleanup == "compact":
                while not self.retention.compact(name, COMPACTION_DELETE_RETENTION_MS, now_ms).finished:
                    pass
            elif (secs := topic.retention_secs(self.limits.raw_retention_secs)) is not None and topic.retention != "raw":
                self.retention.delete_before([name], now_ms - secs * 1000)
        with self._turning:  # no turn is sealing under what closes or goes here
            self._destroy_closed("quarantine", now_ms)
            self._raw_keys.close_due(now_ms)
        if wipe and self.retention.vacuum():
            self.removals.done(asked)

    def checkpoint(self) -> list[str]:
        """Sign a checkpoint of every audit tree that grew; returns all latest notes."""
        return sign_checkpoints(self.runtime, self.loop.tasks, self.shared.deployment, self.signer, self.clock())

    def retain_raw(self, *, at_once: bool = False) -> int:
        """Delete raw records past their retention that every reader has committed, then the keys nothing needs any more.

        `at_once` also closes the current hour's key, so that it goes with the last record under it. Returns records deleted.
        """
        if at_once:
            with self._turning:  # first, so that whatever is sealed under this key is older than its closing
                self.ring.close_raw("raw", self.clock())
        deleted = self.retention.delete_before(self._raw_keys.topics["raw"], self.clock() - self.limits.raw_retention_secs * 1000)
        with self._turning:
            self._destroy_closed("raw", self.clock())
        if at_once:
            self.retention.vacuum()
        return deleted

    def ring_due(self) -> Rung:
        """Notice every due time now, and ring all that is due by now; waits for it while the loop runs, else does it."""
        topic, began_ms = AUDIT_TOPIC, self.clock()
        ends = {n: self.runtime.end(topic, n) for n in range(self.topology.topics[topic].partitions)}
        give_up = monotonic() + RING_SECS_MAX
        # What was accepted before, a change of settings above all, is folded first; only then is it looked at who is concerned.
        folded = self._wait_for(lambda: self.loop.beat_ms >= began_ms, give_up)
        looked_ms = self.clock()
        self.loop.reviews.look_now()
        return Rung(began_ms, folded and self._wait_for(lambda: self.loop.rung_ms() >= looked_ms, give_up), ends)

    def _wait_for(self, done: Callable[[], bool], give_up: float) -> bool:
        while not done() and monotonic() < give_up:
            if not self._threads:
                self.settle()
            elif self._stopping.wait(RING_POLL_SECS):
                return False
        return done()

    def _destroy_closed(self, class_: RawClass, now_ms: int) -> None:
        """Destroy closed keys under which no record is left and nothing is being written (no turn runs meanwhile)."""
        flying = list(self._publishing.values())  # before the topics: what lands meanwhile is in one of the two
        oldest = [ms for topic in self._raw_keys.topics[class_] if (ms := self.retention.oldest_ts_ms(topic)) is not None]
        self._raw_keys.destroy(class_, min([*oldest, *flying], default=now_ms + 1), self._raw_keys.firsts(class_))

    # Writing ------------------------------------------------------------------------------------------------------------------

    def publish(self, events: Iterable[tuple[str, str, Envelope]]) -> None:
        """Append envelopes as (topic, key, envelope), sealed, in order, all or none; returns when they are durable."""
        me = threading.get_ident()
        now_ms = self._publishing[me] = self.clock()
        try:
            seal = self.secrets.seal_raw
            self.runtime.append([Output(t, k.encode(), seal(t, encode(e), now_ms)) for t, k, e in events], now_ms)
        finally:
            del self._publishing[me]

    def append(self, topic: str, key: str, value: bytes) -> None:
        """Append one record that holds nothing personal, as it is."""
        self.runtime.append([Output(topic, key.encode(), value)], self.clock())

    # Reading ------------------------------------------------------------------------------------------------------------------

    def settings(self, controller: str) -> ControllerState:
        """The controller's settings in force."""
        return self.shared.settings_of(controller)

    def law(self, controller: str) -> Book:
        """The law packs in force for the controller."""
        return self.shared.law_of(controller)

    def look(self, owners: Sequence[str], kinds: Sequence[type[State]]) -> list[Look]:
        """What each dossier holds of `kinds`. The beat is read first: the state can only be newer."""
        beat_ms = self.loop.beat_ms
        return [Look(beat_ms, tuple(self.record("subject", owner, kind) for kind in kinds)) for owner in owners]

    def topic(self, topic: str, *, after: dict[int, int] | None = None) -> Iterator[tuple[int, LogRecord]]:
        """All committed records of a topic as (partition, record), partition by partition."""
        for partition in range(self.topology.topics[topic].partitions):
            offset = (after or {}).get(partition, 0)
            while records := self.runtime.read(topic, partition, offset, 1_000):
                for record in records:
                    yield partition, record
                offset = records[-1].offset + 1

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records of `topic` from `offset` on."""
        return self.runtime.read(topic, partition, offset, records_max)

    # Keys ---------------------------------------------------------------------------------------------------------------------

    def keys(self, controller: str | None = None) -> list[KeyStatus]:
        """Key-encryption keys and their newest rotation, of one controller or of all that have some."""
        return self.rotations.status(controller)

    def rotate_keys(self, controller: str, actor: str) -> None:
        """Begin a rotation, or see that the one under way goes on; the loop does the work. Raises `NothingToRotate`."""
        self.rotations.begin(controller, self.clock(), lambda: self.secrets.actor(controller, actor))
        self._rotation.wake()

    # What doors ask of the loop -----------------------------------------------------------------------------------------------

    @property
    def turns(self) -> int:
        """Turns of the loop that did something."""
        return self.loop.turns

    @property
    def counts(self) -> dict[tuple[str, ...], int]:
        """The engine's counters."""
        return dict(self.shared.counts)

    def beat_ms(self) -> int:
        """Everything received up to then has been folded: one loop folds everything, so there is one beat."""
        return self.loop.beat_ms

    def lane(self, owner: str) -> int:
        """The one lane."""
        return 0

    def beats(self) -> Sequence[int]:
        """The one beat."""
        return (self.loop.beat_ms,)

    def passed_ms(self) -> int:
        """The time that a beat must be past to include what is durable now.

        A clock that was set back changes nothing: no beat of a turn that has begun already is later than `seen_ms`.
        """
        return max(self.clock(), self.loop.beat_ms, self.loop.seen_ms)

    def lag(self) -> dict[tuple[str, str, int], int]:
        """Unread records per (task, topic, partition)."""
        return self.loop.lag()

    def frontiers(self) -> dict[str, Frontier]:
        """The committed frontier of every audit tree."""
        return frontiers(self.runtime, self.loop.tasks, self.shared.deployment)

    def notes(self) -> dict[str, str]:
        """The newest signed checkpoint of each audit tree."""
        return latest_notes(self.runtime)
