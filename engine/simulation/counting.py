"""The job that shows every fault: each event is counted once per key, told with its number, and now and then an alarm rings.

Two tasks, as in the real topology: `front` hands on, `count` keeps state. What is lost or doubled, even once, changes a
number that the auditor knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

import msgspec

from engine.declarations import Defaults, ProcessorSpec, Task, Topic, Topology
from engine.runtime import TaskSpec
from engine.simulation.auditor import cluster_faults, sequence_faults
from processors.kernel import (
    Alarm,
    Audit,
    Delete,
    Effect,
    Emit,
    Forward,
    Incurious,
    Instant,
    Processor,
    Put,
    Quiet,
    Receipt,
    State,
    View,
    Wake,
)
from schemas.base import Record
from schemas.codec import decode, encode
from schemas.events import CallTagged
from schemas.routed import Envelope
from schemas.topics import Decision

if TYPE_CHECKING:
    from engine.simulation.world import World

IN, BETWEEN, OUT = "calls", "case.events", "decisions"
ALARM_EVERY = 2
SWEEP_EVERY = 4
ALARM_MS = 700


class Tally(State):
    """How many events of this key there were, and the last one's tag."""

    KIND: ClassVar[str] = "tally"
    count: int = 0
    last: str = ""


class Mark(State):
    """An event that has not been swept up."""

    KIND: ClassVar[str] = "mark"


class HandOn(Quiet):
    """Hands every event on under its conversation."""

    name = "hand_on"
    READS: ClassVar[tuple[type[Record], ...]] = (CallTagged,)
    STATE: ClassVar[tuple[type[State], ...]] = ()

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """See `Processor`."""
        yield Forward(BETWEEN, (event.conversation_id,), at.envelope.refs)


class CountTags(Incurious):
    """Counts events per key; tells each with its number; every few sets an alarm, every few sweeps its marks."""

    name = "count_tags"
    READS: ClassVar[tuple[type[Record], ...]] = (CallTagged,)
    STATE: ClassVar[tuple[type[State], ...]] = (Tally, Mark)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """See `Processor`."""
        tally = view.get(Tally) or Tally()
        count = tally.count + 1
        marks = [parts for parts, _ in view.scan(Mark)]
        yield Put(Tally(count, event.tag))
        yield Put(Mark(), (event.tag,))
        if count % SWEEP_EVERY == 0:
            for parts in marks:
                yield Delete(Mark, parts)
        yield Audit("counted", at.controller)
        yield Emit(OUT, (view.owner,), told(event.tag, view.owner, count, len(marks), at.controller))
        if count % ALARM_EVERY == 0:
            yield Wake(event.tag, at.receipt_ms + ALARM_MS)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """See `Processor`."""
        yield Emit(OUT, (view.owner,), told(f"rung-{alarm.name}", view.owner, 0, 0, "acme"))


def told(name: str, key: str, count: int, marks: int, controller: str) -> Decision:
    """What goes out for one event or alarm: a verdict, for want of a record of our own."""
    return Decision(
        decision_id=name, controller=controller, use=key, verdict="allow", reasons=(str(marks),), at_ms=0, epoch=count
    )  # fmt: skip


def counting_processors() -> dict[str, Processor]:
    """The job's processors by name."""
    return {HandOn.name: HandOn(), CountTags.name: CountTags()}


def counting_topology(partitions: int) -> Topology:
    """The job as a value."""

    def topic(name: str, *schema: str, envelope: bool = False, cleanup: Any = "delete", count: int = partitions) -> Topic:
        return Topic(
            name=name, schema=schema, key=("case",), partitions=count, cleanup=cleanup, personal=False, erase="none",
            envelope=envelope,
        )  # fmt: skip

    topics = [
        topic(IN, "CallTagged", envelope=True), topic(BETWEEN, "CallTagged", envelope=True), topic(OUT, "Decision"),
        topic("audit.entries", "AuditEntry", cleanup="keep"), topic("quarantine", "QuarantineEntry"),
        topic("controllers", "ControllerState", cleanup="compact", count=1),
    ]  # fmt: skip
    tasks = [
        Task(name="front", partitioned_by=("free",), inputs=(IN,), processors=(HandOn.name,), partitions=partitions),
        Task(name="count", partitioned_by=("case",), inputs=(BETWEEN,), processors=(CountTags.name,), partitions=partitions),
    ]
    specs = [
        ProcessorSpec(name=HandOn.name, task="front", reads=("CallTagged",), writes=(BETWEEN,)),
        ProcessorSpec(name=CountTags.name, task="count", reads=("CallTagged",), writes=(OUT,), state=("tally", "mark")),
    ]
    return Topology(
        defaults=Defaults(writes=("audit.entries", "quarantine")), keys={}, topics={t.name: t for t in topics},
        tasks={t.name: t for t in tasks}, processors={s.name: s for s in specs}, consumers=(), promises=(),
    )  # fmt: skip


def counting_tasks(topology: Topology) -> list[TaskSpec]:
    """The job's tasks as a runtime knows them: the second waits for the beats of the first."""
    front, count = (topology.tasks[name] for name in ("front", "count"))
    return [
        TaskSpec(front.name, front.inputs, front.partitions),
        TaskSpec(count.name, count.inputs, count.partitions, (front.name,)),
    ]


class CountingJob:
    """See the module. What was published is remembered in plain lists, for the auditor."""

    def __init__(self, partitions: int = 2, keys: int = 5) -> None:
        self.topology = counting_topology(partitions)
        self.tasks = counting_tasks(self.topology)
        self.processors = counting_processors()
        self._keys = [f"c{n}" for n in range(keys)]
        self._published: dict[str, list[str]] = {}

    def publish(self, world: World) -> None:
        """Append one event."""
        key = world.random.choice(self._keys)
        tags = self._published.setdefault(key, [])
        tag = f"{key}-{len(tags)}"
        tags.append(tag)
        now_ms = world.clock()
        envelope = Envelope(
            id=tag, source="sim", type="call.tagged", controller="acme", time_ms=now_ms, receipt_ms=now_ms,
            data=encode(CallTagged(conversation_id=key, tag=tag)),
        )  # fmt: skip
        at = (IN, crc32(key.encode()) % world.topology.topics[IN].partitions)
        world.cluster.publish(at, key.encode(), world.secrets.seal_raw(IN, encode(envelope), now_ms), [])
        world.tell("-", f"published {tag}")

    def faults(self, world: World) -> Iterator[str]:
        """Fold what was published, in one pass and naively; compare."""
        told_of: dict[str, list[Any]] = {}
        rung: dict[str, list[str]] = {}
        for _, key, value in world.outputs(OUT):
            record: Any = decode(value or b"")
            if record.decision_id.startswith("rung-"):
                rung.setdefault(key.decode(), []).append(record.decision_id)
            else:
                told_of.setdefault(key.decode(), []).append((record.decision_id, record.epoch, record.reasons[0]))
        wanted = {
            key: [(tag, n, str(_marks_before(n))) for n, tag in enumerate(tags, 1)] for key, tags in self._published.items()
        }
        alarms = {key: sorted(f"rung-{t}" for t in tags[ALARM_EVERY - 1 :: ALARM_EVERY]) for key, tags in self._published.items()}
        yield from sequence_faults("outputs", wanted, told_of)
        yield from sequence_faults("alarms", alarms, {key: sorted(names) for key, names in rung.items()})
        counts = {}
        for n in range(world.topology.tasks["count"].partitions):
            for place, value in world.changelog("count", n).items():
                if place[:1] == b"s" and b"\0tally\0" in place:
                    counts[place[1:].split(b"\0")[0].decode()] = [msgspec.msgpack.decode(value)[0]]
        yield from sequence_faults("counts", {key: [len(tags)] for key, tags in self._published.items()}, counts)
        yield from cluster_faults(world)


def _marks_before(n: int) -> int:
    """How many marks stand before the n-th event: every fourth event sweeps those that stood before it, and leaves its own."""
    marks = 0
    for count in range(1, n):
        marks = 1 if count % SWEEP_EVERY == 0 else marks + 1
    return marks
