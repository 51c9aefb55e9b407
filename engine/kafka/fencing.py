"""Ends the transaction of a dead owner, which would block its units until the broker times it out.

Its name stands in the metadata of the offset that is pending on the unit's place in `shards`; whoever opens a producer of that
name fences it.
"""

import logging

from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import Client, Clients
from engine.kafka.names import Names, Unit

log = logging.getLogger("consentinel.kafka.recovery")

FENCE_SECS_MAX = 10.0


class Fencing:
    """`own`: the name that must not be fenced, this worker's. Everything may raise `KafkaException`."""

    def __init__(self, clients: Clients, names: Names, own: str) -> None:
        self._clients, self._names = clients, names
        self._untouchable = {"", own}
        self._tried: dict[Unit, set[str]] = {}
        self._peeker: Client | None = None

    def begin(self, unit: Unit) -> None:
        """The unit is claimed anew: whom it was fenced of before may have come back."""
        self._tried[unit] = set(self._untouchable)

    def fence(self, units: list[Unit]) -> None:
        """Fence who blocks these units, each name once for each."""
        if self._peeker is None:
            self._peeker = self._clients.reader("peeker", committed=False)
        asked = [Place(self._names.shards, self._names.index[unit]) for unit in units]
        for place in self._peeker.committed(asked, timeout=FENCE_SECS_MAX):
            name = place.metadata or ""
            if name not in self._tried[self._names.units[place.partition]]:
                log.warning("fencing %s, whose transaction blocks a unit", name)
                self._clients.producer(name).init_transactions(FENCE_SECS_MAX)
                for unit in units:
                    self._tried[unit].add(name)

    def close(self) -> None:
        """Let go of the client."""
        if self._peeker is not None:
            self._peeker.close()
