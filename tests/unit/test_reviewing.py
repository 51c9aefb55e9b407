"""A change of policies is noticed by every dossier whose due times rest on it, in small parts, across restarts."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import reviewing
from engine.loop import TaskLoop, plans
from engine.partition import Partition
from engine.runtime import CommitLost
from law.book import Library, shipped
from law.rows import Period
from processors import enforce_retention
from processors.kernel import EFFECTS_PER_STEP_MAX
from processors.registry import processors
from processors.terms import DAY_MS
from processors.windows import law_stamp
from tests.harness import START_MS, Deployment, call, party
from tests.parts.steps import watched_steps

PEOPLE, CALLS_EACH = 60, 3
MONTHS_7_MS = 214 * DAY_MS


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    for n in range(PEOPLE):
        for k in range(CALLS_EACH):
            ann = party("a", "customer", ("crm", f"customer-{n}"))
            channel = "voice" if k else "chat"
            made.publish("call.started", call(f"c{n}-{k}", ann, channel=channel), settle=False,
                         controller="acme" if n % 2 else "other")  # fmt: skip
    made.settle(60_000)
    yield made
    made.close()


def set_policy(world: Deployment, keep_for: str, since: str = "2026-01-01T00:00:00Z", **more: Any) -> None:
    policy = {"policy_id": "voice", "selector": {"channel": "voice"}, "keep_for": keep_for, "from": since, **more}
    world.publish("retention.policy_set", policy, settle=False)


def noticed(world: Deployment) -> None:
    """Let a change be folded, looked at and published: the virtual clock stands still while there is work."""
    for _ in range(3):
        world.settle(reviewing.LOOK_MS)


def views(world: Deployment, controller: str, channel: str = "voice") -> list[Any]:
    every = world.latest("conversations.protected").values()
    return [v for v in every if v.controller == controller and v.channel == channel]


def restart(world: Deployment) -> None:
    """A new process on the same log and state."""
    world.loop = TaskLoop(world.runtime, plans(world.topology, processors()), world.shared, lambda: world.now_ms)
    world.shared.settings.clear()


def test_an_earlier_due_time_is_noticed_and_nothing_else_moves(world: Deployment) -> None:
    set_policy(world, "P6M")
    noticed(world)
    assert {v.erase_by_ms for v in views(world, "acme", "chat")} == {v.erase_by_ms for v in views(world, "other")}
    due = {v.erase_by_ms for v in views(world, "acme")}
    assert due and max(due) < START_MS + MONTHS_7_MS < min(v.erase_by_ms for v in views(world, "other"))
    world.settle(MONTHS_7_MS)
    assert not views(world, "acme")
    assert len(views(world, "acme", "chat")) == PEOPLE // 2 and len(views(world, "other")) == (CALLS_EACH - 1) * PEOPLE // 2
    gone = [e for e in world.audit("item.destroyed") if e.facts["rule"] == "policy"]
    assert len(gone) == (CALLS_EACH - 1) * PEOPLE // 2, "each once"


def test_a_later_one_too_and_none_goes_in_its_former_time(world: Deployment) -> None:
    set_policy(world, "P6M")
    noticed(world)
    set_policy(world, "P5Y")
    noticed(world)
    world.settle(MONTHS_7_MS)
    assert len(views(world, "acme")) == (CALLS_EACH - 1) * PEOPLE // 2
    assert not world.audit("item.destroyed")


def test_a_policy_of_the_future_is_noticed_when_it_comes_into_force(world: Deployment) -> None:
    set_policy(world, "P2M", since="2026-12-01T00:00:00Z")
    noticed(world)
    assert min(v.erase_by_ms for v in views(world, "acme")) > START_MS + 365 * DAY_MS
    world.settle(DAY_MS * 300)  # past the first of December
    noticed(world)
    assert not views(world, "acme")


def test_it_is_done_in_small_parts_and_goes_on_after_a_restart(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewing, "OWNERS_PER_STEP", 3)
    monkeypatch.setattr(reviewing, "OWNERS_BESIDE_ALARMS", 3)
    reviewed: list[str] = []
    review = Partition.review

    def watched(self: Partition, owner: str, *more: Any) -> None:
        reviewed.append(owner)
        review(self, owner, *more)

    monkeypatch.setattr(Partition, "review", watched)
    set_policy(world, "P6M")
    world.settle(1_000)
    world.now_ms += reviewing.LOOK_MS
    for _ in range(2):
        world.loop.turn()
    under_way = len(reviewed)
    assert 0 < under_way < PEOPLE // 2
    restart(world)
    world.loop.turn()
    assert len(reviewed) - under_way <= 3 * world.topology.tasks["subject"].partitions, "a turn's part of each partition"
    noticed(world)
    assert sorted(reviewed) == sorted(set(reviewed)), "it goes on where it stood: nobody is looked at twice"
    assert len(reviewed) == PEOPLE // 2, "and nobody of another controller"
    restart(world)
    noticed(world)
    assert len(reviewed) == PEOPLE // 2, "without a change nobody is looked at"
    world.settle(MONTHS_7_MS)
    assert not views(world, "acme")


def test_a_commit_that_is_lost_is_made_again(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, lost = world.runtime.commit, 3

    def losing(what: Any) -> None:
        nonlocal lost
        if lost and any(key.startswith(b"v") for writes in what.writes.values() for key in writes):
            lost -= 1
            raise CommitLost("a test")
        commit(what)

    monkeypatch.setattr(world.runtime, "commit", losing)
    set_policy(world, "P6M")
    noticed(world)
    assert not lost and max(v.erase_by_ms for v in views(world, "acme")) < START_MS + MONTHS_7_MS


def test_a_person_with_many_items_is_looked_at_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforce_retention, "ITEMS_PER_REPLAN", 10)
    world = Deployment(tmp_path)
    for n in range(45):
        world.publish("call.started", call(f"c{n:03}", party("a", "customer", ("crm", "one"))), settle=False)
    world.settle(60_000)
    steps: list[int] = []
    with watched_steps(steps.append):
        set_policy(world, "P6M")
        noticed(world)
    assert max(steps) <= 11 < EFFECTS_PER_STEP_MAX, "ten items woken, and the next step"
    world.settle(MONTHS_7_MS)
    assert not world.latest("conversations.protected")
    world.close()


def test_an_earlier_time_is_noticed_within_a_look_and_a_turn_for_each_part(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(reviewing, "OWNERS_PER_STEP", 3)
    monkeypatch.setattr(reviewing, "OWNERS_BESIDE_ALARMS", 3)
    set_policy(world, "P1D")  # everything is due, but for the grace of 30 days
    world.settle(1_000)
    world.now_ms += reviewing.LOOK_MS
    monkeypatch.setattr(Partition, "ring", lambda *_: None)  # alarms wait, as if there was no end of them
    for _ in range(-(-PEOPLE // 3)):
        world.loop.turn()
    assert world.loop.reviews.seen_ms == world.now_ms


def test_a_duty_that_comes_while_an_item_is_held_past_its_time_keeps_it_from_the_erasure_that_waits(tmp_path: Path) -> None:
    world, who = Deployment(tmp_path), [{"kind": "crm", "value": "one"}]
    world.publish("call.started", call("c", party("a", "customer", ("crm", "one"))) | {"purposes": ["billing"]})
    world.publish("hold.placed", {"hold_id": "h", "scope": {"identifiers": who}, "ground": "litigation", "actor": "x"})
    world.settle(800 * DAY_MS)  # its time is over, and nothing is due
    asked = {"request_id": "q", "right": "erasure", "regime": "gdpr", "identifiers": who, "received_via": "web"}
    world.publish("request.opened", asked)
    world.publish("request.identity_verified", {"request_id": "q", "actor": "x"})
    duty = {"policy_id": "tax", "selector": {"purpose": "billing"}, "keep_for": "P6Y", "ground": "tax_law"}
    world.publish("retention.policy_set", duty | {"from": "2026-01-01T00:00:00Z"})
    noticed(world)
    world.publish("hold.released", {"hold_id": "h", "actor": "x"})
    world.settle(DAY_MS)
    (there,) = world.latest("conversations.protected").values()
    assert there.restricted and there.kept_for == ("billing",) and not there.held
    world.settle(5 * 366 * DAY_MS)
    assert not world.latest("conversations.protected"), "and its end lets it go"
    world.close()


def test_a_law_pack_that_is_activated_is_noticed_as_well(world: Deployment) -> None:
    world.publish("controller.configured", {"default_region": "FR", "employee_basis": "art6_1_b"})
    start = call("q", party("a", "customer", ("crm", "quality"))) | {"purposes": ["quality"]}
    world.publish("call.started", start)
    world.publish("call.recording_started", {"conversation_id": "q", "recording_id": "r", "confirmed": True})
    (pack,) = (p for p in world.shared.library.packs() if p.pack == "eu_telephony")
    rows = tuple(
        msgspec.structs.replace(row, period=Period(amount=3, unit="months")) if row.rule == "cnil.quality.ceiling" else row
        for row in pack.rows
    )
    packs = [*world.shared.library.packs(), msgspec.structs.replace(pack, version="2000.1", rows=rows, vectors=())]
    world.shared.library = Library(packs)
    noticed(world)
    world.publish("law.activated", {"pack": "eu_telephony", "version": "2000.1"})
    noticed(world)
    world.settle(95 * DAY_MS)
    (due,) = world.audit("item.recordings_due")
    assert (due.facts["rule"], due.facts["pack"]) == ("cnil.quality.ceiling", "eu_telephony@2000.1")


def test_an_erasure_that_a_tag_keeps_waiting_goes_on_when_another_law_keeps_nothing_for_the_tag(tmp_path: Path) -> None:
    world, who = Deployment(tmp_path), [{"kind": "crm", "value": "one"}]
    world.publish("call.started", call("c", party("a", "customer", ("crm", "one"))))
    world.publish("call.tagged", {"conversation_id": "c", "tag": "gdpr:6(1)(e)"})
    asked = {"request_id": "q", "right": "erasure", "regime": "gdpr", "identifiers": who, "received_via": "web"}
    world.publish("request.opened", asked)
    world.publish("request.identity_verified", {"request_id": "q", "actor": "x"})
    (pack,) = (p for p in world.shared.library.packs() if p.pack == "gdpr")
    rows = tuple(msgspec.structs.replace(r, words=("none",)) if r.rule == "gdpr.mark.art6_1_e" else r for r in pack.rows)
    packs = [*world.shared.library.packs(), msgspec.structs.replace(pack, version="2000.1", rows=rows, vectors=())]
    world.shared.library = Library(packs)
    noticed(world)
    assert world.latest("conversations.protected")
    world.publish("law.activated", {"pack": "gdpr", "version": "2000.1"})
    noticed(world)
    assert not world.latest("conversations.protected")
    assert world.latest("requests.state")["q"].state == "fulfilled"
    world.close()


def test_a_row_of_law_that_begins_or_ends_changes_what_due_times_rest_on() -> None:
    book = shipped()
    days = {law_stamp(book, round(datetime(*day, tzinfo=UTC).timestamp() * 1000)) for day in ((2024, 5, 15), (2024, 5, 16))}
    assert len(days) == 2, "the TSR's two years became five that day (16 CFR 310.5)"
    assert len({law_stamp(book, START_MS + n * DAY_MS) for n in range(30)}) == 1
