"""Local copies of changelogs: a store per unit, opened no further than it can be trusted, and one reader for all of them."""

from collections.abc import Iterable

from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import At, Client, Clients
from engine.kafka.names import Names, Unit
from engine.kafka.store import Store
from engine.kafka.trust import Trust


class Copies:
    """The recovery's thread only. `reading`: which changelog partitions the reader is assigned, and for whom."""

    def __init__(self, clients: Clients, names: Names, reader: Client, trust: Trust) -> None:
        self.stores: dict[Unit, Store] = {}
        self.reading: dict[At, Unit] = {}
        self._clients, self._names, self._reader, self._trust = clients, names, reader, trust

    def changelog(self, unit: Unit) -> At:
        """Where the unit's changes stand."""
        return self._names.changelog(unit.task), unit.partition

    def ends(self, units: Iterable[Unit]) -> dict[Unit, int]:
        """The high watermark of each unit's changelog. Raises `KafkaException`."""
        places = {unit: self.changelog(unit) for unit in units}
        found = self._clients.ends(places.values(), committed=False)
        return {unit: found[at] for unit, at in places.items()}

    def follow(self, unit: Unit, end: int) -> None:
        """Read the unit's changelog on from where its store is; one that is read already is told of its end again."""
        at = self.changelog(unit)
        self.leave([unit])
        store = self.stores.get(unit)
        if store is not None and self._trust.lapsed(store):  # it has lain here since the unit was last ours
            self.stores.pop(unit).drop_unwritten()
            store = None
        if store is None:
            store = self.stores[unit] = self._trust.opened(unit, at, end)
        self.reading[at] = unit
        self._reader.incremental_assign([Place(*at, store.position)])

    def leave(self, units: Iterable[Unit]) -> None:
        """Read these changelogs no further; their stores stay."""
        mine = [at for at in map(self.changelog, units) if self.reading.pop(at, None) is not None]
        if mine:
            self._reader.incremental_unassign([Place(*at) for at in mine])

    def discard(self, unit: Unit) -> None:
        """Let go of a store that must not be read on; whoever wants the unit opens it as it is on disk."""
        self.leave([unit])
        self.stores.pop(unit).drop_unwritten()

    def close(self) -> None:
        """Close the stores that are here."""
        for store in self.stores.values():
            store.close()
        self.stores.clear()
