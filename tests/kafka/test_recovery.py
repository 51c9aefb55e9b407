"""What a worker does about a state or a position that it cannot trust: wipe and restore, or stop and say what to do."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from engine.kafka.connection import Connection
from engine.kafka.names import Unit
from engine.kafka.positions import PositionLost, PositionsDisagree
from engine.kafka.runtime import KafkaRuntime
from engine.kafka.store import Store
from engine.runtime import StoreDamaged
from tests.kafka.crash.crew import Publisher, until
from tests.kafka.crash.job import COUNT, PARTITIONS, TASKS, Loop, make_site, open_runtime, system_ms
from tests.kafka.crash.verifier import read, record, verify
from tests.parts.kafka import Kafka
from tests.parts.topics import make_topics

pytestmark = pytest.mark.slow

EVENTS = 2_000
ADMIN_SECS_MAX = 30.0
GHOST = COUNT + b"ghost"  # a key that only an untrue store has: an erased person
DAY_MS = 86_400_000


class Site:
    """One deployment of the counting job, worked on by runtimes in this process."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path) -> None:
        self.bootstrap, self.prefix, self.folder = bootstrap, prefix, folder
        self.connection = Connection(bootstrap=bootstrap, prefix=prefix)
        self.names = make_site(bootstrap, prefix)
        self.publisher = Publisher(bootstrap, prefix, Random(7), rate=1)
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.runtimes: list[KafkaRuntime] = []

    def open(self, worker: str = "w1", **settings: Any) -> Loop:
        connection = settings.pop("connection", self.connection)
        runtime = open_runtime(connection, self.folder / worker, worker, **settings)
        self.runtimes.append(runtime)
        return Loop(runtime, settings.get("clock", system_ms))

    def publish(self, count: int = EVENTS) -> None:
        self.publisher.publish(count)
        self.publisher.flush()

    def until(self, true: Callable[[], Any], *loops: Loop) -> None:
        def turned() -> Any:
            for loop in loops:
                loop.turn()
            return true()

        until(turned)

    def drain(self, *loops: Loop) -> None:
        """Work until every event is counted, and committed."""
        ours = [loop.runtime for loop in loops]
        self.until(lambda: all(r.ready for r in ours) and sum(len(r.owned("count")) for r in ours) == PARTITIONS, *loops)
        self.until(lambda: sum(sum(counts_of(r).values()) for r in ours) == self.publisher.sent, *loops)

    def ready(self, loop: Loop) -> None:
        self.until(lambda: loop.runtime.ready and len(loop.runtime.owned("count")) == PARTITIONS, loop)

    def close(self) -> None:
        for runtime in self.runtimes:
            runtime.close()

    def counted(self) -> None:
        """A worker has counted everything and ended."""
        self.publish()
        loop = self.open()
        self.drain(loop)
        loop.runtime.close()

    def truth(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for row in read(self.bootstrap, f"{self.prefix}events"):
            found[row.key] = found.get(row.key, 0) + 1
        return found

    def stores(self) -> list[Path]:
        return [self.folder / "w1" / f"{task.name}-{n}" for task in TASKS for n in range(task.partitions)]

    def haunt(self, *, ahead: int = 0, age_ms: int = 0, ghosts: int = 1) -> None:
        """Put what is not true into every local store."""
        for folder in self.stores():
            store = Store(folder)
            untrue: dict[bytes, bytes | None] = {GHOST + b"%d" % n: b"1" for n in range(ghosts)}
            store.committed(untrue, store.position + ahead, store.written_ms - age_ms)
            store.close()


def counts_of(runtime: KafkaRuntime) -> dict[bytes, int]:
    found = {}
    for n in runtime.owned("count"):
        found |= {key[1:]: int(value) for key, value in runtime.scan("count", n, COUNT)}
    return found


@pytest.fixture
def site(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(kafka.bootstrap, fresh_prefix, tmp_path)
    yield made
    made.close()


def restored_whole(site: Site, loop: Loop) -> None:
    """The units come up with what is true and nothing else, read anew from their changelogs, and go on from there."""
    site.ready(loop)
    changelogs = sum(len(read(site.bootstrap, site.names.changelog(task.name))) for task in TASKS)
    assert loop.runtime.recovery.restored >= changelogs * 0.9, "the stores were trusted"
    assert counts_of(loop.runtime) == site.truth()
    site.publish(200)
    site.drain(loop)
    assert counts_of(loop.runtime) == site.truth()


def overwrite(path: Path, place: float) -> None:
    """64 octets of a file, somewhere between its beginning (0) and its end (1)."""
    data = bytearray(path.read_bytes())
    at = int((len(data) - 64) * place) if len(data) > 64 else 0
    data[at : at + 64] = b"\xa5" * min(64, len(data))
    path.write_bytes(data)


def test_a_store_that_was_closed_in_order_is_trusted_and_hardly_reads_anything(site: Site) -> None:
    site.counted()
    loop = site.open()
    site.ready(loop)
    assert loop.runtime.recovery.restored <= 2 * len(site.names.units)
    assert counts_of(loop.runtime) == site.truth()


@pytest.mark.parametrize(("pattern", "place"), [("MANIFEST-*", 0.3), ("*.sst", 1.0), ("*.sst", 0.1), ("CURRENT", 0.0)])
def test_a_damaged_store_is_wiped_and_restored(site: Site, pattern: str, place: float) -> None:
    site.counted()
    damaged = [path for folder in site.stores() for path in folder.glob(pattern)]
    assert damaged
    for path in damaged:
        overwrite(path, place)
    restored_whole(site, site.open())


def test_a_store_that_shows_its_damage_only_where_it_is_read_stops_the_worker_and_the_next_start_restores_it(site: Site) -> None:
    site.counted()
    site.haunt(ghosts=20_000)  # many blocks: opening it reads only the first ones and the last
    for path in (path for folder in site.stores() for path in folder.glob("*.sst")):
        if path.stat().st_size > 100_000:
            for tenth in range(1, 9):
                overwrite(path, tenth / 10)
    loop = site.open()
    site.ready(loop)
    for n in range(PARTITIONS):
        with pytest.raises(StoreDamaged):
            list(loop.runtime.scan("count", n, COUNT))
    loop.runtime.close()
    again = site.open()
    site.ready(again)
    assert counts_of(again.runtime) == site.truth()


def test_a_store_that_lay_by_for_longer_than_tombstones_last_is_wiped_although_the_worker_never_ended(site: Site) -> None:
    site.publish()
    first = site.open("w1", tombstones_ms=6_000)
    site.drain(first)
    second = site.open("w2")
    site.until(lambda: len(first.runtime.recovery._copies.stores) == len(site.names.units) // 2, first, second)
    began = time.monotonic()
    for store in first.runtime.recovery._copies.stores.values():
        store.committed({GHOST: b"1"}, store.position, store.written_ms)
    site.publish(500)
    site.until(lambda: time.monotonic() - began > 4, first, second)
    site.drain(first, second)
    second.runtime.close()
    site.drain(first)
    assert counts_of(first.runtime) == site.truth()


@pytest.mark.parametrize("question", ["starts", "incarnations"])
def test_a_broker_that_gives_no_answer_in_the_middle_of_a_recovery_is_asked_again(site: Site, question: str) -> None:
    site.counted()
    loop = site.open()
    clients = loop.runtime.recovery._clients
    answer, refused = getattr(clients, question), []

    def flaky(places: Any) -> Any:
        if len(refused) < 3:
            refused.append(places)
            raise KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH))
        return answer(places)

    setattr(clients, question, flaky)
    site.ready(loop)
    assert len(refused) == 3
    assert counts_of(loop.runtime) == site.truth()


def test_a_missing_store_is_restored(site: Site) -> None:
    site.counted()
    shutil.rmtree(site.folder / "w1")
    restored_whole(site, site.open())


def test_a_store_ahead_of_its_changelog_is_wiped_and_restored(site: Site) -> None:
    site.counted()
    site.haunt(ahead=1_000)
    restored_whole(site, site.open())


def test_a_store_of_another_incarnation_of_its_changelog_is_wiped_and_restored(site: Site) -> None:
    site.counted()
    site.haunt()
    refill(site, lambda rows: rows)
    restored_whole(site, site.open())


def test_a_changelog_that_was_made_anew_empty_stops_the_worker(site: Site) -> None:
    site.counted()
    refill(site, lambda rows: [])
    with pytest.raises(PositionsDisagree, match="the group says"):
        site.ready(site.open())


def refill(site: Site, keep: Callable[[list[Any]], list[Any]]) -> None:
    """Delete the changelogs, make them anew and write what is to be kept."""
    for task in TASKS:
        topic = site.names.changelog(task.name)
        rows = keep(read(site.bootstrap, topic))
        for gone in site.admin.delete_topics([topic], operation_timeout=ADMIN_SECS_MAX).values():
            gone.result(ADMIN_SECS_MAX)
        until(lambda topic=topic: topic not in site.admin.list_topics(timeout=ADMIN_SECS_MAX).topics)
        make_topics(site.bootstrap, {topic: task.partitions}, cleanup_policy="compact")
        producer = Producer({"bootstrap.servers": site.bootstrap, "enable.idempotence": True})
        for row in rows:
            producer.produce(topic, row.value, row.key, row.partition)
        assert producer.flush(ADMIN_SECS_MAX) == 0


def test_a_store_that_was_offline_for_longer_than_tombstones_last_is_wiped_and_restored(site: Site) -> None:
    site.counted()
    site.haunt(age_ms=DAY_MS * 2 // 3)
    restored_whole(site, site.open())


def test_a_store_that_was_offline_for_a_moment_is_not(site: Site) -> None:
    site.counted()
    site.haunt()  # the control of the tests above: what is trusted shows its ghosts
    loop = site.open()
    site.ready(loop)
    assert b"ghost0" in counts_of(loop.runtime)


# Positions ------------------------------------------------------------------------------------------------------------------


def delete_before_the_end(site: Site) -> int:
    """Delete every event that there is, as retention does; returns how many there were."""
    topic = f"{site.prefix}events"
    places = [TopicPartition(topic, n, -1) for n in range(PARTITIONS)]
    for gone in site.admin.delete_records(places).values():
        gone.result(ADMIN_SECS_MAX)
    return site.publisher.sent


def test_events_that_were_deleted_unread_stop_the_worker_and_it_says_what_to_do(site: Site) -> None:
    site.counted()
    site.publish(500)
    delete_before_the_end(site)
    with pytest.raises(PositionLost, match=r"retained are \d+ to \d+: .*--accept-loss"):
        site.ready(site.open())


def test_accepting_the_loss_goes_on_from_what_is_left(site: Site) -> None:
    site.counted()
    before = sum(site.truth().values())
    site.publish(500)
    delete_before_the_end(site)
    site.publish(300)
    loop = site.open(accept_loss=True)
    site.ready(loop)
    site.until(lambda: sum(counts_of(loop.runtime).values()) == before + 300, loop)
    loop.runtime.close()
    again = site.open()  # the loss is accepted once: from then on it is as if nothing had been
    site.publish(100)
    site.ready(again)
    site.until(lambda: sum(counts_of(again.runtime).values()) == before + 400, again)


def test_events_that_are_deleted_under_a_running_worker_stop_it(site: Site) -> None:
    frugal = {"queued.min.messages": "1", "max.partition.fetch.bytes": "1000"}  # else it has them all before they are deleted
    loop = site.open(connection=msgspec.structs.replace(site.connection, properties=frugal))
    site.publish(100)
    site.drain(loop)
    for _ in range(20):
        site.publish(200)  # a batch of its own, which is the least that a fetch brings
    delete_before_the_end(site)
    with pytest.raises(PositionLost, match="does not retain"):
        site.until(lambda: False, loop)


def test_an_offset_that_somebody_moved_stops_the_worker(site: Site) -> None:
    site.counted()
    moved = ConsumerGroupTopicPartitions(site.names.group, [TopicPartition(f"{site.prefix}events", 0, 3)])
    for done in site.admin.alter_consumer_group_offsets([moved]).values():
        done.result(ADMIN_SECS_MAX)
    with pytest.raises(PositionsDisagree, match="events/0: the group says 3"):
        site.ready(site.open())


# Standby --------------------------------------------------------------------------------------------------------------------


def test_a_standby_takes_over_without_reading_the_changelog_again(site: Site) -> None:
    follower = Connection(bootstrap=site.bootstrap, prefix=site.prefix, standby=True)
    first = site.open("w1")
    site.publish()
    site.drain(first)
    second = site.open("w2", connection=follower)
    site.drain(first, second)
    known = [Unit(task.name, n) for task in TASKS for n in range(task.partitions)]
    half = len(known) // 2
    site.until(lambda: len(second.runtime._owned) == half == len(second.runtime.recovery._copies.stores), first, second)
    changelogs = sum(len(read(site.bootstrap, site.names.changelog(task.name))) for task in TASKS)
    site.until(lambda: second.runtime.recovery.restored >= changelogs * 0.9, first, second)
    site.publish(500)
    site.drain(first, second)
    time.sleep(0.5)  # the copies follow
    first.runtime.close()
    before = second.runtime.recovery.restored
    site.ready(second)
    taken = second.runtime.recovery.restored - before
    assert taken < 100, f"the take-over read {taken} records"
    assert counts_of(second.runtime) == site.truth()
    site.until(lambda: verify(record(site.bootstrap, site.prefix, PARTITIONS)).ok, second)  # alarms come after what set them
    second.runtime.close()
    assert verify(record(site.bootstrap, site.prefix, PARTITIONS)).ok


def test_what_was_not_committed_is_in_no_store(site: Site) -> None:
    loop = site.open()
    site.publish(200)
    site.drain(loop)
    before = counts_of(loop.runtime)

    def broken(number: int) -> None:
        if number == 6 and loop.doing == "records":
            raise KeyboardInterrupt

    loop.runtime.transactor.step = broken
    site.publish(200)
    with pytest.raises(KeyboardInterrupt):
        site.until(lambda: False, loop)
    assert counts_of(loop.runtime) == before
