"""Follows the changelogs of tasks as one member of a group of its own: each partition is read by one member, in log order.

Where to read from is never the group's business: what follows a changelog knows itself where it stands. So a partition that the
group gives us is only `waiting`; it is read once `start` names an offset, and waits again after `hold`. Nothing is
committed to the group. Records of aborted transactions are never seen.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import Clients
from engine.kafka.connection import Connection
from engine.kafka.names import Names, Unit
from engine.kafka.reactions import error_of
from engine.runtime import RuntimeFault

RECORDS_MAX: Final = 5_000  # of one poll: some megabytes, and a few milliseconds for whoever takes them
FETCH_WAIT_MS: Final = 50  # how long the broker waits for more: a part of every beat's age
RESET_CODES: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


class ChangelogUnreadable(RuntimeFault):
    """The brokers cannot be asked now, or refuse us: close this reader, wait, make another. The text is the error's name."""


class ChangelogBatch(msgspec.Struct, frozen=True):
    """What a unit's changelog holds from `first` to before `upto`: (offset, key, value), None for a tombstone."""

    unit: Unit
    first: int
    upto: int
    records: list[tuple[int, bytes, bytes | None]]


class ChangelogReader:
    """One thread uses it. Every method raises `ChangelogUnreadable`."""

    def __init__(self, connection: Connection, clients: Clients, names: Names, tasks: Sequence[str], name: str) -> None:
        self.waiting: set[Unit] = set()
        self.positions: dict[Unit, int] = {}  # what is being read, and the next offset of each
        self.last_error: str | None = None  # of the connection: it mends itself
        self._clients, self._names = clients, names
        self._units = {names.changelog(task): task for task in tasks}
        with _translated():
            self._consumer: Any = Consumer({
                **connection.config(name), "group.id": names.read_model,
                "partition.assignment.strategy": "cooperative-sticky", "isolation.level": "read_committed",
                "enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "error",
                "session.timeout.ms": connection.session_timeout_ms, "heartbeat.interval.ms": connection.session_timeout_ms // 4,
                "fetch.wait.max.ms": FETCH_WAIT_MS, "queued.max.messages.kbytes": 65_536,
            })  # fmt: skip
            self._consumer.subscribe(
                list(self._units), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )  # fmt: skip

    def describe(self, unit: Unit) -> tuple[str, int, int]:
        """Which topic the unit's changelog is now, its first retained offset, and its end."""
        topic = self._names.changelog(unit.task)
        at = (topic, unit.partition)
        with _translated():
            id_ = self._clients.incarnations([topic])[topic]
            return id_, self._clients.starts([at])[at], self._clients.ends([at], committed=False)[at]

    def start(self, unit: Unit, offset: int) -> None:
        """Read a unit that was waiting, from `offset` on."""
        with _translated():
            self._consumer.incremental_assign([self._place(unit, offset)])
        self.waiting.discard(unit)
        self.positions[unit] = offset

    def hold(self, unit: Unit) -> None:
        """Read this unit no more until it is started again."""
        if self.positions.pop(unit, None) is not None:
            with _translated():
                self._consumer.incremental_unassign([self._place(unit)])
            self.waiting.add(unit)

    def poll(self, wait_secs: float) -> list[ChangelogBatch]:
        """What has come in, after at most `wait_secs`: at most one batch a unit, `RECORDS_MAX` records in all."""
        found: dict[Unit, list[tuple[int, bytes, bytes | None]]] = {}
        with _translated():
            messages = self._consumer.consume(RECORDS_MAX, wait_secs)
        for message in messages:
            fault = message.error()
            if fault is not None:
                self._met(fault, message)
                continue
            unit = Unit(self._units[message.topic()], message.partition())
            if message.offset() >= self.positions.get(unit, 1 << 62):
                found.setdefault(unit, []).append((message.offset(), message.key() or b"", message.value()))
        batches = []
        for unit, records in found.items():
            if unit in self.positions:
                batches.append(ChangelogBatch(unit, self.positions[unit], records[-1][0] + 1, records))
                self.positions[unit] = records[-1][0] + 1
        if batches:
            self.last_error = None
        return batches

    def lag(self) -> dict[Unit, int]:
        """How many offsets each unit is behind its changelog's end, as last fetched; the end of a transaction is one of them."""
        found: dict[Unit, int] = {}
        with _translated():
            for unit, position in self.positions.items():
                _, end = self._consumer.get_watermark_offsets(self._place(unit), cached=True)
                if end >= 0:
                    found[unit] = max(0, end - position)
        return found

    def close(self) -> None:
        """Leave the group."""
        try:
            self._consumer.close()
        except (KafkaException, RuntimeError):
            pass  # it is gone already
        self.positions.clear()
        self.waiting.clear()

    def _met(self, fault: KafkaError, message: Any) -> None:
        self.last_error = fault.name()
        if fault.fatal():
            raise ChangelogUnreadable(fault.name())
        if fault.code() in RESET_CODES and message.topic() in self._units:
            self.hold(Unit(self._units[message.topic()], message.partition()))  # whoever starts it again will see why

    def _assigned(self, consumer: Any, places: list[Place]) -> None:
        consumer.incremental_assign([])  # nothing is read before it is started
        self.waiting.update(Unit(self._units[place.topic], place.partition) for place in places)

    def _revoked(self, consumer: Any, places: list[Place]) -> None:
        units = [Unit(self._units[place.topic], place.partition) for place in places]
        consumer.incremental_unassign([self._place(unit) for unit in units if self.positions.pop(unit, None) is not None])
        self.waiting.difference_update(units)

    def _place(self, unit: Unit, offset: int | None = None) -> Place:
        topic = self._names.changelog(unit.task)
        return Place(topic, unit.partition) if offset is None else Place(topic, unit.partition, offset)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except KafkaException as fault:
        raise ChangelogUnreadable(error_of(fault).name()) from None
    except (RuntimeError, TimeoutError) as fault:  # a closed client; an answer that did not come
        raise ChangelogUnreadable(type(fault).__name__) from None
