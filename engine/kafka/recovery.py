"""Brings a unit's state up to date before the unit is worked on, and keeps standby copies near it meanwhile.

The order is what makes it exact (each step relies on the one before):

1. Stable: the unit's place in `shards` has no pending transactional offset. From then on no earlier owner can commit this
   unit: the coordinator refuses its generation, and what it had pending has ended. An owner that died with a transaction open
   would block this until the broker times it out; its name stands in the offset's metadata, and we fence it.
2. The end: the changelog's high watermark, asked after 1. Not the last stable offset, behind which a commit may still land.
3. Restore: read the changelog, read committed, from the store's position until an end-of-partition at or beyond that end.
4. Positions: what the state says was folded, compared with what the group committed. They are written by one transaction, so
   a difference means that somebody changed one of them, and we stop.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.clock import Clock
from engine.kafka.clients import At, Client, Clients
from engine.kafka.copies import Copies
from engine.kafka.fencing import Fencing
from engine.kafka.names import Names, Unit
from engine.kafka.positions import Positions, PositionsDisagree
from engine.kafka.reactions import Reaction, error_of, reaction_to
from engine.kafka.store import Store
from engine.kafka.trust import TOMBSTONES_MS, Trust
from engine.runtime import RuntimeFault, TaskSpec

log = logging.getLogger("consentinel.kafka.recovery")

READ_MAX = 10_000
READ_SECS = 0.1
COMMITTED_SECS_MAX = 1.0
FENCE_AFTER_MS = 1_000  # a living owner's commit takes milliseconds
IDLE_SECS = 0.1
PAUSE_SECS = 0.2  # after an error of the cluster, so that a broker that is away is not asked a thousand times a second


class Recovered(msgspec.Struct, frozen=True):
    """A unit that is ready to be worked on."""

    unit: Unit
    token: int
    store: Store
    positions: dict[str, int]


class _Claim(msgspec.Struct):
    token: int
    since_ms: int
    end: int | None = None  # the changelog's high watermark, once step 1 is done
    committed: dict[str, int] = {}
    disputed: dict[str, int] | None = None  # what the group said when the state said otherwise


class Recovery:
    """`claim`, `release` and `ask` are called by the loop's thread, `step` by the recovery's; queues stand between them."""

    def __init__(
        self, clients: Clients, names: Names, tasks: Sequence[TaskSpec], folder: Path, worker: str, clock: Clock, *,
        deployment: str = "", standby: bool = False, accept_loss: bool = False, tombstones_ms: int = TOMBSTONES_MS,
        open_store: Callable[[Path], Store] = Store, pause: Callable[[float], None] = sleep,
    ) -> None:  # fmt: skip
        self.ready: SimpleQueue[Recovered | BaseException] = SimpleQueue()
        self.ends: SimpleQueue[tuple[int, dict[At, int]]] = SimpleQueue()
        self.restored = 0  # changelog records read since the start
        self.pending: dict[Unit, int] = {}  # units being restored → records to go
        self._clients, self._names, self._clock = clients, names, clock
        self._standby = standby
        self._positions = Positions(clients, names, tasks, deployment, accept_loss=accept_loss)
        self._trust = Trust(clients, folder, clock, open_store, tombstones_ms)
        self._fencing = Fencing(clients, names, names.transactional_id(worker))
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._living: dict[Unit, int] = {}  # written by the loop's thread only: which claims still stand
        self._claims: dict[Unit, _Claim] = {}
        self._lent: set[Unit] = set()  # units whose store the loop has
        self._pause = pause
        self._reader: Client = clients.reader(f"{worker}-recovery")
        self._copies = Copies(clients, names, self._reader, self._trust)

    # For the loop's thread --------------------------------------------------------------------------------------------------

    def claim(self, units: Mapping[Unit, int]) -> None:
        """Make these units ready; each comes back by `ready` with its token, unless it was released meanwhile."""
        self._living.update(units)
        self._inbox.put(lambda: self._begin(units))

    def token_of(self, unit: Unit) -> int | None:
        """The token of the unit's standing claim."""
        return self._living.get(unit)

    def release(self, units: Mapping[Unit, Store | None], *, keep: bool = False) -> None:
        """These units are not ours any more (`keep`: they are, but by a later claim); their stores come back with them."""
        if not keep:
            for unit in units:
                self._living.pop(unit, None)
        self._inbox.put(lambda: self._back(units))

    def ask(self, places: Sequence[At], now_ms: int) -> None:
        """Ask for the high watermarks of these partitions; the answer comes by `ends` with the time it was asked at."""
        self._inbox.put(lambda: self.ends.put((now_ms, self._clients.ends(places, committed=False))))

    def run(self, stopping: Callable[[], bool]) -> None:
        """Step until told to stop: the body of the recovery's thread."""
        while not stopping():
            if not self.step():
                try:
                    command = self._inbox.get(timeout=IDLE_SECS)
                except Empty:
                    continue
                self._guarded(command)

    def close(self) -> None:
        """Close the stores that the loop does not have, and the clients."""
        self._drain()
        self._copies.close()
        self._reader.close()
        self._fencing.close()

    # For the recovery's thread ------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do what there is to do now; False: nothing is under way."""
        self._drain()
        self._guarded(self._forget_released)
        if self._standby:
            self._guarded(self._follow)
        if any(claim.end is None for claim in self._claims.values()):
            self._guarded(self._stabilise)
        if self._copies.reading:
            self._guarded(self._read)
        return bool(self._claims or self._copies.reading)

    def _drain(self) -> None:
        while True:
            try:
                command = self._inbox.get_nowait()
            except Empty:
                return
            self._guarded(command)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except KafkaException as fault:
            if reaction_to(fault) is Reaction.STOP:
                self.ready.put(fault)
            log.warning("recovery: %s", error_of(fault).name())
            self._pause(PAUSE_SECS)
        except Exception as fault:  # a damaged disk, a bug: the loop ends with it
            self.ready.put(fault)

    def _begin(self, units: Mapping[Unit, int]) -> None:
        now_ms = self._clock()
        for unit, token in units.items():
            self._claims[unit] = _Claim(token, now_ms)
            self._fencing.begin(unit)
            self.pending[unit] = 0

    def _back(self, units: Mapping[Unit, Store | None]) -> None:
        for unit, store in units.items():
            if store is not None:
                self._lent.discard(unit)
                self._copies.stores[unit] = store

    def _forget_released(self) -> None:
        gone = [unit for unit, claim in self._claims.items() if self._living.get(unit) != claim.token]
        for unit in gone:
            self._dismiss(unit)
        if not self._standby:
            self._copies.leave(gone)

    def _follow(self) -> None:
        """Standby: tail every unit that we do not own."""
        for unit in self._names.units:
            if unit not in self._lent and self._copies.changelog(unit) not in self._copies.reading:
                self._copies.follow(unit, self._copies.ends([unit])[unit])

    def _stabilise(self) -> None:
        """Steps 1 and 2, for all claims that wait."""
        # A store that the loop still has, from a claim that fell, comes back first.
        waiting = [unit for unit, claim in self._claims.items() if claim.end is None and unit not in self._lent]
        if not waiting:
            return
        asked = [Place(*self._shard(unit)) for unit in waiting]
        asked += [Place(*at) for at in {at for unit in waiting for at in self._positions.inputs(unit)}]
        try:
            found = {(p.topic, p.partition): p for p in self._reader.committed(asked, timeout=COMMITTED_SECS_MAX)}
        except KafkaException as fault:
            if reaction_to(fault) is Reaction.STOP:
                raise
            log.info("offsets of %d units are not stable yet: %s", len(waiting), error_of(fault).name())
            found = {}
        stable = [
            unit for unit in waiting
            if all(at in found and found[at].error is None for at in (self._shard(unit), *self._positions.inputs(unit)))
        ]  # fmt: skip
        ends = self._copies.ends(stable)  # step 2
        for unit in stable:
            claim = self._claims[unit]
            claim.committed = {at[0]: found[at].offset for at in self._positions.inputs(unit)}
            claim.since_ms = self._clock()
            self._copies.follow(unit, ends[unit])
            claim.end = ends[unit]  # last: a claim whose assignment failed is still to be stabilised
        self._fence([unit for unit in waiting if unit not in stable])

    def _read(self) -> None:
        """Step 3: one read for all units at once; then step 4 for those that are there."""
        runs: dict[At, list[Any]] = {}
        done: dict[Unit, None] = {}  # in order, and each once: a unit may come to its end twice in one read
        lapsed: list[Unit] = []
        claims = self._claims
        for message in self._reader.consume(READ_MAX, READ_SECS):
            fault = message.error()
            at = (message.topic(), message.partition())
            if fault is None:
                runs.setdefault(at, []).append(message)
            elif fault.code() == KafkaError._PARTITION_EOF:
                unit = self._copies.reading.get(at)
                if unit in claims and (end := claims[unit].end) is not None and message.offset() >= end:
                    done[unit] = None
            else:
                log.warning("restore: %s", fault.name())
                if fault.code() == KafkaError._AUTO_OFFSET_RESET and (unit := self._copies.reading.get(at)) is not None:
                    lapsed.append(unit)
        now_ms = self._clock()
        for at, fetched in runs.items():
            unit = self._copies.reading.get(at)
            if unit is None:
                continue
            store, offset = self._copies.stores[unit], fetched[-1].offset()
            news = fetched
            if fetched[0].offset() < store.position:  # fetched before the unit was assigned anew
                news = [m for m in fetched if m.offset() >= store.position]
            if news and self._trust.lapsed(store):
                lapsed.append(unit)  # we stood still for so long that tombstones may be missing among what comes now
                continue
            if news:
                store.committed({m.key() or b"": m.value() for m in news}, offset + 1, now_ms)
            self.restored += len(news)
            claim = claims.get(unit)
            if claim is not None:
                claim.since_ms = now_ms
                self.pending[unit] = max(0, (claim.end or 0) - offset)
        for unit in lapsed:
            self._again(unit)
        for unit in done:
            if unit not in lapsed:
                self._guarded(partial(self._finish, unit))
        self._fence([unit for unit, claim in claims.items() if claim.end is not None])

    def _finish(self, unit: Unit) -> None:
        """Step 4; the store goes to the loop."""
        claim, store = self._claims[unit], self._copies.stores[unit]
        self._copies.leave([unit])
        try:
            positions = self._positions.of(unit, store, claim.committed)
        except KafkaException:
            claim.end = None  # nobody tells us of the changelog's end a second time: all steps again
            raise
        except PositionsDisagree as fault:
            if claim.disputed != claim.committed:  # we may have stood still since we asked the group: ask again
                claim.disputed, claim.end = claim.committed, None
                return
            self._dismiss(unit)
            self.ready.put(fault)
            return
        except RuntimeFault as fault:
            self._dismiss(unit)
            self.ready.put(fault)
            return
        self._dismiss(unit)
        del self._copies.stores[unit]
        self._lent.add(unit)
        self.ready.put(Recovered(unit, claim.token, store, positions))

    def _dismiss(self, unit: Unit) -> None:
        del self._claims[unit]
        self.pending.pop(unit, None)

    def _again(self, unit: Unit) -> None:
        """The unit's store must not be read on: whoever claims it begins anew."""
        self._copies.discard(unit)
        if unit in self._claims:
            self._claims[unit].end = None

    def _fence(self, units: Sequence[Unit]) -> None:
        """End the transactions of dead owners that have blocked these units for a while."""
        now_ms = self._clock()
        late = [unit for unit in units if now_ms - self._claims[unit].since_ms > FENCE_AFTER_MS]
        if late:
            for unit in late:
                self._claims[unit].since_ms = now_ms
            self._fencing.fence(late)

    def _shard(self, unit: Unit) -> At:
        return self._names.shards, self._names.index[unit]
