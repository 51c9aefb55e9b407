"""The log as doors and edges use it: durable appends from outside the transactions, and cold reads of what is committed."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import At, Client, Clients
from engine.kafka.names import RESERVED, Names
from engine.kafka.publisher import Publisher
from engine.kafka.reactions import error_of
from engine.runtime import LogRecord, Output, RuntimeFault

READ_SECS_MAX = 30.0
POLL_SECS = 0.05
COLD_WAIT_MS = 10  # a cold read wants to hear of the end at once


class BrokerAway(RuntimeFault):
    """The brokers did not answer, or not in time; trying again may help."""


@contextmanager
def asking() -> Iterator[None]:
    """What a client cannot do now is a fault of the runtime: `BrokerAway`."""
    try:
        yield
    except KafkaException as fault:
        raise BrokerAway(f"Kafka: {error_of(fault).name()}") from None
    except TimeoutError:
        raise BrokerAway("Kafka: no answer in time") from None


class Edge:
    """Thread-safe; its clients are made at their first use. `partitions` by topic of the topology."""

    def __init__(self, clients: Clients, names: Names, partitions: Mapping[str, int]) -> None:
        self.publisher = Publisher(clients, names, partitions)
        self._clients, self._partitions = clients, partitions
        self._kafka = {name: names.topic(name) for name in partitions}
        self._reading = threading.Lock()
        self._reader: Client | None = None
        self._next: tuple[At, int] | None = None  # where the reader stands

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        """See `engine.kafka.publisher`."""
        self.publisher.append(list(outputs), now_ms)

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records from `offset` on, until `records_max` or the last stable offset. Raises `BrokerAway`."""
        at = self._at(topic, partition)
        if records_max <= 0:
            return []
        with self._reading, asking():
            return self._read(at, max(offset, 0), records_max)

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last committed record, not after a transaction's marker. Raises `BrokerAway`."""
        at = self._at(topic, partition)
        with self._reading, asking():
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
        self.publisher.close()
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
