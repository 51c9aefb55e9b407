"""What comes from outside becomes a record, or a code and one of our own field names: never an echo of what was sent."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import codec, decode
from schemas.base import EventData
from schemas.decode import Invalid, decode_checked, decode_event, trusting
from schemas.events import BY_TYPE, EVENTS, CallStarted, ConsentChanged, Identifier
from schemas.generate import schema_of

SECRET = "+12025550123"
STARTED: dict[str, Any] = {
    "conversation_id": "c-1", "channel": "voice", "direction": "inbound",
    "parties": [{"party_id": "p", "role": "customer", "identifiers": [{"kind": "tel", "value": SECRET}]}],
}  # fmt: skip
SEGMENTS: dict[str, Any] = {"conversation_id": "c-1", "segments": [{"text": "hello", "offset_ms": 5}]}
HOLD: dict[str, Any] = {"hold_id": "h", "scope": {}, "ground": "g"}


def text(document: Any) -> bytes:
    return json.dumps(document).encode()


def party(**changes: Any) -> bytes:
    return text(STARTED | {"parties": [STARTED["parties"][0] | changes]})


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.example+json", ""],
)
def test_json_is_read_whatever_its_type_is_called(content_type: str) -> None:
    record = decode_event("call.started", content_type, text(STARTED))
    assert isinstance(record, CallStarted)
    assert record.parties[0].identifiers == (Identifier(kind="tel", value=SECRET),)


def test_avro_and_json_are_the_same_event() -> None:
    record = decode_event("call.started", "application/json", text(STARTED))
    assert decode_event("call.started", "application/avro", codec.encode(record)) == record


SURROGATE = b'{"conversation_id": "\\ud800", "disposition": null}'
JSON_CASES = [
    pytest.param("call.nothing", b"{}", "unknown-type", "", id="type"),
    pytest.param("call.ended", b"", "not-json", "", id="empty"),
    pytest.param("call.ended", b"{", "not-json", "", id="cut"),
    pytest.param("call.ended", b'{"conversation_id": "a"} x', "not-json", "", id="more"),
    pytest.param("call.ended", b'{"conversation_id": "\xff"}', "not-json", "", id="not UTF-8"),
    pytest.param("call.ended", b'{"conversation_id": "\xed\xa0\x80"}', "not-json", "", id="surrogate in UTF-8"),
    pytest.param("call.ended", SURROGATE, "not-json", "", id="lone surrogate"),
    pytest.param("call.ended", '{"conversation_id": "a"}'.encode("utf-16"), "not-json", "", id="UTF-16"),
    pytest.param("call.ended", b'{"conversation_id": NaN}', "not-json", "", id="NaN"),
    pytest.param("call.ended", b"[" * 1_000_000, "wrong-field", "", id="bomb"),
    pytest.param("call.ended", b'{"x":' + b"[" * 1_000_000, "too-deep", "", id="bomb in an unknown field"),
    pytest.param("call.ended", b'{"conversation_id":' + b'{"a":' * 1_000_000, "wrong-field", "/conversation_id", id="objects"),
    pytest.param("call.ended", b"5", "wrong-field", "", id="no object"),
    pytest.param("call.ended", b"{}", "missing-field", "/conversation_id", id="missing"),
    pytest.param("call.ended", b'{"conversation_id": ""}', "wrong-field", "/conversation_id", id="too short"),
    pytest.param("call.ended", b'{"conversation_id": "a\\u0000"}', "wrong-field", "/conversation_id", id="pattern"),
    pytest.param("call.ended", b'{"conversation_id":"a","conversation_id":"b"}', "wrong-field", "", id="twice"),
    pytest.param(
        "call.started", party(name=1), "wrong-field", "/parties/0/name", id="type of a nested field"
    ),
    pytest.param("call.started", party(x=SECRET), "unknown-field", "/parties/0", id="unknown nested"),
    pytest.param("call.started", text(STARTED | {SECRET: 1}), "unknown-field", "", id="unknown"),
    pytest.param(
        "call.started", text(STARTED | {f"x` - at `$.parties[{SECRET[1:]}]": 1}), "unknown-field", "", id="forged path"
    ),
    pytest.param(
        "call.started", text(STARTED | {"metadata": {SECRET: 5}}), "wrong-field", "/metadata", id="key of a map"
    ),
    pytest.param(
        "call.started", party(identifiers=[{"kind": SECRET, "value": "x"}]), "wrong-field",
        "/parties/0/identifiers/0/kind", id="not allowed",
    ),
    pytest.param(
        "call.started", party(identifiers=[{"kind": "tel"}]), "missing-field",
        "/parties/0/identifiers/0/value", id="missing nested",
    ),
    pytest.param(
        "call.started", party(jurisdiction="x` - at `$.q`"), "wrong-field", "/parties/0/jurisdiction", id="value like a path"
    ),
    pytest.param(
        "call.transcribed", b'{"conversation_id":"c","segments":[{"text":"a"},{"text":"a","text":"b"}]}', "wrong-field",
        "/segments/1", id="twice, nested",
    ),
    pytest.param(
        "call.transcribed", b'{"conversation_id":"c","segments":[{"text":"a","offset_ms":%s}]}' % (b"9" * 20),
        "wrong-field", "/segments/0/offset_ms", id="beyond 64 bits",
    ),
    pytest.param(
        "call.transcribed", b'{"conversation_id":"c","segments":[{"text":"a","offset_ms":%s}]}' % (b"9" * 100_000),
        "wrong-field", "/segments/0/offset_ms", id="huge",
    ),
    pytest.param(
        "retention.policy_set", b'{"policy_id":"p","selector":{},"keep_for":"P1D","from":"0001-01-01T00:00:00+14:00"}',
        "wrong-field", "/from", id="beyond the calendar",
    ),
    pytest.param(
        "retention.policy_set", b'{"policy_id":"p","selector":{},"keep_for":"P1D"}', "missing-field", "/from", id="renamed",
    ),
    pytest.param("hold.placed", text(HOLD | {"until": "2026-01-01T00:00:00"}), "wrong-field", "/until", id="no time zone"),
    pytest.param("hold.placed", text(HOLD | {"scope": {"topics": [""]}}), "wrong-field", "/scope/topics/0", id="item"),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "data", "code", "field"), JSON_CASES)
def test_bad_json_is_named_by_code_and_field(type_: str, data: bytes, code: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode_event(type_, "application/json", data)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert str(caught.value) == f"{code}: {field}"
    assert caught.value.__context__ is None, "the context's text holds values"
    assert SECRET not in repr(caught.value)


def test_bad_avro_is_named_by_code_and_field() -> None:
    record = decode_event("call.started", "application/json", text(STARTED))
    assert isinstance(record, CallStarted)
    good = codec.encode(record)
    odd = msgspec.structs.replace(record.parties[0], identifiers=(Identifier(kind="tel", value=""),))
    cases = {
        b"": ("not-avro", ""),
        text(STARTED): ("not-avro", ""),
        good[:-1]: ("not-avro", ""),
        good + b"\0": ("not-avro", ""),
        b"\xc3\x01" + b"\0" * 8: ("unknown-schema", ""),
        b"\xc3\x01" + codec.fingerprint(ConsentChanged) + good[10:]: ("unknown-schema", ""),
        codec.encode(msgspec.structs.replace(record, parties=(odd,))): (
            "wrong-field", "/parties/0/identifiers/0/value",
        ),
        codec.encode(msgspec.structs.replace(record, channel="smoke")): ("wrong-field", "/channel"),
    }  # fmt: skip
    for data, (code, field) in cases.items():
        with pytest.raises(Invalid) as caught:
            decode_event("call.started", "application/avro", data)
        assert (caught.value.code, caught.value.field) == (code, field)
        assert caught.value.__context__ is None


def test_other_content_types_are_refused() -> None:
    for content_type in ("text/plain", "application/xml", "application/avro-json"):
        with pytest.raises(Invalid):
            decode_event("call.started", content_type, text(STARTED))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["identifiers", "scope", "a", "kind", "from", "parties"]) | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.sampled_from(sorted(BY_TYPE)),
    st.sampled_from(["application/json", "application/avro"]),
    st.binary(max_size=60) | JSON.map(text),
)
def test_anything_at_all_is_an_event_or_invalid(type_: str, content_type: str, data: bytes) -> None:
    try:
        decode_event(type_, content_type, data)
    except Invalid as error:
        assert error.code in get_args(decode.Code)


# --- what was checked before


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.SCHEMA)
def test_a_trusting_class_has_the_fields_schema_and_labels_of_its_own(cls: type[EventData]) -> None:
    twin = trusting(cls)
    assert issubclass(twin, cls) and twin is not cls
    assert schema_of(twin) == schema_of(cls) and codec.fingerprint(twin) == codec.fingerprint(cls)
    assert [(f.name, f.encode_name, f.default) for f in msgspec.structs.fields(twin)] == [
        (f.name, f.encode_name, f.default) for f in msgspec.structs.fields(cls)
    ]


def test_what_was_checked_is_read_as_it_was_checked() -> None:
    checked = decode_event("call.started", "application/json", text(STARTED))
    trusted = decode_checked("call.started", "application/json", text(STARTED))
    assert type(trusted) is trusting(CallStarted)
    assert codec.encode(trusted) == codec.encode(checked)
    assert decode_checked("call.started", "application/avro", codec.encode(checked)) == checked
    unfit = text(STARTED | {"conversation_id": "c" * 300})  # refused where it comes in: it is not looked at twice
    with pytest.raises(Invalid):
        decode_event("call.started", "application/json", unfit)
    assert decode_checked("call.started", "application/json", unfit).conversation_id == "c" * 300  # type: ignore[attr-defined]


def test_what_another_release_checked_and_this_one_cannot_read_says_what_is_wrong() -> None:
    for type_, data, code in [
        ("call.started", text(STARTED | {"later": 1}), "unknown-field"),
        ("call.started", b"{", "not-json"),
        ("call.teleported", text(STARTED), "unknown-type"),
    ]:
        with pytest.raises(Invalid) as caught:
            decode_checked(type_, "application/json", data)
        assert caught.value.code == code
