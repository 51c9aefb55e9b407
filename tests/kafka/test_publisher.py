"""A call to the publisher ends soon: with everything durable, with the certainty that nothing is, or with a doubt, said."""

import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from engine.kafka.clients import PUBLISH_MS_MAX, ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names
from engine.kafka.publisher import NotConfirmed, Publisher
from engine.runtime import CommitLost, Output, partition_of
from tests.parts.kafka import Broker, Kafka
from tests.parts.topics import make_topics

RECEIVED_MS = 1_772_000_000_000
PARTITIONS = {"calls": 4, "nowhere": 1}


def opened(bootstrap: str, prefix: str) -> Publisher:
    names = Names(prefix, ())
    return Publisher(ConfluentClients(Connection(bootstrap=bootstrap, prefix=prefix), names), names, PARTITIONS)


@pytest.fixture
def publisher(kafka: Kafka, fresh_prefix: str) -> Iterator[Publisher]:
    make_topics(kafka.bootstrap, {f"{fresh_prefix}calls": 4}, max_message_bytes="20000")
    made = opened(kafka.bootstrap, fresh_prefix)
    yield made
    made.close()


def stored(kafka: Kafka, prefix: str) -> dict[int, list[tuple[bytes, bytes, int]]]:
    """(key, value, timestamp) by partition."""
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "reader", "enable.partition.eof": True})
    reader.assign([TopicPartition(f"{prefix}calls", n, 0) for n in range(4)])
    found: dict[int, list[tuple[bytes, bytes, int]]] = {n: [] for n in range(4)}
    ends = 0
    while ends < 4:
        for message in reader.consume(10_000, 1):
            ends += message.error() is not None
            if message.error() is None:
                found[message.partition()].append((message.key(), message.value(), message.timestamp()[1]))
    reader.close()
    return found


def test_what_was_appended_is_durable_in_order_and_where_its_key_says(
    kafka: Kafka, publisher: Publisher, fresh_prefix: str
) -> None:
    outputs = [Output("calls", f"k{n % 7}".encode(), str(n).encode()) for n in range(2_000)]
    publisher.append(outputs, RECEIVED_MS)
    for partition, records in stored(kafka, fresh_prefix).items():
        mine = [o for o in outputs if partition_of(o.key, 4) == partition]
        assert records == [(o.key, o.value, RECEIVED_MS) for o in mine]


def test_of_many_callers_each_has_its_records_together_and_once(kafka: Kafka, publisher: Publisher, fresh_prefix: str) -> None:
    def call(caller: int) -> None:
        for n in range(20):
            publisher.append([Output("calls", b"k", f"{caller}/{n}/{part}".encode()) for part in range(3)], RECEIVED_MS)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [value for _, value, _ in stored(kafka, fresh_prefix)[partition_of(b"k", 4)]]
    assert sorted(found) == sorted(f"{c}/{n}/{p}".encode() for c in range(8) for n in range(20) for p in range(3))
    assert all(found[at : at + 3] == [found[at][:-1] + b"%d" % part for part in range(3)] for at in range(0, len(found), 3))


def test_what_the_broker_refuses_was_surely_not_written(kafka: Kafka, publisher: Publisher, fresh_prefix: str) -> None:
    with pytest.raises(CommitLost):
        publisher.append([Output("calls", b"k", bytes(100_000))], RECEIVED_MS)
    assert not any(stored(kafka, fresh_prefix).values())


def test_of_a_call_that_was_refused_in_part_nobody_is_told_that_nothing_is_there(
    kafka: Kafka, publisher: Publisher, fresh_prefix: str
) -> None:
    small = Output("calls", b"a", b"small")
    publisher.append([small], RECEIVED_MS)
    with pytest.raises(NotConfirmed):
        publisher.append([small, Output("calls", b"b", bytes(100_000))], RECEIVED_MS)
    assert sum(map(len, stored(kafka, fresh_prefix).values())) == 2


@pytest.mark.slow
def test_a_broker_that_does_not_answer_is_a_doubt_in_bounded_time_then_a_refusal_at_once_then_forgotten(kafka_jars: None) -> None:
    with Broker() as broker:
        make_topics(broker.bootstrap, {"calls": 4})
        publisher = opened(broker.bootstrap, "")
        publisher.append([Output("calls", b"k", b"1")], RECEIVED_MS)
        broker.pause()
        started = time.monotonic()
        with pytest.raises(NotConfirmed):
            publisher.append([Output("calls", b"k", b"2")], RECEIVED_MS)
        assert time.monotonic() - started < PUBLISH_MS_MAX / 1_000 + 3
        started = time.monotonic()
        with pytest.raises(CommitLost):
            publisher.append([Output("calls", b"k", b"3")], RECEIVED_MS)
        assert time.monotonic() - started < 0.1
        broker.resume()
        give_up = time.monotonic() + 30
        while True:
            try:
                publisher.append([Output("calls", b"k", b"4")], RECEIVED_MS)
                break
            except (CommitLost, NotConfirmed):
                assert time.monotonic() < give_up
                time.sleep(0.2)
        publisher.close()
