"""A rotation of a controller's key-encryption keys, as the key ring tells it: how far it is, and what each owner has done.

Once it is over every copy of a wrapped key that was made before it began (a lagging replica, an old log segment, a backup) is
useless: a bound on erasure that does not depend on what was physically deleted (design, section 4). `engine/rotating.py` does the
work. All that the processes of a deployment must agree on stands in the ring's notes, so that a rotation outlives each of them:

    rotation/CONTROLLER                  a `Rotation`: which epoch it leads to, and how far it has come
    rewrapped/CONTROLLER/TASK/PARTITION  a `Share`: what one owner has done for the newest rotation, and whether it is done

A rotation leads to one epoch for all 4,096 shards, the lowest that none of them has reached. It is never taken back.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from engine.keyring import KeyRing, RingDamaged, RingUnavailable
from engine.topology import Topology

Phase = Literal["stopping", "rewrapping", "destroying", "ended"]
ROTATION, SHARE = "rotation/", "rewrapped/"
Owned = tuple[str, int]  # a task partition
T = TypeVar("T")
ATTEMPTS_MAX: Final = 10  # at a note that others write too: each failure means that one of them got further


class NothingToRotate(Exception):
    """The controller has no key-encryption keys: nothing was ever sealed for it here."""


class Rotation(msgspec.Struct, frozen=True):
    """One rotation. `epoch`: each shard mints under it or a later one, once they have stopped minting under older ones.

    `by` is the keyed hash of who began it. `doomed` epochs are there to be destroyed, counted before the first of them is.
    """

    controller: str
    epoch: int
    began_ms: int
    by: str = ""
    phase: Phase = "stopping"
    doomed: int = 0
    ended_ms: int | None = None

    @property
    def id(self) -> tuple[str, int]:
        """What tells it from all others."""
        return self.controller, self.epoch


class Share(msgspec.Struct, frozen=True):
    """What one owner, a task partition, has done for the rotation to `epoch`: data keys re-wrapped, and keys that are broken."""

    epoch: int
    rewrapped: int = 0
    broken: int = 0
    acknowledged_ms: int | None = None


class RotationStatus(msgspec.Struct, frozen=True):
    """How far a rotation has come, in counts. `waits_for` names owners (`task/partition`) that have not acknowledged."""

    epoch: int
    phase: Phase
    began_ms: int
    ended_ms: int | None
    shards: int
    shards_rotated: int
    keys_rewrapped: int
    keys_broken: int
    owners: int
    owners_acknowledged: int
    waits_for: list[str]
    epochs_to_destroy: int
    epochs_destroyed: int


class KeyStatus(msgspec.Struct, frozen=True):
    """A controller's key-encryption keys, and its newest rotation. `minting`: shards by the epoch that they mint under."""

    controller: str
    shards: int
    minting: dict[int, int]
    epochs_living: int
    rotation: RotationStatus | None


def keepers(topology: Topology) -> tuple[Owned, ...]:
    """The (task, partition)s that may hold data keys: those of tasks with state."""
    stateful = {spec.task for spec in topology.processors.values() if spec.state}
    return tuple((name, n) for name, task in topology.tasks.items() if name in stateful for n in range(task.partitions))


class Rotations:
    """The rotations that a ring knows. Thread-safe, as the ring is; everything raises `RingFault`."""

    def __init__(self, ring: KeyRing, owners: Sequence[Owned]) -> None:
        self.ring, self.owners = ring, tuple(owners)

    def begin(self, controller: str, now_ms: int, by: Callable[[], str] = lambda: "") -> Rotation:
        """Begin a rotation, or give the one that is under way. `by` gives a keyed hash. Raises `NothingToRotate`."""
        for _ in range(ATTEMPTS_MAX):
            found, data = self._noted(controller)
            if found is not None and found.phase != "ended":
                return found
            living = self.ring.epochs(controller)
            if not living:
                raise NothingToRotate
            new = Rotation(controller, max(epoch for _, epoch, _ in living) + 1, now_ms, by())
            if self.ring.put_note(_rotation(controller), msgspec.json.encode(new), data):
                return new
        raise RingUnavailable("others begin rotations faster than this one can")

    def under_way(self) -> list[Rotation]:
        """All rotations that have not ended."""
        found = (_decoded(data, Rotation) for data in self.ring.notes(ROTATION).values())
        return [rotation for rotation in found if rotation.phase != "ended"]

    def move(self, before: Rotation, after: Rotation) -> bool:
        """Replace what the ring says of a rotation, if it still says `before`; returns whether it did."""
        found, data = self._noted(before.controller)
        return found == before and self.ring.put_note(_rotation(before.controller), msgspec.json.encode(after), data)

    def shares(self, rotation: Rotation) -> dict[Owned, Share]:
        """What each owner has done for it; an owner that has not begun is not there."""
        prefix = f"{SHARE}{quote(rotation.controller, safe='')}/"
        found = {name.removeprefix(prefix): _decoded(data, Share) for name, data in self.ring.notes(prefix).items()}
        shares = {owner: found.get(f"{owner[0]}/{owner[1]}") for owner in self.owners}
        return {owner: share for owner, share in shares.items() if share is not None and share.epoch == rotation.epoch}

    def tell(self, rotation: Rotation, owner: Owned, before: Share | None, after: Share) -> bool:
        """Write what an owner has done, if the ring still says `before` of it; returns whether it did."""
        name = f"{SHARE}{quote(rotation.controller, safe='')}/{owner[0]}/{owner[1]}"
        data = self.ring.notes(name).get(name)
        known = None if data is None else _decoded(data, Share)
        if known is not None and known.epoch < rotation.epoch:
            known = None  # what an earlier rotation left there is as good as nothing
        return known == before and self.ring.put_note(name, msgspec.json.encode(after), data)

    def all_acknowledged_ms(self, shares: Mapping[Owned, Share]) -> int | None:
        """When the last owner acknowledged, None while one of them has not."""
        times = [share.acknowledged_ms for share in shares.values() if share.acknowledged_ms is not None]
        return max(times, default=0) if len(times) == len(self.owners) else None

    def old_epochs(self, rotation: Rotation) -> list[tuple[int, int]]:
        """The (shard, epoch)s that the rotation makes useless: living, older than it leads to, not minted under."""
        living = self.ring.epochs(rotation.controller)
        return [(shard, epoch) for shard, epoch, minting in living if epoch < rotation.epoch and not minting]

    def status(self, controller: str | None = None) -> list[KeyStatus]:
        """What there is to see: of one controller, or of all that have keys."""
        names = self.ring.controllers()
        return [self._status(name) for name in names if controller is None or controller == name]

    def _status(self, controller: str) -> KeyStatus:
        living = self.ring.epochs(controller)
        minting = sorted(epoch for _, epoch, is_minting in living if is_minting)
        rotation, _ = self._noted(controller)
        seen: RotationStatus | None = None
        if rotation is not None:
            shares = self.shares(rotation)
            old = sum(epoch < rotation.epoch and not is_minting for _, epoch, is_minting in living)
            destroys = rotation.phase in ("destroying", "ended")
            seen = RotationStatus(
                epoch=rotation.epoch, phase=rotation.phase, began_ms=rotation.began_ms, ended_ms=rotation.ended_ms,
                shards=len(minting), shards_rotated=sum(epoch >= rotation.epoch for epoch in minting),
                keys_rewrapped=sum(share.rewrapped for share in shares.values()),
                keys_broken=sum(share.broken for share in shares.values()), owners=len(self.owners),
                owners_acknowledged=sum(share.acknowledged_ms is not None for share in shares.values()),
                waits_for=[f"{t}/{n}" for t, n in self.owners if (s := shares.get((t, n))) is None or s.acknowledged_ms is None],
                epochs_to_destroy=rotation.doomed if destroys else old,
                epochs_destroyed=max(0, rotation.doomed - old) if destroys else 0,
            )  # fmt: skip
        by_epoch = {epoch: minting.count(epoch) for epoch in sorted(set(minting))}
        return KeyStatus(controller, len(minting), by_epoch, len(living), seen)

    def _noted(self, controller: str) -> tuple[Rotation | None, bytes | None]:
        name = _rotation(controller)
        data = self.ring.notes(name).get(name)
        return (None if data is None else _decoded(data, Rotation)), data


def _rotation(controller: str) -> str:
    return ROTATION + quote(controller, safe="")


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError:
        raise RingDamaged("a note of the key ring is not what this version writes") from None
