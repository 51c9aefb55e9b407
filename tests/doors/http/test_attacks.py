"""What an adversary tried once and found open stays shut."""

import json
from typing import Any

import pytest

from connectors.http.cloudevents import EVENTS_MAX

from .conftest import BATCH, consent

REQUEST = {"right": "erasure", "regime": "gdpr", "received_via": "web"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'[{"id":1}, {', "not-json"),
        (b'[{"id":1}, S3ntinel]', "not-json"),
        (b'[{"id":1}]x', "not-json"),
        (b'[{"id":1},{"x":"\\q"}]', "not-json"),
        (b'[{"id":1},' + b"[" * 50_000 + b"]" * 50_000 + b"]", "too-deep"),
        (b'{"id":1}', "wrong-field"),
    ],
)
def test_a_batch_that_is_broken_after_a_wrong_event_is_refused_as_a_whole(house: Any, body: bytes, code: str) -> None:
    response = house.root.post("/v1/events", content=body, headers=BATCH)
    assert (response.status_code, response.json()["type"].rsplit(":", 1)[-1]) == (400, code)
    assert "S3ntinel" not in response.text


def test_a_batch_of_too_many_events_is_refused_before_any_is_judged(house: Any) -> None:
    body = b"[" + b",".join([b"{}"] * (EVENTS_MAX + 1)) + b"]"
    response = house.root.post("/v1/events", content=body, headers=BATCH)
    assert response.status_code == 413
    assert len(response.content) < 1_000


def test_a_doubled_key_in_a_call_is_refused(house: Any) -> None:
    one, other = '[{"kind":"tel","value":"+12025550123"}]', '[{"kind":"tel","value":"+12025550124"}]'
    body = f'{{"controller":"acme","use":"dial","channel":"voice","purpose":"m","identifiers":{one},"identifiers":{other}}}'
    response = house.root.post("/v1/decisions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400


def test_an_expired_addition_takes_no_suppression_away(still: Any) -> None:
    number = "+12025550139"
    data = {"identifiers": [{"kind": "tel", "value": number}], "list": "company_dnc", "source": "web"}
    assert still.send("suppression.added", data).status_code == 202
    still.settle()
    response = still.send("suppression.added", {**data, "expires": "2020-01-01T00:00:00Z"})
    assert (response.status_code, response.json()["field"]) == (422, "expires")
    still.settle()
    assert "company_dnc" in still.decide(number)["reasons"]


def test_an_id_that_is_another_controllers_is_refused_at_the_door(still: Any) -> None:
    named = {**REQUEST, "request_id": "case-1", "identifiers": [{"kind": "email", "value": "ann@example.com"}]}
    assert still.send("request.opened", named, "acme").status_code == 202
    still.settle()
    response = still.send("request.opened", named, "beta")
    assert (response.status_code, response.json()["type"].rsplit(":", 1)[-1]) == (409, "id-taken")


SPELLINGS = ["<a@example.com>", "Ada <a@example.com>", "a @ example.com", "a@example.com\u200b", "\ufeffa@example.com"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_that_would_be_another_person_is_refused(house: Any, spelling: str) -> None:
    data = consent("+12025550123") | {"identifiers": [{"kind": "email", "value": spelling}]}
    assert house.send("consent.withdrawn", data).status_code == 422


def test_a_dot_for_the_root_of_the_dns_is_the_same_address(still: Any) -> None:
    of = {"controller": "acme", "identifiers": [{"kind": "email", "value": "dot@example.com"}]}
    data = consent("+12025550123") | {"identifiers": [{"kind": "email", "value": "dot@example.com."}]}
    assert still.send("consent.given", data).status_code == 202
    still.settle()
    assert len(still.root.post("/v1/subjects/search", json=of).json()["subjects"]) == 1


@pytest.mark.parametrize("purpose", ["marketing ", " marketing", " ", "market\u202eing", "market\u200bing", "a\u0085b"])
def test_names_that_only_look_alike_are_refused(house: Any, purpose: str) -> None:
    assert house.send("consent.withdrawn", consent("+12025550123") | {"purposes": [purpose]}).status_code == 400


def test_a_time_in_a_header_is_rfc_3339(house: Any) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "t", "ce-source": "t", "ce-type": "call.ended", "ce-controller": "acme"}
    response = house.root.post("/v1/events", content=json.dumps({"conversation_id": "c"}),
                               headers={**headers, "ce-time": "1700000000", "content-type": "application/json"})  # fmt: skip
    assert (response.status_code, response.json()["field"]) == (400, "time")
