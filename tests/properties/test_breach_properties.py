"""Whatever order an incident's events arrive in, its clock ends in the same place, and it never runs unheard."""

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from processors.run_breach import Incident, RunBreach
from tests.drivers import Driver

HOUR_MS = 3_600_000
END_MS = 400 * HOUR_MS


def moment(hours: int) -> str:
    return f"1970-01-{1 + hours // 24:02d}T{hours % 24:02d}:00:00Z"


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    hours = draw(st.integers(1, 120))
    data: dict[str, Any] = {
        "incident_id": "i1",
        "detected_at": moment(draw(st.integers(0, 4))),
        "role": draw(st.sampled_from(["controller", "controller", "processor"])),
        "categories": ["contact"],
        "risk": draw(st.sampled_from(["unlikely", "risk", "high"])),
        "recipient": draw(st.sampled_from([None, "authority", "controller", "subjects"])),
    }
    if draw(st.booleans()):
        data["aware_at"] = moment(draw(st.integers(0, 48)))
    if draw(st.booleans()):
        data["scope"] = {"conversation_ids": [f"k{n}" for n in range(draw(st.integers(1, 3)))]}
    kinds = ["breach.reported", "breach.assessed", "breach.assessed", "breach.notified", "breach.closed"]
    return {"kind": draw(st.sampled_from(kinds)), "at": hours * HOUR_MS, "data": data}


def deliver(events: list[dict[str, Any]]) -> Driver:
    """All were received at the end of the fifth day: only the order differs."""
    driver = Driver(RunBreach())
    for event in events:
        driver.send("i", event["kind"], event["data"], at=event["at"], received=121 * HOUR_MS, id=event["id"])
    driver.advance(END_MS)
    return driver


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    events = draw(st.lists(statements(), min_size=1, max_size=8))
    return [{**event, "id": f"e{n}"} for n, event in enumerate(events)]


@settings(max_examples=150, deadline=None)
@given(histories(), st.data())
def test_order_and_copies_do_not_matter(history: list[dict[str, Any]], data: st.DataObject) -> None:
    copies = data.draw(st.lists(st.sampled_from(history), max_size=4))
    one = deliver(history)
    other = deliver(data.draw(st.permutations([*history, *copies])))
    told, told_other = one.log[-1], other.log[-1]
    assert told == told_other or told.value.level == told_other.value.level  # type: ignore[union-attr]
    mine, theirs = one.get("i", Incident), other.get("i", Incident)
    facts = [f for f in Incident.__struct_fields__ if f not in ("events", "clock_ms")]
    assert [getattr(mine, f) for f in facts] == [getattr(theirs, f) for f in facts]
    assert sorted(mine.events) == sorted(theirs.events)
    assert set(mine.notified) <= {"authority", "controller"}, "a recipient's name rests nowhere"


@settings(max_examples=150, deadline=None)
@given(histories())
def test_at_the_end_it_is_stopped_for_a_reason_or_overdue(history: list[dict[str, Any]]) -> None:
    driver = Driver(RunBreach())
    for event in sorted(history, key=lambda e: e["at"]):
        driver.advance(event["at"])
        driver.send("i", event["kind"], event["data"], at=event["at"], id=event["id"])
    driver.advance(END_MS)
    last = driver.log[-1].value
    told = {(e["data"]["recipient"]) for e in history if e["kind"] == "breach.notified"}
    assert not driver.alarms
    assert last.level in ("stopped", "overdue")  # type: ignore[union-attr]
    if last.level == "overdue":  # type: ignore[union-attr]
        assert ("authority" if last.clock == "gdpr.art33.authority" else "controller") not in told  # type: ignore[union-attr]
    levels = [(t.value.clock, t.value.level, t.value.due_ms) for t in driver.log]  # type: ignore[union-attr]
    assert all(a != b for a, b in pairwise(levels)), "the same alert twice in a row"
    assert [a.facts["level"] for a in driver.audits if a.kind == "breach.alert"] == [level for _, level, _ in levels]
