"""What publishers write to Kafka themselves becomes an envelope, or a code that names the attribute."""

import msgspec
import pytest

from engine.outside import envelope_of
from engine.runtime import LogRecord, Output
from engine.sealing import form_of
from schemas.decode import Invalid
from tests.harness import Deployment

DATA = msgspec.json.encode({"conversation_id": "c1", "disposition": "done"})
HEADERS = (
    ("ce_id", b"1"), ("ce_source", b"acd"), ("ce_specversion", b"1.0"), ("ce_type", b"call.ended"), ("ce_controller", b"acme"),
    ("ce_time", b"2026-01-01T00:00:00Z"), ("content-type", b"application/json"),
)  # fmt: skip


def record(value=DATA, headers=HEADERS, ts_ms=1_800_000_000_000):
    return LogRecord(7, ts_ms, b"k", value, headers)


def without(name, **instead):
    found = {k: v for k, v in HEADERS if k != name} | {k: v for k, v in instead.items()}
    return tuple(found.items())


def test_binary_mode_becomes_an_envelope_that_carries_no_refs_and_no_actor():
    made = envelope_of("calls", record())
    assert (made.id, made.source, made.type, made.controller) == ("1", "acd", "call.ended", "acme")
    assert (made.time_ms, made.receipt_ms) == (1_767_225_600_000, 1_800_000_000_000)
    assert (made.data, made.content_type, made.refs, made.actor) == (DATA, "application/json", (), "")


def test_structured_mode_says_the_same():
    body = msgspec.json.encode({
        "specversion": "1.0", "id": "1", "source": "acd", "type": "call.ended", "controller": "acme",
        "time": "2026-01-01T00:00:00Z", "data": msgspec.Raw(DATA), "refs": ["sub_x"], "actor": "root",
    })  # fmt: skip
    headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    assert envelope_of("calls", record(body, headers)) == envelope_of("calls", record())


def test_an_event_without_a_time_happened_when_it_was_received():
    assert envelope_of("calls", record(headers=without("ce_time"))).time_ms == 1_800_000_000_000


@pytest.mark.parametrize(
    ("topic", "headers", "value", "code", "field"),
    [
        ("consents", HEADERS, DATA, "unknown-type", "type"),
        ("calls", without("ce_id"), DATA, "missing-field", "id"),
        ("calls", without("ce_controller"), DATA, "missing-field", "controller"),
        ("calls", without("ce_specversion", ce_specversion=b"0.3"), DATA, "wrong-field", "specversion"),
        ("calls", without("ce_time", ce_time=b"yesterday"), DATA, "wrong-field", "time"),
        ("calls", without("ce_source", ce_source=b"\xff"), DATA, "wrong-field", "headers"),
        ("calls", (("content-type", b"text/xml"),), DATA, "unsupported-content-type", "content-type"),
        ("calls", (("content-type", b"application/cloudevents+avro"),), DATA, "unsupported-content-type", "content-type"),
        ("calls", (("content-type", b"application/cloudevents+json"),), b"{", "not-json", ""),
        ("calls", (("content-type", b"application/cloudevents+json"),), b'{"id":"\xff"}', "not-json", ""),
        ("calls", HEADERS, b"x" * ((1 << 20) + 1), "event-too-large", ""),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(topic, headers, value, code, field):
    with pytest.raises(Invalid) as fault:
        envelope_of(topic, record(value, headers))
    assert (fault.value.code, fault.value.field) == (code, field)


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path)
    yield made
    made.close()


def folded(deployment, topic, *records):
    """Let intake fold records that a publisher wrote; gives the (code, field) of what went to quarantine."""
    outputs = [Output(topic, b"k", value, headers) for headers, value in records]
    deployment.runtime.append(outputs, deployment.now_ms)
    deployment.settle()
    return sorted((entry.code, entry.field) for _, entry in deployment.rows("quarantine"))


def test_a_publishers_event_is_folded_and_sealed_on_its_way_on(deployment):
    data = msgspec.json.encode({
        "identifiers": [{"kind": "tel", "value": "+12025550123"}], "purposes": ["marketing"], "method": "web", "evidence": {},
    })  # fmt: skip
    assert folded(deployment, "consents", (without("ce_type", ce_type=b"consent.given"), data)) == []
    assert len(deployment.latest("consent.state")) == 1
    passed = [r.value for p in range(4) for r in deployment.runtime.read("subject.events", p, 0, 9)]
    assert len(passed) == 1 and form_of(passed[0]) == "raw" and b"2025550123" not in passed[0]


def test_a_publisher_cannot_set_refs_or_speak_as_a_task(deployment):
    inner = (without("ce_type", ce_type=b"call.ended"), DATA)
    task = (without("ce_type", ce_type=b"EraseOrder"), DATA)
    assert folded(deployment, "calls", inner, task) == [("unknown-type", "type")]


def test_what_a_publisher_may_not_write_goes_to_quarantine(deployment):
    misplaced = (without("ce_type", ce_type=b"consent.given"), DATA)
    assert folded(deployment, "calls", misplaced, (HEADERS[1:], DATA)) == [("missing-field", "id"), ("unknown-type", "type")]


@pytest.mark.parametrize("topic", ["controls", "requests"])
def test_only_doors_write_what_steers(deployment, topic):
    assert folded(deployment, topic, (HEADERS, DATA)) == [("unreadable", "")]
