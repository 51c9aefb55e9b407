"""Removed is gone: by age, by key, from the log and from state, down to the last byte of every file; and nothing else is."""

import random
import re
import sqlite3
import threading

import pytest

from engine.embedded import EmbeddedRuntime, Retention, retention
from engine.runtime import Commit, Output, TaskSpec, TopicSpec

TOPICS = [TopicSpec("events", 3, compact=False), TopicSpec("free", 2, compact=False), TopicSpec("table", 2, compact=True)]
TASKS = [TaskSpec("one", ("events",), 3), TaskSpec("two", ("events",), 3), TaskSpec("mirror", ("table",), 2)]
NEEDLE = re.compile(rb"<needle-(\d{7})[->]")


class Needles:
    """Values that nothing else in a file can be mistaken for, sunk into filler of a chosen size."""

    def __init__(self):
        self.count = 0

    def new(self, filler_bytes=0):
        self.count += 1
        half = b"." * (filler_bytes // 2)
        return half + b"<needle-%07d>" % self.count + half


def found(folder):
    return {int(number) for path in folder.iterdir() for number in NEEDLE.findall(path.read_bytes())}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def runtime(folder):
    runtime = EmbeddedRuntime(folder, TOPICS, TASKS)
    yield runtime
    runtime.close()


@pytest.fixture
def keeper(runtime):
    return Retention(runtime)


def settle(runtime, tasks=("one", "two", "mirror")):
    """Commit the end of every input of these tasks."""
    inputs = {"one": ("events", 3), "two": ("events", 3), "mirror": ("table", 2)}
    ends = {(t, inputs[t][0], p): runtime.end(inputs[t][0], p) for t in tasks for p in range(inputs[t][1])}
    runtime.commit(Commit([], {}, ends, 1))


def values(runtime, topic, partition):
    return [record.value for record in runtime.read(topic, partition, 0, 100_000)]


def test_only_what_is_old_and_committed_by_every_reader_goes(runtime, keeper):
    for ts_ms in (10, 20, 30, 40):
        runtime.append(
            [Output("events", b"k", b"%d" % ts_ms, partition=1), Output("free", b"k", b"%d" % ts_ms, partition=0)], ts_ms
        )
    runtime.commit(Commit([], {}, {("one", "events", 1): 4, ("two", "events", 1): 1}, 40))
    assert keeper.delete_before(["events", "free"], 30) == 1 + 2
    assert values(runtime, "events", 1) == [b"20", b"30", b"40"]
    assert values(runtime, "free", 0) == [b"30", b"40"]
    assert (keeper.oldest_ts_ms("events"), keeper.oldest_ts_ms("free"), keeper.oldest_ts_ms("table")) == (20, 30, None)
    runtime.commit(Commit([], {}, {("two", "events", 1): 4}, 40))
    assert keeper.delete_before(["events"], 30) == 1
    assert keeper.delete_before(["events"], 1000) == 2
    assert keeper.oldest_ts_ms("events") is None
    runtime.rewind()
    assert runtime.poll("one", 10) == []


def test_an_unread_record_is_never_removed_by_age(runtime, keeper):
    runtime.append([Output("events", b"k", b"v", partition=0)], 1)
    assert runtime.poll("one", 10)
    assert keeper.delete_before(["events"], 1000) == 0


@pytest.mark.parametrize("seed", range(8))
def test_clocks_that_jump_hide_nothing_from_retention(folder, runtime, keeper, seed, monkeypatch):
    monkeypatch.setattr(retention, "RECORDS_PER_TRANSACTION", 7)
    chance = random.Random(seed)
    model: list[int] = []
    now = 1000
    for _ in range(12):
        for _ in range(chance.randrange(12)):
            now += chance.choice([0, 1, 5, 50, -300, 400])
            model.append(now)
            runtime.append([Output("free", b"k", b"v", partition=0)] * 2, now)
        cutoff = now + chance.randrange(-800, 300)
        gone = [ts_ms for ts_ms in model if ts_ms < cutoff]
        model = [ts_ms for ts_ms in model if ts_ms >= cutoff]
        assert keeper.delete_before(["free"], cutoff) == 2 * len(gone)
        assert keeper.oldest_ts_ms("free") == min(model, default=None)
        if chance.random() < 0.3:
            runtime.close()
            runtime = EmbeddedRuntime(folder, TOPICS, TASKS)
            keeper = Retention(runtime)
    runtime.close()


@pytest.mark.parametrize("seed", range(6))
def test_compaction_keeps_exactly_the_newest_of_each_key(runtime, keeper, seed, monkeypatch):
    monkeypatch.setattr(retention, "RECORDS_PER_TRANSACTION", 5)
    monkeypatch.setattr(retention, "COMPACT_RECORDS_MAX", 17)
    chance = random.Random(seed)
    model: dict[bytes, tuple[int, bytes | None]] = {}
    for now in range(1, 60):
        outputs = [
            Output("table", b"%d" % chance.randrange(12), chance.choice([None, b"%d" % now])) for _ in range(chance.randrange(9))
        ]
        runtime.append(outputs, now)
        model.update({output.key: (now, output.value) for output in outputs})
        if chance.random() < 0.6:
            if chance.random() < 0.7:
                settle(runtime)
            while not keeper.compact("table", 10, now).finished:
                pass
            records = [record for partition in range(2) for record in runtime.read("table", partition, 0, 9999)]
            assert len({record.key for record in records}) == len(records)
            kept = {record.key: (record.ts_ms, record.value) for record in records}
            # A tombstone stays for its time, or until its reader has seen it; everything else is kept exactly.
            assert all(model[key] == kept[key] for key in kept)
            assert all(value is None and ts_ms <= now - 10 for key, (ts_ms, value) in model.items() if key not in kept)
    settle(runtime)
    while not keeper.compact("table", 0, 1000).finished:
        pass
    assert keeper.compact("table", 0, 1000).removed == 0
    left = {record.key: record.value for partition in range(2) for record in runtime.read("table", partition, 0, 9999)}
    assert left == {key: value for key, (_, value) in model.items() if value is not None}
    assert runtime.store.query("SELECT count(*) FROM latest") == [(len(left),)]
    assert runtime.store.query("SELECT count(*) FROM graves") == [(0,)]


def test_a_tombstone_stays_until_its_reader_has_seen_it(runtime, keeper):
    runtime.append([Output("table", b"k", None, partition=0)], 1)
    assert keeper.compact("table", 5, 1000).removed == 0
    settle(runtime)
    assert keeper.compact("table", 5, 1000).removed == 1
    assert keeper.oldest_ts_ms("table") is None


def test_a_topic_is_retained_by_age_or_by_key_never_by_the_other(runtime, keeper):
    with pytest.raises(ValueError, match="compacted"):
        keeper.delete_before(["events", "table"], 1)
    with pytest.raises(ValueError, match="not compacted"):
        keeper.compact("events", 1, 1)


@pytest.mark.parametrize("filler", [0, 300, 20_000])
def test_removed_bytes_are_in_no_file_of_the_folder(folder, runtime, keeper, filler):
    needles = Needles()
    old = [Output("events", needles.new(), needles.new(filler), (("h", needles.new()),), partition=n % 3) for n in range(60)]
    runtime.append(old, 1)
    runtime.append([Output("table", needles.new(), needles.new(filler), partition=0) for _ in range(60)], 1)
    keys = {needles.new(filler // 10): needles.new(filler) for _ in range(60)}
    runtime.commit(Commit([], {("one", 0): keys}, {}, 1))
    # The control: before, every needle is there.
    assert found(folder) == set(range(1, needles.count + 1))
    last = needles.count
    runtime.append([Output("events", needles.new(), needles.new(filler), partition=n % 3) for n in range(30)], 100)
    settle(runtime)
    assert keeper.delete_before(["events"], 50) == 60
    table = runtime.read("table", 0, 0, 100)
    runtime.append([Output("table", record.key, None, partition=0) for record in table], 3)
    settle(runtime)
    assert keeper.compact("table", 0, 1000).removed == 120
    # Half is deleted, half is overwritten by something shorter.
    halves = {key: None if number % 2 else b"short" for number, key in enumerate(keys)}
    runtime.commit(Commit([], {("one", 0): halves}, {}, 2))
    runtime.commit(Commit([], {("one", 0): dict.fromkeys(keys)}, {}, 3))
    assert keeper.vacuum()
    assert found(folder) == set(range(last + 1, needles.count + 1))
    assert runtime.store.query("PRAGMA integrity_check") == [("ok",)]
    # Nor do they come back by writing on.
    runtime.append([Output("events", b"k", b"v" * 300)] * 200, 200)
    assert found(folder) == set(range(last + 1, needles.count + 1))
    assert (folder / "consentinel.db").stat().st_size < 60 * (filler + 4096) + 500_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rebalanced_trees_keep_no_old_images(folder, runtime, keeper, seed):
    """`secure_delete` alone leaves some of these needles in the gaps of pages; see `scrub.py`."""
    chance = random.Random(seed)
    needles = Needles()
    state: dict[bytes, bytes] = {}
    for now in range(150):
        sizes = [chance.choice([0, 40, 100, 300, 300, 700, 1500, 5000]) for _ in range(80)]
        writes: dict[bytes, bytes | None] = {}
        for size in sizes[:50]:
            key = b"k%05d" % chance.randrange(1500)
            writes[key] = None if chance.random() < 0.3 else needles.new(size)
        outputs = [Output("free", b"k", needles.new(size)) for size in sizes[50:]]
        runtime.commit(Commit(outputs, {("one", 1): writes}, {}, now))
        state.update({key: value for key, value in writes.items() if value is not None})
        for key, value in writes.items():
            if value is None:
                state.pop(key, None)
        if now % 40 == 39:
            keeper.delete_before(["free"], now - 20)
            kept = [*state.values(), *values(runtime, "free", 0), *values(runtime, "free", 1)]
            assert keeper.vacuum()
            expected = {int(NEEDLE.search(value)[1]) for value in kept}
            assert found(folder) == expected
            # Changing the pages again must not bring back what the writer remembered of their gaps.
            runtime.commit(Commit([], {("one", 1): dict(state)}, {}, now))
            assert found(folder) == expected
    assert runtime.store.query("PRAGMA integrity_check") == [("ok",)]
    assert dict(runtime.scan("one", 1, b"")) == state


def test_one_turn_gives_back_many_pages(runtime, keeper):
    runtime.append([Output("free", b"k", b"v" * 9000)] * 100, 1)
    keeper.delete_before(["free"], 2)
    assert runtime.store.query("PRAGMA freelist_count")[0][0] > 200
    assert not keeper._give_back_pages()
    assert runtime.store.query("PRAGMA freelist_count") == [(0,)]


def test_vacuum_waits_for_a_reader_and_says_so_when_it_does_not_go(folder, runtime, keeper, monkeypatch):
    monkeypatch.setattr(retention, "CHECKPOINT_TRIES", 3)
    runtime.append([Output("free", b"k", b"v" * 9000)] * 9, 1)
    reader = sqlite3.connect(folder / "consentinel.db", check_same_thread=False, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM log").fetchone() == (9,)
    assert keeper.delete_before(["free"], 2) == 9
    assert not keeper.vacuum()
    monkeypatch.setattr(retention, "CHECKPOINT_TRIES", 100)
    later = threading.Timer(0.2, reader.execute, ("COMMIT",))
    later.start()
    assert keeper.vacuum()
    later.join()
    reader.close()
    assert (folder / "consentinel.db-wal").stat().st_size == 0


def test_a_vacuum_looks_at_no_page_again_until_something_is_written(runtime, keeper, monkeypatch):
    looks = []
    scrub = retention.scrub
    monkeypatch.setattr(retention, "scrub", lambda *args: looks.append(1) or scrub(*args))
    assert [keeper.vacuum() for _ in range(3)] == [True] * 3
    assert len(looks) == 1
    runtime.commit(Commit([], {("one", 1): {b"k": b"v"}}, {}, 1))
    assert [keeper.vacuum() for _ in range(3)] == [True] * 3
    assert len(looks) == 2
    assert Retention(runtime).vacuum()
    assert len(looks) == 3, "another process does not know what the last one did"


def test_the_loop_and_the_doors_go_on_during_a_vacuum(runtime, keeper):
    runtime.append([Output("free", b"k%d" % n, b"v" * 2000) for n in range(2000)], 1)
    keeper.delete_before(["free"], 2)
    stop = threading.Event()
    faults: list[BaseException] = []
    done = [0]

    def publish():
        try:
            while not stop.is_set():
                runtime.append([Output("free", b"k", b"new", partition=0)], 5)
                done[0] += 1
                assert len(runtime.read("free", 0, 0, 10**6)) >= done[0]
                assert runtime.get("one", 0, b"k") is None
        except BaseException as fault:
            faults.append(fault)

    publisher = threading.Thread(target=publish)
    publisher.start()
    results = [keeper.vacuum() for _ in range(10)]
    stop.set()
    publisher.join()
    assert faults == []
    assert all(results)
    assert values(runtime, "free", 0) == [b"new"] * done[0]
