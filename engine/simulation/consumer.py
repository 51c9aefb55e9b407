"""A group member and a hand-assigned reader as librdkafka's behave, on the fake cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from confluent_kafka import KafkaError, TopicPartition

from engine.simulation.cluster import NO_OFFSET, At, Cluster, GroupMetadata
from engine.simulation.errors import AUTO_OFFSET_RESET, CONFLICT, INVALID_ARG, PARTITION_EOF, TIMED_OUT, kafka_fault
from engine.simulation.message import Message
from engine.simulation.process import Process

HEARTBEAT_MS = 1_000
Rebalance = Callable[[Any, list[TopicPartition]], None]
Kind = Literal["assign", "revoke", "lost"]


class FakeMember:
    """A member of the group, cooperative-sticky. Its background joins and learns generations; callbacks wait for `poll`."""

    def __init__(self, cluster: Cluster, process: Process, group: str) -> None:
        self._cluster, self._process = cluster, process
        self._group = cluster.group(group)
        self._topic = ""
        self._call: dict[Kind, Rebalance] = {}
        self._member, self._generation = "", -1
        self._held: set[int] = set()
        self._waiting: deque[tuple[Kind, list[int]]] = deque()
        self._inbox: tuple[int, list[int]] | None = None
        self._rejoin = False
        self._joining = False
        self._heard_ms = cluster.now_ms
        self._closed = False

    def subscribe(
        self, topics: Sequence[str], on_assign: Rebalance, on_revoke: Rebalance, on_lost: Rebalance | None = None
    ) -> None:
        """Join, from now on, in the background."""
        self._process.check()
        (self._topic,) = topics
        self._group.units = self._cluster.partitions[self._topic]
        self._call = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost or on_revoke}
        self._rejoin = True
        self._cluster.every(HEARTBEAT_MS, self._background)
        self._join()

    def poll(self, timeout: float = 0.0) -> None:
        """Serve what the group has told meanwhile. Nobody writes to the topic, so there is no message."""
        with self._process.crossing("poll"):
            self._serve()
            if timeout:
                self._cluster.advance(round(timeout * 1_000))
                self._serve()

    def consumer_group_metadata(self) -> GroupMetadata:
        """Tell what the background knows now, be it ahead of the callbacks."""
        self._process.check()
        return GroupMetadata(self._group.name, self._generation, self._member)

    def memberid(self) -> str | None:
        """Who the background takes itself for now; nobody between two memberships."""
        self._process.check()
        return self._member or None

    def incremental_assign(self, places: Sequence[TopicPartition]) -> None:
        """Nothing is ever fetched of this topic."""

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        """Nothing is ever fetched of this topic."""

    def close(self) -> None:
        """Give everything up, and leave."""
        with self._process.crossing("close"):
            self._serve()
            if self._held:
                self._tell("revoke", sorted(self._held))
                self._held.clear()
            self._closed = True
            self._group.leave(self._member)

    def synced(self, generation: int, units: list[int]) -> None:
        """See `group.Joiner`: a process that stands still finds it in its socket when it goes on."""
        self._inbox = (generation, units)
        if self._process.runs:
            self._read()

    def _background(self) -> bool:
        """What librdkafka's own thread does: heartbeats, joins, and noticing that a session is over."""
        if not self._process.alive or self._closed:
            return False
        if self._process.paused:
            return True
        self._read()
        cluster = self._cluster
        if cluster.down:
            if cluster.now_ms - self._heard_ms > cluster.session_ms and self._member and not self._joining:
                self._lose()
            return True
        self._heard_ms = cluster.now_ms
        if self._joining:
            return True
        if not self._member:
            self._join()
            return True
        match self._group.heartbeat(self._generation, self._member):
            case None:
                pass
            case KafkaError.REBALANCE_IN_PROGRESS:
                self._rejoin = True
                self._join()
            case KafkaError.ILLEGAL_GENERATION:
                self._generation = -1
                self._lose(forget_member=False)
            case _:
                self._lose()
        return True

    def _read(self) -> None:
        if self._inbox is None or self._closed:
            return
        (generation, units), self._inbox = self._inbox, None
        self._joining = False
        self._generation, self._heard_ms = generation, self._cluster.now_ms
        revoked = sorted(self._held - set(units))
        if revoked:
            self._waiting.append(("revoke", revoked))
            self._rejoin = True
        self._waiting.append(("assign", sorted(set(units) - self._held)))

    def _join(self) -> None:
        """Join, once all callbacks are served: what is being revoked is still ours until then."""
        if self._rejoin and not self._waiting and not self._joining and not self._cluster.down:
            self._rejoin, self._joining = False, True
            self._member = self._group.join(self, self._member, self._held)

    def _lose(self, *, forget_member: bool = True) -> None:
        if forget_member:
            self._member = ""
        gone = set(self._held)
        for kind, units in self._waiting:
            if kind == "assign":
                gone |= set(units)
        if gone or self._waiting:
            if not any(kind == "lost" for kind, _ in self._waiting):
                self._waiting.append(("lost", sorted(gone)))
        self._rejoin, self._joining = True, False
        self._join()

    def _serve(self) -> None:
        while self._waiting:
            kind, units = self._waiting.popleft()
            if kind == "assign":
                self._held |= set(units)
            if kind == "assign" or units:
                self._tell(kind, units)
            if kind != "assign":
                self._held -= set(units)
        self._join()

    def _tell(self, kind: Kind, units: Iterable[int]) -> None:
        self._call[kind](self, [TopicPartition(self._topic, n) for n in units])


class FakeReader:
    """A consumer that is assigned by hand. It tells of every end that it reaches, once."""

    def __init__(self, cluster: Cluster, process: Process, *, committed: bool) -> None:
        self._cluster, self._process, self.isolated = cluster, process, committed
        self._next: dict[At, int] = {}
        self._told: dict[At, int] = {}  # ends that were told of

    def assign(self, places: Sequence[TopicPartition]) -> None:
        """Read these, and nothing else."""
        self._process.check()
        self.unassign()
        self.incremental_assign(places)

    def unassign(self) -> None:
        """Read nothing."""
        self._process.check()
        self._next.clear()
        self._told.clear()

    def incremental_assign(self, places: Sequence[TopicPartition]) -> None:
        """Read these too. What is read already is a conflict."""
        self._process.check()
        for place in places:
            at = (place.topic, place.partition)
            if at in self._next:
                raise kafka_fault(CONFLICT, "already assigned")
            if place.offset < 0:
                raise kafka_fault(INVALID_ARG, "say where to begin")
            self._next[at] = place.offset

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        """Read these no more."""
        self._process.check()
        for place in places:
            if self._next.pop((place.topic, place.partition), None) is None:
                raise kafka_fault(INVALID_ARG, "not assigned")
            self._told.pop((place.topic, place.partition), None)

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:
        """At most so many records and ends, one partition after another."""
        with self._process.crossing("consume"):
            cluster = self._cluster
            if cluster.down or cluster.fetch_fails():
                cluster.wait(lambda: False, round(max(timeout, 0) * 1_000))
                return []
            found = self._fetch(num_messages)
            if not found and timeout > 0 and self._next:
                cluster.wait(self._anything, round(timeout * 1_000))
                found = [] if cluster.down else self._fetch(num_messages)
            return found

    def committed(self, places: Sequence[TopicPartition], timeout: float = 60.0) -> list[TopicPartition]:
        """Offsets of the group. A reader of committed records waits until none of them is pending, and gives up."""
        with self._process.crossing("committed"):
            cluster, wanted = self._cluster, [(p.topic, p.partition) for p in places]

            def stable() -> bool:
                return not cluster.down and not (self.isolated and cluster.unstable(wanted))

            if not cluster.wait(stable, round(timeout * 1_000)):
                raise kafka_fault(TIMED_OUT, "Failed to get committed offsets")
            found = []
            for topic, partition in wanted:
                offset, metadata = cluster.offsets.get((topic, partition), (NO_OFFSET, ""))
                found.append(TopicPartition(topic, partition, offset, metadata=metadata))
            return found

    def get_watermark_offsets(self, place: TopicPartition, timeout: float = 60.0, cached: bool = False) -> tuple[int, int]:
        """First and last offset; to a reader of committed records the last is the stable one."""
        with self._process.crossing("watermarks"):
            at = (place.topic, place.partition)
            return 0, self._cluster.ends([at], committed=self.isolated)[at]

    def close(self) -> None:
        """Let go."""
        self._next.clear()

    def _anything(self) -> bool:
        logs = self._cluster.logs
        return not self._cluster.down and any(
            (end := logs[at].stable_end if self.isolated else logs[at].end) > start or self._told.get(at) != end
            for at, start in self._next.items()
        )

    def _fetch(self, limit: int) -> list[Message]:
        found: list[Message] = []
        cluster = self._cluster
        order = sorted(self._next)
        if len(order) > 1 and not cluster.calm:
            cluster.random.shuffle(order)
        for at in order:
            if len(found) >= limit:
                break
            log, start = cluster.logs[at], self._next[at]
            end = log.stable_end if self.isolated else log.end
            if start > log.end:
                fault = KafkaError(AUTO_OFFSET_RESET)
                found.append(Message(*at, start, error=fault))
                continue
            if start < end:
                most = limit - len(found)
                if not cluster.calm and cluster.random.random() < 0.3:
                    most = min(most, 1 + cluster.random.randrange(4))
                entries, self._next[at] = log.visible(start, most, self.isolated)
                found += [Message(*at, e.offset, e.key, e.value, e.headers, e.ts_ms) for e in entries]
            if self._next[at] >= end and self._told.get(at) != self._next[at] and len(found) < limit:
                self._told[at] = self._next[at]
                found.append(Message(*at, self._next[at], error=KafkaError(PARTITION_EOF)))
        return found
