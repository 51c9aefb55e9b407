"""Requests, subjects, sealed fields: masked by default, revealed to who may, on record, and gone after an erasure."""

import base64
import json
from typing import Any
from uuid import uuid4

import pytest

from schemas.codec import decode_as
from schemas.topics import ProtectedConversation

from .conftest import consent

NAME, WORDS = "Wilhelmina Testperson", "my cat is called Schroedinger"


@pytest.fixture
def person(house: Any) -> dict[str, Any]:
    """Someone with a consent and a conversation."""
    controller, number = uuid4().hex, "+493090182300"
    tel = {"kind": "tel", "value": number}
    mail, employee = {"kind": "email", "value": "w@example.org"}, {"kind": "employee", "value": "e1"}
    house.send("call.started", {
        "conversation_id": "talk", "channel": "voice", "direction": "inbound", "metadata": {"order": "4711-secret"},
        "parties": [{"party_id": "p", "role": "customer", "identifiers": [tel, mail], "name": NAME},
                    {"party_id": "a", "role": "agent", "identifiers": [employee]}]}, controller)  # fmt: skip
    house.send("call.transcribed", {"conversation_id": "talk", "segments": [{"text": WORDS, "party_id": "p"}]}, controller)
    house.send("consent.given", consent(number), controller)
    house.folded()
    clients = {role: house.token(uuid4().hex, [role], [controller]) for role in ("analyst", "auditor", "approver")}
    ask = {"controller": controller, "identifiers": [tel]}
    found = clients["analyst"].post("/v1/subjects/search", json=ask).json()["subjects"]
    return {"controller": controller, "tel": tel, "ref": found[0]["subject_ref"], "found": found, **clients}


def accesses(house: Any, controller: str) -> list[tuple[str, str]]:
    events = [e for e in house.envelopes("controls") if e.controller == controller and e.type == "data.accessed"]
    return [(e.actor, json.loads(e.data)["action"]) for e in events]


def test_search_finds_who_is_known_and_nobody_else(house: Any, person: dict[str, Any]) -> None:
    assert person["found"] == [{"subject_ref": person["ref"], "conversations": ["talk"], "requests": []}]
    ask = {"controller": person["controller"], "identifiers": [{"kind": "tel", "value": "+493090182999"}]}
    assert person["analyst"].post("/v1/subjects/search", json=ask).json() == {"subjects": []}
    mail = {"controller": person["controller"], "identifiers": [{"kind": "email", "value": "W@example.org"}]}
    assert [s["conversations"] for s in person["analyst"].post("/v1/subjects/search", json=mail).json()["subjects"]] == [["talk"]]
    assert [action for _, action in accesses(house, person["controller"])] == ["search"] * 3
    bad = {"controller": person["controller"], "identifiers": [{"kind": "tel", "value": "Sentinel"}]}
    response = person["analyst"].post("/v1/subjects/search", json=bad)
    assert response.status_code == 422 and response.json()["field"] == "/identifiers/0/value" and "Sentinel" not in response.text
    text = person["analyst"].post("/v1/subjects/search", json={"controller": person["controller"], "text": "cat"})
    assert (text.status_code, text.json()["field"]) == (422, "/text")


def test_a_person_is_shown_masked_and_revealed_to_an_analyst_only(house: Any, person: dict[str, Any]) -> None:
    path = f"/v1/subjects/{person['ref']}?controller={person['controller']}"
    for role in ("auditor", "analyst"):
        response = person[role].get(path)
        (conversation,) = response.json()["conversations"]
        assert (conversation["name"], conversation["lines"][0]["text"]) == ("***", "***")
        assert not any(secret in response.text for secret in (NAME, WORDS, "182300", "4711-secret"))
        assert [(row["purpose"], row["status"]) for row in response.json()["consents"]] == [("marketing", "given")]
    assert person["auditor"].get(path + "&reveal=true").status_code == 403
    revealed = person["analyst"].get(path + "&reveal=true")
    (conversation,) = revealed.json()["conversations"]
    assert (conversation["name"], conversation["lines"][0]["text"]) == (NAME, WORDS)
    assert sorted(a for _, a in accesses(house, person["controller"])) == ["reveal", "search", "view", "view"]


def test_an_answer_that_cannot_be_put_on_record_does_not_leave(
    house: Any, person: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(events: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(house.service, "publish", broken)
    response = person["analyst"].get(f"/v1/subjects/{person['ref']}?reveal=true")
    assert response.status_code == 503 and NAME not in response.text


def protected(house: Any, ref: str) -> ProtectedConversation:
    house.folded()
    values = (r.value for _, r in house.service.topic("conversations.protected"))
    found = [row for v in values if v is not None and (row := decode_as(ProtectedConversation, v)).subject_ref == ref]
    return found[-1]


def test_an_erasure_runs_through_the_door_and_opens_to_markers_afterwards(house: Any, person: dict[str, Any]) -> None:
    house.send("call.ended", {"conversation_id": "talk"}, person["controller"])
    for _ in range(10):  # the view is published about a second after its last change
        house.folded()
        if any(True for _, r in house.service.topic("conversations.protected") if r.value and person["ref"].encode() in r.value):
            break
    row = protected(house, person["ref"])
    items = [{"controller": person["controller"], "subject_ref": person["ref"], "conversation_id": "talk", "field": field,
              "sealed": base64.b64encode(sealed).decode()} for field, sealed in (("name", row.name or b""),)]  # fmt: skip
    swapped = {**items[0], "field": "lines.text"}
    foreign = {**items[0], "controller": "acme"}
    nonsense = {**items[0], "sealed": "AAAA"}
    items = [items[0], swapped, foreign, nonsense]
    opened = person["analyst"].post("/v1/open", json={"items": items}).json()
    assert opened == [{"text": NAME}, {"error": "unreadable"}, {"error": "controller-not-yours"}, {"error": "unreadable"}]
    # One who is for another controller gets nothing by naming that one.
    assert house.by_role("analyst").post("/v1/open", json={"items": [foreign]}).json() == [{"error": "unreadable"}]
    assert person["auditor"].post("/v1/open", json={"items": items}).status_code == 403

    ask = {"controller": person["controller"], "right": "erasure", "regime": "gdpr", "identifiers": [person["tel"]],
           "received_via": "phone"}  # fmt: skip
    opened = person["analyst"].post("/v1/requests", json=ask)
    request_id = opened.json()["request_id"]
    assert opened.status_code == 202
    shown = person["auditor"].get(f"/v1/requests/{request_id}").json()  # at once: the call waits for what came before it
    assert (shown["state"], shown["verified"]) == ("identity_pending", False)
    assert person["approver"].post(f"/v1/requests/{request_id}/verify", json={}).status_code == 403
    assert person["analyst"].post(f"/v1/requests/{request_id}/verify", json={"actor": "mallory"}).status_code == 202
    for _ in range(10):  # whom the identifier is linked to is asked first, then it is erased in steps
        house.folded()
        if (state := person["auditor"].get(f"/v1/requests/{request_id}").json()["state"]) != "in_progress":
            break
    assert state == "fulfilled"
    (erasure,) = person["auditor"].get(f"/v1/erasures?controller={person['controller']}").json()["erasures"]
    assert erasure["request_id"] == request_id and erasure["identifiers"][0]["final"]
    assert person["analyst"].post("/v1/open", json={"items": items[:1]}).json() == [{"erased": "[anonymized]"}]
    search = {"controller": person["controller"], "identifiers": [person["tel"]]}
    assert person["analyst"].post("/v1/subjects/search", json=search).json() == {"subjects": []}
    assert house.root.get(f"/v1/subjects/{person['ref']}?reveal=true").json()["conversations"] == []
    steps = [e for e in house.envelopes("requests") if request_id in e.data.decode()]
    assert len({e.actor for e in steps}) == 1 and "mallory" not in {e.actor for e in steps}


def test_a_caller_may_vouch_by_its_own_name(house: Any, person: dict[str, Any]) -> None:
    ask = {"controller": person["controller"], "right": "erasure", "regime": "gdpr", "identifiers": [person["tel"]],
           "received_via": "phone", "verified_by": "somebody else"}  # fmt: skip
    request_id = person["analyst"].post("/v1/requests", json=ask).json()["request_id"]
    sent = [e for e in house.envelopes("requests") if request_id in e.data.decode()]
    assert {e.type for e in sent} == {"request.opened", "request.identity_verified"} and b"somebody else" not in b"".join(
        e.data for e in sent
    )
    house.folded()
    assert person["auditor"].get(f"/v1/requests/{request_id}").json()["verified"]


@pytest.mark.parametrize(("change", "status", "code", "field"), [
    ({"controller": None}, 400, "missing-field", "/controller"),
    ({"right": "access"}, 422, "not-supported-yet", "right"),
    ({"right": "Sentinel"}, 400, "wrong-field", "/right"),
    ({"request_id": "Sentinel"}, 400, "unknown-field", None),
    ({"identifiers": [{"kind": "tel", "value": "Sentinel"}]}, 422, "number-not-possible", "/identifiers/0/value"),
])  # fmt: skip
def test_a_request_that_cannot_be_opened_says_why(house: Any, change: Any, status: int, code: str, field: str | None) -> None:
    ask = {"controller": "acme", "right": "erasure", "regime": "gdpr", "received_via": "web",
           "identifiers": [{"kind": "email", "value": "a@b.org"}], **change}  # fmt: skip
    response = house.root.post("/v1/requests", json=ask)
    assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (status, code)
    assert response.json().get("field") == field and "Sentinel" not in response.text


def test_an_unknown_request_or_action_is_not_found(house: Any) -> None:
    assert house.root.post("/v1/requests/none/verify", json={}).status_code == 404
    assert house.root.post("/v1/requests/none/explode", json={}).status_code == 404
    assert house.root.get("/v1/requests/none").status_code == 404
    assert house.root.get("/v1/subjects/sub_none").status_code == 404


def test_nothing_is_opened_from_state_that_may_not_know_of_an_erasure(still: Any) -> None:
    item = {"controller": "acme", "subject_ref": "sub_x", "conversation_id": "talk", "field": "name", "sealed": "AAAA"}

    def opened() -> Any:
        return still.root.post("/v1/open", json={"items": [item]})

    assert opened().json() == [{"erased": "[anonymized]"}]
    still.now_ms += 61_000  # as in a cluster from a backup, until its workers have obeyed the ledger
    assert (opened().status_code, opened().json()["type"].rpartition(":")[2]) == (503, "stale")
    still.settle()
    assert opened().status_code == 200
