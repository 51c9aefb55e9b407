"""What a process's partitions share, how a task is run, and what a fold or a wake is told besides the state."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from engine.layout import state_prefix
from engine.ledger import Ledger
from engine.outside import Registered
from engine.runtime import LogRecord, RuntimeFault
from engine.secrets import Secrets
from engine.topology import Topology
from law.book import Book, Library, shipped_library
from law.reading import PackRefused
from processors.kernel import Processor
from schemas.base import Record
from schemas.codec import decode_as
from schemas.events import Target
from schemas.routed import Envelope
from schemas.topics import ControllerState


class TaskPlan(msgspec.Struct, frozen=True):
    """A task as the engine runs it: its processors by record class, in topology order, and the topic of its data keys."""

    name: str
    processors: Mapping[str, Processor]
    readers: Mapping[type[Record], tuple[Processor, ...]]
    keys_topic: str | None
    inputs: tuple[str, ...]


class Shared:
    """What all partitions of a process share."""

    def __init__(
        self, secrets: Secrets, topology: Topology, registered: Registered | None = None, library: Library | None = None
    ) -> None:  # fmt: skip
        self.secrets, self.registered = secrets, registered
        self.library = library or shipped_library()
        self.enveloped = frozenset(name for name, topic in topology.topics.items() if topic.envelope)
        self.internal = self.enveloped & {topic for task in topology.tasks for topic in topology.writes_of(task)}
        self.partitions = {name: topic.partitions for name, topic in topology.topics.items()}
        self.deployment = secrets.ring.deployment()
        self.ledger = Ledger(secrets)
        self.settings: dict[str, ControllerState] = {}
        self._consumers = tuple(Target(name=c.name, deadline_days=c.deadline_days) for c in topology.consumers)
        self.counts: dict[tuple[str, ...], int] = {}
        self.rang: set[str] = set()  # processors whose alarms rang in this turn
        self.bounds: Mapping[str, int] = {}  # place on the log → ms for which what was superseded or told may rest there

    def count(self, *name: str, by: int = 1) -> None:
        """Add to a counter that the doors read."""
        self.counts[name] = self.counts.get(name, 0) + by

    def settings_of(self, controller: str) -> ControllerState:
        """The controller's settings in force, the defaults when it was never configured; consumers are among its targets."""
        found = self.settings.get(controller) or ControllerState(controller=controller)
        return with_targets(found, self._consumers) if self._consumers else found

    def law_of(self, controller: str) -> Book:
        """The law packs in force for the controller.

        Raises `PackRefused` for an activated version that this process lacks: no other stands in for it.
        """
        found = self.settings.get(controller)
        return self.library.newest if found is None else self.library.book(found.law)

    def version_of(self, controller: str) -> int:
        """The version of the controller's settings in force."""
        found = self.settings.get(controller)
        return 0 if found is None else found.version


def with_targets(state: ControllerState, consumers: Iterable[Target]) -> ControllerState:
    """Settings with the topology's consumers as targets, besides their own; one of their own wins over a consumer of its name."""
    named = {target.name for target in state.targets}
    return msgspec.structs.replace(state, targets=(*state.targets, *(c for c in consumers if c.name not in named)))


def take_settings(table: dict[str, ControllerState], record: LogRecord) -> None:
    """Take one record of `controllers` into a table of settings by controller."""
    controller = record.key.decode()
    if record.value is None:
        table.pop(controller, None)
    else:
        table[controller] = decode_as(ControllerState, record.value)


class Moment:
    """What a fold or a wake is told besides the state (`processors.kernel.Receipt` and `Instant`).

    `prefix` is where the owner's state stands, for the engine.
    """

    __slots__ = (
        "_shared", "controller", "effective_ms", "envelope", "event_id", "now_ms", "owner", "place", "prefix",
        "receipt_ms", "time_ms",
    )  # fmt: skip

    def __init__(self, shared: Shared, owner: str, envelope: Envelope, place: tuple[str, int, int], now_ms: int) -> None:
        self._shared, self.place = shared, place
        self.owner, self.envelope, self.now_ms = owner, envelope, now_ms
        self.prefix = state_prefix(owner)
        self.controller = envelope.controller
        self.time_ms, self.receipt_ms = time_ms, receipt_ms = envelope.time_ms, envelope.receipt_ms
        self.effective_ms = time_ms if time_ms < receipt_ms else receipt_ms
        self.event_id = sha256(f"{envelope.source}\0{envelope.id}".encode()).hexdigest()[:24]

    def settings(self, controller: str) -> ControllerState:
        """See `processors.kernel.Context`."""
        return self._shared.settings_of(controller)

    def law(self, controller: str) -> Book:
        """See `processors.kernel.Context`."""
        return self._shared.law_of(controller)

    def ref(self, controller: str, kind: str, normal: str) -> str:
        """See `processors.kernel.Context`."""
        return self._shared.secrets.ref(controller, kind, normal)

    def actor_hash(self, controller: str, actor: str) -> str:
        """See `processors.kernel.Context`."""
        return self._shared.secrets.actor(controller, actor) if actor else ""

    def derive(self, index: int) -> str:
        """See `processors.kernel.Context`."""
        topic, partition, offset = self.place
        return sha256(f"{self._shared.deployment}|{topic}|{partition}|{offset}|{index}".encode()).hexdigest()[:24]


def reason_of(error: BaseException) -> str:
    """The message of a fault that names parts of a deployment; of any other nothing, since it may hold values."""
    return str(error) if isinstance(error, RuntimeFault | PackRefused) else ""


def withheld(error: BaseException) -> Any:
    """Say where a fault is, without what it held: `exc_info` of the traceback alone, never the message."""
    return (RuntimeError, RuntimeError("details withheld: they may hold values"), error.__traceback__)
