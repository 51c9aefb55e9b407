"""A rotation of keys among several processes: some know the ring as it was, some have lost their partitions and not noticed.

One worker here, whose ring never looks at its file by itself, and a second ring, through which other processes change it.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine import filering, rotating
from engine.filering import FileRing
from engine.layout import KEY
from engine.memory import MemoryRuntime
from engine.rotating import KeyRotation
from engine.rotation import Rotations, keepers
from schemas.codec import decode_as
from schemas.topics import WrappedKey
from tests.harness import Deployment, call, party


class Cluster(Deployment):
    """One worker whose ring never looks at its file by itself, and a second ring through which others change it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.calls = 0
        self.others = FileRing(folder / "test.ring", create=False)
        self.rotations = Rotations(self.others, keepers(self.topology))
        mine = Rotations(self.ring, keepers(self.topology))
        self.upkeep = KeyRotation(mine, self.runtime, self.shared)
        self.loop.upkeep.append(self.upkeep)
        for _ in range(40):
            self.call()
        monkeypatch.setattr(filering, "monotonic", lambda: 0.0)  # a second never passes
        for shard in range(4096):
            self.ring.kek("acme", shard)

    def call(self) -> None:
        self.calls += 1
        who = party("p", "customer", ("tel", f"+120255501{self.calls % 90 + 10}"), name="Ada Example")
        self.publish("call.started", call(f"c{self.calls}", who))

    def rotated_elsewhere(self) -> None:
        """Another process has begun a rotation and done its first part; here nobody has looked since."""
        begun = self.rotations.begin("acme", self.now_ms)
        with self.others.together():
            for shard in range(4096):
                self.others.rotate_kek("acme", shard, 1)
        self.rotations.move(begun, msgspec.structs.replace(begun, phase="rewrapping"))

    def epochs(self) -> list[int]:
        runtime: MemoryRuntime = self.runtime
        pairs = (v for task, n in self.rotations.owners for _, v in runtime.scan(task, n, KEY))
        return sorted(decode_as(WrappedKey, value).epoch for value in pairs)

    def phase(self) -> str:
        seen = self.rotations.status("acme")[0].rotation
        assert seen is not None
        return seen.phase


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster(tmp_path, monkeypatch)
    yield found
    found.close()
    found.others.close()


def test_an_owner_that_knew_only_the_old_epoch_mints_under_the_new_one_once_it_has_acknowledged(cluster: Cluster) -> None:
    cluster.rotated_elsewhere()
    cluster.settle(1)
    cluster.call()
    assert max(cluster.epochs()) == 1, "it has not looked yet, and may still mint under the old one"
    minted = len(cluster.epochs())
    cluster.settle(rotating.LOOK_MS)
    assert cluster.phase() == "ended" and cluster.epochs() == [2] * minted
    cluster.call()
    assert cluster.epochs() == [2] * (minted + 1)


def test_whoever_takes_a_partition_after_its_owner_acknowledged_mints_under_the_new_epoch(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted = len(cluster.epochs())
    cluster.runtime.own("subject", ())
    cluster.settle()
    cluster.rotated_elsewhere()
    assert cluster.ring.kek("acme", 0)[0] == 1, "what this process knows is old"
    monkeypatch.setattr(cluster.upkeep, "work", lambda owned, commit, now_ms: 0)  # it sees the ring by taking partitions only
    cluster.runtime.own("subject", range(4))
    cluster.call()
    assert cluster.epochs() == [1] * minted + [2]


def test_a_process_that_has_lost_a_partition_does_not_acknowledge_for_it(cluster: Cluster) -> None:
    cluster.rotated_elsewhere()
    lost: list[int] = []

    def lose(step: int) -> None:
        if step == 6 and not lost:
            lost.append(step)
            cluster.runtime.own("subject", (1, 2, 3))

    cluster.upkeep.step = lose
    cluster.settle(rotating.LOOK_MS)
    seen = cluster.rotations.status("acme")[0].rotation
    assert seen is not None and lost
    assert (seen.phase, seen.waits_for, seen.epochs_destroyed) == ("rewrapping", ["subject/0"], 0)
    assert 1 in cluster.epochs()
    cluster.runtime.own("subject", range(4))
    cluster.settle(rotating.LOOK_MS)
    assert cluster.phase() == "ended" and set(cluster.epochs()) == {2}


def test_what_somebody_took_back_by_mistake_is_acknowledged_again(cluster: Cluster) -> None:
    cluster.upkeep._behind_ms = 10 * rotating.LOOK_MS
    cluster.rotated_elsewhere()
    cluster.settle(rotating.LOOK_MS)
    (rotation,) = cluster.rotations.under_way()
    owner = ("case", 1)
    share = cluster.rotations.shares(rotation)[owner]
    assert share.acknowledged_ms is not None
    taken = msgspec.structs.replace(share, acknowledged_ms=None)
    assert cluster.rotations.tell(rotation, owner, share, taken)
    assert not cluster.rotations.tell(rotation, owner, share, share), "what is no more cannot be replaced"
    cluster.settle(rotating.LOOK_MS)
    assert cluster.rotations.shares(rotation)[owner].acknowledged_ms == cluster.now_ms


def test_nothing_is_destroyed_before_readers_behind_the_log_have_had_their_time(cluster: Cluster) -> None:
    cluster.upkeep._behind_ms = 60_000
    cluster.rotated_elsewhere()
    cluster.settle(rotating.LOOK_MS)
    cluster.settle(59_999)
    assert cluster.phase() == "rewrapping" and cluster.others.kek_at("acme", 0, 1) is not None
    cluster.settle(1)
    cluster.settle(rotating.PACE_MS)
    cluster.others.refresh()
    assert cluster.phase() == "ended" and cluster.others.kek_at("acme", 0, 1) is None
