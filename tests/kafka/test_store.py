"""A local store gives what was committed, or says that it cannot: never a part of it."""

from pathlib import Path

import pytest

from engine.kafka.store import Store
from engine.runtime import StoreDamaged

KEYS = [b"s%05d" % n for n in range(8_000)]


@pytest.fixture
def damaged(tmp_path: Path) -> Store:
    """A store with one unreadable block in its middle, which nobody reads when it is opened."""
    made = Store(tmp_path / "unit")
    made.begin("first", 1)
    made.committed(dict.fromkeys(KEYS, b"v" * 40), len(KEYS), 1)
    made.close()
    (path,) = (tmp_path / "unit").glob("*.sst")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = b"\xa5" * 64
    path.write_bytes(data)
    return Store(tmp_path / "unit")


def test_a_scan_over_a_block_that_cannot_be_read_is_no_shorter_scan(damaged: Store) -> None:
    assert len(list(damaged.scan(b"s", b"", 100))) == 100
    with pytest.raises(StoreDamaged):
        damaged.scan(b"s", b"", 1_000_000)


def test_a_value_in_a_block_that_cannot_be_read_is_not_absent(damaged: Store) -> None:
    assert damaged.get(KEYS[0]) and damaged.get(KEYS[-1])
    with pytest.raises(StoreDamaged):
        for key in KEYS:
            assert damaged.get(key) is not None
    with pytest.raises(StoreDamaged):
        damaged.get_many(KEYS)


def test_a_store_that_was_found_damaged_is_not_opened_again_until_it_was_wiped(damaged: Store) -> None:
    with pytest.raises(StoreDamaged):
        damaged.get_many(KEYS)
    damaged.drop_unwritten()
    with pytest.raises(StoreDamaged, match="the last time"):
        Store(damaged.folder)
    Store.wipe(damaged.folder)
    assert Store(damaged.folder).get(KEYS[0]) is None


def test_a_store_that_was_closed_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "unit")
    store.committed({b"sa": b"1"}, 1, 1)
    store.close()
    with pytest.raises(StoreDamaged):
        store.get(b"sa")
    assert Store(tmp_path / "unit").get(b"sa") == b"1"


@pytest.mark.parametrize("prefix", [b"", b"s", b"t", b"\xff\xff\xff"])
def test_a_scan_of_a_sound_store_ends_where_its_keys_end(tmp_path: Path, prefix: bytes) -> None:
    store = Store(tmp_path / "unit")
    assert list(store.scan(prefix, b"", 10)) == []
    store.committed({b"sa": b"1", b"sb": b"2", b"\xff\xff\xff": b"3"}, 3, 1)
    assert [key for key, _ in store.scan(prefix, b"", 10)] == [k for k in (b"sa", b"sb", b"\xff\xff\xff") if k.startswith(prefix)]
    assert [key for key, _ in store.scan(prefix, b"sa", 10)] == [k for k in (b"sb", b"\xff\xff\xff") if k.startswith(prefix)]


def files_with(folder: Path, text: bytes) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if text in path.read_bytes())


def test_what_was_deleted_or_superseded_is_in_no_file_once_it_was_scoured(tmp_path: Path) -> None:
    store = Store(tmp_path / "unit")
    store.begin("first", 1)
    owner, old = b"sub_" + b"q7" * 13, bytes(range(128, 228))
    others = {b"s%05d" % n: b"v%d" % n for n in range(3_000)}
    # The first and last key of a file stand in the manifest as well.
    told = {b"a" + owner: old, b"s01500" + owner: old, b"z" + owner: old, b"z-superseded": old}
    store.committed(others | told, 1, 1)
    store.flush()
    assert files_with(store.folder, owner) and files_with(store.folder, old[:40])
    store.committed(dict.fromkeys(told, None) | {b"z-superseded": b"new"}, 2, 2)
    store.flush()
    assert files_with(store.folder, owner), "the deletion alone removes nothing"
    assert store.scour()
    assert (files_with(store.folder, owner), files_with(store.folder, old[:40])) == ([], [])
    assert store.get_many([*others, *told]) == [*others.values(), None, None, None, b"new"]
    store.committed({b"s1": b"later"}, 3, 3)
    store.close()
    again = Store(tmp_path / "unit")
    assert (again.position, again.get(b"s1"), len(list(again.scan(b"s", b"", 9_999)))) == (3, b"later", 3_001)


def test_a_store_that_is_closed_meanwhile_is_not_called_clean(tmp_path: Path) -> None:
    store = Store(tmp_path / "unit")
    store.committed({b"sa": b"1"}, 1, 1)
    store.close()
    assert not store.scour()
    assert Store(tmp_path / "unit").get(b"sa") == b"1"
