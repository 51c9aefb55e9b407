"""A request for a part, over HTTP: what is refused, what is warned about, and what its person's view shows afterwards."""

from typing import Any
from uuid import uuid4

import pytest

NUMBER = "+12025550123"
NAMED = [{"kind": "tel", "value": NUMBER}]


def configured(house: Any, controller: str, **settings: Any) -> dict[str, Any]:
    response = house.send("controller.configured", {"default_region": "US", "employee_basis": "contract", **settings}, controller)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


def opened(house: Any, controller: str, scope: Any) -> Any:
    return house.root.post("/v1/requests", json={
        "controller": controller, "right": "erasure", "regime": "gdpr", "identifiers": NAMED, "received_via": "web",
        "verified_by": "root", "scope": scope,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "code", "field"),
    [
        ({}, "empty-scope", "scope"),
        ({"fields": ["shoe_size"]}, "wrong-field", "/scope/fields/0"),
        ({"conversation_ids": ["c1"]}, "nothing-chosen", "scope"),
    ],
)
def test_a_scope_that_means_nothing_is_refused(house: Any, scope: Any, code: str, field: str) -> None:
    controller = uuid4().hex
    configured(house, controller, sealed_fields={"numbers": False, "emails": False, "ips": False})
    refused = opened(house, controller, scope)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (422 if code != "wrong-field" else 400, code)
    assert field in refused.json()["field"] and "shoe" not in refused.text


def test_a_choice_that_merges_conversations_or_means_nothing_is_warned_about(house: Any) -> None:
    fields = {"metadata.crm": True, "metadata.x": True, "phon": True}
    answer = configured(house, uuid4().hex, merge_keys=["crm"], sealed_fields=fields)
    assert answer == {"accepted": 1, "warnings": [
        {"code": "merges-conversations", "field": "/sealed_fields/metadata.crm"},
        {"code": "unknown-group", "field": "/sealed_fields/phon"},
    ]}  # fmt: skip


def test_the_persons_view_shows_markers_for_what_was_chosen_and_the_rest_as_it_was(house: Any) -> None:
    controller, conversation = uuid4().hex, uuid4().hex
    house.send("call.started", {"conversation_id": conversation, "channel": "voice", "direction": "inbound", "parties": [
        {"party_id": "p", "role": "customer", "identifiers": NAMED, "name": "Ann Example"}]}, controller)  # fmt: skip
    segments = [{"text": "hello", "party_id": "p"}]
    house.send("call.transcribed", {"conversation_id": conversation, "segments": segments}, controller)
    house.folded()
    request_id = opened(house, controller, {"conversation_ids": [conversation], "fields": ["content"]}).json()["request_id"]
    for _ in range(20):
        house.folded()
        if (shown := house.root.get(f"/v1/requests/{request_id}").json())["state"] != "in_progress":
            break
    assert (shown["state"], shown["fields"]) == ("fulfilled", ["content"])
    found = house.root.post("/v1/subjects/search", json={"controller": controller, "identifiers": NAMED}).json()["subjects"]
    view = house.root.get(f"/v1/subjects/{found[0]['subject_ref']}?reveal=true").json()["conversations"][0]
    assert (view["name"], view["lines"][0]["text"]) == ("Ann Example", "[anonconversationcontent]")
    assert view["anonymised"] == ["content"] and not view["reviewable"]
