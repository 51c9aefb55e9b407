"""A compacted table that a process keeps a copy of: complete when it is made, and near the log's end from then on."""

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import At, Clients
from engine.kafka.edge import BrokerAway
from engine.runtime import LogRecord

CATCH_UP_SECS_MAX = 30.0
RECORDS_MAX = 10_000


class Tail:
    """The newest record per key of one partition. One thread reads it."""

    def __init__(self, clients: Clients, at: At) -> None:
        """Read the table as it is now. Raises `BrokerAway`, `KafkaException`."""
        self._reader = clients.reader(f"tail-{at[0]}")
        self._latest: dict[bytes, LogRecord] = {}
        self._next = 0
        end = clients.ends([at], committed=True)[at]
        self._reader.incremental_assign([Place(*at, clients.starts([at])[at])])
        deadline = time.monotonic() + CATCH_UP_SECS_MAX
        while self._next < end:
            self._take(0.05)
            if time.monotonic() > deadline:
                raise BrokerAway("a table could not be read in time")

    def read(self, offset: int, records_max: int) -> list[LogRecord]:
        """The newest record of each key that changed at or after `offset`, in order."""
        self._take(0)
        if offset >= self._next:
            return []
        return sorted((r for r in self._latest.values() if r.offset >= offset), key=lambda r: r.offset)[:records_max]

    def close(self) -> None:
        """Let go of the client."""
        self._reader.close()

    def _take(self, wait_secs: float) -> None:
        for message in self._reader.consume(RECORDS_MAX, wait_secs):
            fault = message.error()
            if fault is not None and fault.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(fault)
            if fault is None:
                key = message.key() or b""
                self._latest[key] = LogRecord(message.offset(), message.timestamp()[1], key, message.value())
            self._next = max(self._next, message.offset() + (fault is None))
