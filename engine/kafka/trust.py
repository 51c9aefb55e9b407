"""Whether a local store may be used: when in doubt it is wiped, and restored from its changelog from the beginning.

A store is not trusted that is damaged, follows another incarnation of its changelog, is ahead of it, is behind what it
retains, or was offline for longer than tombstones last: it would bring erased people back.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from engine.clock import Clock
from engine.kafka.clients import At, Clients
from engine.kafka.names import Unit
from engine.kafka.store import Store
from engine.runtime import StoreDamaged

log = logging.getLogger("consentinel.kafka.recovery")

TOMBSTONES_MS = 86_400_000  # `delete.retention.ms` of a changelog; half of it is what an offline store may have missed


class Trust:
    """Opens the stores in one folder."""

    def __init__(
        self, clients: Clients, folder: Path, clock: Clock, open_store: Callable[[Path], Store] = Store,
        tombstones_ms: int = TOMBSTONES_MS,
    ) -> None:  # fmt: skip
        self._clients, self._folder, self._clock = clients, folder, clock
        self._open, self._tombstones_ms = open_store, tombstones_ms
        self._incarnations: dict[str, str] = {}

    def opened(self, unit: Unit, at: At, end: int) -> Store:
        """The unit's store, wiped first when it cannot be trusted; `at` is its changelog, which ends at `end`."""
        folder = self._folder / f"{unit.task}-{unit.partition}"
        incarnation = self._incarnations.get(at[0])
        if incarnation is None:
            incarnation = self._incarnations[at[0]] = self._clients.incarnations([at[0]])[at[0]]
        # Everything that the cluster must tell comes first: a store that was opened and is forgotten stays locked.
        start, now_ms = self._clients.starts([at])[at], self._clock()
        try:
            store = self._open(folder)
            why = self._distrust(store, start, end, incarnation)
            if why:
                store.drop_unwritten()
        except StoreDamaged:
            why = "damaged"
        if why:
            log.warning("the local store of %s/%d is %s: restoring it from its changelog", unit.task, unit.partition, why)
            Store.wipe(folder)
            store = self._open(folder)
        if not store.incarnation:
            store.begin(incarnation, now_ms)
        return store

    def lapsed(self, store: Store) -> bool:
        """Whether an open store has followed nothing for longer than tombstones last: close it, and open it anew."""
        return bool(store.incarnation) and abs(self._clock() - store.written_ms) > self._tombstones_ms // 2

    def _distrust(self, store: Store, start: int, end: int, incarnation: str) -> str:
        """Why the store cannot be trusted; empty when it can."""
        if not store.incarnation:
            return ""
        if store.incarnation != incarnation:
            return "of another changelog"
        if store.position > end:
            return "ahead of its changelog"
        if store.position < end and self.lapsed(store):
            return "offline for longer than tombstones last"
        return "behind what its changelog retains" if store.position < start else ""
