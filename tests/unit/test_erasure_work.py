"""However much a person has left behind, an erasure does it in steps, and a turn takes only so many of them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engine.loop import ALARM_LATE_MS, ALARM_WORK_MIN, ALARM_WORK_TIMES_MAX
from processors.kernel import EFFECTS_PER_STEP_MAX
from tests.harness import Deployment, call, party
from tests.parts.steps import watched_steps

PEOPLE = tuple(tuple(f"customer-{n}-{k}" for k in range(5)) for n in range(4))  # each with five linked identifiers
CONVERSATIONS, LINES = 200, 10


class Watched:
    """What each step yields, and what each turn of alarms writes."""

    def __init__(self, world: Deployment, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.turns: list[int] = []  # beyond what records made it write since the last one
        self.records = 0
        commit = world.loop._commit

        def committing(touched: Any, positions: Any, now_ms: int) -> None:
            work = sum(partition.work for partition in touched.values())
            if positions:
                self.records += work
            elif touched:
                self.turns.append(work - self.records)
                self.records = 0
            commit(touched, positions, now_ms)

        patch.setattr(world.loop, "_commit", committing)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = Deployment(tmp_path)
    everybody = [who for person in PEOPLE for who in person]
    for n in range(CONVERSATIONS):
        name, who = f"c{n}", everybody[n % len(everybody)]
        ann = party("a", "customer", ("crm", who), name="Ann Example")
        made.publish("call.started", call(name, ann, party("g", "agent", ("employee", "gus"))), settle=False)
        segments = [{"party_id": "a", "text": f"line {k}"} for k in range(LINES)]
        made.publish("call.transcribed", {"conversation_id": name, "segments": segments}, settle=False)
    for a, b in (ends for person in PEOPLE for ends in pairwise(person)):
        ends = {end: {"kind": "crm", "value": value} for end, value in (("a", a), ("b", b))}
        made.publish("identity.linked", {**ends, "source": "crm"}, settle=False)
    made.settle(60_000)
    yield made
    made.close()


def test_erasures_at_once_are_done_in_small_steps_and_small_turns(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(world.latest("conversations.protected")) == 2 * CONVERSATIONS
    watched = Watched(world, monkeypatch)
    with watched_steps(watched.steps.append):
        for n, person in enumerate(PEOPLE):
            named = [{"kind": "crm", "value": person[0]}]
            asked = {"request_id": f"r{n}", "right": "erasure", "regime": "gdpr", "received_via": "web", "identifiers": named}
            world.publish("request.opened", asked, settle=False)
            world.publish("request.identity_verified", {"request_id": f"r{n}"}, settle=False)
        world.settle(60_000)
    assert {request.state for request in world.latest("requests.state").values()} == {"fulfilled"}
    assert len(world.latest("conversations.protected")) == CONVERSATIONS, "the agent's participation stays"
    assert len(watched.steps) > CONVERSATIONS, "it was watched"
    assert max(watched.steps) <= EFFECTS_PER_STEP_MAX
    # A step writes each effect's key and what it emits, and an entry of the audit log for some.
    assert max(watched.turns) <= ALARM_WORK_MIN + 2 * EFFECTS_PER_STEP_MAX


def test_alarms_ring_beside_a_stream_that_never_ends(world: Deployment) -> None:
    for n in range(CONVERSATIONS):
        world.publish("call.ended", {"conversation_id": f"c{n}"}, settle=False)
        world.now_ms += 1_000
        world.loop.turn()  # it never finds nothing
    assert sum(view.ended_ms is not None for view in world.latest("conversations.protected").values()) > CONVERSATIONS


def test_alarms_that_one_turn_has_no_room_for_ring_in_the_next_ones(world: Deployment) -> None:
    for n in range(CONVERSATIONS):
        world.publish("call.ended", {"conversation_id": f"c{n}"}, settle=False)
    while world.loop._records():
        pass
    world.now_ms += 60_000  # two views of each conversation are due to be published
    world.loop._record_work = 0  # and nothing has come for a while
    turns = 0
    while world.loop._alarms():
        turns += 1
        left = [p for p in world.loop._owned() if (p.effects.alarms_due_ms or world.now_ms + 1) <= world.now_ms]
        assert world.loop.crowded == bool(left)
    assert turns > 2
    assert {view.ended_ms is not None for view in world.latest("conversations.protected").values()} == {True}


def test_alarms_that_are_late_may_write_more_in_a_turn(world: Deployment) -> None:
    for n in range(CONVERSATIONS):
        world.publish("call.ended", {"conversation_id": f"c{n}"}, settle=False)
    while world.loop._records():
        pass
    world.now_ms += 2_000
    world.loop._record_work = 0
    punctual = world.loop._alarms()
    assert world.loop.crowded, "there is more to do than a turn has room for"
    world.now_ms += 10 * ALARM_LATE_MS
    late = world.loop._alarms()
    assert punctual < late <= ALARM_WORK_TIMES_MAX * (punctual + 1)
