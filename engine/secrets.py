"""Everything that is sealed or opened goes through here: records under raw and quarantine keys, fields under data keys."""

from collections.abc import Callable, Iterable

import msgspec

from engine.keyring import Keys, RawClass
from engine.sealing import (
    Erased,
    KeyForeign,
    Nonces,
    Opened,
    Place,
    RawPlace,
    Sealer,
    actor_hash,
    field_name,
    form_of,
    open_text,
    place_of,
    raw_key_id,
    raw_place_of,
    shard_of,
    subject_ref,
)  # fmt: skip
from schemas.topics import WrappedKey

SEALERS_MAX = 8_192  # expanded keys kept per map, about 1 KB each
KEY_BYTES = 32
RAW_HEAD_BYTES = 6  # form and number of the key: what a raw token begins with


class DataKey(msgspec.Struct, frozen=True):
    """A data key ready for use, with its place."""

    sealer: Sealer
    place: Place


class Secrets:
    """A key ring in use. `random` gives octets: the system's, or the simulation's seeded ones."""

    def __init__(self, ring: Keys, random: Callable[[int], bytes]) -> None:
        self.ring = ring
        self._random = random
        self._nonce = Nonces(random)
        self._raw: dict[int, Sealer] = {}
        self._keks: dict[tuple[str, int, int], Sealer] = {}
        self._places: dict[tuple[str, str], RawPlace] = {}
        self._actors: dict[tuple[str, str], str] = {}

    def ref(self, controller: str, kind: str, normal: str) -> str:
        """subject_ref of a normalised identifier."""
        return subject_ref(self.ring.pepper(controller), kind, normal)

    def actor(self, controller: str, name: str) -> str:
        """Keyed hash of an actor's name."""
        known = self._actors.get((controller, name))
        if known is None:
            if len(self._actors) >= SEALERS_MAX:
                self._actors.clear()
            known = self._actors[controller, name] = actor_hash(self.ring.pepper(controller), name)
        return known

    def nonce12(self) -> bytes:
        """A nonce to seal with."""
        return self._nonce()

    def nonce16(self) -> bytes:
        """A dossier's audit nonce."""
        return self._random(16)

    def seal_raw(self, topic: str, data: bytes, now_ms: int, class_: RawClass = "raw") -> bytes:
        """Seal a whole record under the current hour's (or, for quarantine, day's) key."""
        return self.sealing(topic, now_ms, class_)(data)

    def open_raw(self, topic: str, token: bytes, class_: RawClass = "raw") -> bytes | None:
        """Open a sealed record; None when its key was destroyed. Raises `SealingFault` on anything else."""
        return self.opening(topic, class_)(token)

    def sealing(self, topic: str, now_ms: int, class_: RawClass = "raw") -> Callable[[bytes], bytes]:
        """Make `seal_raw` for one turn: the ring is asked for the key once. No turn's function outlives its turn."""
        key_id, key = self.ring.raw_key(class_, now_ms)
        seal, place, nonce = self._sealer(key_id, key).seal_raw, self._raw_place(class_, topic), self._nonce
        return lambda data: seal(data, place, key_id, nonce())

    def opening(self, topic: str, class_: RawClass = "raw") -> Callable[[bytes], bytes | None]:
        """Make `open_raw` for one batch: the ring is asked for each key once. No batch's function outlives its batch."""
        place = self._raw_place(class_, topic)
        sealers: dict[bytes, Sealer | None] = {}

        def opened(token: bytes) -> bytes | None:
            head = token[:RAW_HEAD_BYTES]
            if head not in sealers:
                key_id = raw_key_id(token)
                key = self.ring.raw_key_by_id(key_id)
                if key is None:
                    self._raw.pop(key_id, None)
                sealers[head] = None if key is None else self._sealer(key_id, key)
            sealer = sealers[head]
            return None if sealer is None else sealer.open_raw(token, place)

        return opened

    def is_sealed(self, value: bytes) -> bool:
        """Whether a record claims to be sealed; only opening it proves the claim."""
        return form_of(value) == "raw"

    def forget_raw(self, key_ids: Iterable[int]) -> None:
        """Let go of raw keys that were destroyed."""
        for key_id in key_ids:
            self._raw.pop(key_id, None)

    def mint(self, controller: str, owner: str, scope: str) -> tuple[WrappedKey, DataKey]:
        """Make a data key for (owner, scope)."""
        shard = shard_of(owner)
        epoch, kek = self.ring.kek(controller, shard)
        key, place = self._random(KEY_BYTES), place_of(controller, owner, scope)
        wrapped = self._kek(controller, shard, epoch, kek).wrap(key, place, epoch, shard, self._nonce())
        return WrappedKey(controller=controller, shard=shard, epoch=epoch, wrapped=wrapped), DataKey(Sealer(key), place)

    def unwrap(self, wrapped: WrappedKey, owner: str, scope: str) -> DataKey | None:
        """The data key again; None when its key-encryption key was destroyed."""
        kek = self.ring.kek_at(wrapped.controller, wrapped.shard, wrapped.epoch)
        if kek is None:
            self._keks.pop((wrapped.controller, wrapped.shard, wrapped.epoch), None)
            return None
        place = place_of(wrapped.controller, owner, scope)
        sealer = self._kek(wrapped.controller, wrapped.shard, wrapped.epoch, kek)
        return DataKey(Sealer(sealer.unwrap(wrapped.wrapped, place)), place)

    def seal_field(self, key: DataKey, text: str, field: str, schema_id: bytes) -> bytes:
        """Seal one field's text."""
        return key.sealer.seal_field(text.encode(), key.place, field_name(field), schema_id, self._nonce())

    def open_field(self, key: DataKey | None, token: bytes, field: str, category: str) -> Opened:
        """Open one field; without its key, the typed marker of its category.

        A token under another key than the scope's living one was sealed before that one was shredded: it is erased too.
        """
        if key is None:
            return Erased(category)
        try:
            return open_text(key.sealer, token, key.place, field_name(field), Erased(category))
        except KeyForeign:
            return Erased(category)

    def _sealer(self, key_id: int, key: bytes) -> Sealer:
        sealer = self._raw.get(key_id)
        if sealer is None:
            if len(self._raw) >= SEALERS_MAX:
                self._raw.clear()
            sealer = self._raw[key_id] = Sealer(key)
        return sealer

    def _raw_place(self, class_: RawClass, topic: str) -> RawPlace:
        place = self._places.get((class_, topic))
        if place is None:
            place = self._places[class_, topic] = raw_place_of(class_, topic)
        return place

    def _kek(self, controller: str, shard: int, epoch: int, key: bytes) -> Sealer:
        at = (controller, shard, epoch)
        sealer = self._keks.get(at)
        if sealer is None:
            if len(self._keks) >= SEALERS_MAX:
                self._keks.clear()
            sealer = self._keks[at] = Sealer(key)
        return sealer
