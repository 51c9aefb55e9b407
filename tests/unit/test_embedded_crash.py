"""Kill -9 at any moment: each commit and each acknowledged append is there whole, or never was."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.embedded import EmbeddedRuntime
from engine.runtime import TaskSpec, TopicSpec

REPOSITORY = Path(__file__).parents[2]
TOPICS = [TopicSpec("asked", 4, compact=False), TopicSpec("answers", 4, compact=False), TopicSpec("table", 2, compact=True)]
TASKS = [TaskSpec("fold", ("asked",), 4)]

CRASHER = """
import os, sys, threading
from pathlib import Path
from engine.embedded import EmbeddedRuntime
from engine.runtime import Commit, Output, TaskSpec, TopicSpec

topics = [TopicSpec("asked", 4, compact=False), TopicSpec("answers", 4, compact=False), TopicSpec("table", 2, compact=True)]
runtime = EmbeddedRuntime(Path(sys.argv[1]), topics, [TaskSpec("fold", ("asked",), 4)])

def publish(name):
    number = int(sys.argv[2])
    while True:
        number += 1
        key = b"%d %d" % (name, number)
        runtime.append([Output("asked", key, b"x" * 300, partition=(number + at) % 4) for at in range(3)], 1)
        os.write(1, b"[%d, %d]\\n" % (name, number))

for name in range(3):
    threading.Thread(target=publish, args=(name,), daemon=True).start()
while True:
    runtime.wait(1)
    outputs, writes, positions = [], {}, {}
    for batch in runtime.poll("fold", 40):
        at = b"%d" % batch.partition
        for record in batch.records:
            outputs.append(Output("answers", at, b"%d" % record.offset, partition=batch.partition))
        count = batch.records[-1].offset + 1
        writes["fold", batch.partition] = {b"count": b"%d" % count, b"big": at * 20000}
        positions["fold", "asked", batch.partition] = count
    runtime.commit(Commit(outputs, writes, positions, 1))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_commits_leaves_all_or_nothing_of_each(tmp_path):
    folder = tmp_path / "data"
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: set[tuple[int, int]] = set()
    for attempt in range(5):
        arguments = [sys.executable, "-c", CRASHER, str(folder), str(attempt * 1_000_000)]
        with subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
            lines = [child.stdout.readline()]
            time.sleep(chance.uniform(0.05, 0.35))
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.read().splitlines()
            assert child.wait() == -signal.SIGKILL
        acknowledged.update(tuple(json.loads(line)) for line in lines if line.strip().endswith(b"]"))
        runtime = EmbeddedRuntime(folder, TOPICS, TASKS)
        assert runtime.store.query("PRAGMA integrity_check") == [("ok",)]
        appended: dict[tuple[int, int], int] = {}
        for partition in range(4):
            position = runtime.position("fold", "asked", partition)
            answers = runtime.read("answers", partition, 0, 1_000_000)
            # Exactly once: each committed record was answered, once, in order, and the count says the same.
            assert [int(record.value) for record in answers] == list(range(position))
            assert int(runtime.get("fold", partition, b"count") or b"0") == position
            records = runtime.read("asked", partition, 0, 1_000_000)
            assert [record.offset for record in records] == list(range(runtime.end("asked", partition)))
            for record in records:
                name = tuple(map(int, record.key.split()))
                appended[name] = appended.get(name, 0) + 1
        assert acknowledged <= appended.keys()
        assert set(appended.values()) == {3}
        runtime.close()
    assert len(acknowledged) > 5
