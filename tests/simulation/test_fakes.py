"""The simulated parts promise what their real counterparts do; `tests/kafka/test_fake_cluster.py` compares the two."""

from random import Random
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from engine.kafka.names import Names
from engine.runtime import TaskSpec
from engine.simulation.clients import FakeClients
from engine.simulation.cluster import Cluster, Odds
from engine.simulation.disk import Batch, Disks
from engine.simulation.process import Killed, Process

NAMES = Names("", [TaskSpec("count", ("events",), 4)])
EVENTS = ("events", 0)
CHANGELOG = ("changelog.count", 0)


def cluster_of(seed: int = 1) -> Cluster:
    cluster = Cluster(Random(seed), {"events": 4, "changelog.count": 4, NAMES.shards: 4}, 0)
    cluster.group(NAMES.group)
    return cluster


def clients_of(cluster: Cluster, worker: str = "w1") -> tuple[FakeClients, Process]:
    process = Process(worker, 1, lambda *_: None)
    return FakeClients(cluster, process, NAMES), process


def producer_of(cluster: Cluster, name: str = "a") -> Any:
    producer = clients_of(cluster)[0].producer(name)
    producer.init_transactions()
    return producer


def code_of(call: Any, *given: Any) -> int:
    with pytest.raises(KafkaException) as caught:
        call(*given)
    return int(caught.value.args[0].code())


@pytest.mark.parametrize(("odds", "is_there"), [(Odds(request_lost=1.0), False), (Odds(reply_lost=1.0), True)])
def test_a_commit_that_timed_out_may_have_happened_or_not_and_the_same_call_settles_it(odds: Odds, is_there: bool) -> None:
    cluster = cluster_of()
    producer = producer_of(cluster)
    producer.begin_transaction()
    producer.produce("events", b"v", b"k", 0)
    cluster.odds = odds
    with pytest.raises(KafkaException) as caught:
        producer.commit_transaction()
    assert caught.value.args[0].retriable()
    assert bool(cluster.logs[EVENTS].committed_entries()) is is_there
    assert code_of(producer.abort_transaction) == KafkaError._CONFLICT
    cluster.odds = Odds()
    producer.commit_transaction()
    assert [e.value for e in cluster.logs[EVENTS].committed_entries()] == [b"v"]


def test_an_offset_may_be_stable_before_the_changelog_it_belongs_to() -> None:
    """What makes the last stable offset a wrong end: some seed must show it."""
    shown = 0
    for seed in range(60):
        cluster = cluster_of(seed)
        producer = producer_of(cluster)
        member = clients_of(cluster)[0].member("w1")
        member.subscribe([NAMES.shards], lambda *_: None, lambda *_: None)
        cluster.advance(10)
        member.poll()
        producer.begin_transaction()
        producer.produce(*CHANGELOG[:1], b"v", b"k", 0)
        producer.send_offsets_to_transaction([TopicPartition(*EVENTS, 1)], member.consumer_group_metadata())
        producer.commit_transaction()
        log = cluster.logs[CHANGELOG]
        shown += not cluster.unstable([EVENTS]) and log.stable_end < log.end
        cluster.advance(10_000)
        assert log.stable_end == log.end == 2
    assert shown


def test_a_member_that_misses_its_session_is_refused_and_told_so() -> None:
    cluster = cluster_of()
    clients, process = clients_of(cluster)
    member, calls = clients.member("w1"), list[tuple[str, int]]()
    member.subscribe(
        [NAMES.shards], lambda _, p: calls.append(("assign", len(p))), lambda _, p: calls.append(("revoke", len(p))),
        lambda _, p: calls.append(("lost", len(p))),
    )  # fmt: skip
    cluster.advance(10)
    member.poll()
    assert calls == [("assign", 4)]
    known = member.consumer_group_metadata()
    process.paused = True
    cluster.advance(cluster.session_ms + 1_000)
    process.paused = False
    producer = producer_of(cluster)
    producer.begin_transaction()
    assert code_of(producer.send_offsets_to_transaction, [TopicPartition(*EVENTS, 1)], known) == KafkaError.UNKNOWN_MEMBER_ID
    cluster.advance(3_000)
    member.poll()
    cluster.advance(3_000)
    member.poll()
    assert calls == [("assign", 4), ("lost", 4), ("assign", 4)]


@pytest.mark.parametrize("seed", range(20))
def test_no_two_members_hold_a_unit_in_one_generation(seed: int) -> None:
    random, cluster = Random(seed), cluster_of(seed)
    held: dict[int, tuple[Any, Process, set[int]]] = {}

    def join(number: int) -> None:
        clients, process = clients_of(cluster, f"w{number}")
        mine: set[int] = set()
        member = clients.member(f"w{number}")
        member.subscribe(
            [NAMES.shards], lambda _, p: mine.update(x.partition for x in p),
            lambda _, p: mine.difference_update(x.partition for x in p),
        )  # fmt: skip
        held[number] = (member, process, mine)

    for number in range(300):
        drawn = random.random()
        if drawn < 0.03 and len(held) < 4:
            join(number)
        elif drawn < 0.05 and held:
            member, _, _ = held.pop(random.choice(list(held)))
            member.close()
        elif drawn < 0.06 and held:
            held.pop(random.choice(list(held)))[1].alive = False
        for member, _, _ in held.values():
            if random.random() < 0.5:
                member.poll()
        cluster.advance(random.choice((1, 100, 900)))
        for unit in range(4):
            owners = [m.consumer_group_metadata() for m, _, mine in held.values() if unit in mine]
            current = [o for o in owners if o.generation == cluster.group(NAMES.group).generation and o.member]
            assert len(current) <= 1
    if not held:
        join(1_000)
    for _ in range(60):
        cluster.advance(1_000)
        for member, _, _ in held.values():
            member.poll()
    assert sorted(unit for _, _, mine in held.values() for unit in mine) == [0, 1, 2, 3]


def test_a_crash_keeps_what_was_flushed_and_a_beginning_of_the_rest() -> None:
    kept = set()
    for seed in range(200):
        disks = Disks(Random(seed))
        store = disks.open("/w1/count-0", Process("w1", 1, lambda *_: None), lambda _: None)
        for number in range(6):
            batch = Batch()
            batch.put(b"data", b"%d" % number)
            batch.put(b"%d" % number, b"x")
            store.write(batch)
            if number == 2:
                store.flush()
        disks.crash("w1")
        left = disks.open("/w1/count-0", Process("w1", 2, lambda *_: None), lambda _: None)
        keys = [key for key, _ in left.items(b"0") if key != b"data"]
        assert keys == [b"%d" % n for n in range(len(keys))]
        assert left.get(b"data") == keys[-1]
        kept.add(len(keys))
    assert kept == {3, 4, 5, 6}


def test_a_dead_process_does_nothing_any_more() -> None:
    cluster = cluster_of()
    clients, process = clients_of(cluster)
    producer, reader = clients.producer("a"), clients.reader("r")
    producer.init_transactions()
    producer.begin_transaction()
    process.alive = False
    for call in (lambda: producer.produce("events", b"v", b"k", 0), producer.commit_transaction, producer.abort_transaction,
                 lambda: reader.consume(1, 0)):  # fmt: skip
        with pytest.raises(Killed):
            call()
    assert not issubclass(Killed, Exception), "an engine's `except Exception` must not bring the dead back"
    assert not cluster.logs[EVENTS].entries
