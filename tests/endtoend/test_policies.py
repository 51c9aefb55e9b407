"""Policies that come, change and end over two years of restarts: each item goes once, when a slower reckoning says so."""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from engine.reviewing import LOOK_MS
from engine.service import Limits, Service
from schemas.codec import decode
from schemas.topics import ErasureNotice
from tests.endtoend.world import Told, codes, envelope, latest, topic_of
from tests.harness import START_MS

SEED = 2026
ITEMS, NUMBERS = 240, 40
DAY_MS = 86_400_000
STEP_MS, STEPS, STEPS_PER_RESTART = 6 * DAY_MS, 120, 17
DEFAULT_MONTHS, GRACE_MS = 24, 30 * DAY_MS


class Rule(NamedTuple):
    """A policy as it was set. Months; `floor`: it names a duty."""

    policy_id: str
    set_day: int
    from_day: int
    months: int
    channel: str | None = None
    purpose: str | None = None
    floor: bool = False
    until_day: int | None = None


RULES = (
    Rule("voice", 30, 60, 12, channel="voice"),
    Rule("voice", 200, 210, 6, channel="voice"),
    Rule("voice", 420, 430, 60, channel="voice"),
    Rule("tax", 90, 100, 30, purpose="billing", floor=True),
    Rule("chat", 150, 150, 3, channel="chat", until_day=300),
    Rule("all", 500, 620, 20),
)


class Kept(NamedTuple):
    started_ms: int
    channel: str
    purpose: str | None


def later(at_ms: int, months: int) -> datetime:
    """The same day and time so many months later, or the month's last day."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
    month = at.month - 1 + months
    year, month = at.year + month // 12, month % 12 + 1
    return at.replace(year=year, month=month, day=min(at.day, calendar.monthrange(year, month)[1]))


def wants(item: Kept, day: float) -> tuple[int, int]:
    """By the rules of that day: when the item must go, and until when it must stay (0: need not)."""
    begun = [r for r in RULES if r.from_day <= day and r.set_day <= day]
    newest = {r.policy_id: r for r in sorted(begun, key=lambda r: r.from_day)}
    there = [r for r in newest.values() if r.until_day is None or day < r.until_day]
    mine = [r for r in there if r.channel in (None, item.channel) and r.purpose in (None, item.purpose)]
    months = min((r.months for r in mine if not r.floor), default=DEFAULT_MONTHS)
    must_go = max(later(item.started_ms, months), datetime.fromtimestamp((START_MS + GRACE_MS) / 1000, UTC))
    must_stay = 0
    for rule in (r for r in mine if r.floor):
        last_day = later(item.started_ms, rule.months).replace(hour=0, minute=0, second=0, microsecond=0)
        must_stay = max(must_stay, round((last_day + timedelta(days=1, hours=12)).timestamp() * 1000))
    return round(must_go.timestamp() * 1000), must_stay


def changes() -> set[int]:
    """The days on which a rule begins or ends."""
    return {r.from_day for r in RULES} | {r.until_day for r in RULES if r.until_day is not None}


def goes_ms(item: Kept) -> int:
    """When the item goes: the first moment at which the rules of that moment let it."""
    days = sorted({0, *changes()})
    for begin, end in zip(days, [*days[1:], 100_000], strict=True):
        at_ms = max(*wants(item, begin), START_MS + begin * DAY_MS)
        if at_ms < START_MS + end * DAY_MS:
            return at_ms
    raise AssertionError("the last rules hold for ever")


def moment(day: int) -> str:
    return datetime.fromtimestamp(START_MS / 1000 + day * 86_400, UTC).isoformat()


def policy_of(rule: Rule) -> dict[str, Any]:
    selector = {k: v for k, v in (("channel", rule.channel), ("purpose", rule.purpose)) if v}
    data: dict[str, Any] = {"policy_id": rule.policy_id, "selector": selector, "keep_for": f"P{rule.months}M"}
    data |= {"from": moment(rule.from_day)} | ({"ground": "tax_law"} if rule.floor else {})
    return data | ({"until": moment(rule.until_day)} if rule.until_day is not None else {})


def items() -> Iterator[tuple[str, Kept]]:
    rng = Random(SEED)
    for n in range(ITEMS):
        started = START_MS - rng.randrange(GRACE_MS, 700 * DAY_MS)
        yield f"c{n}", Kept(started, rng.choice(("voice", "chat", "email")), rng.choice(("billing", None, None)))


class World:
    """A service that is stopped and opened again, under a clock of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_ms = folder, START_MS
        self.heard: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms, limits=Limits(raw_retention_secs=3_600))

    def publish(self, *told: Told) -> None:
        self.service.publish([(topic_of(t.type), t.data.get("conversation_id", t.id), envelope(t, self.now_ms)) for t in told])

    def settle(self) -> None:
        """Fold what came, and let a change be noticed."""
        self.service.settle()
        self.now_ms += LOOK_MS
        self.service.settle()

    def destroyed(self) -> list[str]:
        found: list[str] = []
        for partition, record in self.service.topic("erasure.notices", after=self.heard):
            notice = decode(record.value or b"")
            assert isinstance(notice, ErasureNotice) and notice.cause == "retention"
            found += notice.items
            self.heard[partition] = record.offset + 1
        return found


def test_each_item_goes_once_when_the_policies_of_that_time_say_so(tmp_path: Path) -> None:
    kept = dict(items())
    world = World(tmp_path / "data")
    for n, (name, item) in enumerate(kept.items()):
        party = {"party_id": "a", "role": "customer", "identifiers": [{"kind": "crm", "value": f"C-{n % NUMBERS}"}]}
        data = {"conversation_id": name, "channel": item.channel, "direction": "inbound", "parties": [party]}
        purposes = {"purposes": [item.purpose]} if item.purpose else {}
        world.publish(Told("call.started", f"{name}/s", item.started_ms, data | purposes))
    world.settle()
    due = {name: goes_ms(item) for name, item in kept.items()}
    gone: Counter[str] = Counter()
    before = world.now_ms
    # What is due before a rule changes is rung before: the clock of a service that runs does not jump over it.
    stops = {*((n + 1) * STEP_MS for n in range(STEPS)), *(day * DAY_MS - 2 * LOOK_MS for day in changes())}
    for step, stop_ms in enumerate(sorted(stops)):
        begin, world.now_ms = world.now_ms, START_MS + stop_ms
        for n, rule in enumerate(RULES):
            set_ms = START_MS + rule.set_day * DAY_MS
            if begin < set_ms <= world.now_ms:
                world.publish(Told("retention.policy_set", f"p{n}", set_ms, policy_of(rule)))
        if step % STEPS_PER_RESTART == STEPS_PER_RESTART - 1:
            world.service.stop()
            world.open()
        world.settle()
        found = world.destroyed()
        expected = {name for name, at_ms in due.items() if before < at_ms <= world.now_ms}
        assert sorted(set(found) - expected) == [], "destroyed early, or again"
        assert sorted(expected - set(found)) == [], "due, and still there"
        gone.update(found)
        before = world.now_ms
    assert set(gone.values()) == {1} and len(gone) > ITEMS * 0.8
    assert codes(world.service) == []
    left = {row.conversation_id: row for row in latest(world.service, "conversations.protected").values()}
    assert set(left) == set(kept) - set(gone)
    day = (world.now_ms - START_MS) / DAY_MS
    for name, row in left.items():
        must_go, must_stay = wants(kept[name], day)
        assert (row.erase_by_ms, row.keep_until_ms) == (must_go, must_stay if must_stay > world.now_ms else None)
        assert row.restricted == (must_go <= world.now_ms < must_stay)
    assert any(row.restricted for row in left.values()), "some are kept by the duty alone"
    world.service.stop()
