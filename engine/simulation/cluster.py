"""A Kafka cluster of one, in memory: topics, the coordinator of transactions, committed offsets, and time that only we move.

What it keeps of the real one, and `tests/kafka/test_fake_cluster.py` compares: control records take offsets; the stable end
stands still before an open transaction; a commit is decided at once and its markers follow one by one, so that a
reader may see an offset committed before the changelog it belongs to; a second producer of a name fences the first; a
transaction that lasts too long is aborted and its producer fenced; pending offsets are unstable; a stale generation may
not commit, and no generation at all may (that is Kafka's, and why the engine must always send its own).
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

import msgspec

from engine.simulation.group import Group
from engine.simulation.log import Headers, PartitionLog, Transaction

At = tuple[str, int]
NO_OFFSET: Final = -1001
MARKER_MS: Final[tuple[int, ...]] = (0, 0, 0, 1, 1, 2, 5, 40, 700, 2_500)  # how long a marker is on its way
TRANSACTION_CHECK_MS: Final = 1_000


class GroupMetadata(msgspec.Struct, frozen=True):
    """What a member says of itself when its offsets are committed in a transaction."""

    group: str
    generation: int
    member: str


class Identity:
    """A transactional.id as the coordinator knows it."""

    __slots__ = ("current", "epoch", "last", "timeout_ms")

    def __init__(self, timeout_ms: int) -> None:
        self.epoch, self.timeout_ms = -1, timeout_ms
        self.current: Transaction | None = None
        self.last: Transaction | None = None  # decided; its markers may still be on their way


class Fenced(Exception):
    """The producer's epoch is not the newest of its name."""


class Concurrent(Exception):
    """The name's previous transaction has not finished; ask again."""


class Refused(Exception):
    """The group's coordinator refuses an offset commit; `code` is Kafka's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Odds(msgspec.Struct):
    """How often the network is unkind, per call."""

    request_lost: float = 0.0  # a commit that never arrives
    reply_lost: float = 0.0  # a commit that is done, and nobody hears of it
    delivery_failed: float = 0.0  # a record that is given up
    nothing_fetched: float = 0.0  # a fetch that comes back empty although there is something


class Cluster:
    """See the module. Times are epoch milliseconds; `advance` moves them and lets the broker do what is due."""

    def __init__(self, random: Random, topics: Mapping[str, int], now_ms: int, session_ms: int = 6_000) -> None:
        self.random, self.now_ms, self.session_ms = random, now_ms, session_ms
        self.logs: dict[At, PartitionLog] = {(t, p): PartitionLog() for t, count in topics.items() for p in range(count)}
        self.partitions = dict(topics)
        self.identities: dict[str, Identity] = {}
        self.offsets: dict[At, tuple[int, str]] = {}
        self.pending: dict[At, list[Transaction]] = {}  # transactions that hold offsets of this place
        self.groups: dict[str, Group] = {}
        self.commits: list[tuple[At, int, str, int]] = []  # (place, generation, member, next offset), as they became visible
        self.down_until_ms = 0
        self.calm = False  # no more delays: the time of faults is over
        self.odds = Odds()
        self.marker_ms = MARKER_MS
        self.tell: Callable[[str], None] = lambda _: None  # for a trace
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._senders: dict[Transaction, GroupMetadata] = {}
        self.every(TRANSACTION_CHECK_MS, self._end_overdue)

    # Time

    @property
    def down(self) -> bool:
        """Whether nothing answers now."""
        return self.now_ms < self.down_until_ms

    def at(self, due_ms: int, act: Callable[[], None]) -> None:
        """Let the cluster do something at a time."""
        self._serial += 1
        heapq.heappush(self._due, (due_ms, self._serial, act))

    def advance(self, ms: int) -> None:
        """Let time pass, doing what is due on the way."""
        self.advance_to(self.now_ms + ms)

    def advance_to(self, until_ms: int) -> None:
        """As `advance`, to a moment."""
        while self._due and self._due[0][0] <= until_ms:
            due_ms, _, act = heapq.heappop(self._due)
            self.now_ms = max(self.now_ms, due_ms)
            act()
        self.now_ms = max(self.now_ms, until_ms)

    def wait(self, done: Callable[[], bool], timeout_ms: int) -> bool:
        """Let time pass until `done`, as a client's blocking call does; returns whether it came to be in time."""
        until_ms = self.now_ms + timeout_ms
        while not done():
            upcoming = [t for t in (self._due[0][0] if self._due else None, self.down_until_ms) if t and t > self.now_ms]
            next_ms = min(upcoming, default=until_ms)
            if next_ms > until_ms or self.now_ms >= until_ms:
                self.advance_to(until_ms)
                return done()
            self.advance_to(next_ms)
        return True

    def every(self, ms: int, act: Callable[[], bool]) -> None:
        """Let something happen again and again, until it answers False."""

        def again() -> None:
            if act():
                self.at(self.now_ms + ms, again)

        self.at(self.now_ms + ms, again)

    def lost_reply(self) -> str:
        """Where on its way a commit is lost: "request", "reply", or "" for nowhere."""
        if self.calm:
            return ""
        drawn = self.random.random()
        if drawn < self.odds.request_lost:
            return "request"
        return "reply" if drawn < self.odds.request_lost + self.odds.reply_lost else ""

    def delivery_fails(self) -> bool:
        """Whether this record is given up."""
        return not self.calm and self.random.random() < self.odds.delivery_failed

    def fetch_fails(self) -> bool:
        """Whether this fetch comes back empty."""
        odds = 0.0 if self.calm else self.odds.nothing_fetched
        return odds > 0 and self.random.random() < odds

    def go_down(self, ms: int) -> None:
        """Answer nothing for a while; then everybody's session begins anew."""
        self.down_until_ms = self.now_ms + ms

        def back() -> None:
            for group in self.groups.values():
                group.spare()

        self.at(self.down_until_ms, back)

    # Transactions, as the coordinator answers

    def enlist(self, name: str, timeout_ms: int) -> int:
        """A producer begins under `name`: fence the one before, end what it left open; returns the new epoch.

        Raises `Concurrent` while the previous transaction has not finished.
        """
        identity = self.identities.setdefault(name, Identity(timeout_ms))
        if identity.current is not None:
            identity.epoch += 1
            self._decide(identity, "aborted")
        if identity.last is not None and not identity.last.finished:
            raise Concurrent
        identity.epoch += 1
        identity.timeout_ms = timeout_ms
        return identity.epoch

    def _current(self, name: str, epoch: int) -> Transaction:
        identity = self._identity(name, epoch)
        if identity.current is None:
            if identity.last is not None and not identity.last.finished:
                raise Concurrent
            identity.current = Transaction(name, epoch, self.now_ms)
        return identity.current

    def _identity(self, name: str, epoch: int) -> Identity:
        identity = self.identities[name]
        if identity.epoch != epoch:
            raise Fenced
        return identity

    def append(self, name: str, epoch: int, at: At, key: bytes | None, value: bytes | None, headers: Headers) -> int:
        """Append in the producer's transaction; returns the offset. Raises `Fenced`, `Concurrent`."""
        transaction = self._current(name, epoch)
        transaction.places[at] = None
        return self.logs[at].append(self.now_ms, key, value, headers, transaction)

    def publish(self, at: At, key: bytes | None, value: bytes | None, headers: Headers, ts_ms: int | None = None) -> int:
        """Append outside a transaction; returns the offset."""
        return self.logs[at].append(self.now_ms if ts_ms is None else ts_ms, key, value, headers)

    def send_offsets(self, name: str, epoch: int, sender: GroupMetadata, offsets: Mapping[At, tuple[int, str]]) -> None:
        """Take offsets into the producer's transaction. Raises `Fenced`, `Concurrent`, `Refused`."""
        transaction = self._current(name, epoch)
        code = self.groups[sender.group].may_commit(sender.generation, sender.member)
        if code is not None:
            raise Refused(code)
        for at, what in offsets.items():
            transaction.offsets[at] = what
            holders = self.pending.setdefault(at, [])
            if transaction not in holders:
                holders.append(transaction)
        self._senders[transaction] = sender

    def end_transaction(self, name: str, epoch: int, *, commit: bool) -> None:
        """Decide the producer's transaction; its markers follow. Raises `Fenced`."""
        identity = self._identity(name, epoch)
        if identity.current is not None:
            self._decide(identity, "committed" if commit else "aborted")

    def _decide(self, identity: Identity, outcome: str) -> None:
        transaction = identity.current
        assert transaction is not None
        identity.current, identity.last = None, transaction
        transaction.outcome = "committed" if outcome == "committed" else "aborted"
        sender = self._senders.get(transaction)
        who = "" if sender is None else f" by {sender.member} of generation {sender.generation}"
        offsets = ", ".join(f"{topic}/{n} at {what[0]}" for (topic, n), what in transaction.offsets.items())
        self.tell(f"{outcome} {transaction.name}{who}: {offsets}")
        transaction.markers = len(transaction.places) + bool(transaction.offsets)
        for at in transaction.places:
            self._send_marker(transaction, lambda at=at: self.logs[at].mark(transaction, self.now_ms))  # type: ignore[misc]
        if transaction.offsets:
            self._send_marker(transaction, lambda: self._settle_offsets(transaction))

    def _send_marker(self, transaction: Transaction, write: Callable[[], None]) -> None:
        def arrive() -> None:
            if self.down:
                self.at(self.down_until_ms, arrive)
                return
            write()
            transaction.markers -= 1

        delay_ms = 0 if self.calm else self.random.choice(self.marker_ms)
        if delay_ms:
            self.at(self.now_ms + delay_ms, arrive)
        else:
            arrive()

    def _settle_offsets(self, transaction: Transaction) -> None:
        sender = self._senders.pop(transaction)
        for at, what in transaction.offsets.items():
            self.pending[at].remove(transaction)
            if transaction.outcome == "committed":
                self.offsets[at] = what
                self.commits.append((at, sender.generation, sender.member, what[0]))

    def _end_overdue(self) -> bool:
        if self.down:
            return True
        for identity in self.identities.values():
            current = identity.current
            if current is not None and self.now_ms - current.began_ms > identity.timeout_ms:
                identity.epoch += 1  # the producer that was too slow finds itself fenced
                self._decide(identity, "aborted")
        return True

    # Offsets and ends

    def unstable(self, places: Iterable[At]) -> bool:
        """Whether a transaction that has not finished holds an offset of one of these places."""
        return any(self.pending.get(at) for at in places)

    def ends(self, places: Iterable[At], *, committed: bool) -> dict[At, int]:
        """The stable end of each partition, or its high watermark."""
        return {at: self.logs[at].stable_end if committed else self.logs[at].end for at in places}

    def group(self, name: str) -> Group:
        """The group, made at first use."""
        if name not in self.groups:
            self.groups[name] = Group(self, name)
        return self.groups[name]
