"""Every item goes once, when it is due and not before, through a year of restarts; what a hold keeps goes with its release."""

from __future__ import annotations

import calendar
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from engine.service import Limits, Service
from schemas.codec import decode
from schemas.topics import ErasureNotice
from tests.endtoend.world import Told, codes, envelope, latest, records, topic_of
from tests.harness import START_MS

pytestmark = pytest.mark.slow

SEED = 1234
ITEMS, NUMBERS = 10_000, 500
DAY_MS = 86_400_000
STEP_MS = 2 * DAY_MS
GRACE_MS = 30 * DAY_MS  # an import is never destroyed sooner
STEPS = 192  # over a year, and the grace before it
STEPS_PER_RESTART = 12
BATCH = 1_000
HELD_SHARE, ENDED_SHARE = 0.05, 0.05
FOREVER_MS = 1 << 62
AREAS = ("202", "212", "303", "404", "503")


class Due(NamedTuple):
    """One item: when its time is over, and until when a hold keeps it (0: no hold)."""

    due_ms: int
    held_until_ms: int = 0

    @property
    def goes_ms(self) -> int:
        return max(self.due_ms, self.held_until_ms)


def two_years_after(at_ms: int) -> int:
    """24 months later by the calendar: the same day and time, or the month's last day."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    day = min(at.day, calendar.monthrange(at.year + 2, at.month)[1])
    return at_ms + (
        datetime(at.year + 2, at.month, day, tzinfo=UTC) - datetime(at.year, at.month, at.day, tzinfo=UTC)
    ) // timedelta(milliseconds=1)


def story(rng: Random) -> tuple[list[Told], dict[str, Due], list[tuple[int, Told]]]:
    """What is published at the beginning, when each item is due, and the releases with their times."""
    told: list[Told] = []
    due: dict[str, Due] = {}
    releases: list[tuple[int, Told]] = []
    for n in range(ITEMS):
        name, who = f"c{n}", n % NUMBERS
        started = START_MS - 730 * DAY_MS + rng.randrange(GRACE_MS // 2, 380 * DAY_MS)
        party = {
            "party_id": "a",
            "role": "customer",
            "identifiers": [{"kind": "tel", "value": f"+1{AREAS[who // 100]}55501{who % 100:02d}"}],
        }
        data = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": [party]}
        told.append(Told("call.started", f"{name}/s", started, data))
        ended = started
        if rng.random() < ENDED_SHARE:
            ended += rng.randrange(20 * DAY_MS)
            told.append(Told("call.ended", f"{name}/e", ended, {"conversation_id": name}))
        over = max(two_years_after(ended), START_MS + GRACE_MS)
        held_until = 0
        if rng.random() < HELD_SHARE:
            hold = {"hold_id": f"h{n}", "ground": "lawsuit", "scope": {"conversation_ids": [name]}}
            held_until = rng.choice((FOREVER_MS, START_MS + rng.randrange(STEP_MS, STEPS * STEP_MS)))
            if held_until != FOREVER_MS and rng.random() < 0.3:
                hold["until"] = datetime.fromtimestamp(held_until // 1000, UTC).isoformat()
                held_until = held_until // 1000 * 1000
            elif held_until != FOREVER_MS:
                releases.append((held_until, Told("hold.released", f"h{n}/r", held_until, {"hold_id": f"h{n}"})))
            told.append(Told("hold.placed", f"h{n}/p", START_MS, hold))
        due[name] = Due(over, held_until)
    return told, due, releases


class Year:
    """A stopped service that is opened again and again, under a clock of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_ms = folder, START_MS
        self.heard: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms, limits=Limits(raw_retention_secs=3_600))

    def restart(self) -> None:
        self.service.maintain()
        self.service.stop()
        self.open()

    def publish(self, events: list[Told]) -> None:
        for at in range(0, len(events), BATCH):
            batch = [
                (topic_of(e.type), e.data.get("conversation_id", e.id), envelope(e, self.now_ms)) for e in events[at : at + BATCH]
            ]
            self.service.publish(batch)
        self.service.settle()

    def destroyed(self) -> list[str]:
        """The conversations in the notices since the last call."""
        found: list[str] = []
        for partition, record in self.service.topic("erasure.notices", after=self.heard):
            notice = decode(record.value or b"")
            assert isinstance(notice, ErasureNotice)
            assert notice.cause == "retention"
            found += notice.items
            self.heard[partition] = record.offset + 1
        return found


def test_each_item_is_destroyed_once_when_due_and_never_under_hold(tmp_path: Path) -> None:
    rng = Random(SEED)
    print(f"seed {SEED}")
    began = time.perf_counter()
    told, due, releases = story(rng)
    held = [d for d in due.values() if d.held_until_ms]
    year = Year(tmp_path / "data")
    year.publish(told)
    year.now_ms += 60_000
    year.service.settle()
    assert codes(year.service) == []
    assert len(latest(year.service, "conversations.protected")) == ITEMS
    print(f"{time.perf_counter() - began:5.1f} s: {ITEMS} items, {len(held)} held, {len(releases)} releases by event")

    gone: Counter[str] = Counter()
    for step in range(STEPS):
        before, year.now_ms = year.now_ms, START_MS + (step + 1) * STEP_MS
        if step % STEPS_PER_RESTART == STEPS_PER_RESTART - 1:
            year.restart()
        year.publish([told for at, told in releases if before < at <= year.now_ms])
        found = year.destroyed()
        expected = {name for name, d in due.items() if before < d.goes_ms <= year.now_ms}
        assert sorted(set(found) - expected) == [], "destroyed early, under hold, or again"
        assert sorted(expected - set(found)) == [], "due, and still there"
        gone.update(found)
    print(f"{time.perf_counter() - began:5.1f} s: {len(gone)} destroyed in {STEPS} steps of {STEP_MS // DAY_MS} days")

    assert set(gone.values()) == {1}
    kept = {name for name, d in due.items() if d.goes_ms > year.now_ms}
    assert set(gone) == set(due) - kept
    assert len(kept) > 50, "some holds were never released"
    left = {row.conversation_id: row.held for row in latest(year.service, "conversations.protected").values()}
    assert left == {name: due[name].held_until_ms > year.now_ms for name in kept}
    audited = Counter(decode(record.value or b"").kind for _, record in records(year.service, "audit.entries"))  # type: ignore[attr-defined]
    assert audited["item.destroyed"] == len(gone) == audited["key.shredded"]
    year.service.stop()
