"""What `engine/keyring.py` promises, of each ring that keeps it: the file, and a real OpenBao."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

import connectors.vault.ring as vault_module
import engine.filering as file_module
from connectors.vault import VaultRing
from engine.filering import FileRing
from engine.keyring import KeyInUse, KeyRing, RingMissing, RingUnavailable
from tests.parts.openbao import openbao, prefix  # noqa: F401 -- fixtures

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOW_MS = 1_800_000_000_000


class Opens(Protocol):
    """Opens the test's ring, each time as another process would."""

    def __call__(self, create: bool = False) -> KeyRing: ...


@pytest.fixture(params=["file", "vault"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    rings: list[KeyRing] = []
    make: Callable[[bool], KeyRing]
    if request.param == "file":
        make = lambda create: FileRing(tmp_path / "data.ring", create)  # noqa: E731
    else:
        server = request.getfixturevalue("openbao")
        connection = server.connection(tmp_path, request.getfixturevalue("prefix"))
        make = lambda create: VaultRing(connection, create)  # noqa: E731

    def one(create: bool = False) -> KeyRing:
        rings.append(make(create))
        return rings[-1]

    yield one
    for ring in rings:
        ring.close()


@pytest.fixture
def ring(opened: Opens) -> KeyRing:
    return opened(create=True)


def test_data_without_its_ring_never_gets_a_new_one(opened: Opens) -> None:
    with pytest.raises(RingMissing):
        opened()
    made = opened(create=True)
    assert len(made.deployment()) == 32
    assert opened(create=True).deployment() == opened().deployment() == made.deployment()


def test_everything_outlives_a_restart(ring: KeyRing, opened: Opens) -> None:
    def all_of(some: KeyRing) -> list[object]:
        return [
            some.pepper("acme"), some.pepper("other"), some.kek("acme", 17), some.kek("other", 17), some.signing_seed(),
            some.deployment(), some.raw_key("raw", NOW_MS), some.raw_key("quarantine", NOW_MS), some.ledger_mark(),
            some.notes(""), sorted(some.all_keys_alive()),
        ]  # fmt: skip

    ring.ledger_append(b"one")
    ring.put_note("rotation/acme", b"begun", None)
    before = all_of(ring)
    ring.close()
    assert all_of(opened()) == before


def test_a_closed_ring_gives_nothing(ring: KeyRing) -> None:
    ring.pepper("acme")
    ring.kek("acme", 1)
    ring.close()
    for ask in (lambda: ring.pepper("acme"), lambda: ring.kek("acme", 1), lambda: ring.raw_key("raw", NOW_MS)):
        with pytest.raises(RingUnavailable):
            ask()


def test_keys_are_drawn_apart(ring: KeyRing) -> None:
    for controller in ("acme", "Ängström & Söhne / 2"):
        ring.kek(controller, 0)
        ring.kek(controller, 4095)
    ring.raw_key("raw", NOW_MS)
    ring.raw_key("quarantine", NOW_MS)
    alive = list(ring.all_keys_alive())
    keys = [key for _, key in alive]
    assert len(keys) == len(set(keys)) == len({name for name, _ in alive})
    assert {len(key) for key in keys} == {32}
    assert {
        "signing/", "pepper/acme", "pepper/Ängström & Söhne / 2", "kek/acme/0/1", "kek/acme/4095/1", "raw/1", "quarantine/2",
    } <= {name for name, _ in alive}  # fmt: skip
    assert ring.controllers() == ["acme", "Ängström & Söhne / 2"]


def test_processes_that_begin_at_once_agree(opened: Opens) -> None:
    def said(some: KeyRing) -> tuple[object, ...]:
        return (
            some.deployment(), some.signing_seed(), some.pepper("acme"), some.kek("acme", 1), some.raw_key("raw", NOW_MS),
            some.raw_key("quarantine", NOW_MS),
        )  # fmt: skip

    with ThreadPoolExecutor(6) as pool:
        rings = list(pool.map(lambda _: opened(create=True), range(6)))
        assert len(set(pool.map(said, rings * 2))) == 1


def test_a_shard_rotates_once_per_epoch_and_alone(ring: KeyRing) -> None:
    first, neighbour = ring.kek("acme", 7), ring.kek("acme", 8)
    assert ring.rotate_kek("acme", 7, after=1) == 2
    assert ring.rotate_kek("acme", 7, after=1) == 2  # asked again after a crash
    epoch, key = ring.kek("acme", 7)
    assert (epoch, key != first[1], ring.kek("acme", 8)) == (2, True, neighbour)
    assert ring.kek_at("acme", 7, 1) == first[1]
    assert ring.kek_at("acme", 7, 2) == key
    assert ring.kek_at("acme", 7, 3) is None
    assert ring.kek_at("nobody", 7, 1) is None
    assert [place for place in ring.epochs("acme") if place[0] in (7, 8)] == [(7, 1, False), (7, 2, True), (8, 1, True)]
    assert ring.epochs("nobody") == []
    with pytest.raises(KeyInUse):
        ring.destroy_kek("acme", 7, 2)
    with pytest.raises(ValueError, match="shard"):
        ring.kek("acme", 4096)


def test_a_shard_that_was_never_used_rotates_too(ring: KeyRing) -> None:
    assert ring.rotate_kek("acme", 9, after=1) == 2
    assert ring.kek("acme", 9)[0] == 2


def test_a_destroyed_epoch_is_nowhere_and_its_neighbours_stay(ring: KeyRing, opened: Opens) -> None:
    shards = (5, 6, 70)
    with ring.together():
        for shard in shards:
            ring.kek("acme", shard)
            ring.rotate_kek("acme", shard, after=1)
    alive = dict(ring.all_keys_alive())
    with ring.together():
        for shard in shards:
            assert ring.kek_at("acme", shard, 1) == alive[f"kek/acme/{shard}/1"]
            ring.destroy_kek("acme", shard, 1)
            ring.destroy_kek("acme", shard, 1)
            assert ring.kek_at("acme", shard, 1) is None
    gone = {f"kek/acme/{shard}/1" for shard in shards}
    for some in (ring, opened()):
        left = dict(some.all_keys_alive())
        assert set(left) == set(alive) - gone
        assert not {alive[name] for name in gone} & set(left.values())
        assert [place for place in some.epochs("acme") if place[0] in shards] == [(shard, 2, True) for shard in shards]
        assert some.kek("acme", 70) == (2, alive["kek/acme/70/2"])
    assert ring.rotate_kek("acme", 5, after=2) == 3  # the number of a destroyed epoch is never given again


def test_a_raw_key_lasts_an_hour_and_a_quarantine_key_a_day(ring: KeyRing) -> None:
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


def test_a_key_opened_by_a_clock_far_ahead_does_not_stay(ring: KeyRing) -> None:
    ahead = ring.raw_key("raw", NOW_MS + 300 * DAY_MS)
    assert ring.raw_key("raw", NOW_MS)[0] > ahead[0]


def test_destroyed_raw_keys_are_nowhere_and_their_numbers_never_return(ring: KeyRing, opened: Opens) -> None:
    keys = dict(ring.raw_key("raw", NOW_MS + hour * HOUR_MS) for hour in range(5))
    with pytest.raises(KeyInUse):
        ring.destroy_raw([1, 5])
    assert ring.raw_key_by_id(1) == keys[1]  # all or none
    ring.destroy_raw([4, 2])  # in any order
    assert [ring.raw_key_by_id(number) for number in keys] == [keys[1], None, keys[3], None, keys[5]]
    ring.close_raw("raw", NOW_MS + 4 * HOUR_MS + 1)
    ring.destroy_raw(range(1, 6))
    ring.destroy_raw([1])
    for some in (ring, opened()):
        assert [some.raw_key_by_id(number) for number in keys] == [None] * 5
        assert some.raw_keys() == []
        assert not set(keys.values()) & set(dict(some.all_keys_alive()).values())
    assert ring.raw_key("raw", NOW_MS)[0] == 6


def test_a_closed_class_opens_another_key_at_once(ring: KeyRing) -> None:
    first = ring.raw_key("raw", NOW_MS)
    ring.close_raw("raw", NOW_MS + 1)
    assert ring.raw_key("raw", NOW_MS + 2)[0] > first[0]


@pytest.mark.parametrize("by_itself", [False, True])
def test_what_another_process_changed_is_seen_within_a_second(ring: KeyRing, opened: Opens, by_itself: bool) -> None:
    other = opened()
    key, raw = ring.kek("acme", 3)[1], ring.raw_key("raw", NOW_MS)
    assert ring.kek_at("acme", 3, 1) == key
    assert ring.raw_key_by_id(raw[0]) == raw[1]
    other.rotate_kek("acme", 3, after=1)
    other.destroy_kek("acme", 3, 1)
    other.close_raw("raw", NOW_MS)
    other.destroy_raw([raw[0]])
    newer = other.raw_key("raw", NOW_MS)
    if by_itself:
        time.sleep(1.01)
    else:
        ring.refresh()
    assert ring.kek("acme", 3) == other.kek("acme", 3) != (1, key)
    assert ring.kek_at("acme", 3, 1) is None
    assert ring.raw_key_by_id(raw[0]) is None
    assert ring.raw_key("raw", NOW_MS) == newer


def test_invented_controllers_do_not_fill_the_ring(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "CONTROLLERS_MAX", 2)
    monkeypatch.setattr(vault_module, "CONTROLLERS_MAX", 2)
    ring.pepper("acme")
    ring.kek("other", 1)
    for ask in (lambda: ring.pepper("third"), lambda: ring.kek("third", 1)):
        with pytest.raises(RingUnavailable):
            ask()
    assert ring.kek("acme", 1)[0] == 1


def test_the_ledger_is_one_sequence_for_all_processes(ring: KeyRing, opened: Opens) -> None:
    assert (ring.ledger_mark(), ring.ledger_since(0)) == (0, [])
    other = opened()
    entries = [bytes([n]) * (300_000 if n == 20 else 9_000 if n == 21 else n) for n in range(70)]
    assert [(ring, other)[n % 2].ledger_append(entry) for n, entry in enumerate(entries)] == list(range(1, 71))
    for some in (ring, other, opened()):
        assert some.ledger_mark() == 70
        assert some.ledger_since(0) == list(enumerate(entries, 1))
        assert some.ledger_since(63) == list(enumerate(entries[63:], 64))
        assert some.ledger_since(70) == []


def test_entries_that_are_appended_at_once_all_stand_in_the_ledger(opened: Opens) -> None:
    rings = [opened(create=True) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        marks = list(pool.map(lambda n: rings[n % 3].ledger_append(f"{n}".encode()), range(40)))
    assert sorted(marks) == list(range(1, 41))
    assert dict(rings[0].ledger_since(0)) == {mark: f"{n}".encode() for n, mark in enumerate(marks)}


def test_a_note_is_written_only_over_what_its_writer_has_seen(ring: KeyRing, opened: Opens) -> None:
    other = opened()
    assert ring.notes("") == {}
    assert ring.put_note("rotation/a%2Fb", b"\x00one", None)
    assert not other.put_note("rotation/a%2Fb", b"two", None)
    assert not other.put_note("rotation/a%2Fb", b"two", b"else")
    assert not other.put_note("rotation/none", b"two", b"else")
    assert other.put_note("rotation/a%2Fb", b"two", b"\x00one")
    assert ring.put_note("rotation/", b"", None)
    assert ring.put_note("rewrapped/a%2Fb/subject/1", b"x" * 4_096, None)
    assert ring.put_note("rewrapped/a%2Fb/subject/10", b"y", None)
    assert other.notes("rotation/") == {"rotation/a%2Fb": b"two", "rotation/": b""}
    assert other.notes("rewrapped/a%2Fb/subject/1") == {
        "rewrapped/a%2Fb/subject/1": b"x" * 4_096, "rewrapped/a%2Fb/subject/10": b"y",
    }  # fmt: skip
    assert len(other.notes("")) == 4


def test_of_many_who_write_a_note_at_once_one_does(opened: Opens) -> None:
    rings = [opened(create=True) for _ in range(4)]
    barrier = threading.Barrier(4)

    def write(some: KeyRing) -> bool:
        barrier.wait()
        return some.put_note("rotation/acme", b"the same", None)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, rings)) == 1


def test_errors_name_nobody(ring: KeyRing) -> None:
    with pytest.raises(KeyInUse) as caught:
        ring.destroy_kek("acme", 1, ring.kek("acme", 1)[0])
    assert "acme" not in str(caught.value)


def test_a_ring_is_what_the_engine_asks_for(ring: Any) -> None:
    as_protocol: KeyRing = ring
    asked = {name for protocol in KeyRing.__mro__ for name in vars(protocol) if not name.startswith("_")}
    assert {name for name in asked if not callable(getattr(as_protocol, name, None))} == set()
