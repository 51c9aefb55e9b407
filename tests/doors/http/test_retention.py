"""Retention at the door: what policies would destroy and when, before they are set; what is due goes when it is told to."""

from typing import Any

import pytest

from connectors.http import retention
from processors.terms import DAY_MS

PREVIEW, RUN = "/v1/retention/preview", "/v1/admin/retention/now"


def start(still: Any, name: str, channel: str = "voice", controller: str = "acme", **more: Any) -> None:
    party = {"party_id": "p", "role": "customer", "identifiers": [{"kind": "crm", "value": f"C-{name}"}]}
    data = {"conversation_id": name, "channel": channel, "direction": "inbound", "parties": [party], **more}
    time = {"time": data.pop("time")} if "time" in data else {}
    assert still.send("call.started", data, controller, **time).status_code == 202


@pytest.fixture
def stocked(still: Any) -> Any:
    for n in range(4):
        start(still, f"v{n}")
    start(still, "m", channel="chat", purposes=["billing"])
    start(still, "foreign", controller="other")
    recording = {"conversation_id": "v0", "recording_id": "r0", "confirmed": True}
    still.send("call.recording_started", recording)
    hold = {"hold_id": "h", "scope": {"conversation_ids": ["v3"]}, "ground": "litigation", "actor": "x"}
    still.send("hold.placed", hold)
    still.now_ms += 1_000
    still.service.settle()
    return still


def policy(keep_for: str, policy_id: str = "voice", since: str = "2026-01-01T00:00:00Z", **selector: Any) -> dict[str, Any]:
    return {"policy_id": policy_id, "selector": selector, "keep_for": keep_for, "from": since}


def shown(still: Any, *policies: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = {"controller": "acme", **more}
    answer = still.root.post(PREVIEW, json={**asked, "policies": policies}) if policies else still.root.get(PREVIEW, params=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_what_stands_is_counted_by_month_and_rule_and_listed(stocked: Any) -> None:
    found = shown(stocked)
    assert (found["items"], found["held"], found["next"]) == (5, 1, None)
    assert found["by_rule"] == {"default_period": {"conversation": 4}}
    assert sum(count["conversation"] for count in found["by_month"].values()) == 4
    assert {row["conversation_id"] for row in found["listed"]} == {"v0", "v1", "v2", "m"}


def test_a_proposed_policy_shows_what_it_would_destroy_and_destroys_nothing(stocked: Any) -> None:
    found = shown(stocked, policy("P1M", channel="voice"), policy("P2D", "audio", media=True))
    assert (found["earlier"], found["later"]) == (3, 0)
    assert found["by_rule"] == {
        "default_period": {"conversation": 1}, "policy voice": {"conversation": 3}, "policy audio": {"recordings": 1},
    }  # fmt: skip
    stocked.now_ms += 40 * DAY_MS
    stocked.service.settle()
    assert shown(stocked)["items"] == 5


def test_a_policy_of_the_future_destroys_nothing_before_its_time(stocked: Any) -> None:
    since = "2027-06-01T00:00:00+00:00"
    found = shown(stocked, policy("P1M", since=since, channel="voice"))
    assert found["by_month"]["2027-06"] == {"conversation": 3}


def test_what_was_shown_is_what_happens(stocked: Any) -> None:
    proposed = policy("P2M", channel="voice")
    when = {row["conversation_id"]: row["goes_ms"] for row in shown(stocked, proposed)["listed"]}
    assert stocked.send("retention.policy_set", proposed).status_code == 202
    stocked.service.settle()
    stocked.now_ms = when["v1"] - 60_000
    stocked.service.settle()
    assert shown(stocked)["items"] == 5
    stocked.now_ms = when["v1"] + 1_000
    ran = stocked.root.post(RUN).json()
    assert ran["finished"] and ran["conversations"] == {"policy voice": 3}
    assert {row["conversation_id"] for row in shown(stocked)["listed"]} == {"m"}, "and v3, which is held, is not listed"
    assert stocked.root.post(RUN).json()["conversations"] == {}, "nothing goes twice"


def test_a_duty_to_keep_is_seen_to_outlast_the_default(stocked: Any) -> None:
    duty = policy("P6Y", "tax", purpose="billing") | {"ground": "tax_law"}
    found = shown(stocked, duty)
    assert (found["earlier"], found["later"]) == (0, 1)
    kept = {row["conversation_id"]: row for row in found["listed"] if row["kept_by"] == "policy tax"}
    assert set(kept) == {"m"} and kept["m"]["goes_ms"] > stocked.now_ms + 6 * 365 * DAY_MS


def test_old_material_is_listed_before_it_goes(stocked: Any) -> None:
    start(stocked, "old", time="2020-01-01T00:00:00Z")
    stocked.service.settle()
    found = shown(stocked, before="2027-03-01")
    assert found["imported"] == 1
    assert [(row["conversation_id"], row["goes_ms"]) for row in found["listed"]] == [("old", stocked.now_ms + 30 * DAY_MS)]


def test_it_is_told_in_parts(stocked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ITEMS_MAX", 2)
    parts = [shown(stocked)]
    while parts[-1]["next"] is not None:
        parts.append(shown(stocked, after=parts[-1]["next"]))
    assert len(parts) >= 3
    names = [row["conversation_id"] for part in parts for row in part["listed"]]
    assert sorted(names) == ["m", "v0", "v1", "v2"]


def test_only_what_goes_before_a_time_is_listed(stocked: Any) -> None:
    assert shown(stocked, before="2027-12-31")["listed"] == []
    found = shown(stocked, policy("P1M", channel="voice"), before="2027-03-01T00:00:00Z")
    assert len(found["listed"]) == 3


def test_the_look_is_on_record_and_nobody_sees_another_controller(stocked: Any) -> None:
    client = stocked.by_role("operator")
    assert client.get(PREVIEW, params={"controller": "acme"}).status_code == 200
    assert client.get(PREVIEW, params={"controller": "other"}).status_code == 403
    assert client.post(PREVIEW, json={"controller": "other", "policies": [policy("P1M")]}).status_code == 403
    stocked.service.settle()
    assert any(e.type == "data.accessed" and e.actor == "a-operator" for e in stocked.envelopes("controls"))


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"controller": "acme", "policies": [policy("P1M"), policy("a month")]}, "not-a-period", "/policies/1/keep_for"),
        ({"controller": "acme", "policies": [policy("P1M") | {"ceiling": "P1"}]}, "not-a-period", "/policies/0/ceiling"),
        ({"controller": "acme", "policies": []}, "wrong-field", "/policies"),
        ({"policies": [policy("P1M")]}, "missing-field", "/controller"),
        ({"controller": "acme", "policies": [policy("P1M")], "after": "0.zz"}, "wrong-field", "/after"),
    ],
)
def test_what_is_wrong_is_named(still: Any, body: dict[str, Any], code: str, field: str) -> None:
    answer = still.root.post(PREVIEW, json=body)
    assert answer.json()["type"].endswith(f":{code}") and answer.json()["field"] == field


@pytest.mark.parametrize("query", [{}, {"controller": "acme", "before": "soon"}, {"controller": "acme", "after": "7"}])
def test_a_query_that_says_nothing_is_refused(still: Any, query: dict[str, str]) -> None:
    assert still.root.get(PREVIEW, params=query).status_code == 400


def test_a_policy_that_is_none_is_refused_at_the_door(still: Any) -> None:
    answer = still.send("retention.policy_set", policy("two years"))
    assert answer.status_code == 422 and answer.json()["type"].endswith(":not-a-period") and answer.json()["field"] == "keep_for"


def test_what_is_kept_for_a_duty_may_be_used_for_nothing_else(stocked: Any) -> None:
    stocked.send("retention.policy_set", policy("P6Y", "tax", purpose="billing") | {"ground": "tax_law"})
    who = [{"kind": "crm", "value": "C-m"}]
    given = {"identifiers": who, "purposes": ["billing", "research"], "method": "web", "evidence": {}}
    stocked.send("consent.given", given)
    stocked.service.settle()

    def reasons(purpose: str, use: str = "export") -> list[str]:
        found: list[str] = stocked.decide("", use=use, identifiers=who, purpose=purpose, conversation_id="m")["reasons"]
        return found

    stocked.now_ms += 6_000
    stocked.service.settle()
    assert reasons("research") == []
    asked = {"request_id": "q", "right": "erasure", "regime": "gdpr", "identifiers": who, "received_via": "web"}
    stocked.send("request.opened", asked)
    stocked.send("request.identity_verified", {"request_id": "q", "actor": "x"})
    stocked.service.settle()
    stocked.now_ms += 1_000
    stocked.send("consent.given", given)  # the person came back
    stocked.service.settle()
    told = stocked.root.get("/v1/requests/q").json()
    assert told["identifiers"][0]["kept"][0]["grounds"] == ["tax_law"] and told["identifiers"][0]["kept"][0]["until_ms"]
    assert reasons("research") == ["restricted"] and reasons("billing") == []
    assert "restricted" not in reasons("research", use="dial")


def test_whoever_is_asked_by_a_further_identifier_is_restricted_as_by_the_home(stocked: Any) -> None:
    stocked.send("retention.policy_set", policy("P6Y", "tax", purpose="billing") | {"ground": "tax_law"})
    mail, further = {"kind": "email", "value": "ann@example.com"}, {"kind": "crm", "value": "C-ann"}
    start(stocked, "two", purposes=["billing"], parties=[{"party_id": "p", "role": "customer", "identifiers": [further, mail]}])
    given = {"identifiers": [further], "purposes": ["research"], "method": "web", "evidence": {}}
    stocked.send("consent.given", given)
    stocked.service.settle()

    def reasons() -> list[str]:
        asked = {"use": "export", "identifiers": [further], "purpose": "research", "conversation_id": "two"}
        found: list[str] = stocked.decide("", **asked)["reasons"]
        return found

    assert reasons() == []
    for name, who in (("q1", mail), ("q2", further)):
        asked = {"request_id": name, "right": "erasure", "regime": "gdpr", "identifiers": [who], "received_via": "web"}
        stocked.send("request.opened", asked)
        stocked.send("request.identity_verified", {"request_id": name, "actor": "x"})
        stocked.service.settle()
        stocked.now_ms += 1_000
        stocked.send("consent.given", given)
        stocked.service.settle()
        assert reasons() == ["restricted"]
