"""`consentinel law diff`: one log under two laws comes to the same where they agree, and each difference names its row."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.cli.app import run
from connectors.cli.law_compare import Comparison, Told
from connectors.cli.law_diff import _lines
from engine.service import Limits, Service
from law.book import SHIPPED, shipped
from schemas.codec import encode
from schemas.routed import Envelope
from schemas.topics import Decision, Leg

CUSTOMER = [{"kind": "tel", "value": "+12025550123"}]
REQUEST = {"right": "erasure", "received_via": "web", "identifiers": CUSTOMER}
LOG: list[tuple[str, str, dict[str, Any]]] = [
    ("2026-03-01", "controller.configured", {"default_region": "DE", "employee_basis": "art6_1_b"}),
    ("2026-03-02", "request.opened", REQUEST | {"request_id": "r1", "regime": "gdpr"}),
    ("2026-03-02", "request.opened", REQUEST | {"request_id": "r2", "regime": "ccpa"}),
    ("2026-03-03", "consent.given", {"identifiers": CUSTOMER, "purposes": ["recording"], "method": "web", "evidence": {}}),
    ("2026-03-03", "call.started", {"conversation_id": "c1", "channel": "voice", "direction": "inbound",
                                    "parties": [{"party_id": "p", "role": "customer", "identifiers": CUSTOMER}]}),
    ("2026-03-09", "request.extended", {"request_id": "r1"}),
    ("2026-03-10", "request.identity_verified", {"request_id": "r2"}),
]  # fmt: skip
ASK = {"use": "record", "controller": "acme", "channel": "voice", "identifiers": CUSTOMER, "at": "2026-03-04T15:00:00Z"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    events = [
        {"specversion": "1.0", "id": f"e{n}", "source": "test", "controller": "acme", "type": type_, "time": f"{day}T10:00:00Z",
         "data": data} for n, (day, type_, data) in enumerate(LOG)
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in [*events[:5], ASK, *events[5:]]))
    text = (SHIPPED / "gdpr.yaml").read_text().partition("vectors:")[0].replace('version: "2026.1"', 'version: "2099.1"')
    old = "rule: gdpr.art12.response, kind: period, places: [EU], period: {amount: 1, unit: months"
    assert old in text
    (tmp_path / "faster.yaml").write_text(text.replace(old, old.replace("1, unit: months", "2, unit: months")))
    return tmp_path


def diff(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    assert run(["law", "diff", *args, "--output", "json"]) == code
    return json.loads(capsys.readouterr().out)


def test_where_two_packs_agree_a_log_comes_to_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = diff(capsys, "--from", "gdpr@2026.1", "--to", str(SHIPPED / "gdpr.yaml"), "--log", "log.jsonl")
    assert found["identical"] and found["differences"] == []
    assert (found["events"], found["decisions"], found["unread"], found["refused"]) == (7, 1, 0, 0)


def test_each_difference_names_the_rule_and_its_row_in_either_version(capsys: pytest.CaptureFixture[str]) -> None:
    found = diff(capsys, "--from", "gdpr@2026.1", "--to", "faster.yaml", "--log", "log.jsonl")
    told = [(d["at"][:10], d["id"], d["field"], d["before"][:10], d["after"][:10]) for d in found["differences"]]
    assert told == [  # r2 runs by the CCPA, of which the books have one version
        ("2026-03-02", "r1", "clock.due_ms", "2026-04-02", "2026-05-04"),
        ("2026-03-09", "r1", "clock.due_ms", "2026-06-02", "2026-07-02"),
    ]
    for difference in found["differences"]:
        (rule,) = difference["rules"]
        assert rule["rule"] == "gdpr.art12.response" and rule["place"] == "DE"
        assert rule["from"].startswith("gdpr@2026.1 ") and "1 months" in rule["from"]
        assert rule["to"].startswith("gdpr@2099.1 ") and "2 months" in rule["to"]


def test_the_log_of_a_folder_is_compared_and_what_began_before_it_by_its_state(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:  # fmt: skip
    clock = [round(datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp() * 1000)]
    service = Service.open(folder / "data", clock=lambda: clock[0], limits=Limits(raw_retention_secs=3600))

    def publish(topic: str, type_: str, **data: Any) -> None:
        event = Envelope(
            id=f"{type_}{clock[0]}", source="t", type=type_, controller="acme", time_ms=clock[0], receipt_ms=clock[0],
            content_type="application/json", data=json.dumps(data).encode(),
        )  # fmt: skip
        service.publish([(topic, str(data.get("request_id", "k")), event)])
        service.settle()

    publish("controls", "controller.configured", default_region="DE", employee_basis="art6_1_b")
    publish("requests", "request.opened", **REQUEST, request_id="old", regime="gdpr")
    publish("requests", "request.opened", **REQUEST, request_id="stood", regime="gdpr")
    publish("requests", "request.paused", request_id="stood")
    clock[0] += 7 * 86_400_000
    publish("requests", "request.resumed", request_id="stood")
    clock[0] += 86_400_000
    service.maintain()
    publish("requests", "request.opened", **REQUEST, request_id="new", regime="gdpr")
    service.stop()
    found = diff(capsys, "--from", "gdpr@2026.1", "--to", "faster.yaml", "--data", "data")
    assert {d["id"]: (d["before"][:10], d["after"][:10], len(d["rules"])) for d in found["differences"]} == {
        "new": ("2026-04-09", "2026-05-11", 1), "old": ("2026-04-01", "2026-05-04", 1), "stood": ("2026-04-07", "2026-05-07", 1),
    }  # fmt: skip
    assert (found["events"], found["requests"]) == (1, 2)
    faster = (folder / "faster.yaml").read_text()
    (folder / "steady.yaml").write_text(
        faster.replace("2, unit: months", "1, unit: months", 1).replace("pauses: practice", "pauses: none", 1)
    )
    found = diff(capsys, "--from", "gdpr@2026.1", "--to", "steady.yaml", "--data", "data")
    assert [(d["id"], d["before"][:10], d["after"][:10], len(d["rules"])) for d in found["differences"]] == [
        ("stood", "2026-04-07", "2026-04-01", 1),  # where the clock does not stand still nobody would have paused it
    ]


def test_a_difference_from_before_the_first_day_of_a_rule_is_explained_by_its_oldest_rows(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:  # fmt: skip
    opened = {"specversion": "1.0", "id": "e", "source": "test", "controller": "acme", "type": "request.opened",
              "time": "2018-01-02T10:00:00Z", "data": REQUEST | {"request_id": "r1", "regime": "gdpr"}}  # fmt: skip
    (folder / "early.jsonl").write_text(json.dumps(opened))
    found = diff(capsys, "--from", "gdpr@2026.1", "--to", "faster.yaml", "--log", "early.jsonl")
    (difference,) = found["differences"]
    assert [rule["rule"] for rule in difference["rules"]] == ["gdpr.art12.response"] and difference["field"] == "clock.due_ms"


def test_lines_that_are_neither_events_nor_asks_are_counted(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    lines = [{"use": "record", "controller": "acme"}, ASK | {"use": "sing"}, [1], 2, ASK | {"at": "noon"}, ASK]
    (folder / "odd.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = diff(capsys, "--from", "gdpr@2026.1", "--to", "faster.yaml", "--log", "odd.jsonl")
    assert (found["events"], found["decisions"], found["unread"], found["identical"]) == (0, 1, 5, True)


def test_a_replay_is_the_same_every_time(folder: Path) -> None:
    comparison = Comparison(shipped(), shipped())
    for told in _lines(folder / "log.jsonl"):
        assert isinstance(told, Told)
        comparison.fold(told)
    first, second = (replay.take() for replay in comparison._replays)
    assert first == second and comparison.differences == []
    assert comparison._last[0] == comparison._last[1] and len(comparison._last[0]) > 4


def test_a_law_that_is_not_there_and_a_log_that_is_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["law", "diff", "--from", "gdpr@1.1", "--to", "faster.yaml", "--log", "log.jsonl"]) == 2
    assert "gdpr@1.1: unknown-version" in capsys.readouterr().err
    assert run(["law", "diff", "--from", "gdpr@2026.1", "--to", "faster.yaml", "--log", "none.jsonl"]) == 2
    assert run(["law", "diff", "--from", "gdpr@2026.1", "--to", "faster.yaml"]) == 2


def test_what_is_proposed_is_tried_on_a_log(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Digital Omnibus (COM proposal of 2025-11-19): 96 hours instead of 72, and for high risks only."""
    aware = "2026-11-20T17:20:00Z"
    report = {"detected_at": aware, "aware_at": aware, "role": "controller", "categories": ["contact"]}
    events = [
        {"specversion": "1.0", "id": risk, "source": "test", "controller": "acme", "type": "breach.reported",
         "time": "2026-11-20T18:00:00Z", "data": report | {"incident_id": risk, "risk": risk}} for risk in ("high", "risk")
    ]  # fmt: skip
    (folder / "breaches.json").write_text(json.dumps(events))
    found = diff(capsys, "--from", "breach@2026.1", "--to", "breach@2026.1", "--proposed", "--log", "breaches.json")
    told = {(d["id"], d["field"], d["before"], d["after"]) for d in found["differences"] if d["field"] != "headroom_ms"}
    assert told == {
        ("high", "due_ms", "2026-11-23T17:20:00Z", "2026-11-24T17:20:00Z"),
        ("risk", "due_ms", "2026-11-23T17:20:00Z", "2026-11-24T17:20:00Z"),
        ("risk", "level", "started", "stopped"),
    }
    assert all("proposed: 96 hours" in d["rules"][0]["to"] for d in found["differences"])


FRANCE = {"use": "dial", "controller": "acme", "channel": "voice", "purpose": "marketing", "identifiers": [
    {"kind": "tel", "value": "+33199000123"}]}  # fmt: skip


def french_hours(folder: Path) -> Path:
    """The pack with calling hours in France from eight instead of ten."""
    text = (SHIPPED / "eu_telephony.yaml").read_text().replace('version: "2026.1"', 'version: "2099.1"')
    assert '["10:00", "13:00"]' in text
    (folder / "early.yaml").write_text(text.replace('["10:00", "13:00"]', '["08:00", "13:00"]'))
    return folder / "early.yaml"


def test_a_decision_of_a_log_is_made_again_and_its_difference_explained(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:  # fmt: skip
    given = {"identifiers": FRANCE["identifiers"], "purposes": ["marketing"], "method": "web", "evidence": {}}
    lines = [
        {"specversion": "1.0", "id": "c", "source": "test", "controller": "acme", "type": "consent.given",
         "time": "2026-09-01T10:00:00Z", "data": given},
        *(FRANCE | {"at": f"2026-09-02T{hour}:30:00+02:00"} for hour in ("08", "11", "12")),
    ]  # fmt: skip
    (folder / "asks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = diff(capsys, "--from", "eu_telephony@2026.1", "--to", str(french_hours(folder)), "--log", "asks.jsonl")
    assert found["decisions"] == 3 and {d["id"] for d in found["differences"]} == {"decision 2"}
    (verdict,) = [d for d in found["differences"] if d["field"] == "verdict"]
    assert (verdict["before"], verdict["after"], verdict["at"]) == ("deny", "allow", "2026-09-02T06:30:00Z")
    assert "eu.marketing.hours" in {rule["rule"] for rule in verdict["rules"]}


def test_recorded_decisions_of_a_folder_are_judged_again(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    service = Service.open(folder / "data")
    at_ms = round(datetime(2026, 9, 2, 6, 30, tzinfo=UTC).timestamp() * 1000)
    for n, hours in enumerate((0, 3)):
        service.append("decisions", f"d{n}", encode(Decision(
            decision_id=f"d{n}", controller="acme", use="dial", verdict="deny" if n == 0 else "allow",
            reasons=("outside_calling_hours",) if n == 0 else (), at_ms=at_ms + hours * 3_600_000, epoch=1, purpose="marketing",
            channel="voice", legs=(Leg(region="FR", zones=("Europe/Paris",)),),
        )))  # fmt: skip
    service.stop()
    found = diff(capsys, "--from", "eu_telephony@2026.1", "--to", str(french_hours(folder)), "--data", "data")
    assert found["decisions"] == 2
    verdicts = [(d["id"], d["before"], d["after"], bool(d["rules"])) for d in found["differences"] if d["field"] == "verdict"]
    assert verdicts == [("d0", "deny", "allow", True)]
