"""The copy in Redis is the changelog, in its order, once; what cannot be sure to be that is wiped, and nothing in it is fresh."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from connectors.redis import Changelog, RedisConnection, RedisLife
from connectors.redis.connection import RedisImpossible
from connectors.redis.reader import beyond
from connectors.redis.writer import AWAY_MS_MAX, FOREIGN, Change
from engine.deployment import CLOCKS_APART_MS, Note, Unreachable
from engine.kafka.names import POSITION
from tests.parts.redis import RedisServer

from .redis_server import LOG, NOW_MS, OTHER, UNIT, Model, asked, beat, row


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as found:
        yield found


@pytest.fixture
def model(server: RedisServer) -> Iterator[Model]:
    made = Model(server)
    made.life.client.flushall()
    yield made
    made.life.close()


def folded(changes: list[Change]) -> dict[bytes, bytes]:
    """What a changelog says, by the plainest reading."""
    found: dict[bytes, bytes] = {}
    for _, key, value in changes:
        if value is None:
            found.pop(key, None)
        elif key[:1] in (b"s", b"k", b"m"):
            found[key] = value
    return found


def test_the_last_value_of_a_key_counts_and_a_tombstone_deletes(model: Model) -> None:
    assert model.writer.begin(UNIT, LOG, NOW_MS) == 0
    assert model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1"), (1, row("b"), b"1"), (2, row("a"), b"2")], 3) == 3
    assert model.writer.apply(UNIT, "topic-1", 3, [(5, row("b"), None), (6, b"ka\0conv", b"key")], 7) == 7
    assert model.rows() == {row("a"): b"2", b"ka\0conv": b"key"}
    assert model.reader.get("subject", 0, row("a")) == b"2" and model.reader.get("subject", 0, row("b")) is None
    assert model.writer.apply(UNIT, "topic-1", 7, [(7, b"ka\0conv", None)], 8) == 8
    assert b"key" not in model.rows().values()


def test_alarms_and_positions_are_not_copied(model: Model) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    changes: list[Change] = [(0, b"aalarm", b"1"), (1, b"tdue", b""), (2, POSITION + b"calls", b"1"), (3, b"m", b"frontier")]
    model.writer.apply(UNIT, "topic-1", 0, changes, 4)
    assert model.rows() == {b"m": b"frontier"}


def test_a_batch_that_was_applied_changes_nothing_when_it_comes_again(model: Model) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    early: list[Change] = [(0, row("a"), b"old"), beat(1, NOW_MS)]
    model.writer.apply(UNIT, "topic-1", 0, early, 2)
    model.writer.apply(UNIT, "topic-1", 2, [(2, row("a"), b"new"), beat(3, NOW_MS + 1)], 4)
    assert model.writer.apply(UNIT, "topic-1", 0, early, 2) == 4
    assert model.rows() == {row("a"): b"new"} and model.reader.beats()["subject", 0] == NOW_MS + 1


def test_of_a_batch_that_overlaps_only_what_is_new_is_applied(model: Model) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1"), (1, row("a"), None)], 2)
    model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1"), (3, row("b"), b"1")], 4)
    assert model.rows() == {row("b"): b"1"}


def test_what_an_overlapping_batch_says_of_the_past_undoes_nothing(model: Model) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    model.writer.apply(UNIT, "topic-1", 0, [(2, row("a"), b"1"), beat(3, NOW_MS)], 4)
    old: list[Change] = [(0, row("a"), None), beat(1, NOW_MS - 9_000), (5, row("b"), b"1")]
    assert model.writer.apply(UNIT, "topic-1", 0, old, 6) == 6
    assert model.rows() == {row("a"): b"1", row("b"): b"1"} and model.reader.beats()["subject", 0] == NOW_MS


def test_a_gap_is_refused(model: Model) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    assert model.writer.apply(UNIT, "topic-1", 5, [(5, row("a"), b"1")], 6) == 0
    assert model.rows() == {}


@pytest.mark.parametrize("seed", range(5))
def test_two_writers_that_overlap_leave_what_one_would_have_left(server: RedisServer, model: Model, seed: int) -> None:
    drawn = random.Random(seed)
    changes: list[Change] = [
        (n * 2, row(str(drawn.randrange(40))), None if drawn.random() < 0.3 else str(n).encode()) for n in range(600)
    ]  # fmt: skip
    model.writer.begin(UNIT, LOG, NOW_MS)
    faults: list[BaseException] = []

    def write(number: int) -> None:
        mine, dice = Model(server), random.Random(seed * 10 + number)
        try:
            at = 0
            while at < 1_200:
                upto = min(1_200, at + dice.randrange(2, 80))
                reached = mine.writer.apply(UNIT, "topic-1", at, [c for c in changes if at <= c[0] < upto], upto)
                at = upto if reached >= upto else reached
                if dice.random() < 0.1:
                    at = dice.randrange(at)  # it lost the unit, took it again, and began from an older place
        except BaseException as fault:
            faults.append(fault)
        finally:
            mine.life.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and model.rows() == folded(changes)
    assert model.writer.begin(UNIT, Changelog("topic-1", 0, 1_200), NOW_MS) == 1_200


@pytest.mark.parametrize(("log", "now_ms"), [
    (Changelog("topic-2", 0, 9), NOW_MS),  # made anew
    (Changelog("topic-1", 0, 1), NOW_MS),  # ends before the copy
    (Changelog("topic-1", 3, 9), NOW_MS),  # begins after it
    (Changelog("topic-1", 0, 9), NOW_MS + AWAY_MS_MAX + 1),  # tombstones may be gone that it has not seen
])  # fmt: skip
def test_what_cannot_be_continued_is_wiped(model: Model, log: Changelog, now_ms: int) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    model.writer.apply(UNIT, "topic-1", 0, [(0, row("erased"), b"1"), beat(1, NOW_MS)], 2)
    assert model.writer.begin(UNIT, Changelog("topic-1", 0, 9), NOW_MS + AWAY_MS_MAX) == 2
    assert model.rows() == {row("erased"): b"1"}
    assert model.writer.begin(UNIT, log, now_ms) == log.first
    assert model.rows() == {} and model.reader.beats()["subject", 0] == 0


def test_an_old_writer_of_a_changelog_that_was_made_anew_writes_nothing(model: Model) -> None:
    model.writer.begin(UNIT, Changelog("topic-2", 0, 0), NOW_MS)
    assert model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1")], 1) == FOREIGN
    assert model.rows() == {}


def test_no_beat_counts_before_the_copy_has_caught_up(model: Model) -> None:
    model.writer.begin(UNIT, Changelog("topic-1", 0, 10), NOW_MS)
    model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1"), beat(4, NOW_MS)], 5)
    assert model.reader.beats()["subject", 0] == 0
    model.writer.apply(UNIT, "topic-1", 5, [(9, row("a"), b"2"), beat(10, NOW_MS + 1)], 11)
    assert model.reader.beats()["subject", 0] == NOW_MS + 1


@pytest.mark.parametrize("gone", ["unit", "keys"])
def test_a_copy_that_was_lost_is_no_empty_copy(model: Model, gone: str) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1"), beat(1, NOW_MS)], 2)
    model.life.client.delete(f"consentinel:{gone}:subject/0")
    with pytest.raises(Unreachable):
        list(model.reader.scan("subject", 0, b"s"))
    if gone == "unit":
        with pytest.raises(Unreachable):
            model.reader.get("subject", 0, row("a"))
        assert model.reader.look([asked("a")])[0].beat_ms == 0
        assert model.writer.apply(UNIT, "topic-1", 2, [(2, row("a"), b"2")], 3) == FOREIGN
    assert model.writer.begin(UNIT, Changelog("topic-1", 0, 9), NOW_MS) == 0


def test_many_people_are_looked_at_in_one_round_trip_each_with_the_age_of_their_unit(model: Model) -> None:
    for unit, ms in ((UNIT, 1), (OTHER, 2)):
        model.writer.begin(unit, LOG, NOW_MS)
        model.writer.apply(unit, "topic-1", 0, [(0, row("a"), str(ms).encode()), beat(1, NOW_MS + ms)], 2)
    model.life.client.config_resetstat()
    looks = model.reader.look([asked("a"), asked("a", OTHER), asked("b", OTHER)])
    assert [(look.beat_ms - NOW_MS, look.values) for look in looks] == [(1, (b"1",)), (2, (b"2",)), (2, (None,))]
    assert model.life.client.info("commandstats")["cmdstat_exec"]["calls"] == 1


def test_a_scan_gives_keys_in_order_past_a_page_and_no_others(model: Model) -> None:
    model.writer.begin(UNIT, LOG, NOW_MS)
    rows = {row(f"o{n:05}"): str(n).encode() for n in range(2_500)}
    changes: list[Change] = [(n, key, value) for n, (key, value) in enumerate(sorted(rows.items(), reverse=True))]
    model.writer.apply(UNIT, "topic-1", 0, [*changes, (2_500, row("p"), b"x"), (2_501, row("n"), b"x")], 2_502)
    assert list(model.reader.scan("subject", 0, b"so")) == sorted(rows.items())
    assert list(model.reader.scan("subject", 0, row("o00007"))) == [(row("o00007"), b"7")]
    assert beyond(b"sa\xff\xff") == b"sb"


def test_deployments_with_prefixes_do_not_meet(server: RedisServer, model: Model) -> None:
    other = Model(server, "other.")
    model.writer.begin(UNIT, LOG, NOW_MS)
    model.writer.apply(UNIT, "topic-1", 0, [(0, row("a"), b"1")], 1)
    other.writer.begin(UNIT, LOG, NOW_MS)
    assert other.rows() == {} and len(model.rows()) == 1
    other.life.close()


# When Redis is not what it was ------------------------------------------------------------------------------------------------


def ready(model: Model) -> None:
    """A copy that nothing speaks against."""
    model.writer.begin(UNIT, LOG, model.now_ms)
    model.writer.apply(UNIT, "topic-1", 0, [beat(0, model.now_ms + CLOCKS_APART_MS + 1)], 1)


def test_a_server_that_started_anew_is_trusted_only_after_a_later_beat() -> None:
    with RedisServer(persistent=True, appendfsync="always") as server:
        model = Model(server)
        ready(model)
        assert model.reader.look([asked("a")])[0].whole
        model.now_ms += 60_000
        server.restart()
        look = model.reader.look([asked("a")])[0]
        assert look.beat_ms > 0 and not look.whole
        model.writer.apply(UNIT, "topic-1", 1, [beat(1, model.now_ms + CLOCKS_APART_MS)], 2)
        assert not model.reader.look([asked("a")])[0].whole
        model.writer.apply(UNIT, "topic-1", 2, [beat(2, model.now_ms + CLOCKS_APART_MS + 1)], 3)
        assert model.reader.look([asked("a")])[0].whole
        model.life.close()


def test_a_flushed_server_is_trusted_only_after_a_later_beat(model: Model) -> None:
    ready(model)
    model.now_ms += 60_000
    model.life.client.flushall()
    model.writer.begin(UNIT, LOG, model.now_ms)
    model.writer.apply(UNIT, "topic-1", 0, [beat(0, model.now_ms)], 1)
    assert not model.reader.look([asked("a")])[0].whole
    model.writer.apply(UNIT, "topic-1", 1, [beat(1, model.now_ms + CLOCKS_APART_MS + 1)], 2)
    assert model.reader.look([asked("a")])[0].whole


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_server_that_does_not_answer_is_unreachable_soon(how: str) -> None:
    note = Note("a", "1", b"")
    with RedisServer() as server:
        model = Model(server, timeout_secs=0.2)
        ready(model)
        server.stop(keep=True) if how == "stop" else server.pause()
        for call in (
            lambda: model.reader.look([asked("a")]), model.reader.beats, lambda: model.reader.get("subject", 0, b"s"),
            lambda: list(model.reader.scan("subject", 0, b"s")), lambda: model.board.post([note]),
            lambda: model.board.settle([note], 1), lambda: model.board.take_back([note]),
            lambda: model.writer.begin(UNIT, LOG, NOW_MS), lambda: model.writer.apply(UNIT, "topic-1", 0, [], 1),
        ):  # fmt: skip
            with pytest.raises(Unreachable):
                call()
        model.life.close()
        if how == "pause":
            server.resume()


def test_a_server_that_may_evict_is_refused() -> None:
    with RedisServer(maxmemory="50mb", maxmemory_policy="allkeys-lru") as server:
        model = Model(server)
        with pytest.raises(Unreachable, match="noeviction"):
            model.reader.beats()
        model.life.close()


def test_a_password_comes_from_the_url_or_a_file_and_is_in_no_text(tmp_path: Path) -> None:
    with RedisServer(requirepass="opensesame") as server:
        open_ = RedisConnection(url=server.url)
        file = tmp_path / "password"
        file.write_text("opensesame\n")
        filed = RedisConnection(url=server.url.replace(":opensesame@", ""), password_file=file)
        for connection in (open_, filed):
            life = RedisLife(connection, lambda: NOW_MS)
            assert life.client.ping() and "opensesame" not in repr(connection)
            life.close()
        file.write_text("wrong")
        life = RedisLife(filed, lambda: NOW_MS)
        with pytest.raises(redis.AuthenticationError):
            life.client.ping()
        life.close()
        with pytest.raises(RedisImpossible, match="password_file"):
            RedisLife(RedisConnection(url=server.url, password_file=tmp_path / "none"), lambda: NOW_MS)
        with pytest.raises(RedisImpossible, match=r"redis\.url"):
            RedisLife(RedisConnection(url="http://opensesame"), lambda: NOW_MS)
