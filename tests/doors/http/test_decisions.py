"""Decisions deny by default, deny at once after a withdrawal, and deny when the state is old, unreadable or not recorded."""

from typing import Any

import pytest

from connectors.http.decisions import ALL_REASONS, DoorReason
from connectors.http.marks import Marks
from engine.runtime import CommitLost, RuntimeFault
from processors.uses import REASONS
from schemas.codec import decode_as
from schemas.events import ConsentChanged, SuppressionChanged
from schemas.topics import Decision

from .conftest import consent

NUMBER = "+493090182100"


def granted(still: Any, number: str = NUMBER) -> None:
    assert still.send("consent.given", consent(number)).status_code == 202
    still.settle()
    assert still.decide(number)["verdict"] == "allow"
    still.now_ms += 1_000


def test_the_reasons_are_a_closed_list() -> None:
    assert set(ALL_REASONS) == set(REASONS) | set(DoorReason.__args__)  # type: ignore[attr-defined]


def test_whoever_is_unknown_is_denied(house: Any) -> None:
    answer = house.decide("+493090182101")
    assert (answer["verdict"], answer["reasons"]) == ("deny", ["consent_unknown"])


def test_every_verdict_is_on_record_before_its_answer(house: Any) -> None:
    answer = house.decide("+493090182102", conversation_id="conv", campaign="spring")
    found = [decode_as(Decision, r.value) for _, r in house.service.topic("decisions") if r.key == b"conv"]
    assert [(d.decision_id, d.verdict, d.campaign) for d in found] == [(answer["decision_id"], "deny", "spring")]
    assert b"3090182102" not in b"".join(r.value for _, r in house.service.topic("decisions"))


def test_a_withdrawal_by_the_door_denies_the_very_next_decision_always(house: Any) -> None:
    numbers = [f"+4930901830{n:02d}" for n in range(50)]
    for number in numbers:
        assert house.send("consent.given", consent(number)).status_code == 202
    house.folded()
    assert {house.decide(number)["verdict"] for number in numbers} == {"allow"}
    for number in numbers:
        assert house.send("consent.withdrawn", consent(number)).status_code == 202
        for _ in range(3):
            assert house.decide(number)["verdict"] == "deny"
    house.folded()
    assert {tuple(house.decide(number)["reasons"]) for number in numbers} == {("consent_withdrawn",)}


@pytest.mark.parametrize(("type_", "data"), [
    ("consent.withdrawn", consent(NUMBER)),
    ("consent.refused", consent(NUMBER, purposes=["*"])),
    ("suppression.added", {"identifiers": [{"kind": "tel", "value": NUMBER}], "list": "company_dnc", "source": "agent"}),
])  # fmt: skip
def test_a_denial_counts_before_anything_is_folded_and_after(still: Any, type_: str, data: Any) -> None:
    granted(still)
    assert still.send(type_, data).status_code == 202
    assert still.decide(NUMBER)["reasons"] == ["withdrawal_pending"]
    still.settle()
    still.app.state.door.sweep()
    assert still.decide(NUMBER)["verdict"] == "deny"  # the beat is not past it yet, or it is folded
    still.now_ms += 1_000
    still.settle()
    still.app.state.door.sweep()
    assert len(still.app.state.door.marks) == 0
    answer = still.decide(NUMBER)
    assert answer["verdict"] == "deny" and "withdrawal_pending" not in answer["reasons"]


def test_a_mark_meets_only_what_was_withdrawn(still: Any) -> None:
    still.send("consent.given", consent(NUMBER, purposes=["marketing", "survey"]))
    still.settle()
    still.now_ms += 1
    still.send("consent.withdrawn", consent(NUMBER, channels=["sms"]))
    assert still.decide(NUMBER)["verdict"] == "allow"
    assert still.decide(NUMBER, channel="sms")["verdict"] == "deny"
    assert still.decide(NUMBER, channel="sms", purpose="survey")["verdict"] == "allow"


def test_a_clock_that_is_set_back_ends_no_mark(still: Any) -> None:
    granted(still)
    still.settle()
    still.now_ms -= 3_000
    still.send("consent.withdrawn", consent(NUMBER))
    still.app.state.door.sweep()
    assert still.decide(NUMBER)["reasons"] == ["withdrawal_pending"]
    still.now_ms -= 60_000
    assert "stale" in still.decide(NUMBER)["reasons"]


def test_state_older_than_the_limit_denies_and_keeps_its_other_reasons(still: Any) -> None:
    granted(still)
    still.now_ms += 4_000
    assert still.decide(NUMBER)["verdict"] == "allow"
    still.now_ms += 1
    assert still.decide(NUMBER)["reasons"] == ["stale"]
    assert still.decide("+493090182103")["reasons"] == ["consent_unknown", "stale"]
    assert still.root.get("/readyz").json()["reason"] == "stale"
    still.settle()
    assert still.decide(NUMBER)["verdict"] == "allow"


def test_nobody_is_allowed_before_everything_is_folded(still: Any) -> None:
    granted(still)
    still.service._started_ms = still.now_ms + 10
    assert still.decide(NUMBER)["reasons"] == ["not_ready"]
    assert still.root.get("/readyz").status_code == 503


def test_a_dead_engine_denies(still: Any) -> None:
    granted(still)
    still.service.failed = "StoreDamaged"
    try:
        assert set(still.decide(NUMBER)["reasons"]) == {"not_ready", "not_recorded"}
    finally:
        still.service.failed = None


def test_a_verdict_that_cannot_be_recorded_denies(still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(still)

    def lost(*_: Any) -> None:
        raise CommitLost("full")

    monkeypatch.setattr(still.service, "append", lost)
    assert still.decide(NUMBER)["reasons"] == ["not_recorded"]


def test_state_that_cannot_be_read_denies(still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(still)

    def broken(*_: Any) -> None:
        raise RuntimeFault("closed")

    monkeypatch.setattr(still.service, "record", broken)
    assert still.decide(NUMBER)["reasons"] == ["unreachable"]


def test_without_room_for_a_mark_everything_is_denied_until_it_is_folded(still: Any) -> None:
    granted(still)
    granted(still, "+493090182104")
    still.app.state.door.marks._marks_max = 0
    assert still.send("consent.withdrawn", consent(NUMBER)).status_code == 202
    assert still.decide("+493090182104")["reasons"] == ["not_fresh"]
    still.now_ms += 1
    still.settle()
    assert still.decide("+493090182104")["verdict"] == "allow"
    assert still.decide(NUMBER)["reasons"] == ["consent_withdrawn"]


def test_an_append_that_may_have_happened_keeps_its_mark(still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(still)

    def damaged(events: Any) -> None:
        raise OSError("who knows")

    monkeypatch.setattr(still.service, "publish", damaged)
    assert still.send("consent.withdrawn", consent(NUMBER)).status_code == 503
    assert still.decide(NUMBER)["reasons"] == ["withdrawal_pending"]


def test_one_unusable_identifier_denies_and_is_not_told(house: Any) -> None:
    answer = house.decide("+1Sentinel")
    assert answer["verdict"] == "deny" and "unusable_identifier" in answer["reasons"]
    mixed = [{"kind": "tel", "value": NUMBER}, {"kind": "email", "value": "nobody"}]
    assert "unusable_identifier" in house.decide(NUMBER, identifiers=mixed)["reasons"]


@pytest.mark.parametrize(("ask", "code", "field"), [
    ({}, "missing-field", "/controller"),
    ({"controller": "acme", "use": "Sentinel", "channel": "voice"}, "wrong-field", "/use"),
    ({"controller": "acme", "use": "dial", "channel": "voice", "identifiers": [{"kind": "Sentinel", "value": "1"}]},
     "wrong-field", "/identifiers/0/kind"),
    ({"controller": "acme", "use": "dial", "channel": "voice", "Sentinel": 1}, "unknown-field", None),
    ({"controller": "acme", "use": "dial", "channel": "voice", "Sentinel - at `$.use": 1}, "unknown-field", None),
])  # fmt: skip
def test_a_malformed_question_is_no_verdict(house: Any, ask: Any, code: str, field: str | None) -> None:
    response = house.root.post("/v1/decisions", json=ask)
    assert response.status_code == 400 and response.json()["type"].endswith(f":{code}")
    assert response.json().get("field") == field and "Sentinel" not in response.text
    assert house.root.post("/v1/decisions", content=b"{").json()["type"].endswith(":not-json")


def test_a_moment_in_the_past_does_not_bring_back_what_has_expired(still: Any) -> None:
    until = "2027-01-15T08:00:05Z"  # five seconds after the clock's start
    still.send("consent.given", consent(NUMBER, valid_until=until))
    still.settle()
    assert still.decide(NUMBER)["verdict"] == "allow"
    assert still.decide(NUMBER, at="2027-01-15T08:00:06Z")["reasons"] == ["consent_expired"]
    still.now_ms += 10_000
    still.settle()
    assert still.decide(NUMBER, at="2027-01-15T08:00:01Z")["reasons"] == ["consent_expired"]


def test_nobody_decides_about_tomorrow(still: Any) -> None:
    ask = {"controller": "acme", "use": "dial", "channel": "voice", "at": "2027-01-16T08:00:00Z"}
    response = still.root.post("/v1/decisions", json=ask)
    assert (response.status_code, response.json()["field"]) == (422, "/at")


def test_parties_and_own_identifiers(house: Any) -> None:
    own, person = {"kind": "tel", "value": "+493090182200"}, {"kind": "tel", "value": "+493090182201"}
    house.send("controller.configured", {"default_region": "DE", "own_identifiers": [own], "employee_basis": "contract"}, "owner")
    house.send("consent.given", consent(person["value"], purposes=["recording"]), "owner")
    house.folded()
    parties = [{"role": "customer", "identifiers": [person]}, {"role": "agent", "identifiers": [own]}]
    ask: dict[str, Any] = {"use": "record", "purpose": None, "identifiers": [], "parties": parties}
    assert house.decide("", "owner", **ask)["verdict"] == "allow"
    ask["parties"] = [{"role": "customer", "identifiers": [own]}]
    assert house.decide("", "owner", **ask)["reasons"] == ["no_party"]


def test_marks_end_only_when_the_beat_has_passed_them() -> None:
    marks = Marks(marks_max=2)
    event = ConsentChanged(identifiers=({"kind": "tel", "value": "1"},), purposes=("p",), method="web", evidence=None)  # type: ignore[arg-type]
    entries = marks.add("consent.withdrawn", event, ("a", "", "a"))
    assert len(marks) == 1 and len(marks.on("a", "dial")) == 1 and marks.add("consent.given", event, ("a",)) == []
    assert marks.sweep(10**15) == []  # not durable yet: nothing ends it
    marks.settle(entries, 100)
    assert marks.sweep(100) == [] and len(marks.on("a", "dial")) == 1
    assert len(marks.sweep(101)) == 1 and marks.on("a", "dial") == ()
    gpc = SuppressionChanged(identifiers=event.identifiers, list="gpc", source="web")
    marks.add("suppression.added", gpc, ("b",))
    assert marks.on("b", "share") and not marks.on("b", "record")
    full = marks.add("consent.refused", event, ("c", "d"))
    assert marks.blind(10**15)
    marks.settle(full, 200)
    assert marks.blind(200) and not marks.blind(201)


def test_the_time_from_withdrawal_to_fold_is_measured(house: Any) -> None:
    house.send("consent.withdrawn", consent("+493090182105"))
    house.folded()
    house.folded()
    text = house.root.get("/metrics").text
    counts = [line for line in text.splitlines() if line.startswith("consentinel_withdrawal_to_block_seconds_count")]
    assert float(counts[0].split()[1]) >= 1
    assert "acme" not in text and "3090182105" not in text
