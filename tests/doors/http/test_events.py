"""Events over HTTP: three modes, exact bytes, duplicates, and bad input answered by code and field, never echoed."""

import base64
import json
import logging
import socket
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from connectors.http.bodies import BODY_BYTES_MAX, DRAINED_BYTES_MAX
from engine.runtime import CommitLost
from schemas.cloudevents import EVENT_BYTES_MAX
from schemas.codec import encode
from schemas.events import CallEnded

from .conftest import BATCH, STRUCTURED, cloud_event, consent

SENTINEL = "S3ntinelValue"
ENDED = {"conversation_id": "modes"}


def binary(type_: str, **more: str) -> dict[str, str]:
    return {"ce-specversion": "1.0", "ce-id": uuid4().hex, "ce-source": "test", "ce-type": type_, "ce-controller": "acme", **more}


def last(house: Any, event_id: str) -> Any:
    (found,) = [e for e in house.envelopes("calls") if e.id == event_id]
    return found


def test_binary_json_is_kept_byte_for_byte(house: Any) -> None:
    body, headers = b'{ "conversation_id" : "modes" }', binary("call.ended")
    response = house.root.post("/v1/events", content=body, headers={**headers, "content-type": "application/json"})
    assert (response.status_code, response.json()) == (202, {"accepted": 1})
    kept = last(house, headers["ce-id"])
    assert (kept.data, kept.content_type, kept.actor) == (body, "application/json", "root")


def test_binary_avro_is_kept_byte_for_byte(house: Any) -> None:
    body, headers = encode(CallEnded(conversation_id="modes")), binary("call.ended", **{"ce-time": "2026-01-01T00:00:00Z"})
    response = house.root.post("/v1/events", content=body, headers={**headers, "content-type": "application/avro"})
    assert response.status_code == 202, response.text
    kept = last(house, headers["ce-id"])
    assert (kept.data, kept.content_type, kept.time_ms) == (body, "application/avro", 1_767_225_600_000)


def test_attributes_in_headers_are_percent_decoded(house: Any) -> None:
    headers = {**binary("call.ended"), "ce-id": "%C3%A4%20" + uuid4().hex}
    assert house.root.post("/v1/events", json=ENDED, headers=headers).status_code == 202
    assert any(e.id.startswith("ä ") for e in house.envelopes("calls"))


@pytest.mark.parametrize("form", ["json", "base64-json", "base64-avro"])
def test_structured_mode_in_each_form(house: Any, form: str) -> None:
    event = cloud_event("call.ended", ENDED, subject="ignored", myextension="ignored")
    expected = json.dumps(ENDED).encode()
    if form != "json":
        expected = encode(CallEnded(conversation_id="modes")) if form.endswith("avro") else expected
        del event["data"]
        event["data_base64"] = base64.b64encode(expected).decode()
        event["datacontenttype"] = f"application/{form.removeprefix('base64-')}"
    assert house.root.post("/v1/events", content=json.dumps(event), headers=STRUCTURED).status_code == 202
    assert last(house, event["id"]).data == expected


def test_a_batch_is_taken_whole(house: Any) -> None:
    events = [cloud_event("call.ended", ENDED) for _ in range(600)]
    response = house.root.post("/v1/events", content=json.dumps(events), headers=BATCH)
    assert (response.status_code, response.json()) == (202, {"accepted": 600})
    assert house.root.post("/v1/events", content=b"[]", headers=BATCH).json() == {"accepted": 0}


def test_a_batch_with_bad_ones_says_which_and_keeps_the_good(house: Any) -> None:
    good = [cloud_event("call.ended", ENDED) for _ in range(2)]
    bad = [{"id": SENTINEL}, cloud_event("call.ended", {"conversation_id": 5}), [SENTINEL], cloud_event("law.activated", {})]
    response = house.root.post("/v1/events", content=json.dumps([good[0], *bad, good[1]]), headers=BATCH)
    answer = response.json()
    assert response.status_code == 207 and (answer["accepted"], answer["refused"]) == (2, 4)
    assert [row["status"] for row in answer["results"]] == [202, 400, 400, 400, 400, 202]
    assert [row["index"] for row in answer["results"]] == list(range(6))
    assert answer["results"][2]["problem"]["field"] == "/conversation_id"
    assert SENTINEL not in response.text
    assert {e["id"] for e in good} <= {e.id for e in house.envelopes("calls")}


def test_a_duplicate_is_accepted_as_well(house: Any) -> None:
    event = json.dumps(cloud_event("consent.given", consent("+493090182001")))
    answers = {house.root.post("/v1/events", content=event, headers=STRUCTURED).status_code for _ in range(3)}
    assert answers == {202}


def test_settings_are_in_force_for_what_follows_in_the_same_batch(house: Any) -> None:
    controller = uuid4().hex
    events = [
        cloud_event("consent.given", consent("030 901820"), controller),
        cloud_event("controller.configured", {"default_region": "DE", "employee_basis": "contract"}, controller),
        cloud_event("consent.given", consent("030 901820"), controller),
    ]
    answer = house.root.post("/v1/events", content=json.dumps(events), headers=BATCH).json()
    assert [row["status"] for row in answer["results"]] == [422, 202, 202]
    assert house.send("consent.given", consent("030 901821"), controller).status_code == 202
    house.folded()
    assert house.decide("030 901820", controller)["verdict"] == "allow"
    assert not house.root.get(f"/v1/quarantine?controller={controller}").json()["quarantine"]


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


AHEAD = (datetime.now(UTC) + timedelta(hours=25)).isoformat()
BOMB = json.dumps(cloud_event("call.ended", "@")).replace('"@"', nested(100_000))
AVRO = {**binary("call.ended"), "content-type": "application/avro"}


def with_(**attributes: Any) -> str:
    return json.dumps(cloud_event("call.ended", ENDED, **attributes))


UNKNOWN_SCHEMA = b"\xc3\x01" + b"\x07" * 8 + SENTINEL.encode()
# name: (headers, body, status, code, field)
BAD: dict[str, tuple[dict[str, str], bytes | str, int, str, str | None]] = {
    "no JSON": (STRUCTURED, f'{{"id": {SENTINEL}', 400, "not-json", None),
    "no JSON in data": (binary("call.ended"), f"{{{SENTINEL}", 400, "not-json", None),
    "not-a-number": (binary("call.ended"), '{"conversation_id": NaN}', 400, "not-json", None),
    "not UTF-8": (STRUCTURED, SENTINEL.encode() + b"\xff", 400, "not-json", None),
    "not UTF-8, passed over": (
        STRUCTURED, json.dumps(cloud_event("call.ended", ENDED, x="@")).encode().replace(b"@", b"\xff"), 400, "not-json", None,
    ),
    "not UTF-8 in data": (binary("call.ended"), b'{"conversation_id":"\xff' + SENTINEL.encode() + b'"}', 400, "not-json", None),
    "no Avro": (AVRO, SENTINEL, 400, "not-avro", None),
    "cut Avro": (AVRO, encode(CallEnded(conversation_id=SENTINEL))[:14], 400, "not-avro", None),
    "unknown schema": (AVRO, UNKNOWN_SCHEMA, 400, "unknown-schema", None),
    "unknown type": (binary(f"call.{SENTINEL}"), "{}", 400, "unknown-type", "type"),
    "nesting bomb": (STRUCTURED, BOMB, 400, "too-deep", None),
    "nesting bomb in data": (binary("call.ended"), nested(100_000), 400, "too-deep", None),
    "nesting bomb in batch": (BATCH, f"[{BOMB}]", 400, "too-deep", None),
    "no number": (
        STRUCTURED, json.dumps(cloud_event("consent.given", consent(f"+12{SENTINEL}"))),
        422, "number-not-possible", "/identifiers/0/value",
    ),
    "no number, deep": (
        STRUCTURED, json.dumps(cloud_event("call.started", {
            "conversation_id": "c", "channel": "voice", "direction": "inbound",
            "parties": [{"party_id": "p", "role": "customer", "identifiers": [
                {"kind": "tel", "value": "+493090182000"}, {"kind": "email", "value": SENTINEL}]}]})),
        422, "address-not-possible", "/parties/0/identifiers/1/value",
    ),
    "missing field": (binary("call.ended"), json.dumps({"disposition": SENTINEL}), 400, "missing-field", "/conversation_id"),
    "wrong field": (binary("call.ended"), f'{{"conversation_id":{{"a":"{SENTINEL}"}}}}', 400, "wrong-field", "/conversation_id"),
    "unknown field": (binary("call.ended"), json.dumps({"conversation_id": "c", SENTINEL: 1}), 400, "unknown-field", None),
    "unknown law": (binary("law.activated"), json.dumps({"pack": SENTINEL, "version": "1"}), 422, "unknown-law", "pack"),
    "right not built": (
        binary("request.opened"),
        json.dumps({"request_id": "q", "right": "access", "regime": "gdpr", "received_via": SENTINEL,
                    "identifiers": [{"kind": "crm", "value": SENTINEL}]}),
        422, "not-supported-yet", "right",
    ),
    "time ahead": (STRUCTURED, with_(time=AHEAD), 422, "time-ahead", "time"),
    "time that is none": (STRUCTURED, with_(time=SENTINEL), 400, "wrong-field", "time"),
    "no id": (STRUCTURED, with_(id=None), 400, "missing-field", "id"),
    "no controller": (STRUCTURED, with_(controller=None), 400, "missing-field", "controller"),
    "control character": (STRUCTURED, with_(id="a\0" + SENTINEL), 400, "wrong-field", "id"),
    "other version": (STRUCTURED, with_(specversion=SENTINEL), 400, "wrong-field", "specversion"),
    "no attributes": ({"content-type": "application/json"}, json.dumps(ENDED), 400, "missing-field", None),
    "no data": (STRUCTURED, json.dumps(cloud_event("call.ended", None)), 400, "missing-field", "data"),
    "no batch": (BATCH, "{}", 400, "wrong-field", None),
    "event too large": (binary("call.ended"), json.dumps({"conversation_id": SENTINEL * 100_000}), 413, "event-too-large", None),
    "body too large": (BATCH, SENTINEL * 800_000, 413, "body-too-large", None),
    "XML": ({"content-type": "application/cloudevents+xml"}, f"<{SENTINEL}/>", 415, "unsupported-content-type", "content-type"),
    "text": ({**binary("call.ended"), "content-type": "text/plain"}, SENTINEL, 415, "unsupported-content-type", "content-type"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_by_code_and_field_and_never_echoed(
    house: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers, body, status, code, field = BAD[name]
    before = sum(1 for _ in house.service.topic("quarantine"))
    with caplog.at_level(logging.DEBUG):
        response = house.root.post("/v1/events", content=body, headers={"content-type": "application/json", **headers})
    problem = response.json()
    assert (response.status_code, problem["type"]) == (status, f"urn:consentinel:problem:{code}"), response.text
    assert response.headers["content-type"] == "application/problem+json" and problem["status"] == status
    if field is not None:
        assert problem["field"] == field
    assert SENTINEL not in response.text and SENTINEL not in "".join(str(v) for v in response.headers.values())
    assert SENTINEL not in caplog.text
    assert house.send("call.ended", ENDED).status_code == 202  # and nothing stopped
    assert sum(1 for _ in house.service.topic("quarantine")) == before


def test_a_body_that_nobody_would_drain_is_refused_by_its_length(house: Any) -> None:
    url = httpx.URL(house.url)
    with socket.create_connection((url.host, url.port), timeout=10) as wire:
        token = house.root.headers["authorization"]
        wire.sendall(
            f"POST /v1/events HTTP/1.1\r\nhost: door\r\nauthorization: {token}\r\n"
            f"content-type: {BATCH['content-type']}\r\ncontent-length: {DRAINED_BYTES_MAX + 1}\r\n\r\n".encode()
        )
        assert wire.recv(1000).startswith(b"HTTP/1.1 413")


def test_an_event_in_a_batch_has_its_own_limit(house: Any) -> None:
    large = cloud_event("call.ended", {"conversation_id": "x" * EVENT_BYTES_MAX})
    response = house.root.post("/v1/events", content=json.dumps([cloud_event("call.ended", ENDED), large]), headers=BATCH)
    assert response.status_code == 207 and [row["status"] for row in response.json()["results"]] == [202, 413]


def test_a_batch_of_nearly_the_largest_body_is_taken(house: Any) -> None:
    text = "x" * 60_000
    event = cloud_event("call.transcribed", {"conversation_id": "big", "segments": [{"text": text}] * 10})
    one = len(json.dumps(event)) + 2
    events = [{**event, "id": uuid4().hex} for _ in range((BODY_BYTES_MAX - 100) // one)]
    assert house.root.post("/v1/events", content=json.dumps(events), headers=BATCH).status_code == 202


def test_what_the_log_cannot_take_is_a_503_and_nothing_is_marked(still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(events: Any) -> None:
        raise CommitLost("disk full")

    monkeypatch.setattr(still.service, "publish", lost)
    response = still.send("consent.withdrawn", consent("+493090182002"))
    assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
    assert "disk" not in response.text and len(still.app.state.door.marks) == 0


def test_a_dead_engine_takes_nothing(still: Any) -> None:
    still.service.failed = "StoreDamaged"
    try:
        assert still.send("call.ended", ENDED).status_code == 503
        health = still.root.get("/healthz")
        assert (health.status_code, health.json()["reason"]) == (503, "StoreDamaged")
        assert still.root.get("/readyz").status_code == 503
    finally:
        still.service.failed = None


def test_a_bug_answers_a_problem_and_logs_no_value(
    still: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def buggy(events: Any) -> None:
        raise ValueError(SENTINEL)

    monkeypatch.setattr(still.service, "publish", buggy)
    response = still.send("call.ended", ENDED)
    assert (response.status_code, response.json()["type"]) == (500, "urn:consentinel:problem:internal")
    assert SENTINEL not in response.text and "ValueError" in caplog.text
    assert SENTINEL not in caplog.text


def test_an_accepted_answer_means_the_log_has_it(still: Any) -> None:
    still.send("call.ended", ENDED, id="durable-1")
    assert [e.id for e in still.envelopes("calls")] == ["durable-1"]
    kept = still.envelopes("calls")[0]
    assert (kept.receipt_ms, kept.time_ms, kept.refs) == (still.now_ms, still.now_ms, ())
    assert msgspec.json.decode(kept.data) == ENDED
