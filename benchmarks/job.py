"""The floor's job on the cluster runtime's seam: the same events, the same rule, the same answers, folded batch by batch.

An event is 194 octets of Avro; the state of its subject is kept with a changelog, and one Avro decision goes out. Only what the
seam offers is used: poll, a bounded cache of state objects that goes with its unit, one `Commit` a turn. The codec is the one
that `schemas/compiled.py` generates from the classes below. Their bytes are those of the floor's schemas: an Avro enum
stands on the wire as the long of its index.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

import msgspec

from engine.clock import Clock
from engine.kafka.runtime import KafkaRuntime
from engine.runtime import Batch, Commit, CommitLost, Output, TaskSpec, TopicSpec
from schemas.base import NAMESPACE
from schemas.compiled import decoder, encoder

TASK: Final = "job"
INPUT: Final = "in"
OUTPUT: Final = "out"
PARTITIONS: Final = 4
TOPICS: Final = (TopicSpec(INPUT, PARTITIONS, False), TopicSpec(OUTPUT, PARTITIONS, False))
TASKS: Final = (TaskSpec(TASK, (INPUT,), PARTITIONS),)

RECORDS_MAX: Final = 20_000  # of one turn: a fifth of a second's work
TURN_SECS: Final = 0.1  # a turn gathers no longer than this: what a decision waits for its commit
WAIT_SECS: Final = 0.01
KNOWN_MAX: Final = 100_000  # state objects kept per partition, some 20 MB; past it the cache starts over
KINDS: Final = ("CALL", "GRANT", "REVOKE", "DSAR")  # the floor's enum, in its order
GRANT, REVOKE = KINDS.index("GRANT"), KINDS.index("REVOKE")


class Event(msgspec.Struct, frozen=True, gc=False):
    """What the job needs of what comes in; `kind` is an index into `KINDS`. The rest is passed over."""

    event_id: str
    subject_id: str
    kind: int
    ts: int


class Out(msgspec.Struct, frozen=True, gc=False):
    """The decision that goes out."""

    event_id: str
    subject_id: str
    decision: str
    ts: int


WRITTEN: Final = {  # the floor's schema of an event
    "type": "record", "name": "Event", "namespace": NAMESPACE, "fields": [
        {"name": "event_id", "type": "string"}, {"name": "subject_id", "type": "string"}, {"name": "kind", "type": "long"},
        {"name": "purpose", "type": "string"}, {"name": "ts", "type": "long"}, {"name": "payload", "type": "bytes"},
    ],
}  # fmt: skip


class JobState(msgspec.Struct, array_like=True, gc=False):
    """What is known of one subject; changed in place, so it must die with every turn that is lost."""

    granted: bool = False
    version: int = 0
    last_ts: int = 0
    n: int = 0


decode_event: Callable[[bytes, int], Event] = decoder(Event, WRITTEN)  # type: ignore[arg-type, assignment]
encode_out: Callable[[Out], bytes] = encoder(Out, b"")  # type: ignore[arg-type, assignment]
pack_state = msgspec.msgpack.Encoder().encode
unpack_state = msgspec.msgpack.Decoder(JobState).decode


class Job:
    """Runs the job on every unit that its runtime owns, turn by turn. `begun` is called when the first events are there."""

    def __init__(self, runtime: KafkaRuntime, clock: Clock, begun: Callable[[], None] = lambda: None) -> None:
        self.done = 0  # events committed
        self.turns = 0
        self._runtime, self._clock, self._begun = runtime, clock, begun
        self._known: dict[int, dict[bytes, JobState]] = {}  # partition → subject → its newest state
        self._dirty: dict[tuple[str, int], dict[bytes, JobState]] = {}
        self._outputs: list[Output] = []
        self._positions: dict[tuple[str, str, int], int] = {}
        self._count = 0
        self._deadline = 0.0

    def turn(self) -> int:
        """Gather until a turn is due and commit it; returns the events it handled. 0: there was nothing yet."""
        for _, partition in self._runtime.tend():
            self._known.pop(partition, None)
        try:
            while not self._gather():
                if not self._count:
                    return 0
                self._runtime.wait(WAIT_SECS)
            return self._commit()
        except CommitLost:
            self._known.clear()
            self._forget()
            self._runtime.rewind()
            return 0

    def _gather(self) -> bool:
        """Poll once and fold; returns whether the turn is due."""
        batches = self._runtime.poll(TASK, RECORDS_MAX - self._count)
        if batches and not self._count:
            self._deadline = monotonic() + TURN_SECS
            if not self.turns:
                self._begun()
        for batch in batches:
            self._fold(batch)
            self._count += len(batch.records)
        return self._count >= RECORDS_MAX or (self._count > 0 and monotonic() >= self._deadline)

    def _fold(self, batch: Batch) -> None:
        known = self._known.setdefault(batch.partition, {})
        dirty = self._dirty.setdefault((TASK, batch.partition), {})
        send, decode, encode, grant, revoke = self._outputs.append, decode_event, encode_out, GRANT, REVOKE
        for record in batch.records:
            key = record.key
            event = decode(record.value, 0)  # type: ignore[arg-type] # nobody deletes from the input
            try:
                state = known[key]
            except KeyError:
                data = self._runtime.get(TASK, batch.partition, key)
                state = known[key] = JobState() if data is None else unpack_state(data)
            kind = event.kind
            if kind == grant:
                state.granted = True
            elif kind == revoke:
                state.granted = False
            state.version += 1
            state.last_ts = ts = event.ts
            state.n += 1
            dirty[key] = state
            decision = "ALLOW" if state.granted else "DENY"
            send(Output(OUTPUT, key, encode(Out(event.event_id, event.subject_id, decision, ts))))
        self._positions[TASK, INPUT, batch.partition] = batch.records[-1].offset + 1

    def _commit(self) -> int:
        pack = pack_state
        writes: dict[tuple[str, int], dict[bytes, bytes | None]] = {
            at: {key: pack(state) for key, state in dirty.items()} for at, dirty in self._dirty.items()
        }
        self._runtime.commit(Commit(self._outputs, writes, self._positions, self._clock()))
        count = self._count
        self.done += count
        self.turns += 1
        for known in self._known.values():
            if len(known) > KNOWN_MAX:
                known.clear()
        self._forget()
        return count

    def _forget(self) -> None:
        self._dirty, self._outputs, self._positions, self._count = {}, [], {}, 0
