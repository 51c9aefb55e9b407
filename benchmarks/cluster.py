"""What the benchmarks on Kafka share: topics, runtimes, input, and reading back all that was committed."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from benchmarks import job
from benchmarks.floor import common as floor
from engine.clock import system_clock
from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names
from engine.kafka.runtime import KafkaRuntime
from engine.runtime import TaskSpec, TopicSpec
from tests.parts.topics import make_topics

QUEUE_MAX = 1_000_000
READ_SECS_MAX = 120.0
READ_MAX = 10_000
POLL_SECS = 0.1


class JobNames(Names):
    """The names of one run of the job; its input is another's topic, which floor and engine both read."""

    def __init__(self, prefix: str, input_topic: str) -> None:
        super().__init__(prefix, job.TASKS)
        self.input_topic = input_topic

    def topic(self, name: str) -> str:
        """See `Names`."""
        return self.input_topic if name == job.INPUT else super().topic(name)


def clients_of(bootstrap: str, names: Names, worker: str) -> ConfluentClients:
    """A worker's clients, with the settings of a worker."""
    return ConfluentClients(Connection(bootstrap=bootstrap, prefix=names.prefix, worker=worker), names)


def job_runtime(bootstrap: str, names: Names, folder: Path, worker: str) -> KafkaRuntime:
    """A runtime with the job's one task."""
    clients = clients_of(bootstrap, names, worker)
    return KafkaRuntime(clients, names, job.TOPICS, job.TASKS, folder=folder, worker=worker, clock=system_clock)


def make_all(bootstrap: str, names: Names, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec]) -> None:
    """The topics of a topology, with its changelogs and shards; those that are there already are not `topics`."""
    plain = {names.topic(t.name): t.partitions for t in topics if not t.compact} | {names.shards: len(names.units)}
    make_topics(bootstrap, plain, retention_ms="-1")
    compact = {names.topic(t.name): t.partitions for t in topics if t.compact}
    make_topics(bootstrap, compact | {names.changelog(t.name): t.partitions for t in tasks}, cleanup_policy="compact")


def make_job_topics(bootstrap: str, names: Names) -> None:
    """Everything of the job but its input."""
    make_all(bootstrap, names, [topic for topic in job.TOPICS if topic.name != job.INPUT], job.TASKS)


def make_input(bootstrap: str, topic: str, events: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """The floor's events, as its own producer writes them: keyed by subject."""
    make_topics(bootstrap, {topic: job.PARTITIONS}, retention_ms="-1")
    producer = Producer({
        "bootstrap.servers": bootstrap, "linger.ms": 20, "partitioner": "consistent", "acks": "all",
        "queue.buffering.max.messages": QUEUE_MAX,
    })  # fmt: skip
    for subject, event in events:
        value = floor.enc(floor.EVENT, event)
        while True:
            try:
                producer.produce(topic, key=subject.encode(), value=value)
                break
            except BufferError:
                producer.poll(POLL_SECS)
        producer.poll(0)
    assert producer.flush(READ_SECS_MAX) == 0, "the input was not taken in time"


def committed(bootstrap: str, topic: str, partitions: int) -> Iterator[Any]:
    """Every committed message of a topic, each partition in order."""
    reader = Consumer({
        "bootstrap.servers": bootstrap, "group.id": f"benchmark-{random.getrandbits(64):x}", "enable.auto.commit": False,
        "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest",
    })  # fmt: skip
    reader.assign([TopicPartition(topic, n, 0) for n in range(partitions)])
    ended: set[int] = set()
    deadline = monotonic() + READ_SECS_MAX
    try:
        while len(ended) < partitions:
            assert monotonic() < deadline, "the topic could not be read in time"
            for message in reader.consume(READ_MAX, POLL_SECS):
                fault = message.error()
                if fault is None:
                    yield message
                elif fault.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    ended.add(message.partition())
                else:
                    raise AssertionError(fault.name())
    finally:
        reader.close()
