"""A compacted table that a process keeps a copy of: complete when it is made, and near the log's end from then on."""

import logging
import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import At, Clients
from engine.kafka.edge import BrokerAway
from engine.kafka.reactions import Reaction, reaction_to
from engine.runtime import LogRecord

log = logging.getLogger("consentinel.kafka")

CATCH_UP_SECS_MAX = 30.0
RECORDS_MAX = 10_000
WAIT_SECS = 0.05
ASK_SECS = 0.1


class TableGone(BrokerAway):
    """The table does not retain what is to be read next: it was made anew. A copy must begin anew as well."""


class Tail:
    """The newest record per key of one partition. One thread reads it."""

    def __init__(self, clients: Clients, at: At) -> None:
        """Read the table as it is now. Raises `BrokerAway`, `KafkaException`."""
        self._latest: dict[bytes, LogRecord] = {}
        self._next = 0
        deadline = time.monotonic() + CATCH_UP_SECS_MAX
        end, start = self._bounds(clients, at, deadline)
        self._reader = clients.reader(f"tail-{at[0]}")
        try:
            self._reader.incremental_assign([Place(*at, start)])
            while self._next < end:
                self._take(WAIT_SECS)
                if time.monotonic() > deadline:
                    raise BrokerAway("a table could not be read in time")
        except BaseException:
            self._reader.close()
            raise

    @staticmethod
    def _bounds(clients: Clients, at: At, deadline: float) -> tuple[int, int]:
        """End and start of the table. A topic that was made a moment ago may have no leader yet."""
        while True:
            try:
                return clients.ends([at], committed=True)[at], clients.starts([at])[at]
            except KafkaException as fault:
                if reaction_to(fault) is Reaction.STOP or time.monotonic() > deadline:
                    raise
            time.sleep(ASK_SECS)

    def read(self, offset: int, records_max: int, wait_secs: float = 0) -> list[LogRecord]:
        """The newest record of each key that changed at or after `offset`, in order; waits at most `wait_secs` for one."""
        self._take(wait_secs)
        if offset >= self._next:
            return []
        return sorted((r for r in self._latest.values() if r.offset >= offset), key=lambda r: r.offset)[:records_max]

    def close(self) -> None:
        """Let go of the client."""
        self._reader.close()

    def _take(self, wait_secs: float) -> None:
        """Take what has come. While the brokers are away nothing comes, and what is known stays."""
        for message in self._reader.consume(RECORDS_MAX, wait_secs):
            fault = message.error()
            if fault is None:
                key = message.key() or b""
                self._latest[key] = LogRecord(message.offset(), message.timestamp()[1], key, message.value())
            elif fault.code() == KafkaError._AUTO_OFFSET_RESET:
                raise TableGone("a table was made anew")
            elif fault.code() != KafkaError._PARTITION_EOF:
                if reaction_to(KafkaException(fault)) is Reaction.STOP:
                    raise KafkaException(fault)
                log.warning("a table: %s", fault.name())
                continue
            self._next = max(self._next, message.offset() + (fault is None))
