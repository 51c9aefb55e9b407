"""One partition of one task during a turn: opens records, folds them and rings alarms, one processor at a time."""

import logging
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from engine.context import Moment, Shared, TaskPlan, withheld
from engine.effects import ALARM, ALARM_VALUE, ROUTED_BY_NAME, Effects
from engine.keyring import RingFault
from engine.layout import KINDS, DueAlarm, alarm_key, due_key, key_in
from engine.outside import OPEN, Registered, envelope_of
from engine.overlay import Overlay
from engine.runtime import LogRecord, Output, Runtime, RuntimeFault
from engine.sealing import SealingFault
from law.reading import PackRefused
from processors.kernel import Alarm, Audit, Effect, Nonce, Porter, Processor, Refuse, State, Wake
from schemas.base import EventData, Record
from schemas.codec import Malformed, SchemaUnknown, decode_as, encode, unpacked
from schemas.decode import Invalid, decode_checked, decode_event, trusting
from schemas.routed import Envelope

log = logging.getLogger("consentinel.engine")
S = TypeVar("S", bound=State)
FAULT_WAIT_MS = 60_000  # an alarm whose processor failed rings again after this
# Ours to stop at; anything else is a processor's bug. Of a law pack that is missing here: what it decides on waits for it.
FATAL = (RuntimeFault, RingFault, PackRefused, OSError, MemoryError)


class Unusable(Exception):
    """A record that no processor can be given; `code` and `field` go to quarantine."""

    def __init__(self, code: str, field: str = "") -> None:
        super().__init__(code)
        self.code, self.field = code, field


class OwnerView:
    """One owner's state as a processor sees it (`processors.kernel.View`)."""

    __slots__ = ("_overlay", "_partition", "_prefix", "owner")

    def __init__(self, partition: "Partition", at: Moment) -> None:
        self._partition, self._overlay = partition, partition.overlay
        self.owner, self._prefix = at.owner, at.prefix

    def get(self, kind: type[S], *parts: str) -> S | None:
        """See `processors.kernel.View`."""
        key = key_in(self._prefix, kind.KIND, parts) if parts else self._prefix + KINDS[kind.KIND]
        return self._overlay.get(kind, key)

    def scan(self, kind: type[S], *prefix: str) -> Iterator[tuple[tuple[str, ...], S]]:
        """See `processors.kernel.View`."""
        return self._overlay.scan(kind, self.owner, prefix)

    def has_key(self, scope: str) -> bool:
        """See `processors.kernel.View`."""
        return self._partition.effects.data_key(self.owner, scope) is not None

    def opened(self, record: S, scope: str) -> S | None:
        """See `processors.kernel.View`."""
        return self._partition.opened(self.owner, record, scope)


class Partition:
    """See the module. `outputs` and `writes` are the turn's; `committed` or `forget` ends it."""

    def __init__(self, shared: Shared, runtime: Runtime, plan: TaskPlan, partition: int) -> None:
        self.plan, self.partition = plan, partition
        self.overlay = Overlay(runtime, plan.name, partition)
        self.effects = Effects(shared, plan, partition, self.overlay)
        self._shared = shared
        self._readers = dict(plan.readers)
        for cls, readers in plan.readers.items():
            if issubclass(cls, EventData):
                self._readers[trusting(cls)] = readers
        self._stateless = not any(p.STATE for p in plan.processors.values())
        # Where a task has several processors, every event is for all of them to see.
        alone = next(iter(plan.processors.values())) if self._stateless and len(plan.processors) == 1 else None
        self._porter = alone if isinstance(alone, Porter) else None

    @property
    def outputs(self) -> list[Output]:
        """What the turn appends, in order."""
        return self.effects.outputs

    @property
    def work(self) -> int:
        """How many keys and records the turn has written so far."""
        return self.overlay.size + len(self.effects.outputs)

    def fold(self, topic: str, records: Sequence[LogRecord], now_ms: int) -> None:
        """Fold records in order. What cannot be used is quarantined; nothing stops."""
        inside, opened = topic in self._shared.internal, self._shared.secrets.opening(topic)
        porter = None if inside else self._porter
        sealed = self._shared.secrets.is_sealed if topic in OPEN else None
        ready: list[tuple[Moment, Record]] = []
        wanted: dict[bytes, type[State]] = {}
        for record in records:
            at = (topic, self.partition, record.offset)
            envelope: Envelope | None = None
            try:
                if sealed is not None and record.value and not sealed(record.value):
                    envelope = _outside(topic, record, self._shared.registered)
                else:
                    envelope = _envelope(record, opened)
                onward = porter.hand_on(envelope) if porter is not None and envelope.refs else None
                if onward is not None:
                    self.effects.forward(onward, envelope, now_ms)
                    continue
                event = _event(envelope, inside)
            except Unusable as e:
                original, controller = (record.value or b"", "") if envelope is None else (encode(envelope), envelope.controller)
                self.effects.quarantine(at, e.code, e.field, original, controller, now_ms)
                continue
            moment = Moment(self._shared, record.key.decode("utf-8", "replace"), envelope, at, now_ms)
            if self._stateless:
                self._fold(moment, event)
            else:
                ready.append((moment, event))
                self._want(wanted, moment, event)
        self.overlay.warm(wanted)
        for moment, event in ready:
            self._fold(moment, event)

    def _want(self, wanted: dict[bytes, type[State]], at: Moment, event: Record) -> None:
        """Add to `wanted` what the folds of `event` are sure to read and is not known yet."""
        known, prefix = self.overlay.known, at.prefix
        for processor in self._readers.get(type(event), ()):
            for kind, parts in processor.asks(event, at.event_id):
                if kind is Nonce and self.effects.named(at.owner):
                    continue
                key = key_in(prefix, kind.KIND, parts) if parts else prefix + KINDS[kind.KIND]
                if key not in known:
                    wanted[key] = kind

    def _fold(self, at: Moment, event: Record) -> None:
        view = OwnerView(self, at)
        for processor in self._readers.get(type(event), ()):
            self._run(processor, processor.fold, view, event, at)

    def ring(self, alarm: DueAlarm, now_ms: int) -> None:
        """Ring one alarm, if it still stands."""
        key = alarm_key(alarm.owner, alarm.processor, alarm.name)
        standing = self.overlay.get_bytes(key)
        self.overlay.set(due_key(alarm.due_ms, alarm.owner, alarm.processor, alarm.name), None)
        due_ms, controller = ALARM_VALUE.decode(standing) if standing else (None, "")
        if due_ms != alarm.due_ms:
            return
        self.overlay.set(key, None)
        self._shared.rang.add(alarm.processor)
        name = f"{self.plan.name}|{alarm.owner}|{alarm.processor}|{alarm.name}|{alarm.due_ms}|{now_ms}"
        alarm_id = sha256(name.encode()).hexdigest()[:24]
        envelope = Envelope(
            id=alarm_id, source="consentinel", type=ALARM, controller=controller, time_ms=now_ms, receipt_ms=now_ms
        )
        moment = Moment(self._shared, alarm.owner, envelope, (alarm_id, self.partition, 0), now_ms)
        processor = self.plan.processors[alarm.processor]
        if not self._run(processor, processor.wake, OwnerView(self, moment), Alarm(alarm.name, alarm.due_ms), moment):
            # A legal clock is not lost to a bug: the alarm rings again, until the bug is mended.
            self.effects.apply(Wake(alarm.name, now_ms + FAULT_WAIT_MS), moment, processor)

    def review(self, owner: str, controller: str, processor: Processor, name: str, now_ms: int) -> None:
        """Wake a processor for an owner who has alarms of it, without an alarm: what these rest on has changed."""
        review_id = sha256(f"{self.plan.name}|{owner}|{processor.name}|{name}|review|{now_ms}".encode()).hexdigest()[:24]
        envelope = Envelope(
            id=review_id, source="consentinel", type=ALARM, controller=controller, time_ms=now_ms, receipt_ms=now_ms
        )
        moment = Moment(self._shared, owner, envelope, (review_id, self.partition, 0), now_ms)
        if not self._run(processor, processor.wake, OwnerView(self, moment), Alarm(name, now_ms), moment):
            self.effects.apply(Wake(name, now_ms + FAULT_WAIT_MS), moment, processor)

    def writes(self) -> dict[bytes, bytes | None]:
        """All writes of the turn, with the frontier of the audit tree over the turn's entries."""
        self.effects.seal_tree()
        self.effects.enter_orders()
        return self.overlay.writes()

    def committed(self) -> None:
        """The turn is durable."""
        self.overlay.committed()
        self.effects.committed()

    def forget(self) -> None:
        """The turn is lost: trust only the store."""
        self.overlay.forget()
        self.effects.forget()

    def opened(self, owner: str, record: S, scope: str) -> S | None:
        """`record` with its sealed fields as text, or None when the key is gone."""
        key = self.effects.data_key(owner, scope)
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

    def _run(self, processor: Processor, verb: Callable[..., Iterator[Effect]], view: OwnerView, what: Any, at: Moment) -> bool:
        """Apply one processor's effects (of its `fold` or `wake`): all, or, when it fails, none; returns whether it went well.

        An event whose processor fails is quarantined; an alarm is its caller's to keep.
        """
        applied, handlers = False, self.effects.handlers
        self.effects.mark()
        try:
            for effect in verb(view, what, at):
                if type(effect) is Refuse:
                    assert effect.like is not None or not applied, "a refusal must be a fold's only effect"
                    self._refuse(effect, at, processor)
                    if effect.like is None:
                        return True
                else:
                    applied = True
                    handlers[type(effect)](effect, at, processor)
        except FATAL:
            raise
        except Exception as e:  # a bug in a processor must not stop the others; the event is kept for a retry
            self.effects.undo()
            log.error("processor %s failed on %s: %s", processor.name, at.envelope.type, type(e).__name__, exc_info=withheld(e))
            self._shared.count("processor_faults", processor.name)
            if at.envelope.type != ALARM:
                self.effects.quarantine(at.place, "processor-fault", "", encode(at.envelope), at.controller, at.now_ms)
            return False
        return True

    def _refuse(self, refusal: Refuse, at: Moment, processor: Processor) -> None:
        original = encode(refusal.like or at.envelope)
        self.effects.quarantine(at.place, refusal.code, refusal.field, original, at.controller, at.now_ms)
        entry = Audit("event.quarantined", at.controller, {"code": refusal.code}, named=False)
        self.effects.audit(entry, at, processor)


def _envelope(record: LogRecord, opened: Callable[[bytes], bytes | None]) -> Envelope:
    """A record's envelope. Raises `Unusable`."""
    try:
        if record.value is None:
            raise Unusable("empty")
        data = opened(record.value)
        if data is None:
            raise Unusable("key-destroyed")
        return unpacked(data)
    except (SealingFault, Malformed, SchemaUnknown):
        raise Unusable("unreadable") from None


def _outside(topic: str, record: LogRecord, registered: Registered | None) -> Envelope:
    """The envelope of what a publisher wrote to Kafka itself. Raises `Unusable`, and `RegistryAway`, which ends the turn."""
    try:
        return envelope_of(topic, record, registered)
    except Invalid as e:
        raise Unusable(e.code, e.field) from None


def _event(envelope: Envelope, inside: bool) -> Record:
    """The event in an envelope; `inside`: a task wrote it. Raises `Unusable`.

    A door sets refs only on data that it has checked.
    """
    try:
        routed = ROUTED_BY_NAME.get(envelope.type)
        if routed is not None:
            # Only tasks speak of these: from outside, their names are unknown types.
            if not inside:
                raise Unusable("unknown-type", "type")
            return decode_as(routed, envelope.data)
        decode = decode_checked if inside or envelope.refs else decode_event
        return decode(envelope.type, envelope.content_type, envelope.data)
    except Invalid as e:
        raise Unusable(e.code, e.field) from None
    except (Malformed, SchemaUnknown):
        raise Unusable("unreadable") from None
