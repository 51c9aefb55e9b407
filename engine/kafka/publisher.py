"""Durable appends for callers who wait: all records of a call on all in-sync replicas, or a fault, within a bounded time.

An idempotent producer writes every record once and in order, or reports that it could not. Its reports are served by a thread of
their own, so that no caller waits for another's. After a failure calls are refused at once for a moment: a door whose brokers
are away must not keep all its threads waiting for them.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from engine.kafka.clients import PUBLISH_MS_MAX, Client, Clients
from engine.kafka.names import Names
from engine.kafka.reactions import error_of
from engine.runtime import CommitLost, Output, RuntimeFault, partition_of

REPORT_SECS_MAX: Final = 2 * PUBLISH_MS_MAX / 1_000  # every record is reported on by then: delivered, refused, or timed out
POLL_SECS: Final = 0.1
PAUSE_SECS: Final = 1.0
FLUSH_SECS_MAX: Final = 10.0
# The broker, or the client itself, refused the record before it was written anywhere.
CERTAIN: Final = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.POLICY_VIOLATION, KafkaError.TOPIC_EXCEPTION,
    KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError._QUEUE_FULL,
})  # fmt: skip


class NotConfirmed(RuntimeFault):
    """Not every record was confirmed: some may be there. Publish again; the ids tell them apart."""


class _Call:
    """The reports of one call."""

    __slots__ = ("count", "done", "faults", "left")

    def __init__(self, count: int) -> None:
        self.count = self.left = count
        self.faults: list[KafkaError] = []
        self.done = threading.Event()

    def report(self, fault: KafkaError | None, _: Any) -> None:
        """Take one report; only the serving thread calls it."""
        self.left -= 1
        if fault is not None:
            self.faults.append(fault)
        if not self.left:
            self.done.set()


class Publisher:
    """Thread-safe; connects at first use. `partitions` by topic of the topology."""

    def __init__(self, clients: Clients, names: Names, partitions: Mapping[str, int]) -> None:
        self._clients, self._names, self._partitions = clients, names, partitions
        self._lock = threading.Lock()
        self._producer: Client | None = None
        self._stopping = threading.Event()
        self._server: threading.Thread | None = None
        self._not_before = 0.0

    def append(self, outputs: Sequence[Output], now_ms: int) -> None:
        """Return when every record is durable. Raises `CommitLost` when surely none is there, else `NotConfirmed`."""
        if not outputs:
            return
        places = [self._place(output) for output in outputs]  # before anything is sent
        if time.monotonic() < self._not_before:
            raise CommitLost("the brokers are away")
        call, sent, refused = _Call(len(outputs)), 0, False
        with self._lock:  # one call's records stand together
            producer = self._open()
            try:
                for output, place in zip(outputs, places, strict=True):
                    producer.produce(
                        self._names.topic(output.topic), output.value, output.key, place,
                        on_delivery=call.report, timestamp=now_ms, headers=list(output.headers),
                    )  # fmt: skip
                    sent += 1
            except (BufferError, KafkaException) as fault:
                refused = True
                if isinstance(fault, KafkaException) and error_of(fault).fatal():
                    self._producer = None  # of no use any more: the next call makes another
        if refused and not sent:
            self._not_before = time.monotonic() + PAUSE_SECS
            raise CommitLost("the publisher takes no records now")
        confirmed = not refused and call.done.wait(REPORT_SECS_MAX)
        if confirmed and not call.faults:
            return
        self._failed(call, confirmed=confirmed)

    def close(self) -> None:
        """Send what is under way and let go. Safe to call twice."""
        self._stopping.set()
        if self._server is not None:
            self._server.join(FLUSH_SECS_MAX)
        if self._producer is not None:
            self._producer.flush(FLUSH_SECS_MAX)
            self._producer = None

    def _failed(self, call: _Call, *, confirmed: bool) -> None:
        faults = list(call.faults)
        if any(fault.fatal() for fault in faults):
            with self._lock:
                self._producer = None
        if confirmed and len(faults) == call.count and all(fault.code() in CERTAIN for fault in faults):
            raise CommitLost(f"the brokers refused: {faults[0].name()}")
        self._not_before = time.monotonic() + PAUSE_SECS
        raise NotConfirmed("the brokers did not confirm every record in time")

    def _open(self) -> Client:
        if self._producer is None:
            self._producer = self._clients.publisher()
            if self._server is None:
                self._server = threading.Thread(target=self._serve, name="publisher", daemon=True)
                self._server.start()
        return self._producer

    def _serve(self) -> None:
        while not self._stopping.is_set():
            producer = self._producer
            if producer is None:
                self._stopping.wait(POLL_SECS)
            else:
                producer.poll(POLL_SECS)

    def _place(self, output: Output) -> int:
        partitions = self._partitions[output.topic]
        found = partition_of(output.key, partitions) if output.partition is None else output.partition
        if not 0 <= found < partitions:
            raise ValueError(f"{output.topic} has no such partition")
        return found
