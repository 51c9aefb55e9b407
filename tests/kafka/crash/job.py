"""The job of the crash audit: two tasks in a chain and alarms, small enough that anybody can say what must come out of it.

`relay` passes events on to an internal topic. `count` counts each key's events, tells each with the count it made, and sets an
alarm at every tenth; the alarm tells its count and is gone. Counts are kept in memory between turns, as the real loop keeps
what it knows: a worker that does not forget them when it must is wrong at once.
"""

import time
from collections.abc import Callable
from pathlib import Path

from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names
from engine.kafka.recovery import Recovery
from engine.kafka.runtime import KafkaRuntime
from engine.runtime import Commit, CommitLost, Output, TaskSpec, TopicSpec
from tests.parts.topics import make_topics

PARTITIONS = 4
EVENTS, RELAYED, COUNTED, RUNG = "events", "relayed", "counted", "rung"
TOPICS = tuple(TopicSpec(name, PARTITIONS, compact=False) for name in (EVENTS, RELAYED, COUNTED, RUNG))
TASKS = (TaskSpec("relay", (EVENTS,), PARTITIONS), TaskSpec("count", (RELAYED,), PARTITIONS, ("relay",)))
COUNT, ALARM = b"s", b"t"
RING_EACH = 10
RING_AFTER_MS = 300
LOOK_MS = 100  # between two looks for alarms
RECORDS_MAX = 500
ALARMS_MAX = 100
NEVER = (0, "")


def system_ms() -> int:
    return time.time_ns() // 1_000_000


def make_site(bootstrap: str, prefix: str) -> Names:
    """The topics of the job."""
    names = Names(prefix, TASKS)
    plain = {names.topic(topic.name): topic.partitions for topic in TOPICS} | {names.shards: len(names.units)}
    make_topics(bootstrap, plain, retention_ms="-1")
    make_topics(bootstrap, {names.changelog(task.name): task.partitions for task in TASKS}, cleanup_policy="compact")
    return names


def open_runtime(
    connection: Connection, folder: Path, worker: str, *, clock: Callable[[], int] = system_ms, accept_loss: bool = False,
    tombstones_ms: int | None = None,
) -> KafkaRuntime:  # fmt: skip
    names = Names(connection.prefix, TASKS)
    clients = ConfluentClients(connection, names)
    recovery = None
    if tombstones_ms is not None:
        recovery = Recovery(clients, names, TASKS, folder, worker, clock, tombstones_ms=tombstones_ms)
    return KafkaRuntime(
        clients, names, TOPICS, TASKS, folder=folder, worker=worker, clock=clock, recovery=recovery,
        standby=connection.standby, accept_loss=accept_loss,
    )  # fmt: skip


class Loop:
    """Turns of the job on a runtime. `doing` says which transaction is next, for those who want to break a certain one."""

    def __init__(self, runtime: KafkaRuntime, clock: Callable[[], int] = system_ms) -> None:
        self.runtime, self.clock = runtime, clock
        self.doing = "beat"
        self.lost = 0  # commits
        self._counts: dict[int, dict[bytes, int]] = {}  # per partition of `count`
        self._look_ms = 0

    def turn(self) -> int:
        """Returns how many records and alarms it handled."""
        try:
            for task, partition in self.runtime.tend():
                if task == "count":
                    self._counts.pop(partition, None)
            self.doing = "records"
            handled = self._records()
            self.doing = "alarms"
            return handled + self._alarms()
        except CommitLost:
            self.lost += 1
            self._counts.clear()
            self.runtime.rewind()
            return 1
        finally:
            self.doing = "beat"

    def _records(self) -> int:
        outputs: list[Output] = []
        writes: dict[tuple[str, int], dict[bytes, bytes | None]] = {}
        positions: dict[tuple[str, str, int], int] = {}
        batches = [batch for task in TASKS for batch in self.runtime.poll(task.name, RECORDS_MAX)]
        now_ms = self.clock()
        for batch in batches:
            positions[batch.task, batch.topic, batch.partition] = batch.records[-1].offset + 1
            if batch.task == "relay":
                outputs += [Output(RELAYED, record.key, record.value) for record in batch.records]
                continue
            written = writes.setdefault(("count", batch.partition), {})
            known = self._counts.setdefault(batch.partition, {})
            for record in batch.records:
                key = record.key
                count = (known.get(key) or self.count(batch.partition, key)) + 1
                known[key] = count
                written[COUNT + key] = b"%d" % count
                outputs.append(Output(COUNTED, key, b"%b %d" % (record.value or b"", count)))
                if count % RING_EACH == 0:
                    written[ALARM + (now_ms + RING_AFTER_MS).to_bytes(8, "big") + b"%b %d" % (key, count)] = b""
        if batches:
            self.runtime.commit(Commit(outputs, writes, positions, now_ms))
        return sum(len(batch.records) for batch in batches)

    def count(self, partition: int, key: bytes) -> int:
        """The committed count of a key."""
        return int(self.runtime.get("count", partition, COUNT + key) or 0)

    def _alarms(self) -> int:
        now_ms = self.clock()
        if now_ms - self._look_ms < LOOK_MS:
            return 0
        self._look_ms = now_ms
        writes: dict[tuple[str, int], dict[bytes, bytes | None]] = {}
        outputs: list[Output] = []
        for partition in self.runtime.owned("count"):
            for key, _ in self.runtime.scan("count", partition, ALARM, limit=ALARMS_MAX):
                if int.from_bytes(key[1:9], "big") > now_ms:
                    break
                writes.setdefault(("count", partition), {})[key] = None
                name, _, count = key[9:].rpartition(b" ")
                outputs.append(Output(RUNG, name, count))
        if writes:
            self.runtime.commit(Commit(outputs, writes, {}, now_ms))
        return len(outputs)
