"""The clerk and the follower by themselves: one answer for each order, none too early, none lost in a restart."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.media import Clerk, Evidence, Follower, ShelfAway, Shelves
from connectors.media.clerk import GIVE_UP_SECS, GIVE_UP_TRIES, TOPIC
from engine.runtime import CommitLost, LogRecord
from engine.sealing import TokenMalformed
from schemas.codec import decode_as, encode
from schemas.events import ErasureAcknowledged
from schemas.routed import Envelope
from schemas.topics import MediaOrder

NOW_MS = 1_772_000_000_000
ADDRESS = "s3://recordings/call-1.wav"
HELD = Evidence(outcome="held", code="object-lock", shelf="s3", left=2, until_ms=NOW_MS)


def order(number: int = 1, uri: bytes | None = b"sealed") -> MediaOrder:
    return MediaOrder(
        order_id=f"med_{number}.0", controller="acme", conversation_id="call-1", recording_id=f"rec-{number}", cause="request",
        acknowledge_by_ms=NOW_MS, uri=uri,
    )  # fmt: skip


class Place:
    """A shelf that does what the test says; `asked` are the addresses."""

    def __init__(self, *outcomes: Evidence | Exception) -> None:
        self.outcomes, self.asked = list(outcomes), list[str]()

    def takes(self, uri: str) -> bool:
        return True

    def delete(self, uri: str) -> Evidence:
        self.asked.append(uri)
        outcome = self.outcomes.pop(0) if self.outcomes else Evidence(outcome="done", code="deleted", shelf="folder", removed=1)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Desk:
    """A clerk with its surroundings. `secs` is the test's to move."""

    def __init__(self, place: Place, opened: Callable[[bytes], bytes | None] = lambda _: ADDRESS.encode()) -> None:
        self.secs = 0.0
        self.published: list[tuple[str, str, Envelope]] = []
        self.refusals = 0
        shelves, source = Shelves([place]), "consentinel/test/media"
        self.clerk = Clerk(shelves, opened, self.publish, source, lambda: NOW_MS, passed=lambda: self.secs)

    def publish(self, topic: str, key: str, event: Envelope) -> None:
        if self.refusals:
            self.refusals -= 1
            raise CommitLost("the log is full")
        self.published.append((topic, key, event))

    @property
    def answers(self) -> list[ErasureAcknowledged]:
        return [decode_as(ErasureAcknowledged, event.data) for _, _, event in self.published]


def test_an_answer_names_the_order_and_holds_codes_counts_and_times_only() -> None:
    desk = Desk(Place(HELD))
    desk.clerk.carry_out("key-1", order())
    [(topic, _, event)], [answer] = desk.published, desk.answers
    assert (topic, event.type, event.id, event.actor, event.controller) == (
        "controls", "erasure.acknowledged", "key-1", "media", "acme")  # fmt: skip
    assert (answer.order_id, answer.target, answer.outcome, answer.ground) == ("med_1.0", "media", "held", "object-lock")
    assert json.loads(answer.evidence or "") == {
        "code": "object-lock", "shelf": "s3", "left": 2, "until": "2026-02-25T06:13:20.000Z", "tries": 1,
        "at": "2026-02-25T06:13:20.000Z",
    }  # fmt: skip
    assert b"recordings" not in encode(event)


def test_trouble_that_may_pass_is_no_failure_before_many_tries_and_a_long_time(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(Place(*[ShelfAway("network")] * 100))
    for _ in range(2 * GIVE_UP_TRIES):
        with pytest.raises(ShelfAway):
            desk.clerk.carry_out("key-1", order())
    desk.secs = GIVE_UP_SECS + 1
    with pytest.raises(ShelfAway):  # another order has its own time
        desk.clerk.carry_out("key-2", order(2))
    assert not desk.published
    desk.clerk.carry_out("key-1", order())
    [answer] = desk.answers
    assert (answer.order_id, answer.outcome, answer.ground) == ("med_1.0", "failed", None)
    assert json.loads(answer.evidence or "")["code"] == "unreachable"
    assert ADDRESS not in caplog.text


def test_a_deed_is_not_done_again_because_the_log_did_not_take_the_answer() -> None:
    place = Place()
    desk = Desk(place)
    desk.refusals = 1
    with pytest.raises(CommitLost):
        desk.clerk.carry_out("key-1", order())
    desk.clerk.carry_out("key-1", order())
    assert place.asked == [ADDRESS]
    assert [json.loads(a.evidence or "")["code"] for a in desk.answers] == ["deleted"]


def test_an_address_whose_key_is_gone_gets_no_answer_and_one_that_was_never_said_fails() -> None:
    desk = Desk(Place(), opened=lambda _: None)
    desk.clerk.carry_out("key-1", order())
    assert (desk.published, desk.clerk.expired) == ([], 1)
    desk.clerk.carry_out("key-2", order(2, uri=None))
    assert [(a.outcome, json.loads(a.evidence or "")["code"]) for a in desk.answers] == [("failed", "no-address")]


def test_an_address_that_was_tampered_with_fails() -> None:
    def refuses(_: bytes) -> bytes:
        raise TokenMalformed("not a token")

    desk = Desk(Place(), opened=refuses)
    desk.clerk.carry_out("key-1", order())
    assert [json.loads(a.evidence or "")["code"] for a in desk.answers] == ["unreadable"]


class Orders:
    """A topic of two partitions."""

    def __init__(self, *partitions: list[bytes]) -> None:
        self.partitions = partitions

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        assert topic == TOPIC
        values = list(enumerate(self.partitions[partition]))[offset : offset + records_max]
        return [LogRecord(n, NOW_MS, b"rec", value) for n, value in values]

    def end(self, partition: int) -> int:
        return len(self.partitions[partition])


def follower(orders: Orders, desk: Desk, folder: Path) -> Follower:
    return Follower(orders, 2, orders.end, desk.clerk, folder, passed=lambda: desk.secs)


def test_orders_pass_one_that_must_wait_and_a_restart_begins_before_it(tmp_path: Path) -> None:
    orders = Orders([encode(order(n)) for n in range(3)], [b"no order", encode(order(7))])
    desk = Desk(Place(Evidence(outcome="done", code="deleted"), ShelfAway("busy")))
    first = follower(orders, desk, tmp_path)
    assert first.turn() == 4 and first.turn() == 0
    assert [a.order_id for a in desk.answers] == ["med_0.0", "med_2.0", "med_7.0"]
    assert json.loads((tmp_path / "media.json").read_bytes()) == {"positions": {"0": 1, "1": 2}}

    again = Desk(Place())
    follower(orders, again, tmp_path).turn()
    assert [a.order_id for a in again.answers] == ["med_1.0", "med_2.0"]
    assert again.published[1][2].id == desk.published[1][2].id, "an answer that comes twice has one id"
    desk.secs = 60.0
    assert first.turn() == 1
    assert json.loads((tmp_path / "media.json").read_bytes()) == {"positions": {"0": 3, "1": 2}}


@pytest.mark.parametrize("stored", ['{"positions": {"0": 900}}', "not json", '{"positions": 3}', '{"positions": {"0": -4}}'])
def test_a_position_that_cannot_be_believed_begins_anew(tmp_path: Path, stored: str) -> None:
    (tmp_path / "media.json").write_text(stored)
    desk = Desk(Place())
    follower(Orders([encode(order())], []), desk, tmp_path).turn()
    assert [a.order_id for a in desk.answers] == ["med_1.0"]
