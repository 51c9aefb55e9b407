"""Applies effects to one task partition: state to the overlay, records to the outputs, entries to the audit tree."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from engine.context import Moment, Shared, TaskPlan
from engine.layout import FRONTIER, LEDGER, REMOVAL, alarm_key, data_key, due_key, key_bytes, key_in
from engine.ledger import LedgerOrder
from engine.merkle import Frontier
from engine.overlay import Overlay
from engine.receipt_summary import BOUND, moment
from engine.runtime import Output
from engine.secrets import DataKey
from processors.kernel import Audit, Delete, Effect, Emit, Forward, Ledger, Mint, Nonce, Processor, Put, Remove, Shred, Wake
from schemas.base import Record
from schemas.codec import decode_as, encode, fingerprint
from schemas.routed import ROUTED, Envelope
from schemas.topics import AuditEntry, QuarantineEntry, WrappedKey

SUBJECTS_MAX = 20_000  # as many owners' audit names in memory as there are records of theirs: some 3 MB
SEALERS_MAX = 4_096  # data keys of one partition kept open; a live call uses its own again and again
ROUTED_BY_NAME = {cls.SCHEMA: cls for cls in ROUTED}
ALARM_VALUE = msgspec.msgpack.Decoder(tuple[int, str])
AUDIT_TOPIC: Final = "audit.entries"
QUARANTINE: Final = "quarantine"
ALARM: Final = "alarm"  # type of the envelope in which an alarm reaches its processor


def _envelope(effect: Emit, value: Record, at: Moment) -> Envelope:
    like, name = effect.like or at.envelope, type(value).SCHEMA
    return Envelope(
        id=like.id, source=like.source, type=name if name in ROUTED_BY_NAME else like.type, controller=like.controller,
        time_ms=like.time_ms, receipt_ms=like.receipt_ms, actor=like.actor, refs=effect.refs, data=encode(value),
    )  # fmt: skip


class Owed(msgspec.Struct, frozen=True, array_like=True):
    """What an entry `removal.done` will say once it is true (`engine/removing.py`). `subject` names nobody, as in any entry."""

    controller: str
    subject: str
    facts: dict[str, str]

    @property
    def key(self) -> bytes:
        """Where it stands: what is owed twice is owed once."""
        return REMOVAL + sha256(msgspec.json.encode(self, order="deterministic")).digest()[:16]


class Effects:
    """What a turn changes in one partition. `apply` in order; `mark` and `undo` take one processor's effects back."""

    def __init__(self, shared: Shared, plan: TaskPlan, partition: int, overlay: Overlay) -> None:
        self.origin = f"consentinel/{shared.deployment}/{plan.name}/{partition}"
        self.outputs: list[Output] = []
        self.alarms_due_ms: int | None = 0  # the next due time, as far as is known; 0: look
        self.owes = True  # whether there may be notes of `engine/removing.py`
        self._shared, self._plan, self._overlay = shared, plan, overlay
        self._entries: list[bytes] = []
        self._orders: list[LedgerOrder] = []  # for the erasure ledger
        self._began = (0, 0, 0)  # how many outputs, entries and orders there were when the processor at work began
        self._frontier: Frontier | None = None
        self._sealers: dict[tuple[str, str], DataKey] = {}
        self._raw_seals: dict[str, Callable[[bytes], bytes]] = {}  # by topic, for this turn
        self._origin_key = self.origin.encode()
        # Subject of an owner's entries. It goes with the nonce, and with every turn or fold that is taken back.
        self._subjects: dict[str, str] = {}
        self.handlers: dict[type, Callable[[Any, Moment, Processor], None]] = {
            Put: self._put, Delete: self._delete, Emit: self._emit, Ledger: self._ledger, Forward: self._forward,
            Wake: self._wake, Mint: self._mint, Shred: self._shred, Audit: self.audit, Remove: self._remove,
        }  # fmt: skip

    def apply(self, effect: Effect, at: Moment, processor: Processor) -> None:
        """Apply one effect of `processor` on the owner whose moment it is."""
        self.handlers[type(effect)](effect, at, processor)

    def mark(self) -> None:
        """Begin one processor's effects."""
        self._overlay.mark()
        self._began = (len(self.outputs), len(self._entries), len(self._orders))

    def undo(self) -> None:
        """Take back everything since `mark`."""
        self._overlay.undo()
        self._sealers.clear()
        self._subjects.clear()
        outputs, entries, orders = self._began
        del self.outputs[outputs:], self._entries[entries:], self._orders[orders:]

    def named(self, owner: str) -> bool:
        """Whether the subject of the owner's entries is at hand, and its nonce need not be read."""
        return owner in self._subjects

    def seal_tree(self) -> None:
        """Write the frontier over the turn's entries to the overlay: with the entries it commits or not at all."""
        if self._entries:
            frontier = self._tree()
            frontier.extend(self._entries)
            self._overlay.set(FRONTIER, frontier.to_bytes())
            self._entries = []

    def enter_orders(self) -> None:
        """Write the turn's orders to the ring's copy of the ledger, before they are committed: none of them can be lost.

        A turn that is lost after this leaves them there; they are the orders that will be given again.
        """
        if self._orders:
            mark = self._shared.ledger.append(self.origin, self._orders)
            self._overlay.set(LEDGER, mark.to_bytes(8, "big"))
            self._orders = []

    def committed(self) -> None:
        """The turn is durable."""
        self.outputs, self._entries, self._orders = [], [], []
        self._raw_seals.clear()

    def forget(self) -> None:
        """The turn is lost: everything is read again from the store, and no key of it stays."""
        self.outputs, self._entries, self._orders = [], [], []
        self.alarms_due_ms, self.owes = 0, True
        self._frontier = None
        self._sealers.clear()
        self._subjects.clear()
        self._raw_seals.clear()

    def data_key(self, owner: str, scope: str) -> DataKey | None:
        """The living data key of (owner, scope)."""
        known = self._sealers.get((owner, scope))
        if known is not None:
            return known
        data = self._overlay.get_bytes(data_key(owner, scope))
        key = None if data is None else self._shared.secrets.unwrap(decode_as(WrappedKey, data), owner, scope)
        if key is not None:
            self._keep(owner, scope, key)
        return key

    def quarantine(self, at: tuple[str, int, int], code: str, field: str, original: bytes, controller: str, now_ms: int) -> None:
        """Keep an event that cannot be used, sealed under the day's quarantine key; `at` is (topic, partition, offset)."""
        topic, partition, offset = at
        if topic not in self._plan.inputs:
            topic = ALARM  # what an alarm gave up stands nowhere in the log
        entry = QuarantineEntry(
            topic=topic, partition=partition, offset=offset, code=code, field=field, at_ms=now_ms, controller=controller,
            task=self._plan.name, original=self._shared.secrets.seal_raw(QUARANTINE, original, now_ms, QUARANTINE),
        )  # fmt: skip
        self.outputs.append(Output(QUARANTINE, topic.encode(), encode(entry)))
        self._shared.count("quarantined", code)

    def audit(self, effect: Audit, at: Moment, processor: Processor) -> None:
        """Append an audit entry to the partition's tree and topic."""
        subject = (self._subjects.get(at.owner) or self._subject(at)) if effect.named else ""
        self.enter(effect.kind, effect.controller, subject, effect.facts, at.receipt_ms, at, effect.law)

    def enter(
        self, kind: str, controller: str, subject: str, facts: Mapping[str, str], at_ms: int, cause: Moment | None = None,
        law: str = "",
    ) -> None:  # fmt: skip
        """Append an entry of the engine's own, or one of `cause`."""
        shared, envelope = self._shared, None if cause is None else cause.envelope
        entry = AuditEntry(
            origin=self.origin, index=self._tree().size + len(self._entries), at_ms=at_ms, kind=kind,
            controller=controller, subject=subject,
            actor=shared.secrets.actor(controller, envelope.actor) if envelope is not None and envelope.actor else "",
            event="" if cause is None or cause.envelope.type == ALARM else cause.event_id,  # an alarm's id tells of its owner
            settings_version=shared.version_of(controller), law_pack=law, facts=dict(facts),
        )  # fmt: skip
        data = encode(entry)
        self._entries.append(data)
        self.outputs.append(Output(AUDIT_TOPIC, self._origin_key, data))

    def _put(self, effect: Put, at: Moment, processor: Processor) -> None:
        record = effect.record
        if record.SEALED:
            plain = {a: f for a, f in record.SEALED.items() if type(getattr(record, a)) is str}
            if plain:
                key = None if effect.scope is None else self.data_key(at.owner, effect.scope)
                assert key is not None and record.SEALED_IN is not None, "a sealed field needs a minted key"
                schema_id, seal = fingerprint(record.SEALED_IN), self._shared.secrets.seal_field
                tokens = {a: seal(key, getattr(record, a), f, schema_id) for a, f in plain.items()}
                record = msgspec.structs.replace(record, **tokens)
        self._overlay.put(key_in(at.prefix, record.KIND, effect.parts), record)

    def _delete(self, effect: Delete, at: Moment, processor: Processor) -> None:
        if effect.kind is Nonce:
            self._subjects.pop(at.owner, None)
        self._overlay.put(key_in(at.prefix, effect.kind.KIND, effect.parts), None)

    def _emit(self, effect: Emit, at: Moment, processor: Processor) -> None:
        topic, key, value = effect.topic, key_bytes(effect.key), effect.value
        if value is None:
            # Every tombstone names the audit entry that explains it.
            assert len(self._entries) > self._began[1], "a tombstone needs an audit entry of the same fold"
            header = f"{self.origin}#{self._tree().size + len(self._entries) - 1}".encode()
            self.outputs.append(Output(topic, key, None, (("audit", header),)))
        elif topic in self._shared.enveloped:
            self._send(topic, key, _envelope(effect, value, at), at.now_ms)
        else:
            for name in value.SEALED_RAW:
                if (plain := getattr(value, name)) is not None:
                    token = self._shared.secrets.seal_raw(topic, plain, at.now_ms)
                    value = msgspec.structs.replace(value, **{name: token})
            self.outputs.append(Output(topic, key, encode(value)))

    def _ledger(self, effect: Ledger, at: Moment, processor: Processor) -> None:
        for order in effect.orders:
            assert order.value is not None, "an order says something"
            envelope = _envelope(order, order.value, at)
            self._orders.append(LedgerOrder(order.topic, key_bytes(order.key), encode(envelope), envelope.controller))
            self._send(order.topic, key_bytes(order.key), envelope, at.now_ms)

    def _forward(self, effect: Forward, at: Moment, processor: Processor) -> None:
        self.forward(effect, effect.like or at.envelope, at.now_ms)

    def forward(self, effect: Forward, envelope: Envelope, now_ms: int) -> None:
        """Pass an envelope on under the effect's key and refs."""
        if envelope.refs != effect.refs:
            envelope = msgspec.structs.replace(envelope, refs=effect.refs)
        self._send(effect.topic, key_bytes(effect.key), envelope, now_ms)

    def _send(self, topic: str, key: bytes, envelope: Envelope, now_ms: int) -> None:
        seal = self._raw_seals.get(topic)
        if seal is None:
            seal = self._raw_seals[topic] = self._shared.secrets.sealing(topic, now_ms)
        self.outputs.append(Output(topic, key, seal(encode(envelope))))

    def _wake(self, effect: Wake, at: Moment, processor: Processor) -> None:
        owner, name = at.owner, effect.of or processor.name
        key = alarm_key(owner, name, effect.name)
        standing = self._overlay.get_bytes(key)
        if standing is not None:
            self._overlay.set(due_key(ALARM_VALUE.decode(standing)[0], owner, name, effect.name), None)
        if effect.due_ms is None:
            if standing is not None:
                self._overlay.set(key, None)
            return
        self._overlay.set(key, msgspec.msgpack.encode((effect.due_ms, at.controller)))
        self._overlay.set(due_key(effect.due_ms, owner, name, effect.name), b"\0")
        if self.alarms_due_ms is None or effect.due_ms < self.alarms_due_ms:
            self.alarms_due_ms = effect.due_ms

    def _mint(self, effect: Mint, at: Moment, processor: Processor) -> None:
        owner, place = at.owner, data_key(at.owner, effect.scope)
        if self._overlay.get_bytes(place) is not None:
            return
        wrapped, key = self._shared.secrets.mint(effect.controller, owner, effect.scope)
        data = encode(wrapped)
        self._overlay.set(place, data)
        self._keep(owner, effect.scope, key)
        if self._plan.keys_topic is not None:
            self.outputs.append(Output(self._plan.keys_topic, key_bytes((owner, effect.scope)), data))

    def _shred(self, effect: Shred, at: Moment, processor: Processor) -> None:
        owner, place = at.owner, data_key(at.owner, effect.scope)
        self._sealers.pop((owner, effect.scope), None)
        if self._overlay.get_bytes(place) is None:
            return
        self._overlay.set(place, None)
        self.audit(Audit("key.shredded", at.controller, effect.facts, named=self._plan.keys_topic is not None), at, processor)
        if self._plan.keys_topic is not None:
            self._emit(Emit(self._plan.keys_topic, (owner, effect.scope), None), at, processor)

    def _remove(self, effect: Remove, at: Moment, processor: Processor) -> None:
        named = self._plan.keys_topic is not None  # as with a key that is shredded
        subject = (self._subjects.get(at.owner) or self._subject(at)) if named else ""
        owed = Owed(at.controller, subject, effect.facts)
        self._overlay.set(owed.key, msgspec.msgpack.encode(owed))
        self.owes = True
        if effect.bounds:  # counted from now: what is bounded may have been written until this commit, however late that is
            places = {place: moment(at.now_ms + ms) for place, ms in sorted(self._shared.bounds.items())}
            self.enter(BOUND, at.controller, subject, effect.facts | places, at.now_ms, at)

    def _keep(self, owner: str, scope: str, key: DataKey) -> None:
        if len(self._sealers) >= SEALERS_MAX:
            self._sealers.clear()
        self._sealers[owner, scope] = key

    def _subject(self, at: Moment) -> str:
        """Name the owner for its entries, as it is not yet in `_subjects`."""
        key = key_in(at.prefix, Nonce.KIND, ())
        nonce = self._overlay.get(Nonce, key)
        if nonce is None:
            nonce = Nonce(self._shared.secrets.nonce16())
            self._overlay.put(key, nonce)
        if len(self._subjects) >= SUBJECTS_MAX:
            self._subjects.clear()
        subject = self._subjects[at.owner] = sha256(nonce.value + at.owner.encode()).hexdigest()
        return subject

    def _tree(self) -> Frontier:
        if self._frontier is None:
            data = self._overlay.get_bytes(FRONTIER)
            self._frontier = Frontier() if data is None else Frontier.from_bytes(data)
        return self._frontier
