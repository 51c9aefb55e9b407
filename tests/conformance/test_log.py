"""The log of any runtime: order, offsets, routing, and what a reader may see (promises 1, 4 and 5)."""

import random
import threading
import time

import pytest

from engine.runtime import Commit, LogRecord, Output, TaskSpec, TopicSpec, partition_of

EVERYTHING = 1_000_000


def drain(runtime, task, records_max=7):
    """Poll until there is nothing; records per (topic, partition)."""
    seen: dict[tuple[str, int], list[LogRecord]] = {}
    while batches := runtime.poll(task, records_max):
        assert sum(len(batch.records) for batch in batches) <= records_max
        for batch in batches:
            assert batch.task == task
            assert batch.records
            seen.setdefault((batch.topic, batch.partition), []).extend(batch.records)
    return seen


def test_a_record_comes_back_as_it_was_appended(runtime):
    headers = (("type", b"x"), ("type", b""), ("ü", b"\x00\xff"))
    runtime.append([Output("asked", b"k", b"v", headers, partition=2), Output("asked", b"", b"", partition=2)], 17)
    runtime.append([Output("asked", b"\x00\xff", None, partition=2)], 18)
    assert runtime.read("asked", 2, 0, 10) == [
        LogRecord(0, 17, b"k", b"v", headers),
        LogRecord(1, 17, b"", b""),
        LogRecord(2, 18, b"\x00\xff", None),
    ]


def test_a_record_without_partition_goes_where_its_key_says(runtime):
    keys = [f"key-{number}".encode() for number in range(300)] + [b"", b"\xff" * 40]
    runtime.append([Output("table", key, key) for key in keys], 1)
    runtime.commit(Commit([Output("table", key, b"again") for key in keys], {}, {}, 2))
    for partition in range(3):
        expected = [key for key in keys if partition_of(key, 3) == partition]
        records = runtime.read("table", partition, 0, EVERYTHING)
        assert [record.key for record in records] == expected * 2
        assert [record.offset for record in records] == list(range(2 * len(expected)))
        assert runtime.end("table", partition) == 2 * len(expected)


def test_the_partitioner_is_librdkafkas_consistent_one():
    # CRC-32 of "123456789" is the check value of the algorithm's definition.
    assert partition_of(b"123456789", 1_000_000_007) == 0xCBF43926 % 1_000_000_007


@pytest.mark.parametrize("partition", [-1, 4, 1 << 20])
def test_a_partition_that_does_not_exist_is_refused_and_nothing_appended(runtime, partition):
    with pytest.raises(ValueError, match="no such partition"):
        runtime.append([Output("asked", b"k", b"v", partition=0), Output("asked", b"k", b"v", partition=partition)], 1)
    with pytest.raises(ValueError, match="no such partition"):
        runtime.commit(Commit([Output("asked", b"k", b"v", partition=partition)], {("fold", 0): {b"k": b"v"}}, {}, 1))
    assert runtime.end("asked", 0) == 0
    assert runtime.get("fold", 0, b"k") is None


def test_nothing_appended_changes_nothing(runtime):
    runtime.append([], 1)
    runtime.commit(Commit([], {}, {}, 1))
    assert runtime.poll("fold", 10) == []
    assert [runtime.end("asked", partition) for partition in range(4)] == [0] * 4


def test_read_begins_at_the_offset_and_ends_at_the_limit_or_the_end(runtime):
    runtime.append([Output("asked", b"k", str(number).encode(), partition=1) for number in range(10)], 1)
    runtime.append([Output("asked", b"k", b"other", partition=2)], 1)
    assert [record.offset for record in runtime.read("asked", 1, 3, 4)] == [3, 4, 5, 6]
    assert [record.offset for record in runtime.read("asked", 1, 8, 4)] == [8, 9]
    assert runtime.read("asked", 1, 10, 4) == []
    assert runtime.read("asked", 1, 3, 0) == []
    assert runtime.read("asked", 0, 0, 4) == []


def test_poll_hands_out_each_record_once_in_offset_order(runtime):
    chance = random.Random(11)
    for turn in range(30):
        topic = chance.choice(["asked", "told"])
        runtime.append([Output(topic, chance.randbytes(3), b"%d" % turn) for _ in range(chance.randrange(20))], turn)
    seen = drain(runtime, "fold")
    for topic in ("asked", "told"):
        for partition in range(4):
            assert seen.get((topic, partition), []) == runtime.read(topic, partition, 0, EVERYTHING)
    assert runtime.poll("fold", 10) == []


def test_poll_sees_what_comes_after_it_found_nothing(runtime):
    assert runtime.poll("fold", 10) == []
    runtime.append([Output("told", b"k", b"1")], 1)
    assert [record.value for batch in runtime.poll("fold", 10) for record in batch.records] == [b"1"]
    runtime.append([Output("told", b"k", b"2")], 1)
    assert [record.value for batch in runtime.poll("fold", 10) for record in batch.records] == [b"2"]


def test_rewind_goes_back_to_the_committed_positions_and_no_further(runtime):
    runtime.append([Output("asked", b"k", b"%d" % number, partition=3) for number in range(9)], 1)
    runtime.append([Output("told", b"k", b"x", partition=0)], 1)
    drain(runtime, "fold")
    runtime.commit(Commit([], {}, {("fold", "asked", 3): 4}, 1))
    assert runtime.poll("fold", 10) == []
    runtime.rewind()
    seen = drain(runtime, "fold")
    assert [record.offset for record in seen["asked", 3]] == [4, 5, 6, 7, 8]
    assert [record.offset for record in seen["told", 0]] == [0]


def test_outputs_of_a_commit_stand_together_in_order(runtime):
    runtime.append([Output("answers", b"a", b"before", partition=0)], 1)
    outputs = [Output("answers", b"a", b"%d" % number, partition=number % 2) for number in range(700)]
    runtime.commit(Commit(outputs, {}, {}, 1))
    runtime.append([Output("answers", b"a", b"after", partition=0)], 1)
    even = [record.value for record in runtime.read("answers", 0, 0, EVERYTHING)]
    assert even == [b"before", *(b"%d" % number for number in range(0, 700, 2)), b"after"]


def test_outputs_reach_the_task_that_reads_them_after_the_commit(runtime):
    runtime.append([Output("asked", b"k", b"?", partition=0)], 1)
    assert len(runtime.poll("fold", 10)) == 1
    assert runtime.poll("tell", 10) == []
    runtime.commit(Commit([Output("answers", b"k", b"!", partition=1)], {}, {("fold", "asked", 0): 1}, 5))
    assert [(batch.partition, batch.records) for batch in runtime.poll("tell", 10)] == [(1, [LogRecord(0, 5, b"k", b"!")])]


def test_two_tasks_read_one_topic_each_at_its_own_pace(runtime_factory):
    runtime = runtime_factory.open(
        [TopicSpec("events", 2, compact=False)], [TaskSpec("one", ("events",), 2), TaskSpec("two", ("events",), 2)]
    )
    runtime.append([Output("events", b"k", b"v", partition=1)], 1)
    assert drain(runtime, "one") == drain(runtime, "two") != {}
    runtime.commit(Commit([], {}, {("one", "events", 1): 1}, 1))
    runtime.rewind()
    assert drain(runtime, "one") == {}
    assert drain(runtime, "two") != {}


def test_wait_returns_at_once_when_there_is_something_and_when_it_comes(runtime):
    runtime.append([Output("asked", b"k", b"v")], 1)
    began = time.monotonic()
    runtime.wait(20)
    drain(runtime, "fold")
    drain(runtime, "tell")
    later = threading.Timer(0.05, runtime.append, ([Output("asked", b"k", b"v")], 2))
    later.start()
    runtime.wait(20)
    assert time.monotonic() - began < 10
    later.join()
    assert drain(runtime, "fold") != {}
    drain(runtime, "tell")
    began = time.monotonic()
    runtime.wait(0.05)
    assert time.monotonic() - began >= 0.04


def test_ten_threads_lose_nothing_and_keep_the_order_of_each_call(runtime):
    calls, size = 25, 12
    faults: list[BaseException] = []

    def publish(thread: int) -> None:
        try:
            for call in range(calls):
                runtime.append(
                    [Output("asked", b"k", b"%d %d %d" % (thread, call, number), partition=number % 2) for number in range(size)],
                    1,
                )
                # What is appended is there when `append` returns.
                assert runtime.end("asked", 0) >= (call + 1) * size // 2
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    polled = 0
    turns = 0
    # The loop commits in between, so that both kinds of transaction meet.
    while any(thread.is_alive() for thread in threads):
        polled += sum(len(batch.records) for batch in runtime.poll("fold", 100))
        runtime.commit(
            Commit([Output("asked", b"loop", b"%d" % turns, partition=3)], {("fold", 0): {b"n": b"%d" % turns}}, {}, 1)
        )
        turns += 1
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert faults == []
    for partition in range(2):
        values = [record.value for record in runtime.read("asked", partition, 0, EVERYTHING)]
        assert len(values) == 10 * calls * size // 2
        heads = [tuple(map(int, value.split())) for value in values]
        runs = [heads[at : at + size // 2] for at in range(0, len(heads), size // 2)]
        for run in runs:
            assert run == [(run[0][0], run[0][1], number) for number in range(partition, size, 2)]
        for thread in range(10):
            assert [run[0][1] for run in runs if run[0][0] == thread] == list(range(calls))
    assert [record.value for record in runtime.read("asked", 3, 0, EVERYTHING)] == [b"%d" % turn for turn in range(turns)]
    polled += sum(len(records) for records in drain(runtime, "fold").values())
    assert polled == 10 * calls * size + turns
