"""The ring is private from its first byte, survives being killed, and what it destroys is gone from the file."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import engine.filering as ring_module
from engine.filering import FileRing
from engine.keyring import (
    KeyInUse,
    KeyRing,
    RingDamaged,
    RingExposed,
    RingMissing,
    RingUnavailable,
)  # fmt: skip

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOW_MS = 1_800_000_000_000
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.ring"


@pytest.fixture
def ring(path: Path) -> Iterator[FileRing]:
    made = FileRing(path, create=True)
    yield made
    made.close()


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def occurrences(path: Path, key: bytes) -> int:
    """How often a key stands in any file beside the ring."""
    return sum(file.read_bytes().count(key) for file in path.parent.iterdir() if file.is_file())


def test_the_file_is_ours_alone(ring: FileRing, path: Path) -> None:
    ring.kek("acme", 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["data.ring"]  # no journal stays


def test_the_file_is_private_from_its_first_byte(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    connect = sqlite3.connect

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        seen.append((stat.S_IMODE(path.stat().st_mode), path.stat().st_size))
        made: sqlite3.Connection = connect(*arguments, **options)
        return made

    monkeypatch.setattr(sqlite3, "connect", watched)
    before = os.umask(0)
    try:
        FileRing(path, create=True).close()
    finally:
        os.umask(before)
    assert seen == [(0o600, 0)]


def test_the_journal_is_as_private(ring: FileRing, path: Path) -> None:
    with ring._change():
        ring._rows("INSERT INTO ledger (entry) VALUES (?)", b"x")
        journal = path.with_name("data.ring-journal")
        assert stat.S_IMODE(journal.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o610])
def test_a_ring_that_others_reach_is_refused(ring: FileRing, path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(RingExposed):
        FileRing(path, create=True)


def test_a_ring_of_somebody_else_is_refused(ring: FileRing, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(RingExposed):
        FileRing(path, create=False)


def test_a_link_or_folder_is_no_ring(ring: FileRing, path: Path) -> None:
    path.with_name("link.ring").symlink_to(path)
    path.with_name("folder.ring").mkdir(mode=0o700)
    path.with_name("dangling.ring").symlink_to(path.with_name("nowhere"))
    for name in ("link.ring", "folder.ring", "dangling.ring"):
        with pytest.raises(RingExposed):
            FileRing(path.with_name(name), create=True)
    assert not path.with_name("nowhere").exists()


def test_data_without_its_ring_never_gets_a_new_one(path: Path) -> None:
    with pytest.raises(RingMissing):
        FileRing(path, create=False)
    assert not path.exists()
    os.close(os.open(path, os.O_CREAT, 0o600))  # its creator was killed at once
    with pytest.raises(RingMissing):
        FileRing(path, create=False)
    ring = FileRing(path, create=True)
    assert len(ring.deployment()) == 32
    ring.close()


def test_another_file_is_no_ring(path: Path) -> None:
    path.write_bytes(b"not a ring " * 1000)
    path.chmod(0o600)
    with pytest.raises(RingDamaged):
        FileRing(path, create=True)
    assert path.read_bytes() == b"not a ring " * 1000


def test_a_ring_of_another_version_is_refused(ring: FileRing, path: Path) -> None:
    ring._rows("PRAGMA user_version=9")
    with pytest.raises(RingDamaged):
        FileRing(path, create=True)


def test_a_closed_ring_is_unavailable_and_empty(ring: FileRing) -> None:
    ring.pepper("acme")
    ring.close()
    assert not ring._keys
    with pytest.raises(RingUnavailable):
        ring.pepper("acme")


def test_a_ring_in_no_folder_is_unavailable(path: Path) -> None:
    with pytest.raises(RingUnavailable):
        FileRing(path / "none" / "data.ring", create=True)


def test_everything_outlives_a_restart(ring: FileRing, path: Path) -> None:
    as_protocol: KeyRing = ring

    def all_of(some: KeyRing) -> list[object]:
        return [
            some.pepper("acme"), some.pepper("other"), some.kek("acme", 17), some.kek("other", 17), some.signing_seed(),
            some.deployment(), some.raw_key("raw", NOW_MS), some.raw_key("quarantine", NOW_MS), some.ledger_mark(),
            sorted(some.all_keys_alive()),
        ]  # fmt: skip

    before = all_of(as_protocol)
    ring.close()
    again = FileRing(path, create=False)
    assert all_of(again) == before
    again.close()


def test_keys_are_drawn_apart(ring: FileRing) -> None:
    ring.kek("acme", 0)
    ring.kek("other", 0)
    ring.raw_key("raw", NOW_MS)
    keys = [key for _, key in ring.all_keys_alive()]
    assert len(keys) == len(set(keys)) == 2 * 4096 + 2 + 1 + 1  # key-encryption keys, peppers, raw key, signing seed
    assert {len(key) for key in keys} == {32}
    assert len({name for name, _ in ring.all_keys_alive()}) == len(keys)


def test_two_processes_that_create_at_once_agree(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.filering import FileRing\n"
        "ring = FileRing(Path(sys.argv[1]), create=True)\n"
        "print(ring.deployment(), ring.signing_seed().hex(), ring.pepper('acme').hex(), ring.kek('acme', 9)[1].hex(),\n"
        "      ring.raw_key('raw', 5)[1].hex())"
    )
    processes = [python(code, str(path)) for _ in range(4)]
    said = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(said) == 1
    assert len(said.pop().split()) == 5


def test_threads_that_ask_at_once_agree(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: FileRing(path, create=True), range(8)))
        said = set(pool.map(lambda ring: (ring.deployment(), ring.kek("acme", 1), ring.raw_key("raw", NOW_MS)), rings))
        said |= set(
            pool.map(lambda _: (rings[0].deployment(), rings[0].kek("acme", 1), rings[0].raw_key("raw", NOW_MS)), range(50))
        )
    assert len(said) == 1
    for ring in rings:
        ring.close()


@pytest.mark.parametrize("table", ["secrets", "ledger", "keks", "raw_keys"])
def test_a_kill_during_creation_or_first_use_leaves_all_or_nothing(path: Path, table: str) -> None:
    """Killed with pages already in the file and a hot journal beside it: cache_size=1 spills them."""
    code = (
        "import os, sys; from pathlib import Path; import engine.filering as k\n"
        "rows, draw = k.FileRing._rows, k.FileRing._draw\n"
        "def killed(self, sql, *values):\n"
        "    found = rows(self, sql, *values)\n"
        "    if sql.startswith('PRAGMA secure'): rows(self, 'PRAGMA cache_size=1')\n"
        "    if sys.argv[3] == 'creation' and sql.startswith('CREATE TABLE ' + sys.argv[2]): os.kill(os.getpid(), 9)\n"
        "    return found\n"
        "def drawn(self, count):\n"
        "    first = draw(self, count)\n"
        "    if count > 1: os.kill(os.getpid(), 9)\n"
        "    return first\n"
        "k.FileRing._rows, k.FileRing._draw = killed, drawn\n"
        "k.FileRing(Path(sys.argv[1]), create=True).kek('acme', 1)\n"
    )
    for moment in ("creation", "first use"):
        process = python(code, str(path), table, moment)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert path.with_name("data.ring-journal").exists()
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert path.stat().st_size > 100_000  # what the killed one wrote too early
    ring = FileRing(path, create=True)
    assert {name for name, _ in ring.all_keys_alive()} == {"signing/", "pepper/acme"}
    assert ring.kek("acme", 1)[0] == 1
    assert len(list(ring.all_keys_alive())) == 2 + 4096
    ring.close()


def test_a_shard_rotates_once_per_epoch_and_alone(ring: FileRing) -> None:
    first, neighbour = ring.kek("acme", 7), ring.kek("acme", 8)
    assert ring.rotate_kek("acme", 7, after=1) == 2
    assert ring.rotate_kek("acme", 7, after=1) == 2  # asked again after a crash
    epoch, key = ring.kek("acme", 7)
    assert (epoch, key != first[1], ring.kek("acme", 8)) == (2, True, neighbour)
    assert ring.kek_at("acme", 7, 1) == first[1]
    assert ring.kek_at("acme", 7, 2) == key
    assert ring.kek_at("acme", 7, 3) is None
    assert ring.kek_at("nobody", 7, 1) is None
    with pytest.raises(KeyInUse):
        ring.destroy_kek("acme", 7, 2)
    with pytest.raises(ValueError, match="shard"):
        ring.kek("acme", 4096)


def test_a_destroyed_epoch_is_nowhere_and_its_neighbours_stay(ring: FileRing, path: Path) -> None:
    for shard in range(0, 4096, 16):
        ring.kek("acme", shard)
        ring.rotate_kek("acme", shard, after=1)
    ring.raw_key("raw", NOW_MS)
    alive = dict(ring.all_keys_alive())
    data = path.read_bytes()
    assert {data.count(key) for key in alive.values()} == {1}  # no key has a second copy, in the slack of a page or else
    gone = {f"kek/acme/{shard}/1" for shard in range(0, 4096, 16)}
    for shard in range(0, 4096, 16):
        assert ring.kek_at("acme", shard, 1) == alive[f"kek/acme/{shard}/1"]
        ring.destroy_kek("acme", shard, 1)
        ring.destroy_kek("acme", shard, 1)
        assert ring.kek_at("acme", shard, 1) is None
    data = path.read_bytes()
    assert {name for name, key in alive.items() if key not in data} == gone
    assert set(dict(ring.all_keys_alive())) == set(alive) - gone
    assert all(occurrences(path, alive[name]) == 0 for name in list(gone)[:8])


def test_a_raw_key_lasts_an_hour_and_a_quarantine_key_a_day(ring: FileRing) -> None:
    for class_, span in (("raw", HOUR_MS), ("quarantine", DAY_MS)):
        first = ring.raw_key(class_, NOW_MS)  # type: ignore[arg-type]
        assert ring.raw_key(class_, NOW_MS + span - 1) == first  # type: ignore[arg-type]
        second = ring.raw_key(class_, NOW_MS + span)  # type: ignore[arg-type]
        assert second[0] > first[0]
        assert second[1] != first[1]
        assert ring.raw_key_by_id(first[0]) == first[1]
    assert ring.raw_keys() == [
        (1, "raw", NOW_MS, NOW_MS + HOUR_MS), (2, "raw", NOW_MS + HOUR_MS, None),
        (3, "quarantine", NOW_MS, NOW_MS + DAY_MS), (4, "quarantine", NOW_MS + DAY_MS, None),
    ]  # fmt: skip


def test_a_key_opened_by_a_clock_far_ahead_does_not_stay(ring: FileRing) -> None:
    ahead = ring.raw_key("raw", NOW_MS + 300 * DAY_MS)
    assert ring.raw_key("raw", NOW_MS)[0] > ahead[0]


def test_destroyed_raw_keys_are_nowhere_and_their_numbers_never_return(ring: FileRing, path: Path) -> None:
    keys = dict(ring.raw_key("raw", NOW_MS + hour * HOUR_MS) for hour in range(100))
    with pytest.raises(KeyInUse):
        ring.destroy_raw([1, 100])
    assert ring.raw_key_by_id(1) == keys[1]  # all or none
    ring.close_raw("raw", NOW_MS + 99 * HOUR_MS + 1)
    assert {occurrences(path, key) for key in keys.values()} == {1}
    ring.destroy_raw(range(1, 101))
    ring.destroy_raw([1])
    assert {occurrences(path, key) for key in keys.values()} == {0}
    assert [ring.raw_key_by_id(number) for number in keys] == [None] * 100
    assert ring.raw_keys() == []
    assert ring.raw_key("raw", NOW_MS)[0] == 101


def test_a_closed_class_opens_another_key_at_once(ring: FileRing) -> None:
    first = ring.raw_key("raw", NOW_MS)
    ring.close_raw("raw", NOW_MS + 1)
    assert ring.raw_key("raw", NOW_MS + 2)[0] > first[0]


def test_what_another_process_destroyed_is_forgotten_here(ring: FileRing, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = FileRing(path, create=False)
    key, raw = ring.kek("acme", 3)[1], ring.raw_key("raw", NOW_MS)
    assert ring.kek_at("acme", 3, 1) == key
    assert ring.raw_key_by_id(raw[0]) == raw[1]
    other.rotate_kek("acme", 3, after=1)
    other.destroy_kek("acme", 3, 1)
    other.close_raw("raw", NOW_MS)
    other.destroy_raw([raw[0]])
    monkeypatch.setattr(ring_module, "monotonic", lambda: ring._fresh_until)  # a second later
    assert ring.kek("acme", 3)[0] == 2
    assert ring.kek_at("acme", 3, 1) is None
    assert ring.raw_key_by_id(raw[0]) is None
    assert ring.raw_key("raw", NOW_MS)[0] > raw[0]
    other.close()


def test_the_hot_path_leaves_the_file_alone(ring: FileRing, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> list[object]:
        return [
            ring.pepper("acme"),
            ring.kek("acme", 5),
            ring.kek_at("acme", 5, 1),
            ring.raw_key("raw", NOW_MS),
            ring.raw_key_by_id(1),
        ]

    first = ask()
    ring.refresh()
    monkeypatch.setattr(ring, "_rows", None)
    assert ask() == first


def test_memory_is_bounded(ring: FileRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "CACHED_MAX", 10)
    first = [ring.kek("acme", shard) for shard in range(50)]
    assert len(ring._minting) == 10
    assert [ring.kek("acme", shard) for shard in range(50)] == first


def test_invented_controllers_do_not_fill_the_disk(ring: FileRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "CONTROLLERS_MAX", 2)
    ring.pepper("acme")
    ring.kek("other", 1)
    for ask in (lambda: ring.pepper("third"), lambda: ring.kek("third", 1)):
        with pytest.raises(RingUnavailable):
            ask()
    assert ring.kek("acme", 1)[0] == 1


def test_a_failed_change_leaves_nothing_in_memory(ring: FileRing, path: Path) -> None:
    def fail() -> None:
        with ring._change():
            ring._rows("INSERT INTO raw_keys VALUES (NULL, 'raw', 1, NULL, ?)", ring._draw(1))
            ring.raw_key("raw", 2)
            raise RuntimeError

    before = sorted(ring.all_keys_alive())
    with pytest.raises(RuntimeError):
        fail()
    assert sorted(ring.all_keys_alive()) == before
    assert not ring._raw_now


def test_the_ledger_is_only_ever_appended_to(ring: FileRing, path: Path) -> None:
    assert (ring.ledger_mark(), ring.ledger_since(0)) == (0, [])
    assert [ring.ledger_append(entry) for entry in (b"one", b"two", b"three")] == [1, 2, 3]
    other = FileRing(path, create=False)
    assert other.ledger_mark() == 3
    assert other.ledger_since(1) == [(2, b"two"), (3, b"three")]
    other.close()
    for change in ("DELETE FROM ledger", "UPDATE ledger SET entry = x'00'"):
        with pytest.raises(RingDamaged):
            ring._rows(change)
    assert ring.ledger_mark() == 3


def test_notes_are_written_only_over_what_was_expected(ring: FileRing, path: Path) -> None:
    other = FileRing(path, create=False)
    assert ring.put_note("rotation/a%2Fb", b"1", None) and not other.put_note("rotation/a%2Fb", b"2", None)
    assert other.put_note("rotation/a%2Fb", b"2", b"1") and not ring.put_note("rotation/a%2Fb", b"3", b"1")
    assert ring.put_note("rotation/a", b"4", None)
    assert ring.notes("rotation/a%2F") == {"rotation/a%2Fb": b"2"} and len(ring.notes("rotation/")) == 2
    other.close()


def test_a_ring_of_the_first_version_is_brought_up_to_date_and_loses_nothing(ring: FileRing, path: Path) -> None:
    kek = ring.kek("acme", 3)
    ring._rows("DROP TABLE notes")
    ring._rows("PRAGMA user_version=1")
    ring.close()
    again = FileRing(path, create=False)
    assert again.kek("acme", 3) == kek and again.notes("") == {} and again.put_note("a", b"1", None)
    again.close()


def test_changes_that_are_made_together_are_all_there_or_none(ring: FileRing, path: Path) -> None:
    ring.kek("acme", 0)
    with pytest.raises(KeyInUse), ring.together():
        for shard in range(3):
            ring.rotate_kek("acme", shard, after=1)
        ring.destroy_kek("acme", 0, 1)
        ring.destroy_kek("acme", 0, 2)
    assert ring.epochs("acme") == [(shard, 1, True) for shard in range(4096)]
    assert ring.kek("acme", 0)[0] == 1 and ring.kek_at("acme", 0, 1) is not None
    with ring.together():
        ring.rotate_kek("acme", 1, after=1)
    assert ring.epochs("acme")[:3] == [(0, 1, True), (1, 1, False), (1, 2, True)]
    assert ring.controllers() == ["acme"]


def test_errors_name_nobody(ring: FileRing) -> None:
    with pytest.raises(KeyInUse) as caught:
        ring.destroy_kek("acme", 1, ring.kek("acme", 1)[0])
    assert "acme" not in str(caught.value)
