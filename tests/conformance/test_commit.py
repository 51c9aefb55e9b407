"""Commits of any runtime: all of it or nothing, and still there after a restart (promise 2)."""

import pytest

from engine.runtime import Commit, CommitLost, Output


def snapshot(runtime):
    """All that a commit can change, as seen from outside."""
    logs = {
        (topic, partition): (runtime.end(topic, partition), runtime.read(topic, partition, 0, 1000))
        for topic, partitions in (("asked", 4), ("told", 4), ("answers", 2), ("table", 3))
        for partition in range(partitions)
    }
    stores = {(task, p): list(runtime.scan(task, p, b"")) for task, count in (("fold", 4), ("tell", 2)) for p in range(count)}
    positions = {(topic, p): runtime.position("fold", topic, p) for topic in ("asked", "told") for p in range(4)}
    return logs, stores, positions, [runtime.position("tell", "answers", p) for p in range(2)]


def turn(number: int) -> Commit:
    value = b"%d" % number
    return Commit(
        outputs=[Output("answers", b"a", value, (("n", value),)), *(Output("table", b"%d" % key, value) for key in range(250))],
        writes={("fold", 1): {b"count": value, b"gone": None, value: b"x" * 6000}, ("fold", 2): {b"other": value}},
        positions={("fold", "asked", 1): number, ("fold", "told", 2): number},
        now_ms=number,
    )


@pytest.fixture
def filled(runtime):
    for topic, partition in (("asked", 1), ("told", 2)):
        runtime.append([Output(topic, b"k", b"%d" % number, partition=partition) for number in range(5)], 1)
    runtime.commit(turn(1))
    return runtime


def test_a_commit_shows_all_of_it(filled):
    assert filled.position("fold", "asked", 1) == filled.position("fold", "told", 2) == 1
    assert filled.get("fold", 1, b"count") == filled.get("fold", 2, b"other") == b"1"
    assert sum(filled.end("table", partition) for partition in range(3)) == 250
    assert filled.position("fold", "asked", 0) == 0


def go_on(runtime, commit):
    """Commit as the loop does: a client that has just aborted may lose its next transaction as well, and is renewed."""
    for _ in range(2):
        try:
            return runtime.commit(commit)
        except CommitLost:
            runtime.rewind()
    return runtime.commit(commit)


def test_a_commit_that_fails_leaves_nothing_and_the_next_one_goes_on(filled, runtime_factory):
    before = snapshot(filled)
    runtime_factory.break_next_commit(filled)
    assert filled.poll("tell", 10)
    with pytest.raises(CommitLost):
        filled.commit(turn(2))
    assert snapshot(filled) == before
    assert filled.poll("tell", 10) == []
    filled.rewind()
    assert [len(batch.records) for batch in filled.poll("tell", 10)] == [1]
    go_on(filled, turn(2))
    assert filled.get("fold", 1, b"count") == b"2"
    assert filled.position("fold", "asked", 1) == 2
    # Counted, not taken from `end`: offsets may have gaps, as where a transaction's marker stands.
    assert sum(len(filled.read("table", partition, 0, 1000)) for partition in range(3)) == 500


def test_a_lost_commit_does_not_take_an_append_with_it(filled, runtime_factory):
    runtime_factory.break_next_commit(filled)
    filled.append([Output("asked", b"k", b"kept", partition=0)], 3)
    with pytest.raises(CommitLost):
        filled.commit(turn(2))
    filled.append([Output("asked", b"k", b"kept too", partition=0)], 3)
    assert [record.value for record in filled.read("asked", 0, 0, 10)] == [b"kept", b"kept too"]


@pytest.mark.parametrize("position", [-1, 6, 1 << 50])
def test_a_position_beyond_the_log_is_refused(filled, position):
    before = snapshot(filled)
    bad = turn(2)
    bad.positions["fold", "asked", 1] = position
    with pytest.raises(ValueError, match="position"):
        filled.commit(bad)
    assert snapshot(filled) == before


def test_a_position_in_a_topic_the_task_does_not_read_is_refused(filled):
    before = snapshot(filled)
    bad = turn(2)
    bad.positions["tell", "asked", 1] = 0
    with pytest.raises(ValueError, match="does not read"):
        filled.commit(bad)
    assert snapshot(filled) == before


def test_who_lost_a_partition_loses_the_commit(filled, runtime_factory):
    if not runtime_factory.reassigns:
        pytest.skip("this runtime owns everything for as long as it is open")
    before = snapshot(filled)
    runtime_factory.take_away(filled, "fold", 2)
    with pytest.raises(CommitLost):
        filled.commit(turn(2))
    assert snapshot(filled) == before
    filled.rewind()
    assert {batch.partition for batch in filled.poll("fold", 100)} == {1}


def test_everything_is_there_after_a_restart(runtime_factory, filled, specs):
    if not runtime_factory.durable:
        pytest.skip("this runtime keeps nothing")
    filled.commit(turn(2))
    filled.poll("fold", 100)
    before = snapshot(filled)
    filled.close()
    again = runtime_factory.open(*specs)
    assert snapshot(again) == before
    assert [(b.topic, [r.offset for r in b.records]) for b in sorted(again.poll("fold", 100), key=lambda b: b.topic)] == [
        ("asked", [2, 3, 4]),
        ("told", [2, 3, 4]),
    ]
    again.commit(turn(3))
    assert again.get("fold", 1, b"count") == b"3"


def test_close_twice_is_one_close(runtime):
    assert runtime.close() is None
    assert runtime.close() is None
