"""The auditor is tested as well: a story without faults is clean, and whatever is changed in its outcome is told."""

from collections.abc import Callable

import pytest

from engine.simulation import counting
from engine.simulation.auditor import frontier_of, tree_hash
from engine.simulation.consents import ConsentJob
from engine.simulation.counting import CountingJob
from engine.simulation.log import Entry, PartitionLog
from engine.simulation.virtual import virtual
from engine.simulation.world import World


def finished(seed: int = 3) -> World:
    """A story that went well, at its end."""
    world = World(seed, CountingJob(), events=20)
    world.run()
    return world


def faults_of(world: World) -> list[str]:
    with virtual(world.cluster, world._open, world._wipe, None):
        return list(world.job.faults(world))


def log_with_records(world: World, topic: str, count: int = 3) -> PartitionLog:
    logs = [log for (name, _), log in world.cluster.logs.items() if name == topic]
    return next(log for log in logs if len(standing(log)) >= count)


def standing(log: PartitionLog) -> list[Entry]:
    return log.committed_entries()


def drop(log: PartitionLog) -> None:
    log.entries.remove(standing(log)[1])


def double(log: PartitionLog) -> None:
    log.entries.append(standing(log)[1])


def swap(log: PartitionLog) -> None:
    """Swap two records of one key."""
    records = standing(log)
    first = next(e for e in records if sum(other.key == e.key for other in records) > 1)
    second = next(e for e in records if e is not first and e.key == first.key)
    first.value, second.value = second.value, first.value


def test_a_story_that_went_well_has_no_faults() -> None:
    assert not faults_of(finished())


@pytest.mark.parametrize("harm", [drop, double, swap])
@pytest.mark.parametrize("topic", [counting.OUT, "audit.entries"])
def test_what_is_changed_in_an_output_is_told(topic: str, harm: Callable[[PartitionLog], None]) -> None:
    world = finished()
    harm(log_with_records(world, topic))
    assert faults_of(world)


def test_a_changed_value_in_a_changelog_is_told() -> None:
    world = finished()
    log = log_with_records(world, world.names.changelog("count"))
    tally = next(e for e in reversed(standing(log)) if b"tally" in (e.key or b""))
    tally.value = b"\x92\x63\xa1x"
    found = faults_of(world)
    assert any("counts" in fault for fault in found)
    assert any("differs from its changelog" in fault for fault in found)


def test_a_committed_offset_that_the_state_does_not_know_is_told() -> None:
    world = finished()
    world.cluster.offsets["case.events", 0] = (world.cluster.offsets["case.events", 0][0] - 1, "")
    assert any("is not the group's" in fault for fault in faults_of(world))


def test_two_members_in_one_generation_are_told() -> None:
    world = finished()
    at, generation, _, position = world.cluster.commits[-1]
    world.cluster.commits.append((at, generation, "member-99", position))
    assert any("two members" in fault for fault in faults_of(world))


def test_a_lost_consent_is_told() -> None:
    world = World(2, ConsentJob(), events=20)
    world.run()
    assert not faults_of(world)
    drop(log_with_records(world, "consent.state"))
    assert any("consent rows" in fault for fault in faults_of(world))


def test_the_auditors_own_tree_is_the_one_of_the_standard() -> None:
    """These leaves and roots are the reference tests' of certificate transparency."""
    leaves = [bytes(range(first, last)) for first, last in (
        (0, 0), (0, 1), (0x10, 0x11), (0x20, 0x22), (0x30, 0x32), (0x40, 0x44), (0x50, 0x58), (0x60, 0x70),
    )]  # fmt: skip
    assert tree_hash([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert tree_hash(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert tree_hash(leaves[:3]).hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert tree_hash(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert frontier_of(leaves) == (8).to_bytes(8, "big") + tree_hash(leaves)
    assert frontier_of(leaves[:5]) == (5).to_bytes(8, "big") + tree_hash(leaves[:4]) + tree_hash(leaves[4:5])
