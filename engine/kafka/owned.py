"""A unit that this worker works on: how far it has read, what is committed, and its store."""

from typing import Any

from confluent_kafka import KafkaError

from engine.kafka.names import Unit
from engine.kafka.store import Store

Writes = dict[bytes, bytes | None]


class Owned:
    """Per input topic: `positions` are committed, `cursors` the next to hand out, `reached` also counts what holds no record."""

    __slots__ = ("cursors", "end", "positions", "reached", "stamped", "store", "unit")

    def __init__(self, unit: Unit, store: Store, positions: dict[str, int]) -> None:
        self.unit, self.store = unit, store
        self.positions, self.cursors, self.reached = dict(positions), dict(positions), dict(positions)
        self.stamped = False  # whether the state is known to name the ring it was made with
        self.end: int | None = None  # changelog offset of the transaction's last record, by its delivery report

    def delivered(self, fault: KafkaError | None, message: Any) -> None:
        """Take the delivery report."""
        if fault is None:
            self.end = message.offset()

    def ahead(self) -> dict[str, int]:
        """Inputs that were handed out beyond what is committed."""
        return {topic: cursor for topic, cursor in self.cursors.items() if cursor != self.positions[topic]}
