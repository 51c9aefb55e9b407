"""Clients of the fake cluster for one process: what `engine.kafka.clients.Clients` promises, and nothing is sent anywhere."""

from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

from engine.kafka.clients import At
from engine.kafka.names import Names
from engine.simulation.cluster import Cluster
from engine.simulation.consumer import FakeMember, FakeReader
from engine.simulation.errors import TIMED_OUT, kafka_fault
from engine.simulation.message import Message
from engine.simulation.process import Process
from engine.simulation.producer import FakeProducer

TRANSACTION_MS = 10_000
ADMIN_MS_MAX = 10_000


class FakeClients:
    """See the module."""

    def __init__(self, cluster: Cluster, process: Process, names: Names, transaction_ms: int = TRANSACTION_MS) -> None:
        self._cluster, self._process, self._names, self._transaction_ms = cluster, process, names, transaction_ms

    def producer(self, transactional_id: str) -> FakeProducer:
        """See `Clients`."""
        return FakeProducer(self._cluster, self._process, transactional_id, self._transaction_ms)

    def publisher(self) -> "FakePublisher":
        """See `Clients`."""
        return FakePublisher(self._cluster)

    def member(self, worker: str) -> FakeMember:
        """See `Clients`."""
        return FakeMember(self._cluster, self._process, self._names.group)

    def reader(self, name: str, *, committed: bool = True) -> FakeReader:
        """See `Clients`."""
        return FakeReader(self._cluster, self._process, committed=committed)

    def starts(self, places: Iterable[At]) -> dict[At, int]:
        """See `Clients`: nothing is ever cut off."""
        with self._process.crossing("ends"):
            self._answering()
            return dict.fromkeys(places, 0)

    def ends(self, places: Iterable[At], *, committed: bool) -> dict[At, int]:
        """See `Clients`."""
        with self._process.crossing("ends"):
            self._answering()
            return self._cluster.ends(places, committed=committed)

    def incarnations(self, topics: Iterable[str]) -> dict[str, str]:
        """See `Clients`."""
        with self._process.crossing("ends"):
            self._answering()
            return {topic: f"id-of-{topic}" for topic in topics}

    def _answering(self) -> None:
        self._process.check()
        if not self._cluster.wait(lambda: not self._cluster.down, ADMIN_MS_MAX):
            raise kafka_fault(TIMED_OUT)


class FakePublisher:
    """An idempotent producer of the edges: what it takes is there at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._reports: list[tuple[Callable[[Any, Any], None], Message]] = []

    def produce(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = -1,
        on_delivery: Callable[[Any, Any], None] | None = None, timestamp: int = 0, headers: Any = None,
    ) -> None:  # fmt: skip
        """Append one record."""
        at = (topic, partition if partition >= 0 else crc32(key or b"") % self._cluster.partitions[topic])
        offset = self._cluster.publish(at, key, value, list(headers or ()), timestamp or None)
        if on_delivery is not None:
            self._reports.append((on_delivery, Message(*at, offset, key, value, list(headers or ()), timestamp)))

    def poll(self, timeout: float = 0.0) -> int:
        """Serve delivery reports."""
        reports, self._reports = self._reports, []
        for report, message in reports:
            report(None, message)
        return len(reports)

    def flush(self, timeout: float = 0.0) -> int:
        """Serve delivery reports; nothing waits."""
        self.poll()
        return 0
