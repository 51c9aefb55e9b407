"""An owner's part in a rotation of keys: its data keys re-wrapped a part at a time, then acknowledged. See `engine/rotating.py`.

A mark stands in the partition's own state, so that it commits with the work that it speaks of:

    r controller NUL what       a `Mark`; what: `rewrapped` (an owner's), `began` and `destroyed` (the leader's audit entries)
"""

import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

import msgspec

from engine.context import Shared
from engine.keyring import KeyRing
from engine.layout import KEY, key_bytes
from engine.partition import Partition
from engine.rotation import Owned, Rotation, Rotations, Share
from engine.runtime import Output, Runtime
from engine.sealing import KeyForeign, Nonces, Sealer, SealingFault, place_of
from schemas.codec import Malformed, SchemaUnknown, decode_as, encode
from schemas.topics import WrappedKey

KEYS_PER_STEP_MAX: Final = 1_000  # re-wrapped in one commit, as many as a turn folds records
LOOKS_PER_STEP_MAX: Final = 5_000  # keys that are looked at for it: most of them may be another controller's
WALK_SECS_MAX: Final = 0.2  # a ring behind a network is asked for each shard once; turns go on in between
SEALERS_MAX: Final = 16_384  # expanded keys, about 1 KB each: two epochs of one controller, twice
MARK: Final = b"r"  # as the other letters of `engine/layout.py`

Commit = Callable[[Sequence[Partition], int], None]
Id = tuple[str, int]  # of a rotation: its controller and epoch


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What a partition's own state says of a rotation: the epoch it leads to, and whether this part of it is done."""

    epoch: int
    done: bool
    rewrapped: int = 0
    broken: int = 0


def mark_key(controller: str, what: str) -> bytes:
    """Where a mark stands."""
    return b"%b%b\0%b" % (MARK, controller.encode(), what.encode())


def marked(runtime: Runtime, partition: Partition, key: bytes) -> Mark:
    """The committed mark of a partition; one of no epoch where there is none."""
    data = runtime.get(partition.plan.name, partition.partition, key)
    return Mark(0, False) if data is None else msgspec.msgpack.decode(data, type=Mark)


class Rewrapping:
    """The owners that this process has. `step` is called before each numbered step of `engine/rotating.py`."""

    def __init__(
        self, rotations: Rotations, runtime: Runtime, shared: Shared, step: Callable[[int], None],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:  # fmt: skip
        self.shares: dict[Id, dict[Owned, Share]] = {}  # as of the last look, and what was told since
        self._rotations, self._runtime, self._shared, self._step = rotations, runtime, shared, step
        self._walked: dict[tuple[Id, Owned], bytes] = {}  # the last data key that was looked at
        self._finished: set[tuple[Id, Owned]] = set()  # owners of ours that have nothing left to do
        self._told: set[tuple[Id, Owned]] = set()  # whose progress was told since the last look
        self._wrapper = _Wrapper(rotations.ring, Nonces(random))

    def look(self, under_way: Sequence[Rotation]) -> None:
        """Know what the ring says of these rotations, and forget what is over."""
        self.shares = {rotation.id: self._rotations.shares(rotation) for rotation in under_way}
        self._told.clear()
        self._walked = {at: key for at, key in self._walked.items() if at[0] in self.shares}
        # What a restored partition, or a process that had lost one, took back in the ring is acknowledged again.
        self._finished = {at for at in self._finished if at[0] in self.shares and at[1] in self._acknowledged(at[0])}
        if not under_way:
            self._wrapper.forget()

    def forget(self) -> None:
        """Begin every walk again: partitions have come or gone."""
        self._walked.clear()
        self._finished.clear()

    def _acknowledged(self, id_: Id) -> set[Owned]:
        return {owner for owner, share in self.shares[id_].items() if share.acknowledged_ms is not None}

    def rewrap(self, rotation: Rotation, partitions: list[Partition], commit: Commit, now_ms: int) -> int:
        """Steps 5 to 7 for the owners that this process has: one commit for all of them. Returns how much it did."""
        id_, controller, done = rotation.id, rotation.controller, 0
        keys_left, looks_left, until = KEYS_PER_STEP_MAX, LOOKS_PER_STEP_MAX, monotonic() + WALK_SECS_MAX
        parts: list[_Part] = []
        for partition in partitions:
            owner = (partition.plan.name, partition.partition)
            if owner not in self._rotations.owners or (id_, owner) in self._finished:
                continue
            mark = marked(self._runtime, partition, mark_key(controller, "rewrapped"))
            if mark.epoch >= rotation.epoch and mark.done:  # committed before a crash, or just now and the ring was away
                done += self._acknowledge(rotation, owner, mark, now_ms)
            elif keys_left > 0 and looks_left > 0 and (not parts or monotonic() < until):
                mark = mark if mark.epoch == rotation.epoch else Mark(rotation.epoch, False)
                self._tell_progress(rotation, owner, mark)
                part = self._walk(rotation, partition, mark, keys_left, looks_left, until)
                keys_left -= part.mark.rewrapped - mark.rewrapped
                looks_left -= part.looks
                parts.append(part)
        if not parts:
            return done
        commit([part.partition for part in parts], now_ms)
        for part in parts:
            owner = (part.partition.plan.name, part.partition.partition)
            self._walked[id_, owner] = part.upto
            if part.mark.done:
                self._acknowledge(rotation, owner, part.mark, now_ms)
        return done + KEYS_PER_STEP_MAX - keys_left + len(parts)

    def _walk(
        self, rotation: Rotation, partition: Partition, mark: Mark, keys_max: int, looks_max: int, until: float
    ) -> "_Part":  # fmt: skip
        """Re-wrap the next data keys of one owner into its turn; at their end, the mark says that it is done."""
        plan, controller, rewrapped, broken, looks = partition.plan, rotation.controller, 0, 0, 0
        upto = self._walked.get((rotation.id, (plan.name, partition.partition)), b"")
        # Only committed keys: between turns there are no others. A key that is shredded now is gone from here by its commit.
        pairs = list(self._runtime.scan(plan.name, partition.partition, KEY, after=upto, limit=looks_max))
        whole = len(pairs) < looks_max
        self._step(5)
        for key, value in pairs:
            if rewrapped == keys_max or (rewrapped and monotonic() > until):
                whole = False
                break
            upto, looks = key, looks + 1
            try:
                wrapped = decode_as(WrappedKey, value)
                if wrapped.controller != controller:
                    continue
                owner, scope = key[len(KEY) :].decode().split("\0", 1)
                new = self._wrapper.rewrapped(wrapped, owner, scope)
            except (SealingFault, Malformed, SchemaUnknown, ValueError):
                broken += 1  # it opened nothing before either
                continue
            if new is not None:
                data = encode(new)
                partition.overlay.set(key, data)
                if plan.keys_topic is not None:
                    partition.effects.outputs.append(Output(plan.keys_topic, key_bytes((owner, scope)), data))
                rewrapped += 1
        mark = Mark(rotation.epoch, whole, mark.rewrapped + rewrapped, mark.broken + broken)
        if whole:
            self._step(6)
        partition.overlay.set(mark_key(controller, "rewrapped"), msgspec.msgpack.encode(mark))
        self._shared.count("keys_rewrapped", by=rewrapped)
        return _Part(partition, mark, upto, looks)

    def _acknowledge(self, rotation: Rotation, owner: Owned, mark: Mark, now_ms: int) -> int:
        """Step 7. Returns 1, or 0 where another process has written since we looked: then it is tried after the next look."""
        known = self.shares[rotation.id].get(owner)
        if known is None or known.acknowledged_ms is None:
            self._step(7)
            share = Share(rotation.epoch, mark.rewrapped, mark.broken, now_ms)
            if not self._rotations.tell(rotation, owner, known, share):
                return 0
            self.shares[rotation.id][owner] = share
        self._finished.add((rotation.id, owner))
        return 1

    def _tell_progress(self, rotation: Rotation, owner: Owned, mark: Mark) -> None:
        """Let everybody see how far an owner has come, at most once a look; takes back what a restored one had acknowledged."""
        shares, share = self.shares[rotation.id], Share(rotation.epoch, mark.rewrapped, mark.broken)
        known = shares.get(owner)
        if (rotation.id, owner) not in self._told and (known == share or self._rotations.tell(rotation, owner, known, share)):
            shares[owner] = share
            self._told.add((rotation.id, owner))


class _Part(msgspec.Struct, frozen=True):
    """What one step has put into an owner's turn: its new mark, the last key that was looked at, and how many were."""

    partition: Partition
    mark: Mark
    upto: bytes
    looks: int


class _Wrapper:
    """Opens a data key under the epoch that it was wrapped under, and wraps it under the one that is minted under now."""

    def __init__(self, ring: KeyRing, nonce: Callable[[], bytes]) -> None:
        self._ring, self._nonce = ring, nonce
        self._sealers: dict[tuple[str, int, int], Sealer] = {}

    def rewrapped(self, wrapped: WrappedKey, owner: str, scope: str) -> WrappedKey | None:
        """The same data key under the newest epoch; None: it is under that already. Raises `SealingFault`."""
        controller, shard = wrapped.controller, wrapped.shard
        epoch, kek = self._ring.kek(controller, shard)
        if wrapped.epoch >= epoch:
            return None
        old = self._ring.kek_at(controller, shard, wrapped.epoch)
        if old is None:
            raise KeyForeign("its epoch was destroyed")
        place = place_of(controller, owner, scope)
        key = self._sealer(controller, shard, wrapped.epoch, old).unwrap(wrapped.wrapped, place)
        token = self._sealer(controller, shard, epoch, kek).wrap(key, place, epoch, shard, self._nonce())
        return WrappedKey(controller=controller, shard=shard, epoch=epoch, wrapped=token)

    def forget(self) -> None:
        """Let go of every key."""
        self._sealers.clear()

    def _sealer(self, controller: str, shard: int, epoch: int, key: bytes) -> Sealer:
        name = (controller, shard, epoch)
        if name not in self._sealers:
            if len(self._sealers) >= SEALERS_MAX:
                self._sealers.clear()
            self._sealers[name] = Sealer(key)
        return self._sealers[name]
