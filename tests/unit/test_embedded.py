"""What the embedded runtime promises beyond the seam: one process a folder, private files, damage, group commit."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.embedded import EmbeddedRuntime, Retention
from engine.embedded.group import GroupCommit
from engine.embedded.layout import OFFSET_MASK, first_id, pack_tp
from engine.runtime import Commit, CommitLost, FolderInUse, Output, RuntimeFault, StoreDamaged, TaskSpec, TopicSpec

REPOSITORY = Path(__file__).parents[2]
TOPICS = [TopicSpec("asked", 4, compact=False), TopicSpec("answers", 4, compact=False), TopicSpec("table", 2, compact=True)]
TASKS = [TaskSpec("fold", ("asked",), 4)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "data"


@pytest.fixture
def runtime(folder):
    runtime = EmbeddedRuntime(folder, TOPICS, TASKS)
    yield runtime
    runtime.close()


def test_a_record_id_holds_its_three_parts_at_their_largest():
    largest = first_id(pack_tp((1 << 9) - 1, (1 << 10) - 1)) | OFFSET_MASK
    assert largest == 2**63 - 1


def test_a_second_process_is_refused_until_the_first_has_gone(folder, runtime):
    program = (
        "import sys; from pathlib import Path\n"
        "from engine.embedded import EmbeddedRuntime; from engine.runtime import FolderInUse\n"
        "try: EmbeddedRuntime(Path(sys.argv[1]), [], []).close()\n"
        "except FolderInUse: sys.exit(7)"
    )
    second = [sys.executable, "-c", program, str(folder)]
    assert subprocess.run(second, cwd=REPOSITORY, check=False).returncode == 7
    with pytest.raises(FolderInUse):
        EmbeddedRuntime(folder, TOPICS, TASKS)
    runtime.append([Output("asked", b"k", b"v")], 1)
    runtime.close()
    assert subprocess.run(second, cwd=REPOSITORY, check=False).returncode == 0


def test_folder_and_files_are_private_whatever_the_umask(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o777)
    before = os.umask(0)
    try:
        runtime = EmbeddedRuntime(folder, TOPICS, TASKS)
        runtime.append([Output("asked", b"k", b"v")], 1)
        runtime.read("asked", 0, 0, 1)
        assert Retention(runtime).vacuum()
        runtime.append([Output("asked", b"k", b"v")], 1)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        runtime.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("consentinel.db", "consentinel.db-wal", "consentinel.db-shm", "lock"), 0o600)


def test_the_settings_that_the_promises_rest_on_are_in_force(runtime):
    def setting(name):
        return runtime.store._writer.execute(f"PRAGMA {name}").fetchone()[0]

    names = ("journal_mode", "synchronous", "secure_delete", "auto_vacuum", "temp_store")
    assert [setting(name) for name in names] == ["wal", 2, 1, 2, 2]


def test_a_reader_connection_cannot_write(runtime):
    with pytest.raises(RuntimeFault):
        runtime.store.query_aside("DELETE FROM topics")
    assert runtime.store.query_aside("SELECT count(*) FROM topics") == [(3,)]


def test_offsets_are_never_used_twice_though_all_records_went(folder, runtime):
    runtime.append([Output("answers", b"k", b"v", partition=1)] * 5, 1)
    assert Retention(runtime).delete_before(["answers"], 2) == 5
    assert runtime.end("answers", 1) == 5
    runtime.close()
    again = EmbeddedRuntime(folder, TOPICS, TASKS)
    assert again.end("answers", 1) == 5
    again.append([Output("answers", b"k", b"new", partition=1)], 3)
    assert [record.offset for record in again.read("answers", 1, 0, 10)] == [5]
    again.close()


def test_names_keep_their_records_when_topics_come_and_change_places(folder, runtime):
    runtime.append([Output("asked", b"k", b"asked", partition=0), Output("table", b"k", b"table", partition=0)], 1)
    runtime.commit(Commit([], {("fold", 0): {b"k": b"v"}}, {("fold", "asked", 0): 1}, 1))
    runtime.close()
    more = EmbeddedRuntime(
        folder, [TopicSpec("first", 1, compact=False), *reversed(TOPICS)], [TaskSpec("new", ("first",), 1), *TASKS]
    )
    assert [more.read(topic, 0, 0, 9)[0].value for topic in ("asked", "table")] == [b"asked", b"table"]
    assert (more.get("fold", 0, b"k"), more.get("new", 0, b"k")) == (b"v", None)
    assert (more.position("fold", "asked", 0), more.end("first", 0)) == (1, 0)
    more.close()


def test_a_changed_number_of_partitions_is_refused_and_the_folder_let_go(folder, runtime):
    runtime.close()
    with pytest.raises(StoreDamaged, match="asked"):
        EmbeddedRuntime(folder, [TopicSpec("asked", 5, compact=False)], [])
    with pytest.raises(StoreDamaged, match="fold"):
        EmbeddedRuntime(folder, TOPICS, [TaskSpec("fold", ("table",), 2)])
    with pytest.raises(ValueError, match="differ in partitions"):
        EmbeddedRuntime(folder, TOPICS, [TaskSpec("other", ("asked",), 2)])
    EmbeddedRuntime(folder, TOPICS, TASKS).close()


def test_a_file_that_is_no_store_is_damage_not_a_new_store(folder, runtime):
    runtime.append([Output("asked", b"k%d" % number, b"v" * 500) for number in range(200)], 1)
    runtime.close()
    path = folder / "consentinel.db"
    good = path.read_bytes()
    for bad in (b"x" * 8192, good[:4096] + b"\xee" * (len(good) - 4096)):
        path.write_bytes(bad)
        with pytest.raises(StoreDamaged):
            EmbeddedRuntime(folder, TOPICS, TASKS)
        assert path.read_bytes() == bad
    path.write_bytes(good)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(StoreDamaged, match="layout"):
        EmbeddedRuntime(folder, TOPICS, TASKS)


def test_a_full_disk_loses_the_commit_and_only_that(runtime):
    writer = runtime.store._writer
    writer.execute("PRAGMA max_page_count = 40")
    big = [Output("answers", b"k", b"v" * 9000)] * 100
    with pytest.raises(CommitLost):
        runtime.commit(Commit(big, {("fold", 0): {b"k": b"v"}}, {}, 1))
    with pytest.raises(CommitLost):
        runtime.append(big, 1)
    assert [runtime.end("answers", partition) for partition in range(4)] == [0] * 4
    writer.execute("PRAGMA max_page_count = 4000")
    runtime.append(big, 1)
    assert sum(runtime.end("answers", partition) for partition in range(4)) == 100


def test_an_error_in_doubt_stops_the_store_for_good(runtime):
    fault = sqlite3.OperationalError("disk I/O error")
    fault.sqlite_errorcode = sqlite3.SQLITE_IOERR | 4 << 8  # an fsync that failed: the commit may be in the WAL or not
    with pytest.raises(StoreDamaged), runtime.store.transaction():
        raise fault
    with pytest.raises(StoreDamaged):
        runtime.append([Output("asked", b"k", b"v")], 1)


def test_after_close_everything_is_refused_and_waiters_are_woken(runtime):
    runtime.append([Output("table", b"k", b"v", partition=0)], 1)
    waiter = threading.Thread(target=runtime.wait, args=(30,))
    waiter.start()
    runtime.close()
    waiter.join(5)
    assert not waiter.is_alive()
    for call in (
        lambda: runtime.append([Output("asked", b"k", b"v")], 1),
        lambda: runtime.commit(Commit([], {("fold", 0): {b"k": b"v"}}, {}, 1)),
        lambda: runtime.get("fold", 0, b"k"),
        lambda: list(runtime.scan("fold", 0, b"")),
        lambda: runtime.read("table", 0, 0, 1),
    ):
        with pytest.raises(RuntimeFault):
            call()


def test_an_idle_poll_asks_the_file_nothing(runtime):
    runtime.append([Output("asked", b"k", b"v")], 1)
    while runtime.poll("fold", 10):
        pass
    asked: list[str] = []
    runtime.store._writer.set_trace_callback(asked.append)
    for _ in range(100):
        runtime.poll("fold", 10)
    assert asked == []


def test_a_busy_partition_does_not_starve_the_others(runtime):
    runtime.append([Output("asked", b"k", b"v", partition=0)] * 100 + [Output("asked", b"k", b"v", partition=1)], 1)
    first, second = runtime.poll("fold", 10), runtime.poll("fold", 10)
    assert [batch.partition for batch in first] == [0]
    assert second[0].partition == 1


def test_who_waits_together_is_written_together_and_a_bad_draft_falls_alone():
    groups: list[list[int]] = []
    entered, go = threading.Event(), threading.Event()

    def write(drafts):
        groups.append([ts_ms for _, ts_ms in drafts])
        entered.set()
        assert go.wait(10)
        if any(ts_ms == 13 for _, ts_ms in drafts):
            raise CommitLost("thirteen")

    group = GroupCommit(write)
    lost: list[int] = []

    def add(ts_ms):
        try:
            group.add({}, ts_ms)
        except CommitLost:
            lost.append(ts_ms)

    threads = [threading.Thread(target=add, args=(1,))]
    threads[0].start()
    assert entered.wait(10)
    for ts_ms in (14, 12, 13):
        threads.append(threading.Thread(target=add, args=(ts_ms,)))
        threads[-1].start()
    while len(group._waiting) < 3:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert groups == [[1], [12, 13, 14], [12], [13], [14]]
    assert lost == [13]
