"""Runs one processor in memory, effect by effect as the engine does, and complains when it breaks the kernel's rules.

    driver = Driver(KeepConsent())
    driver.send("sub_A", "consent.given", {...}, at=10)
    driver.advance(5_000)
    driver.rows("consent.state")      # the compacted topic: key -> record
    driver.log, driver.audits, driver.refusals, driver.alarms, driver.keys

Sealing is faked: text becomes `b"sealed:<scope>:<text>"`; a ref is `<kind>:<normal form>` and an actor stands for itself, so
that a table can be read. Records rest as bytes between batches and as objects within one (`with driver.batch():`), like the
engine's overlay. `driver.beside(ProtectItem())` adds a processor of the same task.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from engine.topology import default_topology
from law.book import Book, Library, shipped_library
from processors.kernel import (
    Alarm,
    Audit,
    Delete,
    Effect,
    Emit,
    Forward,
    Ledger,
    Mint,
    Nonce,
    Processor,
    Put,
    Refuse,
    Remove,
    Shred,
    State,
    Wake,
)
from processors.registry import processors
from schemas.base import Record
from schemas.events import BY_TYPE
from schemas.routed import ROUTED, Envelope
from schemas.topics import ControllerState

CONTROLLER = "acme"
WAKES_MAX = 10_000  # an alarm that always sets itself anew for now would ring for ever
RECORDS: dict[str, type[Record]] = {**BY_TYPE, **{cls.SCHEMA: cls for cls in ROUTED}}

Key = tuple[str, tuple[str, ...]]  # kind, parts


class Told(NamedTuple):
    """Something a processor sent on `topic`. `forwarded`: the envelope that went on as it was; `value` is then None."""

    owner: str
    topic: str
    key: tuple[str, ...]
    value: Record | None
    refs: tuple[str, ...] = ()
    forwarded: Envelope | None = None


class Audited(NamedTuple):
    owner: str
    kind: str
    controller: str
    facts: dict[str, str]
    named: bool
    law: str = ""


@cache
def _kept_beside(name: str) -> frozenset[str]:
    """The kinds of state that the processors of `name`'s task keep: they write into one dossier."""
    every, tasks = processors(), default_topology().tasks.values()
    return frozenset(cls.KIND for t in tasks if name in t.processors for p in t.processors for cls in every[p].STATE)


def _hash(*parts: str) -> str:
    return sha256("\x1f".join(parts).encode()).hexdigest()


class FakeContext:
    """What receipts and instants share."""

    def __init__(self, driver: "Driver", seed: str) -> None:
        self._driver, self._seed = driver, seed

    def settings(self, controller: str) -> ControllerState:
        return self._driver.settings.get(controller) or ControllerState(controller=controller)

    def law(self, controller: str) -> Book:
        return (self._driver.library or shipped_library()).book(self.settings(controller).law)

    def ref(self, controller: str, kind: str, normal: str) -> str:
        return f"{kind}:{normal}" if controller == CONTROLLER else f"{controller}/{kind}:{normal}"

    def actor_hash(self, controller: str, actor: str) -> str:
        return actor and f"{controller}/{actor}"

    def derive(self, index: int) -> str:
        return _hash(self._seed, str(index))[:24]


class FakeReceipt(FakeContext):
    def __init__(self, driver: "Driver", owner: str, envelope: Envelope) -> None:
        super().__init__(driver, f"{envelope.source}/{envelope.id}")
        self.owner = owner
        self.envelope = envelope
        self.controller = envelope.controller
        self.event_id = _hash(envelope.source, envelope.id)[:24]
        self.time_ms, self.receipt_ms = envelope.time_ms, envelope.receipt_ms

    @property
    def effective_ms(self) -> int:
        return min(self.time_ms, self.receipt_ms)


class FakeInstant(FakeContext):
    def __init__(self, driver: "Driver", now_ms: int) -> None:
        super().__init__(driver, f"alarm/{now_ms}")
        self.now_ms = now_ms


class FakeView:
    """One owner's state: committed bytes under an overlay of live objects."""

    def __init__(self, driver: "Driver", owner: str) -> None:
        self.owner, self._driver = owner, driver

    def get(self, kind: type[Any], *parts: str) -> Any:
        key: Key = (kind.KIND, parts)
        overlay = self._driver.overlay.setdefault(self.owner, {})
        if key not in overlay:
            raw = self._driver.store.get(self.owner, {}).get(key)
            overlay[key] = None if raw is None else msgspec.msgpack.decode(raw, type=kind)
        record = overlay[key]
        if record is not None:
            self._driver.handed_out.append((record, msgspec.msgpack.encode(record)))
        return record

    def scan(self, kind: type[Any], *prefix: str) -> Iterator[tuple[tuple[str, ...], Any]]:
        both = {*self._driver.store.get(self.owner, {}), *self._driver.overlay.get(self.owner, {})}
        for name, parts in sorted(both):
            if name == kind.KIND and parts[: len(prefix)] == prefix:
                record = self.get(kind, *parts)
                if record is not None:
                    yield parts, record

    def has_key(self, scope: str) -> bool:
        return scope in self._driver.keys.get(self.owner, set())

    def opened(self, record: Any, scope: str) -> Any:
        if not self.has_key(scope):
            return None
        texts = {}
        for name in type(record).SEALED:
            token = getattr(record, name)
            if isinstance(token, bytes):
                mark = f"sealed:{scope}:".encode()
                assert token.startswith(mark), f"{name} was sealed under another scope"
                texts[name] = token.removeprefix(mark).decode()
        return msgspec.structs.replace(record, **texts)


@dataclass
class Driver:
    """See the module. `settings` are by controller; `now_ms` follows the latest receipt or `advance`.

    `task` are the drivers that share this one's state, in the order in which they fold an event; each keeps its own log.
    """

    processor: Processor
    settings: dict[str, ControllerState] = field(default_factory=dict)
    store: dict[str, dict[Key, bytes]] = field(default_factory=dict)
    overlay: dict[str, dict[Key, State | None]] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)
    alarms: dict[tuple[str, str], int] = field(default_factory=dict)
    log: list[Told] = field(default_factory=list)
    audits: list[Audited] = field(default_factory=list)
    refusals: list[Refuse] = field(default_factory=list)
    handed_out: list[tuple[State, bytes]] = field(default_factory=list)
    done: list[Effect] = field(default_factory=list)
    task: list["Driver"] = field(default_factory=list)
    envelope: Envelope | None = None  # of the event that is being folded; kept by the first of the task
    now_ms: int = 0
    sent: int = 0
    in_batch: bool = False
    library: Library | None = None

    def __post_init__(self) -> None:
        self.task.append(self)

    def beside(self, processor: Processor) -> "Driver":
        """Fold with `processor` too, after those that are here already."""
        return Driver(processor, self.settings, self.store, self.overlay, self.keys, task=self.task)

    def send(
        self, owner: str, kind: str, data: dict[str, Any] | Record, *, at: int, received: int | None = None,
        id: str | None = None, source: str = "test", controller: str = CONTROLLER, refs: tuple[str, ...] = (), actor: str = "",
    ) -> list[Effect]:  # fmt: skip
        """Fold one event of CloudEvents type (or routed record) `kind`; returns its effects. Times in epoch ms."""
        self.sent += 1
        event = data if isinstance(data, Record) else msgspec.convert(data, RECORDS[kind])
        envelope = Envelope(
            id=id if id is not None else f"e{self.sent}", source=source, type=kind, controller=controller, time_ms=at,
            receipt_ms=at if received is None else received, actor=actor, refs=refs,
        )  # fmt: skip
        self.task[0].envelope = envelope
        self.now_ms = max(self.now_ms, envelope.receipt_ms)
        readers = [d for d in self.task if isinstance(event, d.processor.READS)]
        assert readers, f"nobody here reads {kind}"
        before = len(self.done)
        for d in readers:
            d.apply(owner, d.processor.fold(FakeView(d, owner), event, FakeReceipt(d, owner, envelope)))
        return self.done[before:]

    def advance(self, now_ms: int, *, late: bool = False) -> None:
        """Ring every alarm that is due by `now_ms`, in order: each at its time, or (`late`) all of them at `now_ms`."""
        for _ in range(WAKES_MAX):
            due = [(at, who, d.processor.name, n, d) for d in self.task for (who, n), at in d.alarms.items() if at <= now_ms]
            if not due:
                self.now_ms = max(self.now_ms, now_ms)
                return
            due_ms, owner, _, name, d = min(due, key=lambda alarm: alarm[:4])
            del d.alarms[owner, name]
            self.task[0].envelope = None
            self.now_ms = max(self.now_ms, now_ms if late else due_ms)
            d.apply(owner, d.processor.wake(FakeView(d, owner), Alarm(name, due_ms), FakeInstant(d, self.now_ms)))
        raise AssertionError(f"{self.processor.name} never stops ringing")

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Keep records as objects until the end, as within one commit of the engine."""
        self.in_batch = True
        yield
        self.in_batch = False
        self.flush()

    def flush(self) -> None:
        for owner, records in self.overlay.items():
            rest = self.store.setdefault(owner, {})
            for key, record in records.items():
                if record is None:
                    rest.pop(key, None)
                else:
                    rest[key] = msgspec.msgpack.encode(record)
        self.overlay.clear()

    def apply(self, owner: str, effects: Iterator[Effect]) -> None:
        done: list[Effect] = []
        for effect in effects:
            assert not any(isinstance(e, Refuse) and e.like is None for e in done), "a refusal is a fold's only effect"
            self._apply(owner, effect, done)
            done.append(effect)
        self.done += done
        for record, before in self.handed_out:
            assert msgspec.msgpack.encode(record) == before, f"{type(record).__name__} was changed in place"
        self.handed_out.clear()
        if not self.in_batch:
            self.flush()

    def _apply(self, owner: str, effect: Effect, done: list[Effect]) -> None:
        match effect:
            case Put(record, parts, scope):
                kept = {cls.KIND for d in self.task for cls in d.processor.STATE} | _kept_beside(self.processor.name)
                assert record.KIND in kept, f"{record.KIND} is not in STATE of {self.processor.name} or its task"
                self._put(owner, record, parts, scope)
            case Delete(kind, parts):
                self.overlay.setdefault(owner, {})[kind.KIND, parts] = None
            case Emit(topic, key, value, refs):
                audited = any(isinstance(e, Audit) for e in done)
                assert value is not None or audited, f"a tombstone on {topic} without an audit entry before it"
                self.log.append(Told(owner, topic, key, value, refs))
            case Ledger(orders):
                for order in orders:
                    self._apply(owner, order, done)
            case Forward(topic, key, refs, like):
                self.log.append(Told(owner, topic, key, None, refs, like or self.task[0].envelope))
            case Wake(name, due_ms, of):
                for alarms in [d.alarms for d in self.task if d.processor.name == (of or self.processor.name)]:
                    alarms.pop((owner, name), None)
                    if due_ms is not None:
                        alarms[owner, name] = due_ms
            case Mint(scope):
                self.keys.setdefault(owner, set()).add(scope)
            case Shred(scope):
                self.keys.get(owner, set()).discard(scope)
            case Audit(kind, controller, facts, named, law):
                assert all(isinstance(v, str) for v in facts.values()), f"facts of {kind} are text"
                self.audits.append(Audited(owner, kind, controller, facts, named, law))
                if named and FakeView(self, owner).get(Nonce) is None:  # as the engine does
                    self.overlay[owner][Nonce.KIND, ()] = Nonce(b"nonce")
            case Remove(facts):
                assert all(isinstance(v, str) for v in facts.values()), "facts are text"
            case Refuse(_, _, like):
                assert like is not None or not done, "a refusal is a fold's only effect"
                self.refusals.append(effect)

    def _put(self, owner: str, record: State, parts: tuple[str, ...], scope: str | None) -> None:
        tokens = {}
        for name in type(record).SEALED:
            text = getattr(record, name)
            if isinstance(text, str):
                assert scope is not None and scope in self.keys.get(owner, set()), f"no key to seal {name} under"
                tokens[name] = f"sealed:{scope}:{text}".encode()
        kept = msgspec.structs.replace(record, **tokens) if tokens else record
        self.overlay.setdefault(owner, {})[record.KIND, parts] = kept

    def rows(self, topic: str) -> dict[tuple[str, ...], Record]:
        """`topic` as compaction leaves it."""
        table: dict[tuple[str, ...], Record] = {}
        for told in self.log:
            if told.topic == topic:
                table.pop(told.key, None)
                if told.value is not None:
                    table[told.key] = told.value
        return table

    def get(self, owner: str, kind: type[Any], *parts: str) -> Any:
        """The record as the processor would see it, for a test to look at."""
        record = FakeView(self, owner).get(kind, *parts)
        self.handed_out.clear()
        return record

    def count(self, owner: str, kind: str) -> int:
        """How many records of `kind` rest with `owner`."""
        return sum(name == kind for name, _ in self.store.get(owner, {}))
