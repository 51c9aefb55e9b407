"""One partition of one task during a turn: opens records, folds them and rings alarms, one processor at a time."""

import logging
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from engine.context import Moment, Shared, TaskPlan, withheld
from engine.effects import ALARM, ALARM_VALUE, ROUTED_BY_NAME, Effects
from engine.keyring import RingFault
from engine.layout import DueAlarm, alarm_key, due_key, state_key
from engine.overlay import Overlay
from engine.runtime import LogRecord, Output, Runtime, RuntimeFault
from engine.sealing import SealingFault
from processors.kernel import Alarm, Audit, Effect, Processor, Refuse, State, Wake
from schemas.base import Record
from schemas.codec import Malformed, SchemaUnknown, decode_as, encode
from schemas.decode import Invalid, decode_event
from schemas.events import BY_TYPE
from schemas.routed import Envelope

log = logging.getLogger("consentinel.engine")
S = TypeVar("S", bound=State)
CHECKED = {name: msgspec.json.Decoder(cls) for name, cls in BY_TYPE.items()}
FAULT_WAIT_MS = 60_000  # an alarm whose processor failed rings again after this
FATAL = (RuntimeFault, RingFault, OSError, MemoryError)  # ours to stop at; anything else is a processor's bug


class Unusable(Exception):
    """A record that no processor can be given; `code` and `field` go to quarantine."""

    def __init__(self, code: str, field: str = "") -> None:
        super().__init__(code)
        self.code, self.field = code, field


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

    @property
    def outputs(self) -> list[Output]:
        """What the turn appends, in order."""
        return self.effects.outputs

    def fold(self, topic: str, records: Sequence[LogRecord], now_ms: int) -> None:
        """Fold records in order. What cannot be used is quarantined; nothing stops."""
        checked = topic in self._shared.internal
        ready: list[tuple[Moment, Record]] = []
        wanted: dict[bytes, type[State]] = {}
        for record in records:
            at = (topic, self.partition, record.offset)
            envelope, event = self._read(topic, record, checked)
            if envelope is None or isinstance(event, Unusable):
                assert isinstance(event, Unusable), "an event comes in an envelope"
                original, controller = (record.value or b"", "") if envelope is None else (encode(envelope), envelope.controller)
                self.effects.quarantine(at, event.code, event.field, original, controller, now_ms)
                continue
            moment = Moment(self._shared, record.key.decode("utf-8", "replace"), envelope, at, now_ms)
            ready.append((moment, event))
            for processor in self.plan.readers.get(type(event), ()):
                for kind, parts in processor.asks(event, moment.event_id):
                    wanted[state_key(moment.owner, kind.KIND, parts)] = kind
        self.overlay.warm(wanted)
        for moment, event in ready:
            view = OwnerView(self, moment.owner)
            for processor in self.plan.readers.get(type(event), ()):
                self._run(processor, processor.fold(view, event, moment), moment)

    def ring(self, alarm: DueAlarm, now_ms: int) -> None:
        """Ring one alarm, if it still stands."""
        key = alarm_key(alarm.owner, alarm.processor, alarm.name)
        standing = self.overlay.get_bytes(key)
        self.overlay.set(due_key(alarm.due_ms, alarm.owner, alarm.processor, alarm.name), None)
        due_ms, controller = ALARM_VALUE.decode(standing) if standing else (None, "")
        if due_ms != alarm.due_ms:
            return
        self.overlay.set(key, None)
        name = f"{self.plan.name}|{alarm.owner}|{alarm.processor}|{alarm.name}|{alarm.due_ms}|{now_ms}"
        alarm_id = sha256(name.encode()).hexdigest()[:24]
        envelope = Envelope(
            id=alarm_id, source="consentinel", type=ALARM, controller=controller, time_ms=now_ms, receipt_ms=now_ms
        )
        moment = Moment(self._shared, alarm.owner, envelope, (alarm_id, self.partition, 0), now_ms)
        processor, view = self.plan.processors[alarm.processor], OwnerView(self, alarm.owner)
        if not self._run(processor, processor.wake(view, Alarm(alarm.name, alarm.due_ms), moment), moment):
            # A legal clock is not lost to a bug: the alarm rings again, until the bug is mended.
            self.effects.apply(Wake(alarm.name, now_ms + FAULT_WAIT_MS), alarm.owner, moment, processor)

    def writes(self) -> dict[bytes, bytes | None]:
        """All writes of the turn, with the frontier of the audit tree over the turn's entries."""
        self.effects.seal_tree()
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

    def _read(self, topic: str, record: LogRecord, checked: bool) -> tuple[Envelope | None, Record | Unusable]:
        """A record's envelope and event, or why it is of no use; `checked`: another task has checked the event's data."""
        envelope: Envelope | None = None
        try:
            if record.value is None:
                return None, Unusable("empty")
            data = self._shared.secrets.open_raw(topic, record.value)
            if data is None:
                return None, Unusable("key-destroyed")
            envelope = decode_as(Envelope, data)
            routed = ROUTED_BY_NAME.get(envelope.type)
            if routed is not None:
                # Only tasks speak of these: from outside, their names are unknown types.
                return envelope, decode_as(routed, envelope.data) if checked else Unusable("unknown-type", "type")
            if checked and envelope.content_type == "application/json":
                return envelope, CHECKED[envelope.type].decode(envelope.data)
            return envelope, decode_event(envelope.type, envelope.content_type, envelope.data)
        except Invalid as e:
            return envelope, Unusable(e.code, e.field)
        except (SealingFault, Malformed, SchemaUnknown):
            return envelope, Unusable("unreadable")

    def _run(self, processor: Processor, effects: Iterator[Effect], at: Moment) -> bool:
        """Apply one processor's effects on one event: all of them, or, when it fails, none; returns whether it went well.

        An event whose processor fails is quarantined; an alarm is its caller's to keep.
        """
        mark, applied, apply, owner = self.effects.mark(), 0, self.effects.apply, at.owner
        try:
            for effect in effects:
                if type(effect) is Refuse:
                    assert effect.like is not None or not applied, "a refusal must be a fold's only effect"
                    self._refuse(effect, at, processor)
                    if effect.like is None:
                        return True
                else:
                    applied += 1
                    apply(effect, owner, at, processor)
        except FATAL:
            raise
        except Exception as e:  # a bug in a processor must not stop the others; the event is kept for a retry
            self.effects.undo(mark)
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
        self.effects.audit(entry, at.owner, at, processor)
