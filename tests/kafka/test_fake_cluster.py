"""The simulation's Kafka against a real one: the same script on both, and they must tell the same story.

What the engine's exactness rests on is in the script: who sees what, where ends stand, and which error a client gets when.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names
from engine.runtime import TaskSpec
from engine.simulation.clients import FakeClients
from engine.simulation.cluster import Cluster, GroupMetadata
from engine.simulation.process import Process
from tests.parts.kafka import Kafka
from tests.parts.topics import make_topics

pytestmark = pytest.mark.slow

TASKS = [TaskSpec("count", ("events",), 2)]
TRANSACTION_MS = 2_000
SECS_MAX = 30.0


class Side:
    """One of the two clusters: makes clients, lets time pass."""

    def __init__(self, clients: Any, names: Names, pause: Callable[[float], None], nobody: Callable[[], Any]) -> None:
        self.clients, self.names, self.pause, self.nobody = clients, names, pause, nobody
        self.topic, self.place = names.topic("events"), (names.topic("events"), 0)
        self.told: list[tuple[str, Any]] = []

    def producer(self, name: str) -> Any:
        producer = self.clients.producer(self.names.prefix + name)
        producer.init_transactions(SECS_MAX)
        return producer

    def say(self, what: str, how: Any) -> None:
        self.told.append((what, how))

    def attempt(self, what: str, call: Callable[..., Any], *given: Any) -> None:
        """Note how a call ends: with what error, and what that error says of itself."""
        try:
            call(*given)
        except KafkaException as fault:
            error = fault.args[0]
            self.say(what, (error.name(), error.fatal(), error.retriable(), error.txn_requires_abort()))
        except SystemError:
            self.say(what, "SystemError")
        else:
            self.say(what, "ok")

    def ends(self, *, committed: bool) -> int:
        return int(self.clients.ends([self.place], committed=committed)[self.place])

    def settle(self) -> None:
        """Wait until every marker stands."""
        for _ in range(300):
            if self.ends(committed=True) == self.ends(committed=False):
                return
            self.pause(0.1)
        raise AssertionError("a transaction never ends")

    def look(self, what: str) -> None:
        """Note what readers of both isolations see from the beginning, ends included, and the ends themselves."""
        self.say(f"{what}: ends", (self.ends(committed=True), self.ends(committed=False)))
        for committed in (True, False):
            reader = self.clients.reader("looker", committed=committed)
            reader.incremental_assign([TopicPartition(*self.place, 0)])
            seen: list[Any] = []
            deadline = time.monotonic() + SECS_MAX
            while not (seen and seen[-1][0] == "_PARTITION_EOF") and time.monotonic() < deadline:
                for message in reader.consume(100, 0.2):
                    fault = message.error()
                    seen.append((message.value() if fault is None else fault.name(), message.offset()))
            watermarks = reader.get_watermark_offsets(TopicPartition(*self.place), timeout=SECS_MAX)
            self.say(f"{what}: {'committed' if committed else 'uncommitted'}", (seen, watermarks))
            reader.close()

    def offset(self, what: str, *, committed: bool) -> None:
        """Note the group's offset as a reader gets it, or how the question ends."""
        reader = self.clients.reader("asker", committed=committed)
        try:
            (found,) = reader.committed([TopicPartition(*self.place)], timeout=2.0)
            self.say(what, (found.offset, found.metadata or ""))
        except KafkaException as fault:
            self.say(what, fault.args[0].name())
        reader.close()

    @contextmanager
    def member(self, name: str) -> Iterator[tuple[Any, list[Any]]]:
        """A member of the group, and what its callbacks were told."""
        calls: list[Any] = []
        member = self.clients.member(name)
        member.subscribe(
            [self.names.shards], on_assign=lambda _, places: calls.append(("assign", len(places))),
            on_revoke=lambda _, places: calls.append(("revoke", len(places))),
            on_lost=lambda _, places: calls.append(("lost", len(places))),
        )  # fmt: skip
        try:
            yield member, calls
        finally:
            member.close()

    def until(self, true: Callable[[], Any], *members: Any) -> None:
        for _ in range(600):
            for member in members:
                member.poll(0.05)
            if true():
                return
        raise AssertionError("the group does not settle")

    def send_offset(self, producer: Any, offset: int, metadata: Any) -> None:
        place = TopicPartition(*self.place, offset, metadata="who")
        producer.send_offsets_to_transaction([place], metadata, SECS_MAX)


def transactions(side: Side) -> None:
    producer = side.producer("a")
    side.attempt("begin", producer.begin_transaction)
    side.attempt("begin twice", producer.begin_transaction)
    for value in (b"a0", b"a1"):
        producer.produce(side.topic, value, b"k", 0)
    producer.flush(SECS_MAX)
    side.look("open")
    side.attempt("abort", producer.abort_transaction, SECS_MAX)
    side.settle()
    producer.begin_transaction()
    delivered: list[Any] = []
    producer.produce(side.topic, b"b0", b"k", 0, on_delivery=lambda error, message: delivered.append((error, message.offset())))
    side.attempt("commit", producer.commit_transaction, SECS_MAX)
    side.say("delivered within the commit", delivered)
    side.settle()
    side.look("committed")
    side.attempt("commit nothing", producer.commit_transaction, SECS_MAX)
    producer.begin_transaction()
    side.attempt("commit an empty one", producer.commit_transaction, SECS_MAX)


def fencing(side: Side) -> None:
    first = side.producer("f")
    first.begin_transaction()
    first.produce(side.topic, b"f0", b"k", 0)
    first.flush(SECS_MAX)
    second = side.producer("f")
    side.settle()
    side.look("fenced")
    first.produce(side.topic, b"f1", b"k", 0)
    side.attempt("commit of the fenced", first.commit_transaction, SECS_MAX)
    third, fourth = side.producer("g"), side.producer("g")
    third.begin_transaction()
    side.attempt("offsets of the fenced", side.send_offset, third, 1, side.nobody())
    side.attempt("abort of the fenced", third.abort_transaction, SECS_MAX)
    side.attempt("begin of the fenced", third.begin_transaction)
    for living in (second, fourth):
        living.begin_transaction()
        side.attempt("the newer one works", living.commit_transaction, SECS_MAX)


def reports_of_the_fenced(side: Side) -> None:
    producer = side.producer("r")
    producer.begin_transaction()
    producer.produce(side.topic, b"r0", b"k", 0)
    producer.flush(SECS_MAX)
    side.producer("r")
    reports: list[Any] = []
    producer.produce(side.topic, b"r1", b"k", 0, on_delivery=lambda error, _: reports.append(error.code()))
    side.attempt("flush with a report behind a fatal error", producer.flush, SECS_MAX)
    side.settle()


def time_outs(side: Side) -> None:
    producer = side.producer("t")
    producer.begin_transaction()
    producer.produce(side.topic, b"t0", b"k", 0)
    producer.flush(SECS_MAX)
    side.settle()  # the broker ends it
    side.attempt("commit after the time-out", producer.commit_transaction, SECS_MAX)
    side.look("timed out")


def generations(side: Side) -> None:
    producer = side.producer("o")
    with side.member("m1") as (one, calls):
        side.until(lambda: ("assign", 2) in calls, one)
        producer.begin_transaction()
        producer.produce(side.topic, b"o0", b"k", 0)
        side.attempt("offsets", side.send_offset, producer, 1, one.consumer_group_metadata())
        side.offset("pending, to a committed reader", committed=True)
        side.offset("pending, to an uncommitted reader", committed=False)
        producer.commit_transaction(SECS_MAX)
        side.settle()
        side.pause(1.0)
        side.offset("committed", committed=True)
        stale = one.consumer_group_metadata()
        with side.member("m2") as (two, others):
            side.until(lambda: ("assign", 1) in others, one, two)
            side.say("what the first was told", [call for call in calls if call[1]])
            producer.begin_transaction()
            side.attempt("stale generation", side.send_offset, producer, 2, stale)
            side.attempt("commit after it", producer.commit_transaction, SECS_MAX)
            side.attempt("abort after it", producer.abort_transaction, SECS_MAX)
            gone = two.consumer_group_metadata()
        side.until(lambda: calls.count(("assign", 1)) == 1, one)
        producer.begin_transaction()
        side.attempt("unknown member", side.send_offset, producer, 2, gone)
        producer.abort_transaction(SECS_MAX)
        producer.begin_transaction()
        side.attempt("no generation, no member", side.send_offset, producer, 3, side.nobody())
        side.attempt("which Kafka commits", producer.commit_transaction, SECS_MAX)
        side.pause(1.0)
        side.offset("and keeps", committed=True)


def reading(side: Side) -> None:
    reader = side.clients.reader("reader")
    at = TopicPartition(*side.place, 0)
    side.attempt("assign", reader.incremental_assign, [at])
    side.attempt("assign twice", reader.incremental_assign, [at])
    side.attempt("unassign what is not", reader.incremental_unassign, [TopicPartition(side.topic, 1)])
    side.attempt("unassign", reader.incremental_unassign, [at])
    reader.incremental_assign([TopicPartition(side.topic, 1, 50)])
    found: list[Any] = []
    deadline = time.monotonic() + SECS_MAX
    while not found and time.monotonic() < deadline:
        found = [message.error().code() for message in reader.consume(10, 0.2)]
    side.say("beyond the end", found[:1] == [KafkaError._AUTO_OFFSET_RESET])
    reader.close()


SCRIPTS = (transactions, fencing, reports_of_the_fenced, time_outs, generations, reading)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_fake_cluster_tells_what_a_real_one_tells(script: Callable[[Side], None], kafka: Kafka, fresh_prefix: str) -> None:
    names = Names(fresh_prefix, TASKS)
    make_topics(kafka.bootstrap, {names.topic("events"): 2, names.shards: 2})
    connection = Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix, transaction_timeout_ms=TRANSACTION_MS)
    # A consumer that never subscribed knows its group and nothing else.
    stranger = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": names.group})
    real = Side(ConfluentClients(connection, names), names, time.sleep, stranger.consumer_group_metadata)
    script(real)
    stranger.close()
    cluster = Cluster(Random(1), {names.topic("events"): 2, names.shards: 2}, 0)
    clients = FakeClients(cluster, Process("w", 1, lambda *_: None), names, TRANSACTION_MS)
    fake = Side(clients, names, lambda secs: cluster.advance(round(secs * 1_000)), lambda: GroupMetadata(names.group, -1, ""))
    cluster.group(names.group)
    script(fake)
    assert fake.told == real.told
