"""A note on the board is seen by every door with the state it is about, until the state has it or its door is long dead."""

import time
from collections.abc import Iterator

import pytest

from connectors.redis import board
from engine.deployment import Note
from tests.parts.redis import RedisServer

from .redis_server import LOG, NOW_MS, UNIT, Model, asked, beat


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as found:
        yield found


@pytest.fixture
def doors(server: RedisServer) -> Iterator[tuple[Model, Model]]:
    """Two gateways on one Redis, whose copy of the unit has a beat."""
    one, other = Model(server), Model(server)
    one.life.client.flushall()
    one.writer.begin(UNIT, LOG, NOW_MS)
    one.writer.apply(UNIT, "topic-1", 0, [beat(0, NOW_MS)], 1)
    yield one, other
    one.life.close()
    other.life.close()


def seen(door: Model, owner: str = "a") -> set[bytes]:
    return set(door.reader.look([asked(owner)])[0].denials)


NOTE, SECOND = Note("a", "1", b"no dialling"), Note("a", "2", b"no sharing")


def test_a_note_is_seen_by_all_doors_about_its_owner_only(doors: tuple[Model, Model]) -> None:
    one, other = doors
    one.board.post([NOTE, SECOND])
    assert seen(one) == seen(other) == {b"no dialling", b"no sharing"} and seen(other, "b") == set()


def test_a_note_that_is_not_settled_ends_with_no_beat(doors: tuple[Model, Model]) -> None:
    one, other = doors
    one.board.post([NOTE])
    one.writer.apply(UNIT, "topic-1", 1, [beat(1, 1 << 60)], 2)
    assert seen(other) == {b"no dialling"}


def test_a_settled_note_ends_when_the_beat_is_past_it_and_not_before(doors: tuple[Model, Model]) -> None:
    one, other = doors
    one.board.post([NOTE, SECOND])
    one.board.settle([NOTE], NOW_MS + 5)
    one.writer.apply(UNIT, "topic-1", 1, [beat(1, NOW_MS + 5)], 2)
    assert seen(other) == {b"no dialling", b"no sharing"}
    one.writer.apply(UNIT, "topic-1", 2, [beat(2, NOW_MS + 6)], 3)
    assert seen(other) == {b"no sharing"}


def test_a_note_that_is_taken_back_is_gone_and_others_stay(doors: tuple[Model, Model]) -> None:
    one, other = doors
    one.board.post([NOTE, SECOND])
    one.board.take_back([NOTE])
    assert seen(other) == {b"no sharing"}


def test_a_note_of_a_door_that_died_ends_by_itself_settled_or_not(
    doors: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = doors
    monkeypatch.setattr(board, "NOTE_SECS_MAX", 1)
    one.board.post([NOTE])
    time.sleep(1.1)
    assert seen(other) == set()
    one.board.settle([NOTE], NOW_MS + 5)
    assert seen(other) == {b"no dialling"}
    time.sleep(1.1)
    assert seen(other) == set()
