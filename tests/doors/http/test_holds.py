"""A hold over what a search finds: one hold, bounded, on record as counts; and what it refuses."""

from typing import Any
from uuid import uuid4

import pytest

from connectors.http import holds
from schemas.codec import decode_as
from schemas.topics import AuditEntry

ANN, MAIL, BEN = ("tel", "+493090182451"), ("email", "ann@example.com"), ("tel", "+493090182452")


def identifiers(*who: tuple[str, str]) -> list[dict[str, str]]:
    return [{"kind": kind, "value": value} for kind, value in who]


@pytest.fixture
def controller(house: Any) -> str:
    name = uuid4().hex
    for conversation, who in (("c1", (ANN, MAIL)), ("c2", (ANN,)), ("c3", (BEN,)), ("c4", (BEN,))):
        house.send("call.started", {
            "conversation_id": conversation, "channel": "voice", "direction": "inbound",
            "parties": [{"party_id": "p", "role": "customer", "identifiers": identifiers(*who)}],
        }, name)  # fmt: skip
    house.folded()
    return name


def place(house: Any, controller: str, search: dict[str, Any], **more: Any) -> Any:
    return house.root.post("/v1/holds", json={"controller": controller, "ground": "litigation", "search": search, **more})


def test_one_hold_covers_all_that_is_found_now_and_its_scope_is_on_record_as_counts(house: Any, controller: str) -> None:
    search = {"identifiers": identifiers(MAIL, ANN), "conversation_ids": ["c3", "c2", "no-such-call"]}
    answer = place(house, controller, search, hold_id="h1", authority="Court of Example", until="2099-01-01T00:00:00Z")
    assert (answer.status_code, answer.json()) == (202, {"hold_id": "h1", "conversations": 3, "not_found": 1})
    house.folded()
    (held,) = house.root.get(f"/v1/holds?controller={controller}").json()["holds"]
    assert (held["conversations"], held["people"], held["authority"]) == (["c1", "c2", "c3"], 0, "Court of Example")
    assert held["search"] == {"identifiers": 2, "conversation_ids": 3, "found": 3}
    entries = [decode_as(AuditEntry, record.value) for _, record in house.service.topic("audit.entries")]
    (opened,) = [e for e in entries if e.kind == "hold.opened" and e.controller == controller]
    assert (opened.facts["conversations"], opened.facts["search.identifiers"], opened.facts["search.found"]) == ("3", "2", "3")
    assert [e.facts["count"] for e in entries if e.kind == "data.accessed" and e.facts.get("action") == "search"
            and e.controller == controller] == ["4"]  # fmt: skip


def test_what_it_cannot_do_it_refuses_and_places_nothing(house: Any, controller: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = {"identifiers": identifiers(ANN)}
    assert place(house, controller, ann, hold_id="h1").status_code == 202
    house.folded()
    monkeypatch.setattr(holds, "HELD_MAX", 1)
    refusals = [
        place(house, controller, ann), place(house, controller, {"identifiers": identifiers(("tel", "+493090182459"))}),
        place(house, controller, {}), place(house, controller, {"tags": ["vip"]}),
        place(house, controller, {"conversation_ids": ["c4"]}, hold_id="h1"),
        place(house, controller, {"conversation_ids": ["c4"]}, hold_id="tag:art6_1_c"),
        place(house, controller, {"identifiers": identifiers(("tel", "123"))}),
    ]  # fmt: skip
    told = [(r.status_code, r.json()["type"].rpartition(":")[2], r.json()["field"]) for r in refusals]
    assert told == [
        (413, "too-many-items", "/search"), (422, "nothing-found", "/search"), (400, "missing-field", "/search"),
        (422, "not-supported-yet", "/search/tags"), (409, "id-taken", "/hold_id"), (422, "reserved", "hold_id"),
        (422, "number-needs-region", "/search/identifiers/0/value"),
    ]  # fmt: skip
    house.folded()
    assert [h["hold_id"] for h in house.root.get(f"/v1/holds?controller={controller}").json()["holds"]] == ["h1"]
