"""A deployment on a cluster, as its doors see it: events go to Kafka, state comes from a read model, and each party has an age.

A door is no member of the group and owns nothing. It keeps the controllers' settings (a small compacted topic, read whole), and
looks several times a second how far the read model is. Everything else it asks when it is asked.

Of a `publish` that fails with anything but `CommitLost` some records may be there: the topics of publishers are written without
a transaction, because an event that is sent again changes nothing.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from engine.checkpoints import TOPIC as CHECKPOINTS
from engine.checkpoints import new_notes, newest, origin_of, record_of
from engine.clock import Clock
from engine.context import withheld
from engine.deployment import (
    CLOCKS_APART_MS,
    RING_SECS_MAX,
    Look,
    NotOffered,
    Question,
    RawLook,
    ReadModel,
    Reads,
    Rung,
    Unreachable,
)
from engine.effects import AUDIT_TOPIC
from engine.kafka.clients import Clients
from engine.kafka.edge import Edge, asking
from engine.kafka.names import Names
from engine.kafka.settings_tail import SettingsTail
from engine.keyring import KeyRing
from engine.layout import FRONTIER, RUNG, state_key
from engine.merkle import Frontier
from engine.notes import Signer
from engine.overlay import decode_state
from engine.rotation import KeyStatus, Rotations, keepers
from engine.runtime import LogRecord, Output, partition_of
from engine.secrets import Secrets
from engine.topology import Topology
from law.book import Book, Library, shipped_library
from processors.kernel import State
from schemas.codec import encode
from schemas.routed import Envelope
from schemas.topics import ControllerState

log = logging.getLogger("consentinel.door")

DOSSIERS: Final = "subject"  # decisions look at its state
SEEN_BY_DOORS: Final = (DOSSIERS, "case")
PULSE_SECS: Final = 0.1  # between two looks at the beats: a part of how long a mark stands
READ_MAX: Final = 1_000
CAUGHT_UP_SECS_MAX: Final = 10.0  # a beat a second, some of them on their way
RUNG_LOOK_SECS: Final = 1.0  # between two looks at how far alarms have rung: workers say it every few seconds
STOP_SECS_MAX: Final = 30.0


class KafkaDoor(Reads):
    """See `engine.deployment.Deployment`. `start` it; it is ready once it knows every controller's settings."""

    def __init__(
        self, clients: Clients, names: Names, topology: Topology, ring: KeyRing, model: ReadModel,
        clock: Clock, random: Callable[[int], bytes], library: Library | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, topology, Secrets(ring, random))
        self.clock, self._library = clock, library or shipped_library()
        self.signer = Signer(f"consentinel/{ring.deployment()}", ring.signing_seed())
        self.failed: str | None = None
        self.model_error: str | None = None  # why the read model cannot be asked at this moment
        self._ring, self._model, self._clients, self._names = ring, model, clients, names
        partitions = {name: topic.partitions for name, topic in topology.topics.items()}
        self._edge = Edge(clients, names, partitions)
        self._rotations = Rotations(ring, keepers(topology))
        self._settings = SettingsTail(clients, names)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._beats: dict[tuple[str, int], int] = {}
        self._lanes: tuple[int, ...] = (0,) * topology.tasks[DOSSIERS].partitions
        self._counts: dict[tuple[str, ...], int] = {}

    # Life ---------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow settings and beats; returns at once."""
        for name, body in (("settings", lambda: self._settings.follow(self._stopping)), ("pulse", self._feel_pulse)):
            thread = threading.Thread(target=self._guarded, args=(body,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Send what is under way, let go of everything. Safe to call twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_SECS_MAX)
        self._edge.close()
        self._model.close()
        self._ring.close()

    @property
    def ready(self) -> bool:
        """Whether every setting that was there at the start is known."""
        return self.failed is None and self._settings.known.is_set()

    def wait_ready(self, wait_secs: float) -> bool:
        """Wait for it."""
        return self._settings.known.wait(wait_secs)

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception as bug:
            self.failed = type(bug).__name__
            log.error("the %s stopped: %s", threading.current_thread().name, self.failed, exc_info=withheld(bug))

    def _feel_pulse(self) -> None:
        while not self._stopping.wait(PULSE_SECS):
            try:
                beats = self._model.beats()
                self.model_error = None
            except Unreachable as fault:
                self.model_error = str(fault)
                continue
            self._beats = beats
            self._lanes = tuple(beats.get((DOSSIERS, n), 0) for n in range(len(self._lanes)))

    # How old state is ---------------------------------------------------------------------------------------------------------

    @property
    def turns(self) -> int:
        """None: the loop runs in workers."""
        return 0

    @property
    def counts(self) -> Mapping[tuple[str, ...], int]:
        """See `Deployment`."""
        return dict(self._counts)

    def beat_ms(self) -> int:
        """The lowest beat of all that doors look at."""
        beats = self._beats
        return min((ms for (task, _), ms in beats.items() if task in SEEN_BY_DOORS), default=0)

    def lane(self, owner: str) -> int:
        """The partition of the owner's dossier."""
        return partition_of(owner.encode(), len(self._lanes))

    def beats(self) -> Sequence[int]:
        """The beat of each partition of dossiers."""
        return self._lanes

    def passed_ms(self) -> int:
        """See `Deployment`: beats are another host's time."""
        return max(self.clock(), *self._lanes) + CLOCKS_APART_MS

    # Writing ------------------------------------------------------------------------------------------------------------------

    def publish(self, events: Iterable[tuple[str, str, Envelope]]) -> None:
        """See `Deployment`."""
        now_ms = self.clock()
        seal = self.secrets.seal_raw
        self._edge.append([Output(t, k.encode(), seal(t, encode(e), now_ms)) for t, k, e in events], now_ms)

    def append(self, topic: str, key: str, value: bytes) -> None:
        """See `Deployment`."""
        self._edge.append([Output(topic, key.encode(), value)], self.clock())

    # Reading ------------------------------------------------------------------------------------------------------------------

    def settings(self, controller: str) -> ControllerState:
        """See `Deployment`."""
        return self._settings.of(controller)

    def law(self, controller: str) -> Book:
        """See `Deployment`."""
        return self._library.book(self._settings.of(controller).law)

    def look(self, owners: Sequence[str], kinds: Sequence[type[State]]) -> list[Look]:
        """See `Deployment`: one round trip to the read model."""
        questions = [
            Question(DOSSIERS, self.lane(owner), owner, tuple(state_key(owner, kind.KIND, ()) for kind in kinds))
            for owner in owners
        ]  # fmt: skip
        return [_decoded(raw, kinds) for raw in self._model.look(questions)] if questions else []

    def topic(self, topic: str, *, after: dict[int, int] | None = None) -> Iterator[tuple[int, LogRecord]]:
        """See `Deployment`: all that was committed when the call began, so that a topic that grows has an end."""
        kafka, partitions = self._names.topic(topic), range(self.topology.topics[topic].partitions)
        with asking():
            ends = self._clients.ends([(kafka, n) for n in partitions], committed=True)
        for partition in partitions:
            offset, end = (after or {}).get(partition, 0), ends[kafka, partition]
            while offset < end and (records := self.read(topic, partition, offset, READ_MAX)):
                yield from ((partition, record) for record in records if record.offset < end)
                offset = records[-1].offset + 1

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """See `Deployment`."""
        return self._edge.read(topic, partition, offset, records_max)

    def lag(self) -> dict[tuple[str, str, int], int]:
        """See `Deployment`: what the workers' group has not committed yet, transactions' own marks included."""
        places = {
            (task.name, topic, n): (self._names.topic(topic), n)
            for task in self.topology.tasks.values() for topic in task.inputs for n in range(task.partitions)
        }  # fmt: skip
        with asking():
            ends = self._clients.ends(places.values(), committed=True)
            starts = self._clients.starts(places.values())
            read = self._clients.committed(places.values())
        return {name: max(0, ends[at] - max(read.get(at, 0), starts[at])) for name, at in places.items()}

    # The audit log ------------------------------------------------------------------------------------------------------------

    def frontiers(self) -> dict[str, Frontier]:
        """See `Deployment`: waits until the read model has all that was committed before the call. Raises `Unreachable`."""
        self._catch_up()
        found: dict[str, Frontier] = {}
        for task in self.topology.tasks.values():
            for partition in range(task.partitions):
                data = self._model.get(task.name, partition, FRONTIER)
                if data is not None:
                    found[origin_of(self._ring.deployment(), task.name, partition)] = Frontier.from_bytes(data)
        return found

    def notes(self) -> dict[str, str]:
        """See `Deployment`."""
        return newest(record for _, record in self.topic(CHECKPOINTS))

    def checkpoint(self) -> list[str]:
        """See `Deployment`. Two doors that sign at once sign the same trees with the same key: notes that agree."""
        known = self.notes()
        for origin, note in new_notes(self.frontiers(), known, self.signer):
            known[origin] = note
            self.append(CHECKPOINTS, origin, record_of(note))
        return [known[origin] for origin in sorted(known)]

    def _catch_up(self) -> None:
        """Wait until every unit's beat is later than now, on whatever host's clock."""
        asked_ms, waited = self.clock() + CLOCKS_APART_MS, 0.0
        while not (beats := self._model.beats()) or min(beats.values()) <= asked_ms:
            if waited > CAUGHT_UP_SECS_MAX or self._stopping.wait(PULSE_SECS):
                raise Unreachable("the read model is behind the log")
            waited += PULSE_SECS

    def keys(self, controller: str | None = None) -> list[KeyStatus]:
        """See `Deployment`."""
        return self._rotations.status(controller)

    def rotate_keys(self, controller: str, actor: str) -> None:
        """See `Deployment`: the workers look at the ring every few seconds, and do it."""
        self._rotations.begin(controller, self.clock(), lambda: self.secrets.actor(controller, actor))

    def retain_raw(self, *, at_once: bool = False) -> int:
        """Not offered: on a cluster raw retention is the workers'."""
        raise NotOffered

    def ring_due(self) -> Rung:
        """See `Deployment`: the workers do it by themselves, within seconds; this waits until they say so."""
        began_ms, audit = self.clock(), self._names.topic(AUDIT_TOPIC)
        with asking():
            ends = self._clients.ends([(audit, n) for n in range(self.topology.topics[AUDIT_TOPIC].partitions)], committed=True)
        audited_from = {n: end for (_, n), end in ends.items()}
        self._catch_up()  # a change of settings that was accepted before is folded now
        looked_ms, waited = self.clock() + CLOCKS_APART_MS, 0.0
        while self._rung_ms() < looked_ms:
            if waited > RING_SECS_MAX or self._stopping.wait(RUNG_LOOK_SECS):
                return Rung(began_ms, False, audited_from)
            waited += RUNG_LOOK_SECS
        return Rung(began_ms, True, audited_from)

    def _rung_ms(self) -> int:
        """The least that the units of the read model say of their alarms; 0: one of them has never said it."""
        units = [(task, n) for task in SEEN_BY_DOORS for n in range(self.topology.tasks[task].partitions)]
        told = (self._model.get(task, n, RUNG) for task, n in units)
        return min(0 if data is None else int.from_bytes(data, "big") for data in told)


def begun(clients: Clients, names: Names, topology: Topology) -> bool:
    """Whether anybody has written anything here: then there is a key ring somewhere, and a new one would open nothing."""
    places = [(names.topic(name), n) for name, topic in topology.topics.items() for n in range(topic.partitions)]
    with asking():
        return any(clients.ends(places, committed=False).values())


def _decoded(raw: RawLook, kinds: Sequence[type[State]]) -> Look:
    records = tuple(None if data is None else decode_state(kind, data) for kind, data in zip(kinds, raw.values, strict=True))
    return Look(raw.beat_ms, records, raw.denials, raw.whole)
