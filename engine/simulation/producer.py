"""A transactional producer as librdkafka's behaves, on the fake cluster: its queue, its epoch, every way a commit fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from engine.simulation.cluster import Cluster, Concurrent, Fenced, GroupMetadata, Refused
from engine.simulation.errors import CONFLICT, FENCED, MSG_TIMED_OUT, PURGE_QUEUE, STATE, TIMED_OUT, kafka_fault
from engine.simulation.log import Headers
from engine.simulation.message import Message
from engine.simulation.process import Process

State = Literal["new", "ready", "open", "committing", "aborting"]
Report = Callable[[Any, Any], None]
TIMEOUT_SECS = 60.0


class _Queued:
    __slots__ = ("at", "headers", "key", "report", "value")

    def __init__(
        self, at: tuple[str, int], key: bytes | None, value: bytes | None, headers: Headers, report: Report | None
    ) -> None:
        self.at, self.key, self.value, self.headers, self.report = at, key, value, headers, report


class FakeProducer:
    """See the module. Records go out at any call, in part or whole, as a background thread would send them."""

    def __init__(self, cluster: Cluster, process: Process, name: str, timeout_ms: int) -> None:
        self._cluster, self._process, self._name, self._timeout_ms = cluster, process, name, timeout_ms
        self._state: State = "new"
        self._epoch = -1
        self._queue: list[_Queued] = []
        self._reports: deque[tuple[Report, Any, Message | None]] = deque()
        self._fatal: KafkaException | None = None
        self._told = False  # whether the fatal error was raised by a call that serves events
        self._abortable: KafkaException | None = None

    def __len__(self) -> int:
        """Count records and reports that wait."""
        return len(self._queue) + len(self._reports)

    def init_transactions(self, timeout: float = TIMEOUT_SECS) -> None:
        """Fence whoever had this name before."""
        with self._process.crossing("init_transactions"):
            done = self._blocking(self._enlist, timeout)
            if not done:
                raise kafka_fault(TIMED_OUT, retriable=True)
            self._state = "ready"

    def begin_transaction(self) -> None:
        """Begin."""
        self._process.check()
        self._refuse_dead("ready")
        self._state = "open"

    def produce(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = -1,
        on_delivery: Report | None = None, timestamp: int = 0, headers: Sequence[tuple[str, bytes]] | None = None, **more: Any,
    ) -> None:  # fmt: skip
        """Queue one record."""
        self._process.check()
        self._may_produce()
        at = (topic, partition if partition >= 0 else crc32(key or b"") % self._cluster.partitions[topic])
        self._queue.append(_Queued(at, key, value, list(headers or ()), on_delivery or more.get("callback")))
        if self._cluster.random.random() < 0.1:
            self._send(self._cluster.random.randrange(len(self._queue) + 1))

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], partition: int = -1, **_: Any) -> int:
        """Queue records; returns how many."""
        for message in messages:
            report = message.get("callback") or message.get("on_delivery")
            at = int(message.get("partition", partition))
            self.produce(topic, message.get("value"), message.get("key"), at, report, headers=message.get("headers"))
        return len(messages)

    def poll(self, timeout: float = 0.0) -> int:
        """Serve delivery reports."""
        self._process.check()
        if self._queue and self._cluster.random.random() < 0.5:
            self._send(len(self._queue))
        return self._serve()

    def flush(self, timeout: float = TIMEOUT_SECS) -> int:
        """Send everything, serve the reports; returns how many records still wait."""
        with self._process.crossing("flush"):
            self._blocking(self._drain, timeout)
            self._serve()
            return len(self)

    def send_offsets_to_transaction(
        self, positions: Sequence[TopicPartition], metadata: GroupMetadata, timeout: float = TIMEOUT_SECS
    ) -> None:
        """Take input offsets into the transaction."""
        with self._process.crossing("send_offsets"):
            self._refuse_dead("open")
            offsets = {(p.topic, p.partition): (p.offset, p.metadata or "") for p in positions}

            def send() -> bool:
                self._cluster.send_offsets(self._name, self._epoch, metadata, offsets)
                return True

            try:
                done = self._blocking(send, timeout)
            except Refused as refused:
                self._abortable = kafka_fault(refused.code, "offsets refused", abort=True)
                raise self._abortable from None
            if not done:
                raise kafka_fault(TIMED_OUT, retriable=True)

    def commit_transaction(self, timeout: float = TIMEOUT_SECS) -> None:
        """Send everything, then decide. A time-out leaves the outcome open: only the same call again settles it."""
        with self._process.crossing("commit"):
            self._refuse_dead("open", "committing")
            if not self._blocking(self._drain, timeout):
                raise kafka_fault(TIMED_OUT, retriable=True)
            self._refuse_dead("open", "committing")  # without serving reports: librdkafka does not either
            self._serve()
            self._state = "committing"
            lost = self._cluster.lost_reply()  # "" or where on its way the request or its answer is lost
            if lost == "request":
                raise kafka_fault(TIMED_OUT, "request lost", retriable=True)
            if not self._blocking(lambda: self._end(commit=True), timeout):
                raise kafka_fault(TIMED_OUT, retriable=True)
            if lost == "reply":
                raise kafka_fault(TIMED_OUT, "reply lost", retriable=True)
            self._state = "ready"

    def abort_transaction(self, timeout: float = TIMEOUT_SECS) -> None:
        """Undo. While a commit is under way its outcome stands, and this is a conflict."""
        with self._process.crossing("abort"):
            self._process.check()
            if self._fatal is not None:
                raise self._fatal
            if self._state == "committing":
                raise kafka_fault(CONFLICT, "a commit is under way")
            if self._state not in ("open", "aborting"):
                raise kafka_fault(STATE)
            self._state = "aborting"
            purged = KafkaError(PURGE_QUEUE)
            self._reports.extend((q.report, purged, None) for q in self._queue if q.report is not None)
            self._queue.clear()
            if not self._blocking(lambda: self._end(commit=False), timeout):
                raise kafka_fault(TIMED_OUT, retriable=True)
            self._serve()
            self._abortable = None
            self._state = "ready"

    # Inside

    def _refuse_dead(self, *states: State) -> None:
        if self._fatal is not None:
            self._told = True
            raise self._fatal
        if self._abortable is not None:
            raise self._abortable
        if self._state not in states:
            raise kafka_fault(STATE, f"not in state {self._state}")

    def _may_produce(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if self._state != "open" or self._abortable is not None:
            raise kafka_fault(STATE, "no transaction to produce in")

    def _blocking(self, request: Callable[[], bool], timeout_secs: float) -> bool:
        """Try until it works or the time is over; while others must finish first, time passes. Fenced: for ever."""

        def attempt() -> bool:
            if self._cluster.down:
                return False
            try:
                return request()
            except Concurrent:
                return False

        try:
            return self._cluster.wait(attempt, round(timeout_secs * 1_000))
        except Fenced:
            raise self._die() from None

    def _die(self) -> KafkaException:
        self._fatal = kafka_fault(FENCED, "fenced by a newer instance", fatal=True)
        return self._fatal

    def _enlist(self) -> bool:
        self._epoch = self._cluster.enlist(self._name, self._timeout_ms)
        return True

    def _end(self, *, commit: bool) -> bool:
        self._cluster.end_transaction(self._name, self._epoch, commit=commit)
        return True

    def _drain(self) -> bool:
        self._send(len(self._queue))
        return not self._queue

    def _send(self, count: int) -> None:
        """Send the first `count` records of the queue; in each partition they arrive in order and once."""
        cluster = self._cluster
        while count and self._queue and not cluster.down and self._fatal is None:
            queued = self._queue[0]
            if self._abortable is None and cluster.delivery_fails():
                self._queue.pop(0)
                error = KafkaError(MSG_TIMED_OUT)
                self._abortable = kafka_fault(MSG_TIMED_OUT, "a record was not delivered", abort=True)
                self._report(queued, error, -1)
                return
            try:
                offset = cluster.append(self._name, self._epoch, queued.at, queued.key, queued.value, queued.headers)
            except Concurrent:
                return
            except Fenced:
                self._die()
                for left in self._queue:
                    self._report(left, KafkaError(KafkaError.INVALID_PRODUCER_EPOCH), -1)
                self._queue.clear()
                return
            self._queue.pop(0)
            self._report(queued, None, offset)
            count -= 1

    def _report(self, queued: _Queued, error: Any, offset: int) -> None:
        if queued.report is not None:
            topic, partition = queued.at
            message = Message(topic, partition, offset, queued.key, queued.value, queued.headers, self._cluster.now_ms)
            self._reports.append((queued.report, error, message))

    def _serve(self) -> int:
        """Serve what waits. A fatal error is raised here first; with reports behind it the binding makes a SystemError of it."""
        if self._fatal is not None and not self._told:
            self._told = True
            if self._reports:
                self._reports.clear()
                raise SystemError("a callback returned a result with an exception set") from self._fatal
            raise self._fatal
        count = len(self._reports)
        while self._reports:
            report, error, message = self._reports.popleft()
            report(error, message)
        return count


