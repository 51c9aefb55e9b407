"""One partition of one task during a turn: folds records and alarms, applies effects, and gathers what the turn commits."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from engine.keyring import RingFault
from engine.layout import FRONTIER, DueAlarm, alarm_key, data_key, due_key, key_bytes, state_key
from engine.merkle import Frontier
from engine.overlay import Overlay
from engine.runtime import LogRecord, Output, Runtime, RuntimeFault
from engine.sealing import SealingFault
from engine.secrets import DataKey, Secrets
from engine.topology import Topology
from processors.kernel import (
    Alarm,
    Audit,
    Delete,
    Effect,
    Emit,
    Forward,
    Mint,
    Nonce,
    Processor,
    Put,
    Refuse,
    Shred,
    State,
    Wake,
)  # fmt: skip
from schemas.base import Record
from schemas.codec import Malformed, SchemaUnknown, decode_as, encode, fingerprint
from schemas.decode import Invalid, decode_event
from schemas.events import BY_TYPE
from schemas.routed import ROUTED, Envelope
from schemas.topics import AuditEntry, ControllerState, QuarantineEntry, WrappedKey

log = logging.getLogger("consentinel.engine")
S = TypeVar("S", bound=State)
ROUTED_BY_NAME = {cls.SCHEMA: cls for cls in ROUTED}
SEALERS_MAX = 4_096  # data keys of one partition kept open; a live call uses its own again and again
CHECKED = {name: msgspec.json.Decoder(cls) for name, cls in BY_TYPE.items()}
ALARM_VALUE = msgspec.msgpack.Decoder(tuple[int, str])
FATAL = (RuntimeFault, RingFault, OSError, MemoryError)


class Unusable(Exception):
    """A record that no processor can be given; `code` and `field` go to quarantine."""

    def __init__(self, code: str, field: str = "") -> None:
        super().__init__(code)
        self.code, self.field = code, field


class TaskPlan(msgspec.Struct, frozen=True):
    """A task as the engine runs it: its processors by record class, in topology order, and the topic of its data keys."""

    name: str
    processors: Mapping[str, Processor]
    readers: Mapping[type[Record], tuple[Processor, ...]]
    keys_topic: str | None
    inputs: tuple[str, ...]


class Shared:
    """What all partitions of a process share."""

    def __init__(self, secrets: Secrets, topology: Topology) -> None:
        self.secrets = secrets
        self.enveloped = frozenset(name for name, topic in topology.topics.items() if topic.envelope)
        self.internal = self.enveloped & {topic for task in topology.tasks for topic in topology.writes_of(task)}
        self.deployment = secrets.ring.deployment()
        self.settings: dict[str, ControllerState] = {}
        self.counts: dict[tuple[str, ...], int] = {}

    def count(self, *name: str, by: int = 1) -> None:
        """Add to a counter that the doors read."""
        self.counts[name] = self.counts.get(name, 0) + by

    def settings_of(self, controller: str) -> ControllerState:
        """The controller's settings in force; the defaults when it was never configured."""
        return self.settings.get(controller) or ControllerState(controller=controller)


class Moment:
    """What a fold or a wake is told besides the state (`processors.kernel.Receipt` and `Instant`)."""

    __slots__ = (
        "_place", "_shared", "controller", "effective_ms", "envelope", "event_id", "now_ms", "owner", "receipt_ms", "time_ms",
    )  # fmt: skip

    def __init__(self, shared: Shared, owner: str, envelope: Envelope, place: str, now_ms: int) -> None:
        self._shared, self._place = shared, place
        self.owner, self.envelope, self.now_ms = owner, envelope, now_ms
        self.controller, self.time_ms, self.receipt_ms = envelope.controller, envelope.time_ms, envelope.receipt_ms
        self.effective_ms = min(envelope.time_ms, envelope.receipt_ms)
        self.event_id = sha256(f"{envelope.source}\0{envelope.id}".encode()).hexdigest()[:24]

    def settings(self, controller: str) -> ControllerState:
        """See `processors.kernel.Context`."""
        return self._shared.settings_of(controller)

    def ref(self, controller: str, kind: str, normal: str) -> str:
        """See `processors.kernel.Context`."""
        return self._shared.secrets.ref(controller, kind, normal)

    def actor_hash(self, controller: str, actor: str) -> str:
        """See `processors.kernel.Context`."""
        return self._shared.secrets.actor(controller, actor) if actor else ""

    def derive(self, index: int) -> str:
        """See `processors.kernel.Context`."""
        return sha256(f"{self._shared.deployment}|{self._place}|{index}".encode()).hexdigest()[:24]


class OwnerView:
    """One owner's state as a processor sees it (`processors.kernel.View`)."""

    __slots__ = ("_partition", "owner")

    def __init__(self, partition: "Partition", owner: str) -> None:
        self._partition, self.owner = partition, owner

    def get(self, kind: type[S], *parts: str) -> S | None:
        """See `processors.kernel.View`."""
        return self._partition.overlay.get(kind, state_key(self.owner, kind.KIND, parts))

    def scan(self, kind: type[S], *prefix: str) -> Iterator[tuple[tuple[str, ...], S]]:
        """See `processors.kernel.View`."""
        return self._partition.overlay.scan(kind, self.owner, prefix)

    def has_key(self, scope: str) -> bool:
        """See `processors.kernel.View`."""
        return self._partition.overlay.get_bytes(data_key(self.owner, scope)) is not None

    def opened(self, record: S, scope: str) -> S | None:
        """See `processors.kernel.View`."""
        return self._partition.opened(self.owner, record, scope)


class Partition:
    """See the module. `outputs` and the overlay's writes are the turn's; `committed` or `forget` ends it."""

    def __init__(self, shared: Shared, runtime: Runtime, plan: TaskPlan, partition: int) -> None:
        self.plan, self.partition = plan, partition
        self.origin = f"consentinel/{shared.deployment}/{plan.name}/{partition}"
        self.overlay = Overlay(runtime, plan.name, partition)
        self.outputs: list[Output] = []
        self.alarms_due_ms: int | None = 0  # the next due time, as far as is known; 0: look
        self._shared = shared
        self._entries: list[bytes] = []
        self._frontier: Frontier | None = None
        self._sealers: dict[tuple[str, str], DataKey] = {}
        self._apply: dict[type, Callable[[Any, str, Moment, Processor], None]] = {
            Put: self._put, Delete: self._delete, Emit: self._emit, Forward: self._forward, Wake: self._wake,
            Mint: self._mint, Shred: self._shred, Audit: self._audit,
        }  # fmt: skip
        self._raw: bytes = b""
        self._at: tuple[str, int, int] = ("", 0, 0)

    # A turn -------------------------------------------------------------------------------------------------------------------

    def fold(self, topic: str, records: Iterable[LogRecord], now_ms: int) -> None:
        """Fold records in order. What cannot be used is quarantined; nothing stops."""
        checked = topic in self._shared.internal
        for record in records:
            self._at = (topic, self.partition, record.offset)
            self._raw = record.value or b""
            try:
                envelope = self._open(topic, record)
                event = self._event(envelope, checked)
            except Unusable as e:
                self._quarantine(e.code, e.field, self._raw, "", now_ms)
                continue
            owner = record.key.decode("utf-8", "replace")
            at = Moment(self._shared, owner, envelope, f"{topic}|{self.partition}|{record.offset}", now_ms)
            view = OwnerView(self, owner)
            for processor in self.plan.readers.get(type(event), ()):
                self._run(processor, processor.fold(view, event, at), owner, at)

    def ring(self, alarm: DueAlarm, now_ms: int) -> None:
        """Ring one alarm, if it still stands."""
        key = alarm_key(alarm.owner, alarm.processor, alarm.name)
        self.overlay.mark()
        standing = self.overlay.get_bytes(key)
        self.overlay.set(due_key(alarm.due_ms, alarm.owner, alarm.processor, alarm.name), None)
        due_ms, controller = ALARM_VALUE.decode(standing) if standing else (None, "")
        if due_ms != alarm.due_ms:
            return
        self.overlay.set(key, None)
        place = f"{self.plan.name}|{self.partition}|{alarm.owner}|{alarm.processor}|{alarm.name}|{alarm.due_ms}"
        alarm_id = sha256(f"{place}|{now_ms}".encode()).hexdigest()[:24]
        envelope = Envelope(
            id=alarm_id, source="consentinel", type="alarm", controller=controller, time_ms=now_ms, receipt_ms=now_ms
        )
        at = Moment(self._shared, alarm.owner, envelope, place, now_ms)
        self._raw, self._at = b"", (self.plan.name, self.partition, 0)
        processor, view = self.plan.processors[alarm.processor], OwnerView(self, alarm.owner)
        self._run(processor, processor.wake(view, Alarm(alarm.name, alarm.due_ms), at), alarm.owner, at)

    def writes(self) -> dict[bytes, bytes | None]:
        """All writes of the turn, with the frontier of the audit tree over the turn's entries."""
        if self._entries:
            frontier = self._tree()
            frontier.extend(self._entries)
            self.overlay.set(FRONTIER, frontier.to_bytes())
        return self.overlay.writes()

    def committed(self) -> None:
        """The turn is durable."""
        self.overlay.committed()
        self._end()

    def forget(self) -> None:
        """The turn is lost: everything is read again from the store, and no key of it stays."""
        self.overlay.forget()
        self.alarms_due_ms = 0
        self._frontier = None
        self._sealers.clear()
        self._end()

    def _end(self) -> None:
        self.outputs, self._entries = [], []

    # Reading ------------------------------------------------------------------------------------------------------------------

    def _open(self, topic: str, record: LogRecord) -> Envelope:
        if record.value is None:
            raise Unusable("empty")
        try:
            data = self._shared.secrets.open_raw(topic, record.value)
            if data is None:
                raise Unusable("key-destroyed")
            return decode_as(Envelope, data)
        except (SealingFault, Malformed, SchemaUnknown):
            raise Unusable("unreadable") from None

    def _event(self, envelope: Envelope, checked: bool) -> Record:
        """Decode the event's data; `checked`: another task has checked it, so it is not checked twice."""
        routed = ROUTED_BY_NAME.get(envelope.type)
        try:
            if routed is not None:
                return decode_as(routed, envelope.data)
            if checked and envelope.content_type == "application/json":
                return CHECKED[envelope.type].decode(envelope.data)
            return decode_event(envelope.type, envelope.content_type, envelope.data)
        except Invalid as e:
            raise Unusable(e.code, e.field) from None
        except (Malformed, SchemaUnknown):
            raise Unusable("unreadable") from None

    def opened(self, owner: str, record: S, scope: str) -> S | None:
        """`record` with its sealed fields as text, or None when the key is gone."""
        key = self._data_key(owner, scope)
        if key is None:
            return None
        text: dict[str, Any] = {}
        for attribute, field in record.SEALED.items():
            token = getattr(record, attribute)
            if isinstance(token, bytes):
                opened = self._shared.secrets.open_field(key, token, field, "")
                if not isinstance(opened, str):
                    return None
                text[attribute] = opened
        return msgspec.structs.replace(record, **text)

    def _data_key(self, owner: str, scope: str) -> DataKey | None:
        known = self._sealers.get((owner, scope))
        if known is not None:
            return known
        data = self.overlay.get_bytes(data_key(owner, scope))
        key = None if data is None else self._shared.secrets.unwrap(decode_as(WrappedKey, data), owner, scope)
        if key is not None:
            self._keep(owner, scope, key)
        return key

    def _keep(self, owner: str, scope: str, key: DataKey) -> None:
        if len(self._sealers) >= SEALERS_MAX:
            self._sealers.clear()
        self._sealers[owner, scope] = key

    def _tree(self) -> Frontier:
        if self._frontier is None:
            data = self.overlay.get_bytes(FRONTIER)
            self._frontier = Frontier() if data is None else Frontier.from_bytes(data)
        return self._frontier

    # Effects ------------------------------------------------------------------------------------------------------------------

    def _run(self, processor: Processor, effects: Iterator[Effect], owner: str, at: Moment) -> None:
        """Apply one processor's effects on one event: all of them, or, when it fails, none and the event is quarantined."""
        self.overlay.mark()
        outputs, entries, applied = len(self.outputs), len(self._entries), 0
        apply = self._apply
        try:
            for effect in effects:
                if type(effect) is Refuse:
                    if effect.like is not None:
                        self._quarantine(effect.code, effect.field, encode(effect.like), at.controller, at.now_ms)
                        continue
                    assert not applied, "a refusal must be a fold's only effect"
                    self._quarantine(effect.code, effect.field, encode(at.envelope), at.controller, at.now_ms)
                    refused = Audit("event.quarantined", at.controller, {"code": effect.code}, named=False)
                    self._audit(refused, owner, at, processor)
                    return
                applied += 1
                apply[type(effect)](effect, owner, at, processor)
        except FATAL:
            raise
        except Exception as e:  # a bug in a processor must not stop the others; the event is kept for a retry
            self.overlay.undo()
            self._sealers.clear()
            del self.outputs[outputs:], self._entries[entries:]
            log.error("processor %s failed on %s: %s", processor.name, at.envelope.type, type(e).__name__, exc_info=_bare(e))
            self._shared.count("processor_faults", processor.name)
            self._quarantine("processor-fault", "", encode(at.envelope), at.controller, at.now_ms)

    def _put(self, effect: Put, owner: str, at: Moment, processor: Processor) -> None:
        record = effect.record
        if effect.scope is not None and record.SEALED:
            plain = {a: f for a, f in record.SEALED.items() if type(getattr(record, a)) is str}
            if plain:
                key = self._data_key(owner, effect.scope)
                assert key is not None and record.SEALED_IN is not None, "sealing needs a minted key"
                schema_id, seal = fingerprint(record.SEALED_IN), self._shared.secrets.seal_field
                tokens = {a: seal(key, getattr(record, a), f, schema_id) for a, f in plain.items()}
                record = msgspec.structs.replace(record, **tokens)
        elif record.SEALED:
            assert not any(type(getattr(record, a)) is str for a in record.SEALED), "a sealed field needs a scope"
        self.overlay.set(state_key(owner, record.KIND, effect.parts), record)

    def _delete(self, effect: Delete, owner: str, at: Moment, processor: Processor) -> None:
        self.overlay.set(state_key(owner, effect.kind.KIND, effect.parts), None)

    def _emit(self, effect: Emit, owner: str, at: Moment, processor: Processor) -> None:
        topic, key, value = effect.topic, key_bytes(effect.key), effect.value
        if value is None:
            # Every tombstone names the audit entry that explains it.
            assert self._entries, "a tombstone needs an audit entry"
            header = f"{self.origin}#{self._tree().size + len(self._entries) - 1}".encode()
            self.outputs.append(Output(topic, key, None, (("audit", header),)))
        elif topic in self._shared.enveloped:
            like = effect.like or at.envelope
            type_ = like.type if type(value).SCHEMA not in ROUTED_BY_NAME else type(value).SCHEMA
            envelope = Envelope(
                id=like.id, source=like.source, type=type_, controller=like.controller, time_ms=like.time_ms,
                receipt_ms=like.receipt_ms, actor=like.actor, refs=effect.refs, data=encode(value),
            )  # fmt: skip
            self._send(topic, key, envelope, at.now_ms)
        else:
            self.outputs.append(Output(topic, key, encode(value)))

    def _forward(self, effect: Forward, owner: str, at: Moment, processor: Processor) -> None:
        envelope = effect.like or at.envelope
        if envelope.refs != effect.refs:
            envelope = msgspec.structs.replace(envelope, refs=effect.refs)
        self._send(effect.topic, key_bytes(effect.key), envelope, at.now_ms)

    def _send(self, topic: str, key: bytes, envelope: Envelope, now_ms: int) -> None:
        self.outputs.append(Output(topic, key, self._shared.secrets.seal_raw(topic, encode(envelope), now_ms)))

    def _wake(self, effect: Wake, owner: str, at: Moment, processor: Processor) -> None:
        key = alarm_key(owner, processor.name, effect.name)
        standing = self.overlay.get_bytes(key)
        if standing is not None:
            self.overlay.set(due_key(ALARM_VALUE.decode(standing)[0], owner, processor.name, effect.name), None)
        if effect.due_ms is None:
            if standing is not None:
                self.overlay.set(key, None)
            return
        self.overlay.set(key, msgspec.msgpack.encode((effect.due_ms, at.controller)))
        self.overlay.set(due_key(effect.due_ms, owner, processor.name, effect.name), b"\0")
        if self.alarms_due_ms is None or effect.due_ms < self.alarms_due_ms:
            self.alarms_due_ms = effect.due_ms

    def _mint(self, effect: Mint, owner: str, at: Moment, processor: Processor) -> None:
        place = data_key(owner, effect.scope)
        if self.overlay.get_bytes(place) is not None:
            return
        wrapped, key = self._shared.secrets.mint(effect.controller, owner, effect.scope)
        data = encode(wrapped)
        self.overlay.set(place, data)
        self._keep(owner, effect.scope, key)
        if self.plan.keys_topic is not None:
            self.outputs.append(Output(self.plan.keys_topic, key_bytes((owner, effect.scope)), data))

    def _shred(self, effect: Shred, owner: str, at: Moment, processor: Processor) -> None:
        place = data_key(owner, effect.scope)
        self._sealers.pop((owner, effect.scope), None)
        if self.overlay.get_bytes(place) is None:
            return
        self.overlay.set(place, None)
        self._audit(Audit("key.shredded", at.controller), owner, at, processor)
        if self.plan.keys_topic is not None:
            self._emit(Emit(self.plan.keys_topic, (owner, effect.scope), None), owner, at, processor)

    def _audit(self, effect: Audit, owner: str, at: Moment, processor: Processor) -> None:
        envelope = at.envelope
        entry = AuditEntry(
            origin=self.origin, index=self._tree().size + len(self._entries), at_ms=at.receipt_ms, kind=effect.kind,
            controller=effect.controller, subject=self._subject(owner) if effect.named else "",
            actor=at.actor_hash(effect.controller, envelope.actor), event=at.event_id,
            settings_version=self._shared.settings_of(effect.controller).version, facts=effect.facts,
        )  # fmt: skip
        data = encode(entry)
        self._entries.append(data)
        self.outputs.append(Output("audit.entries", self.origin.encode(), data))

    def _subject(self, owner: str) -> str:
        key = state_key(owner, Nonce.KIND, ())
        nonce = self.overlay.get(Nonce, key)
        if nonce is None:
            nonce = Nonce(self._shared.secrets.nonce16())
            self.overlay.set(key, nonce)
        return sha256(nonce.value + owner.encode()).hexdigest()

    def _quarantine(self, code: str, field: str, original: bytes, controller: str, now_ms: int) -> None:
        topic, partition, offset = self._at
        sealed = self._shared.secrets.seal_raw("quarantine", original, now_ms, "quarantine")
        entry = QuarantineEntry(
            topic=topic, partition=partition, offset=offset, code=code, field=field, at_ms=now_ms, controller=controller,
            task=self.plan.name, original=sealed,
        )  # fmt: skip
        self.outputs.append(Output("quarantine", topic.encode(), encode(entry)))
        self._shared.count("quarantined", code)


def _bare(error: Exception) -> Any:
    """Where a bug is, without what it held: the traceback only, never the message."""
    return (RuntimeError, RuntimeError("details withheld: they may hold values"), error.__traceback__)
