"""A consumer group's coordinator, cooperative-sticky: generations, sessions, and members that give up before others are given.

A rebalance waits until every member has joined again; a unit that moves is first taken from its owner, who joins anew, and only
the rebalance after that hands it out. So no two members hold a unit in one generation, unless one of them has missed its
session: then the group has moved on, and refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from confluent_kafka import KafkaError

if TYPE_CHECKING:
    from engine.simulation.cluster import Cluster

REBALANCE_MS_MAX = 300_000  # `max.poll.interval.ms`: how long the group waits for a member that does not join


class Joiner(Protocol):
    """What the coordinator tells a member. Called only while its process runs; else it finds out when it wakes."""

    def synced(self, generation: int, units: list[int]) -> None:
        """Take the outcome of a rebalance."""
        ...


class _Member:
    __slots__ = ("held", "joined", "joiner", "seen_ms")

    def __init__(self, joiner: Joiner, now_ms: int) -> None:
        self.joiner, self.seen_ms = joiner, now_ms
        self.joined = True
        self.held: list[int] = []


class Group:
    """See the module. Units are the partitions of the one topic that the members subscribe to."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name, self.generation = name, 0
        self.units = 0
        self._cluster = cluster
        self._members: dict[str, _Member] = {}
        self._preparing = False
        self._since_ms = 0
        self._serial = 0
        cluster.every(200, self._expire)

    def join(self, joiner: Joiner, member: str, held: Iterable[int]) -> str:
        """Join or join again, holding these units; returns the member's id. The outcome comes by `synced`.

        An id that the group does not know is given another.
        """
        if member not in self._members:
            self._serial += 1
            member = f"member-{self._serial}"
            self._members[member] = _Member(joiner, self._cluster.now_ms)
        mine = self._members[member]
        mine.joined, mine.held, mine.seen_ms = True, sorted(held), self._cluster.now_ms
        self._prepare()
        self._cluster.at(self._cluster.now_ms + 1, self._complete)
        return member

    def leave(self, member: str) -> None:
        """A member goes."""
        if self._members.pop(member, None) is not None:
            self._prepare()
            self._cluster.at(self._cluster.now_ms + 1, self._complete)

    def heartbeat(self, generation: int, member: str) -> int | None:
        """A sign of life; Kafka's error code when there is something to know."""
        mine = self._members.get(member)
        if mine is None:
            return int(KafkaError.UNKNOWN_MEMBER_ID)
        if generation != self.generation:
            return int(KafkaError.ILLEGAL_GENERATION)
        mine.seen_ms = self._cluster.now_ms
        return int(KafkaError.REBALANCE_IN_PROGRESS) if self._preparing and not mine.joined else None

    def may_commit(self, generation: int, member: str) -> int | None:
        """Why offsets sent in a transaction by this sender are refused; None: they are not.

        Kafka takes offsets of a sender that names neither generation nor member: older clients do not send them.
        """
        if generation < 0 and not member:
            return None
        if member not in self._members:
            return int(KafkaError.UNKNOWN_MEMBER_ID)
        return None if generation == self.generation else int(KafkaError.ILLEGAL_GENERATION)

    def spare(self) -> None:
        """The coordinator was away: everybody's session begins anew."""
        for mine in self._members.values():
            mine.seen_ms = self._cluster.now_ms

    def _prepare(self) -> None:
        if not self._preparing:
            self._preparing, self._since_ms = True, self._cluster.now_ms

    def _expire(self) -> bool:
        cluster = self._cluster
        if cluster.down:
            return True
        # Whoever waits for the rebalance to end is not expected to give signs of life.
        silent = [(name, m) for name, m in self._members.items() if not (self._preparing and m.joined)]
        gone = [name for name, m in silent if cluster.now_ms - m.seen_ms > cluster.session_ms]
        if self._preparing and cluster.now_ms - self._since_ms > REBALANCE_MS_MAX:
            gone += [name for name, m in self._members.items() if not m.joined and name not in gone]
        for name in gone:
            del self._members[name]
            self._prepare()
        self._complete()
        return True

    def _complete(self) -> None:
        if not self._preparing or self._cluster.down or not all(m.joined for m in self._members.values()):
            return
        self._preparing = False
        self.generation += 1
        given = self._assign()
        self._cluster.tell(f"generation {self.generation}: {given}")
        for name, member in list(self._members.items()):
            member.joined, member.seen_ms = False, self._cluster.now_ms
            member.joiner.synced(self.generation, given[name])

    def _assign(self) -> dict[str, list[int]]:
        """Who holds what from now on: what one has and keeps, and what nobody has."""
        names = sorted(self._members)
        if not names:
            return {}
        owner: dict[int, str] = {}
        for name in names:
            for unit in self._members[name].held:
                owner.setdefault(unit, name)
        order = list(names)
        self._cluster.random.shuffle(order)
        share, over = divmod(self.units, len(names))
        room = {name: share + (n < over) for n, name in enumerate(order)}
        wanted: dict[str, list[int]] = {name: [] for name in names}
        homeless: list[int] = []
        for unit in range(self.units):
            has = owner.get(unit)
            if has is not None and room[has] > 0:
                room[has] -= 1
                wanted[has].append(unit)
            else:
                homeless.append(unit)
        for unit in homeless:
            gets = next(n for n in order if room[n] > 0)
            room[gets] -= 1
            wanted[gets].append(unit)
        return {name: [u for u in units if owner.get(u, name) == name] for name, units in wanted.items()}
