"""The log as doors and edges use it: durable appends from outside the transactions, and cold reads of what is committed."""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import At, Client, Clients
from engine.kafka.names import RESERVED, Names
from engine.runtime import CommitLost, LogRecord, Output, RuntimeFault

APPEND_SECS_MAX = 30.0
READ_SECS_MAX = 30.0
POLL_SECS = 0.05
COLD_WAIT_MS = 10  # a cold read wants to hear of the end at once


class BrokerAway(RuntimeFault):
    """The brokers did not answer in time: nobody knows whether the records are there."""


class Edge:
    """Thread-safe; its clients are made at their first use."""

    def __init__(self, clients: Clients, names: Names, partitions: Mapping[str, int]) -> None:
        self._clients, self._names, self._partitions = clients, names, partitions
        self._kafka = {name: names.topic(name) for name in partitions}
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._publisher: Client | None = None
        self._reader: Client | None = None
        self._next: tuple[At, int] | None = None  # where the reader stands

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        """Return when every record is on all in-sync replicas.

        Raises `CommitLost` when surely none is there, `BrokerAway` when some may be: then publish again, the ids tell them apart.
        """
        wanted = list(outputs)
        for output in wanted:
            if output.partition is not None and not 0 <= output.partition < self._partitions[output.topic]:
                raise ValueError(f"{output.topic} has no such partition")
        reports: list[KafkaError | None] = []

        def report(fault: KafkaError | None, _: Any) -> None:
            reports.append(fault)

        with self._lock:  # one call's records stand together
            if self._publisher is None:
                self._publisher = self._clients.publisher()
            publisher = self._publisher
            sent = 0
            try:
                for output in wanted:
                    publisher.produce(
                        self._kafka[output.topic], output.value, output.key, -1 if output.partition is None else output.partition,
                        on_delivery=report, timestamp=now_ms, headers=list(output.headers),
                    )  # fmt: skip
                    sent += 1
            except (BufferError, KafkaException):
                if not sent:
                    raise CommitLost("the publisher's queue is full") from None
        deadline = time.monotonic() + APPEND_SECS_MAX
        while len(reports) < sent and time.monotonic() < deadline:
            publisher.poll(POLL_SECS)
        if sent < len(wanted) or len(reports) < sent or any(reports):
            raise BrokerAway("the brokers did not take every record in time")

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records from `offset` on, until `records_max` or the last stable offset."""
        at = self._at(topic, partition)
        if records_max <= 0:
            return []
        with self._reading:
            return self._read(at, max(offset, 0), records_max)

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last committed record: not after what holds none, such as a transaction's marker."""
        at = self._at(topic, partition)
        with self._reading:
            stable = self._clients.ends([at], committed=True)[at]
            start = self._clients.starts([at])[at]
            back = 16
            while stable > start:
                found = self._read(at, max(start, stable - back), back)
                if found:
                    return found[-1].offset + 1
                if stable - back <= start:
                    break
                back *= 8
        return start

    def close(self) -> None:
        """Send what is under way, let go of the clients."""
        if self._publisher is not None:
            self._publisher.flush(APPEND_SECS_MAX)
        if self._reader is not None:
            self._reader.close()

    def _at(self, topic: str, partition: int) -> At:
        if not 0 <= partition < self._partitions[topic]:
            raise ValueError(f"{topic} has no such partition")
        return self._kafka[topic], partition

    def _read(self, at: At, offset: int, records_max: int) -> list[LogRecord]:
        if self._reader is None:
            self._reader = self._clients.reader("edge", wait_ms=COLD_WAIT_MS)
        reader = self._reader
        stable = self._clients.ends([at], committed=True)[at]
        if offset >= stable:
            return []
        offset = max(offset, self._clients.starts([at])[at])
        if self._next != (at, offset):
            reader.assign([Place(*at, offset)])
        self._next = None
        found: list[LogRecord] = []
        deadline = time.monotonic() + READ_SECS_MAX
        reached = offset
        while len(found) < records_max and reached < stable:
            for message in reader.consume(records_max - len(found), POLL_SECS):
                fault = message.error()
                if fault is not None and fault.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(fault)
                if fault is not None:
                    reached = max(reached, message.offset())
                    continue
                reached = message.offset() + 1
                if not (key := message.key() or b"").startswith(RESERVED):
                    headers = tuple(message.headers() or ())
                    found.append(LogRecord(message.offset(), message.timestamp()[1], key, message.value(), headers))
            if time.monotonic() > deadline:
                raise BrokerAway("the brokers did not answer a read in time")
        if len(found) == records_max:
            self._next = (at, reached)
        return found
