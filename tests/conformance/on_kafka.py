"""The cluster runtime under the conformance suite, on a real broker.

The suite expects what was committed or appended to be there at once. Kafka delivers it some milliseconds later: the consumer
must fetch it, and the last stable offset moves when the transaction's marker is written. So the runtime under test waits
where the suite looks; it changes nothing else.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException

from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names, Unit
from engine.kafka.runtime import KafkaRuntime
from engine.runtime import Batch, Commit, TaskSpec, TopicSpec
from tests.parts.topics import make_topics, new_prefix

WAIT_SECS_MAX = 30


def make_all(bootstrap: str, names: Names, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec]) -> None:
    """The topics of a small topology, with its changelogs and shards."""
    plain = {names.topic(t.name): t.partitions for t in topics} | {names.shards: len(names.units)}
    make_topics(bootstrap, plain, retention_ms="-1")
    make_topics(bootstrap, {names.changelog(t.name): t.partitions for t in tasks}, cleanup_policy="compact")


class Settled(KafkaRuntime):
    """Waits until Kafka shows what is there."""

    def rest(self) -> None:
        """Wait until every unit of the deployment is ours."""
        deadline = time.monotonic() + WAIT_SECS_MAX
        while not self._lost and not (self.ready and self.membership.units >= set(self.names.units) - self.taken):
            assert time.monotonic() < deadline, "the units were not restored in time"
            self.tend()
            time.sleep(0.005)

    taken: frozenset[Unit] = frozenset()

    def poll(self, task: str, records_max: int) -> list[Batch]:
        self.rest()
        deadline = time.monotonic() + WAIT_SECS_MAX
        while True:
            found = super().poll(task, records_max)
            if found or self._drained(task):
                return found
            assert time.monotonic() < deadline, "what is there did not arrive in time"
            time.sleep(0.005)

    def _drained(self, task: str) -> bool:
        mine = [owned for unit, owned in self._owned.items() if unit.task == task]
        at = {(self._kafka[t], o.unit.partition): n for o in mine for t, n in o.reached.items()}
        ends = self._clients.ends(at, committed=False)
        return all(at[place] >= end for place, end in ends.items())

    def commit(self, commit: Commit) -> None:
        self.rest()
        super().commit(commit)
        self.marked()

    def marked(self) -> None:
        """Wait until transaction markers are written."""
        places = [(self._kafka[topic], n) for topic, count in self._partitions.items() for n in range(count)]
        deadline = time.monotonic() + WAIT_SECS_MAX
        while self._clients.ends(places, committed=True) != self._clients.ends(places, committed=False):
            assert time.monotonic() < deadline, "a transaction stayed open"

    def append(self, outputs, now_ms):
        super().append(outputs, now_ms)
        if threading.get_ident() == self._looper:
            self.marked()

    def scan(self, *args, **named):
        self.rest()
        return super().scan(*args, **named)

    def get(self, *args):
        self.rest()
        return super().get(*args)


class KafkaFactory:
    """Each test has topics of its own on the shared broker."""

    durable = True
    reassigns = True

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.folder, self.bootstrap = folder, bootstrap
        self.prefix = new_prefix()
        self.opened: list[Settled] = []

    def open(self, topics, tasks):
        names = Names(self.prefix, tasks)
        if not self.opened:
            make_all(self.bootstrap, names, topics, tasks)
        connection = Connection(bootstrap=self.bootstrap, prefix=self.prefix)
        runtime = Settled(
            ConfluentClients(connection, names), names, topics, tasks, folder=self.folder, worker="w1",
            clock=lambda: int(time.time() * 1000),
        )  # fmt: skip
        self.opened.append(runtime)
        runtime.rest()
        return runtime

    def break_next_commit(self, runtime):
        # As late as Kafka can fail: everything is produced and the offsets are sent.
        def step(number: int) -> None:
            if number == 6:
                runtime.transactor.step = lambda _: None
                raise KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE, "broken", txn_requires_abort=True))

        runtime.transactor.step = step

    def take_away(self, runtime, task, partition):
        runtime.taken = frozenset({Unit(task, partition)})
        runtime.membership.units -= runtime.taken
        runtime._lose(runtime.taken)

    def shut(self):
        for runtime in self.opened:
            runtime.close()
