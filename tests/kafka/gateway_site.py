"""A cluster site for tests of the gateway: real Kafka and Redis, doors as gateways have them, and a worker that the test drives.

The worker folds what is on the input topics with the real processors, in memory, and writes outputs and changelogs as the engine
does: in one transaction, with a beat. When it works is the test's to say, so that a test sees what holds before and after.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer

from connectors.http.app import create_app
from connectors.http.door import Options
from connectors.http.tokens import TokenStore
from connectors.redis import Feed, RedisBoard, RedisConnection, RedisLife, RedisReader, RedisWriter
from connectors.redis.connection import WRITE_SECS_MAX
from engine.clock import system_clock
from engine.filering import FileRing
from engine.kafka.changelog_reader import ChangelogReader
from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.door import KafkaDoor
from engine.kafka.names import BEAT_KEY, Names
from engine.memory import MemoryRuntime
from engine.runtime import Output
from engine.topology import default_topology
from processors.fence import Fence
from tests.doors.http.conftest import Direct, House
from tests.harness import Deployment
from tests.parts.topics import make_topics

WAIT_SECS_MAX = 30.0
INPUTS = ("calls", "consents", "requests", "controls")
OUTPUTS = ("controllers", "audit.entries", "consent.state")
TOPOLOGY = default_topology()
TASKS = tuple(TOPOLOGY.tasks)


def until(true: Callable[[], Any], secs: float = WAIT_SECS_MAX) -> None:
    give_up = time.monotonic() + secs
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.02)


class Gateway(House):
    """One gateway: a door of its own on the shared topics, ring and Redis."""

    def __init__(self, site: "Site", number: int) -> None:
        model = RedisReader(site.life(), site.prefix, site.names.units)
        self.board = RedisBoard(site.life(), site.prefix)
        ring = FileRing(site.ring, create=False)
        door = KafkaDoor(site.clients, site.names, TOPOLOGY, ring, model, system_clock, os.urandom)
        store = TokenStore.open(site.folder / f"tokens-{number}.json")
        app = create_app(door, store, Options(), self.board)
        super().__init__(door, store, lambda **options: Direct(app, **options))  # type: ignore[arg-type]
        self.kafka_door, self.door = door, app.state.door


class Site:
    """Everything of one deployment; `close` it."""

    def __init__(self, bootstrap: str, redis_url: str, prefix: str, folder: Path) -> None:
        self.prefix, self.folder, self.redis_url = prefix, folder, redis_url
        self.ring = folder / "site.ring"
        self.names = Names(prefix, TOPOLOGY.task_specs())
        self.connection = Connection(bootstrap=bootstrap, prefix=prefix)
        self.clients = ConfluentClients(self.connection, self.names)
        self._lives: list[RedisLife] = []
        self.gateways: list[Gateway] = []
        self.feeds: list[Feed] = []
        topics = {name: topic.partitions for name, topic in TOPOLOGY.topics.items()}
        kept = {name: n for name, n in topics.items() if TOPOLOGY.topics[name].cleanup == "compact"}
        kept |= {f"changelog.{task}": TOPOLOGY.tasks[task].partitions for task in TASKS}
        make_topics(bootstrap, {prefix + name: n for name, n in kept.items()}, cleanup_policy="compact")
        make_topics(bootstrap, {prefix + name: n for name, n in topics.items() if name not in kept})
        until(lambda: self._led([(prefix + name, n) for name, count in {**topics, **kept}.items() for n in range(count)]))
        memory = MemoryRuntime(TOPOLOGY.topic_specs(), TOPOLOGY.task_specs())
        self.worker = Deployment(folder, memory, FileRing(self.ring, create=True))
        self._producer = Producer({
            **self.connection.config("worker"), "transactional.id": f"{prefix}worker", "linger.ms": 0,
        })  # fmt: skip
        self._producer.init_transactions(WAIT_SECS_MAX)
        self._read: dict[tuple[str, int], int] = {}
        self._told: dict[tuple[str, int], int] = {}
        self._written: dict[tuple[str, int], dict[bytes, bytes]] = {}
        self._door: KafkaDoor | None = None

    def _led(self, places: list[tuple[str, int]]) -> bool:
        """Whether every new partition has a leader that knows it."""
        try:
            return len(self.clients.ends(places, committed=True)) == len(places)
        except KafkaException:
            return False

    def life(self, timeout_secs: float = 0.5) -> RedisLife:
        made = RedisLife(RedisConnection(url=self.redis_url, prefix=self.prefix), system_clock, timeout_secs)
        self._lives.append(made)
        return made

    def gateway(self) -> Gateway:
        """One more gateway, started, and ready."""
        made = Gateway(self, len(self.gateways))
        self.gateways.append(made)
        made.kafka_door.start()
        until(lambda: made.kafka_door.ready)
        return made

    def feed(self) -> Feed:
        """One more hosted consumer, started."""
        writer = RedisWriter(self.life(WRITE_SECS_MAX), self.prefix)
        name = f"feed-{len(self.feeds)}"
        made = Feed(lambda: ChangelogReader(self.connection, self.clients, self.names, TASKS, name), writer, system_clock)
        self.feeds.append(made)
        made.start()
        return made

    def fold(self, *, beat_ms: int | None = None, beating: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        """Fold what is on the inputs now and commit it, with the beats of these partitions of every task."""
        now_ms = system_clock()
        runtime, self.worker.now_ms = self.worker.runtime, now_ms
        edge = self.gateways[0].kafka_door
        for topic in INPUTS:
            for n in range(TOPOLOGY.topics[topic].partitions):
                for record in edge.read(topic, n, self._read.get((topic, n), 0), 10_000):
                    runtime.append([Output(topic, record.key, record.value, partition=n)], record.ts_ms)
                    self._read[topic, n] = record.offset + 1
        self.worker.settle()
        self._producer.begin_transaction()
        for topic in OUTPUTS:
            for n in range(TOPOLOGY.topics[topic].partitions):
                for record in runtime.read(topic, n, self._told.get((topic, n), 0), 10_000):
                    self._producer.produce(self.prefix + topic, record.value, record.key, n)
                    self._told[topic, n] = record.offset + 1
        for task in TASKS:
            for n in range(TOPOLOGY.tasks[task].partitions):
                before, after = self._written.get((task, n), {}), dict(runtime.scan(task, n, b""))
                for key in before.keys() | after.keys():
                    if before.get(key) != after.get(key):
                        self._change(task, n, key, after.get(key))
                self._written[task, n] = after
                if n in beating:
                    self._change(task, n, BEAT_KEY, (beat_ms or now_ms).to_bytes(8, "big"))
        self._producer.commit_transaction(WAIT_SECS_MAX)

    def abort(self, task: str, partition: int, key: bytes, value: bytes) -> None:
        """A transaction that never was."""
        self._producer.begin_transaction()
        self._change(task, partition, key, value)
        self._producer.flush(WAIT_SECS_MAX)
        self._producer.abort_transaction(WAIT_SECS_MAX)

    def _change(self, task: str, partition: int, key: bytes, value: bytes | None) -> None:
        self._producer.produce(self.names.changelog(task), value, key, partition)

    def fresh(self, *, past_ms: int | None = None) -> None:
        """Fold and beat until every gateway's read model is whole, and past this call (or `past_ms`) on anybody's clock."""
        past_ms = past_ms or system_clock() + 2_100
        give_up = time.monotonic() + WAIT_SECS_MAX
        anybody = [f"anybody-{n}" for n in range(64)]  # some of them in each partition
        while any(
            g.kafka_door.beat_ms() <= past_ms or not all(look.whole for look in g.kafka_door.look(anybody, (Fence,)))
            for g in self.gateways
        ):
            assert time.monotonic() < give_up, "the read model did not follow"
            self.fold()
            time.sleep(0.1)

    def close(self) -> None:
        for feed in self.feeds:
            feed.stop()
        for gateway in self.gateways:
            gateway.kafka_door.stop()
        for life in self._lives:
            life.close()
        self.worker.close()
