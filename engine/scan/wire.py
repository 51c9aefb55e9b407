"""Every record that a cluster still gives, over the wire: all topics of the prefix, aborted transactions included."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from confluent_kafka import KafkaError
from confluent_kafka import TopicPartition as At

from engine.kafka.clients import Clients
from engine.kafka.edge import asking
from engine.kafka.names import Names
from engine.scan.chunks import Found, Place, Unread
from engine.scan.segments import Record, record_chunks

RECORDS_MAX: Final = 1_000
SILENCE_SECS_MAX: Final = 30.0  # without a record or an end: then nobody knows what else there is
METADATA_SECS_MAX: Final = 10.0


def topics_of(metadata: dict[str, Any], names: Names, declared: Iterable[str]) -> dict[str, int]:
    """Partitions by topic of this deployment. Without a prefix only declared topics are known to be its own."""
    own = {names.shards, *(names.topic(name) for name in declared), *(names.changelog(unit.task) for unit in names.units)}
    return {
        name: len(topic.partitions) for name, topic in sorted(metadata.items())
        if (name.startswith(names.prefix) if names.prefix else name in own)
    }  # fmt: skip


def cluster(clients: Clients, names: Names, declared: Iterable[str]) -> Iterator[Found]:
    """Every record of every partition, from its first offset to the end that is met. Raises `BrokerAway`."""
    with asking():
        yield from _records(clients, names, declared)


def _records(clients: Clients, names: Names, declared: Iterable[str]) -> Iterator[Found]:
    reader = clients.reader("scan", committed=False)
    try:
        topics = topics_of(reader.list_topics(timeout=METADATA_SECS_MAX).topics, names, declared)
        places = [(topic, partition) for topic, count in topics.items() for partition in range(count)]
        starts = clients.starts(places)
        reader.assign([At(*place, starts[place]) for place in places])
        left, heard = set(places), time.monotonic()
        while left and time.monotonic() - heard < SILENCE_SECS_MAX:
            for message in reader.consume(RECORDS_MAX, 0.5):
                heard = time.monotonic()
                fault = message.error()
                topic = str(message.topic()).removeprefix(names.prefix)
                if fault is None:
                    headers = b"".join(name.encode() + (value or b"") for name, value in message.headers() or ())
                    yield from record_chunks("kafka", topic, Record(message.key(), message.value(), headers))
                elif fault.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- librdkafka's own codes begin with an underscore
                    at = (message.topic(), message.partition())
                    left.discard(at)
                    reader.incremental_unassign([At(*at)])
                else:
                    yield Unread(Place("kafka", "log", topic), "the cluster answers with an error")
                    left.discard((message.topic(), message.partition()))
        for topic in sorted({topic for topic, _ in left}):
            yield Unread(Place("kafka", "log", topic.removeprefix(names.prefix)), "the cluster did not give all of it in time")
    finally:
        reader.close()
