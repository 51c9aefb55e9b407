"""Each call and each event type, by each role: the matrix of the contract, and no controller crosses to another."""

import json
from typing import Any

import pytest

from connectors.http.roles import CALLS, ROLES, SENDERS
from connectors.http.routes import ROUTES
from schemas.events import BY_TYPE

TEL = {"kind": "tel", "value": "+493090182000"}
MAIL = {"kind": "email", "value": "jo@example.com"}
RECORDING = {"conversation_id": "m", "recording_id": "r", "confirmed": True}
CONSENT = {"identifiers": [TEL], "purposes": ["marketing"], "method": "web", "evidence": {}}
STEP = {"request_id": "matrix", "actor": "x"}
BREACH = {
    "incident_id": "i", "detected_at": "2026-01-01T00:00:00Z", "role": "controller", "categories": [], "risk": "high",
    "actor": "x",
}  # fmt: skip
PARTY = {"party_id": "p", "role": "customer", "identifiers": [TEL]}
DATA: dict[str, dict[str, Any]] = {
    "call.started": {"conversation_id": "m", "channel": "voice", "direction": "inbound", "parties": [PARTY]},
    "call.party_joined": {"conversation_id": "m", "party": PARTY},
    "call.party_left": {"conversation_id": "m", "party_id": "p"},
    "call.recording_started": RECORDING, "call.recording_paused": RECORDING,
    "call.recording_resumed": RECORDING, "call.recording_stopped": RECORDING,
    "call.transcribed": {"conversation_id": "m", "segments": [{"text": "hello"}]},
    "call.annotated": {"conversation_id": "m", "note": "n", "author": "p"},
    "call.tagged": {"conversation_id": "m", "tag": "t"}, "call.untagged": {"conversation_id": "m", "tag": "t"},
    "call.ended": {"conversation_id": "m"},
    "consent.given": CONSENT, "consent.refused": CONSENT, "consent.withdrawn": CONSENT, "consent.renewed": CONSENT,
    "request.opened": {"request_id": "matrix", "right": "erasure", "regime": "gdpr", "identifiers": [TEL], "received_via": "web"},
    "request.scanned": {"request_id": "matrix", "verdict": "clean", "digest": "0" * 64, "scanned_at": "2026-01-01T00:00:00Z",
                        "needles": 1, "found": 0, "sources": ["data"]},
    "identity.linked": {"a": TEL, "b": MAIL, "source": "crm"}, "identity.unlinked": {"a": TEL, "b": MAIL, "source": "crm"},
    "suppression.added": {"identifiers": [TEL], "list": "company_dnc", "source": "web"},
    "suppression.removed": {"identifiers": [TEL], "list": "company_dnc", "source": "web"},
    "hold.placed": {"hold_id": "h", "scope": {"conversation_ids": ["m2"]}, "ground": "art17_3_e", "actor": "x"},
    "hold.released": {"hold_id": "h", "actor": "x"},
    "erasure.acknowledged": {"order_id": "o.0", "target": "warehouse", "outcome": "done"},
    "controller.configured": {"default_region": "DE", "own_identifiers": [], "employee_basis": "contract"},
    "retention.policy_set": {"policy_id": "p", "selector": {}, "keep_for": "P1Y", "from": "2026-01-01T00:00:00Z"},
    "breach.reported": BREACH, "breach.assessed": BREACH, "breach.notified": BREACH, "breach.closed": BREACH,
    "data.accessed": {"actor": "x", "action": "view", "count": 1},
    "law.activated": {"pack": "gdpr", "version": "2026.1"},
} | {f"request.{step}": STEP for step in (
    "identity_verified", "identity_failed", "approved", "paused", "resumed", "extended", "refused", "withdrawn", "corrected",
    "retried",
)}  # fmt: skip

# Contract, section 2, last paragraph but two: written out again here, so that a slip in `roles.py` is seen.
FAMILIES = {
    "publisher": ("call.", "consent."),
    "analyst": ("request.", "identity.", "suppression.", "hold.", "breach."),
    "approver": ("request.approved", "request.refused", "hold.released"),
    "target": ("erasure.acknowledged",),
    "operator": ("data.accessed",),
    "administrator": ("",),
    "decider": (),
    "auditor": ("request.scanned",),
}

# Contract, section 4, and the roles of design section 9. The administrator may make every call.
CALLERS = {
    "POST /v1/events": set(ROLES),
    "POST /v1/vendors/{vendor}": {"publisher"},
    "POST /v1/decisions": {"decider"},
    "POST /v1/requests": {"analyst"},
    "GET /v1/requests": {"analyst", "approver", "auditor"},
    "GET /v1/requests/{request_id}": {"analyst", "approver", "auditor"},
    "POST /v1/requests/{request_id}/retry": {"analyst"},
    "POST /v1/requests/{request_id}/{action}": {"analyst", "approver"},
    "GET /v1/requests/{request_id}/package": {"analyst"},
    "GET /v1/receipts/{request_id}": {"analyst", "approver", "auditor"},
    "GET /v1/erasures": {"analyst", "approver", "auditor", "operator"},
    "POST /v1/subjects/search": {"analyst", "auditor"},
    "GET /v1/subjects/{subject_ref}": {"analyst", "auditor"},
    "POST /v1/open": {"analyst"},
    "POST /v1/holds": {"analyst"},
    "GET /v1/holds": {"analyst", "approver", "auditor"},
    "GET /v1/breaches": {"analyst", "approver", "auditor"},
    "GET /v1/quarantine": {"operator", "auditor"},
    "POST /v1/quarantine/{partition}/{offset}/retry": {"operator"},
    "GET /v1/schemas/{fingerprint}": set(ROLES),
    "GET /v1/lag": {"operator", "auditor"},
    "POST /v1/admin/retention/raw": set(),
    "POST /v1/admin/retention/now": {"operator"},
    "GET /v1/retention/preview": {"analyst", "approver", "auditor", "operator"},
    "POST /v1/retention/preview": {"analyst", "approver", "auditor", "operator"},
    "GET /v1/audit/report": {"auditor", "operator"},
    "GET /v1/audit/checkpoints": {"auditor", "operator"},
    "GET /v1/audit/proof": {"auditor"},
    "GET /v1/audit/key": {"auditor", "operator"},
    "POST /v1/audit/checkpoint": {"auditor", "operator"},
    "GET /v1/keys": {"auditor", "operator"},
    "POST /v1/keys/rotations": set(),
    "POST /v1/tokens": set(),
    "DELETE /v1/tokens/{name}": set(),
}


def test_every_type_and_every_call_stands_in_the_tables() -> None:
    assert set(DATA) == set(BY_TYPE) == set(SENDERS)
    assert set(CALLERS) == set(CALLS) == set(ROUTES)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_sends_its_own_types_and_no_others(house: Any, role: str) -> None:
    client = house.by_role(role)
    for type_, data in DATA.items():
        response = house.send(type_, data, client=client)
        if not any(type_.startswith(family) for family in FAMILIES[role]):
            expected = (403, "urn:consentinel:problem:role-missing")
        else:
            expected = (202, None)
        assert (response.status_code, response.json().get("type")) == expected, (role, type_, response.text)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_makes_its_own_calls_and_no_others(house: Any, role: str) -> None:
    client = house.by_role(role)
    for call, callers in CALLERS.items():
        method, path = call.split(" ")
        for name in ("{partition}", "{offset}"):
            path = path.replace(name, "0")
        for name in ("{vendor}", "{action}", "{subject_ref}", "{request_id}", "{fingerprint}", "{name}"):
            path = path.replace(name, "nothing")
        response = client.request(method, path)
        allowed = role == "administrator" or role in callers
        refused = response.status_code == 403 and response.json()["type"].endswith(":role-missing")
        assert refused != allowed, (role, call, response.text)
        assert response.status_code < 500, (role, call, response.text)


def test_nobody_calls_without_a_token(house: Any) -> None:
    client = house._client()
    for call in CALLS:
        method, path = call.split(" ")
        response = client.request(method, path, headers={"x-forwarded-for": "1.2.3.4"})
        assert response.status_code in (401, 429) and response.headers["content-type"] == "application/problem+json", call


def test_no_event_of_another_controller_is_taken(house: Any) -> None:
    for role in ("publisher", "analyst", "approver", "operator", "target", "administrator"):
        client = house.by_role(role)
        for type_, data in DATA.items():
            if any(type_.startswith(family) for family in FAMILIES[role]):
                response = house.send(type_, data, "rival", client=client)
                assert response.status_code == 403 and response.json()["field"] == "controller", (role, type_)


def test_a_target_acknowledges_for_itself_only(house: Any) -> None:
    data = {**DATA["erasure.acknowledged"], "target": "somebody-else"}
    response = house.send("erasure.acknowledged", data, client=house.by_role("target"))
    assert response.status_code == 403 and response.json()["type"].endswith(":target-not-yours")


def test_no_call_shows_another_controllers_data(house: Any) -> None:
    number = "+4930901890"
    ask = {"controller": "rival", "identifiers": [{"kind": "tel", "value": number}]}
    house.send("call.started", {
        "conversation_id": "secret", "channel": "voice", "direction": "inbound",
        "parties": [{"party_id": "p", "role": "customer", "identifiers": ask["identifiers"], "name": "Rita"}],
    }, "rival")  # fmt: skip
    house.send("hold.placed", {**DATA["hold.placed"], "hold_id": "rival-hold"}, "rival")
    house.send("breach.reported", {**BREACH, "incident_id": "rival-incident"}, "rival")
    opened = house.root.post("/v1/requests", json={**ask, "right": "erasure", "regime": "gdpr", "received_via": "web"}).json()
    house.folded()
    ref = house.root.post("/v1/subjects/search", json=ask).json()["subjects"][0]["subject_ref"]
    for role in ("administrator", "analyst", "auditor"):
        client = house.by_role(role)
        assert client.post("/v1/subjects/search", json=ask).status_code == 403
        for query in ("", "?controller=acme", "?controller=rival"):
            assert client.get(f"/v1/subjects/{ref}{query}").status_code == 404
        assert client.get(f"/v1/requests/{opened['request_id']}").status_code == 404
        assert client.get("/v1/requests?controller=rival").status_code == 403
        for path in ("/v1/requests", "/v1/holds", "/v1/breaches", "/v1/erasures"):
            assert "rival" not in client.get(path).text
    act = house.by_role("analyst").post(f"/v1/requests/{opened['request_id']}/verify", json={})
    assert act.status_code == 404
    decision = house.by_role("decider").post("/v1/decisions", json={**ask, "use": "dial", "channel": "voice"})
    assert decision.status_code == 403


def test_the_actor_is_the_caller_whatever_the_data_says(house: Any) -> None:
    request_id = "actor-test"
    house.send("request.approved", {"request_id": request_id, "actor": "mallory"}, client=house.by_role("approver"))
    found = [e for e in house.envelopes("requests") if json.loads(e.data).get("request_id") == request_id]
    assert [e.actor for e in found] == ["a-approver"]
