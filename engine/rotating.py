"""The work of a rotation of key-encryption keys, done in the task loop between two turns, a bounded part at a time.

By its numbered steps; a crash between any two of them, of any process, leaves a rotation that goes on where it stood:

1. Somebody begins it: its note is in the ring (`Rotations.begin`).
2. The leader, who owns the first partition of the first task, audits that it began.
3. The leader lets each shard mint under the new epoch (`rotate_kek`). From here on the old ones only open.
4. The leader notes that all shards do. Only now owners begin.
5. Each owner, a task partition that may hold data keys, refreshes the ring, walks its data keys, and commits a part of them
   re-wrapped: the state record, and the record on the task's topic of keys. The data key inside stays the same.
6. The owner's last part also writes a mark into its state, so the mark commits with all that the owner had to do.
7. Only then the owner acknowledges in the ring.
8. When all have, and readers that follow behind have had their time, the leader notes how many epochs are to be destroyed.
9. The leader destroys them.
10. The leader audits how many they were; the entry commits with a mark in the leader's state, so it is written once.
11. The leader notes that the rotation has ended.

Why no living data key is left under an epoch that is destroyed. Only an owner mints, in its turns, under the epoch that its
process knows the shard to mint under; the ring may be known as it was a while ago (a file ring is read once a second, and a
process may be stopped for longer than that inside a turn). Consider the times for which a process owns a partition, one after
the other. A commit is refused when another process owns the partition by then, so each of those times sees all that was
committed in the ones before it, and nothing of an earlier one comes after it has begun.

* A time that begins after step 4 begins with a refresh of the ring (`adopted`), before its first turn: it never mints under an
  old epoch.
* A time that began earlier may have, and did so in whole turns. If it is the one that commits the mark (6), it refreshed the ring
  between two turns before it began to walk: behind the walk nothing old is minted any more, before it everything is found.
  If it does not, a later time does, and finds what it left.

The mark is what proves ownership, by being committed; a process that does not know yet that it lost the partition cannot
commit it, and so never acknowledges what it saw in a state that is not the newest. Acknowledging later, or twice, is harmless:
the mark says something that stays true. Two processes that both believe that they lead do each step twice at worst, to the same
end. A partition that comes back from a backup without its mark, while the ring says that it had acknowledged, takes that back
as it begins again; once destroying has begun it is too late for it, as it is for every stale copy.
"""

import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import Final

import msgspec

from engine.context import Moment, Shared
from engine.effects import ALARM
from engine.keyring import RingUnavailable
from engine.partition import Partition
from engine.rewrapping import Commit, Id, Mark, Rewrapping, mark_key, marked
from engine.rotation import Owned, Rotation, Rotations
from engine.runtime import Runtime
from processors.kernel import Audit
from schemas.routed import Envelope

log = logging.getLogger("consentinel.rotation")

STEPS: Final = range(1, 12)
LOOK_MS: Final = 5_000  # between two looks at the ring while no rotation is known to be under way
PACE_MS: Final = 1_000  # between two looks at the ring, and two notes of progress, while one is
SHARDS_PER_STEP_MAX: Final = 256
SHARDS_SECS_MAX: Final = 0.05  # a ring behind a network takes that long for a few of them; turns go on in between
READERS_BEHIND_MS: Final = 60_000  # on a cluster: how far behind the log a read model may be and still open everything

AUDITED: Final = {"began": "keys.rotation_began", "destroyed": "keys.epochs_destroyed"}


class KeyRotation:
    """See the module. One thread, the loop's, calls everything but `wake`. `step` is called before each numbered step: for tests.

    `behind_ms`: how long readers may still use what owners have replaced.
    """

    def __init__(
        self, rotations: Rotations, runtime: Runtime, shared: Shared, *, leader: Owned = ("intake", 0), behind_ms: int = 0,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:  # fmt: skip
        self.step: Callable[[int], None] = lambda _: None
        self._rotations, self._ring, self._runtime, self._shared = rotations, rotations.ring, runtime, shared
        self._leader, self._behind_ms = leader, behind_ms
        self._under_way: list[Rotation] = []
        self._looked_ms = 0
        self._woken = True
        self._left: dict[tuple[Id, str], list[tuple[int, int]]] = {}  # (rotation, phase) → (shard, epoch)s that are to be done
        self._owners = Rewrapping(rotations, runtime, shared, self._reach, random)

    def _reach(self, step: int) -> None:
        self.step(step)

    def wake(self) -> None:
        """Let the next call of `work` look at the ring at once. Any thread."""
        self._woken = True

    def adopted(self) -> None:
        """Partitions have come or gone: know the ring as it is before the first turn on them, and begin their walks again."""
        self._ring.refresh()
        self._owners.forget()
        self._woken = True

    def work(self, owned: Callable[[], list[Partition]], commit: Commit, now_ms: int) -> int:
        """Do a part of what there is to do; returns how many keys and shards it handled. Nothing must be uncommitted.

        Raises `CommitLost`; a ring that cannot be used now is tried again.
        """
        pace_ms = PACE_MS if self._under_way else LOOK_MS
        if not self._woken and not self._under_way and abs(now_ms - self._looked_ms) < pace_ms:
            return 0
        partitions = owned()
        try:
            if self._woken or abs(now_ms - self._looked_ms) >= pace_ms:
                self._look(now_ms)
            return sum(self._advance(rotation, partitions, commit, now_ms) for rotation in self._under_way)
        except RingUnavailable:
            for partition in partitions:
                partition.forget()
            self._look_later(now_ms)
            self._shared.count("rotation_waits")
            log.warning("the key ring cannot be used now: a rotation of keys waits")
            return 0

    def _look(self, now_ms: int) -> None:
        self._woken, self._looked_ms = False, now_ms
        self._under_way = self._rotations.under_way()
        if any(rotation.phase == "rewrapping" for rotation in self._under_way):
            self._ring.refresh()  # step 5 begins: after this nothing is minted under an old epoch here
        self._left = {at: left for at, left in self._left.items() if any(at[0] == r.id for r in self._under_way)}
        self._owners.look(self._under_way)

    def _look_later(self, now_ms: int) -> None:
        self._under_way, self._woken, self._looked_ms = [], False, now_ms

    def _advance(self, rotation: Rotation, partitions: list[Partition], commit: Commit, now_ms: int) -> int:
        leads = next((p for p in partitions if (p.plan.name, p.partition) == self._leader), None)
        match rotation.phase:
            case "stopping" if leads is not None:
                return self._stop_minting(rotation, leads, commit, now_ms)
            case "rewrapping":
                done = self._owners.rewrap(rotation, partitions, commit, now_ms)
                return done or int(leads is not None and self._judge(rotation, now_ms))
            case "destroying" if leads is not None:
                return self._destroy(rotation, leads, commit, now_ms)
        return 0

    # The leader's -------------------------------------------------------------------------------------------------------------

    def _stop_minting(self, rotation: Rotation, leads: Partition, commit: Commit, now_ms: int) -> int:
        self._audit(rotation, "began", leads, commit, now_ms, {"epoch": str(rotation.epoch), "by": rotation.by})  # step 2
        controller = rotation.controller

        def old() -> list[tuple[int, int]]:
            return [(s, e) for s, e, minting in self._ring.epochs(controller) if minting and e < rotation.epoch]

        def rotate(shard: int, epoch: int) -> None:
            self.step(3)
            while epoch < rotation.epoch:
                epoch = self._ring.rotate_kek(controller, shard, epoch)

        done = self._shards(rotation, old, rotate)
        if not done:
            self.step(4)
            self._move(rotation, msgspec.structs.replace(rotation, phase="rewrapping"))
        return done + 1

    def _judge(self, rotation: Rotation, now_ms: int) -> bool:
        """Step 8, when it is time for it."""
        last_ms = self._rotations.all_acknowledged_ms(self._owners.shares[rotation.id])
        if last_ms is None or abs(now_ms - last_ms) < self._behind_ms:
            return False
        self.step(8)
        doomed = len(self._rotations.old_epochs(rotation))
        self._move(rotation, msgspec.structs.replace(rotation, phase="destroying", doomed=doomed))
        return True

    def _destroy(self, rotation: Rotation, leads: Partition, commit: Commit, now_ms: int) -> int:
        def destroy(shard: int, epoch: int) -> None:
            self.step(9)
            self._ring.destroy_kek(rotation.controller, shard, epoch)

        done = self._shards(rotation, lambda: self._rotations.old_epochs(rotation), destroy)
        if not done:
            rewrapped = sum(share.rewrapped for share in self._rotations.shares(rotation).values())
            facts = {"before_epoch": str(rotation.epoch), "epochs": str(rotation.doomed), "keys_rewrapped": str(rewrapped)}
            self._audit(rotation, "destroyed", leads, commit, now_ms, facts)  # step 10
            self.step(11)
            self._move(rotation, msgspec.structs.replace(rotation, phase="ended", ended_ms=now_ms))
            log.info("a rotation of keys has ended: %d epochs destroyed", rotation.doomed)
        return done + 1

    def _shards(self, rotation: Rotation, find: Callable[[], list[tuple[int, int]]], do: Callable[[int, int], None]) -> int:
        """Do the next few of the shards that `find` finds; 0: the ring says that none is left."""
        name = (rotation.id, rotation.phase)
        left = self._left.get(name) or find()
        until, done = monotonic() + SHARDS_SECS_MAX, 0
        with self._ring.together():
            for shard, epoch in left[:SHARDS_PER_STEP_MAX]:
                do(shard, epoch)
                done += 1
                if monotonic() > until:
                    break
        self._left[name] = left[done:]
        return done

    def _move(self, before: Rotation, after: Rotation) -> None:
        self._rotations.move(before, after)  # refused: another process has moved it, and the next look tells how far
        self._woken = True

    def _audit(
        self, rotation: Rotation, what: str, leads: Partition, commit: Commit, now_ms: int, facts: dict[str, str]
    ) -> None:  # fmt: skip
        """Append one entry to the leader's tree, once: with it a mark is committed."""
        key = mark_key(rotation.controller, what)
        if marked(self._runtime, leads, key).epoch >= rotation.epoch:
            return
        self.step(2 if what == "began" else 10)
        envelope = Envelope(
            id=what, source="consentinel", type=ALARM, controller=rotation.controller, time_ms=now_ms, receipt_ms=now_ms
        )
        at = Moment(self._shared, "", envelope, (what, leads.partition, 0), now_ms)
        processor = next(iter(leads.plan.processors.values()))
        leads.effects.audit(Audit(AUDITED[what], rotation.controller, facts, named=False), at, processor)
        leads.overlay.set(key, msgspec.msgpack.encode(Mark(rotation.epoch, True)))
        commit([leads], now_ms)
