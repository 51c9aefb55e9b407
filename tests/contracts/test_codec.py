"""Records and bytes: equal to another library's, across schema versions, and never more than `Malformed` on hostile bytes."""

import copy
import io
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import fastavro
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect as shape

from schemas import codec
from schemas.base import Record
from schemas.compiled import decoder, encoder
from schemas.events import CallEnded, CallStarted, ConsentChanged, Evidence, Identifier, RetentionPolicySet, Target
from schemas.generate import RECORDS, schema_of
from schemas.routed import Envelope, ItemEnded, ItemLines
from schemas.topics import AuditEntry, ConsentState, ControllerState
from schemas.wire import varint

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.text("az", min_size=60, max_size=70)
LONGS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-70, 70) | st.integers(1_600_000_000_000, 1_900_000_000_000)
TIMES = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-7))),
)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def values(info: shape.Type) -> st.SearchStrategy[Any]:
    """Anything that a field of this type may hold; constraints are for others to test."""
    match info:
        case shape.Metadata():
            return values(info.type)
        case shape.UnionType():
            return st.one_of([values(part) for part in info.types])
        case shape.NoneType():
            return st.none()
        case shape.StrType():
            return TEXTS
        case shape.LiteralType():
            return st.sampled_from(info.values)
        case shape.IntType():
            return LONGS
        case shape.BoolType():
            return st.booleans()
        case shape.BytesType():
            return st.binary(max_size=200)
        case shape.DateTimeType():
            return TIMES
        case shape.VarTupleType():
            return st.lists(values(info.item_type), max_size=3).map(tuple)
        case shape.DictType():
            return st.dictionaries(TEXTS, values(info.value_type), max_size=3)
        case shape.StructType():
            return st.builds(info.cls, **{field.name: values(field.type) for field in info.fields})
    raise AssertionError(info)


def plain(value: Any) -> Any:
    """The record as the dict that fastavro takes; it would take a tuple for a branch of a union."""
    return listed(msgspec.to_builtins(value, builtin_types=(bytes, datetime)))


def listed(value: Any) -> Any:
    """The same with lists for tuples."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, tuple | list) else value


_PARSED = {cls: fastavro.parse_schema(schema_of(cls)) for cls in RECORDS}


IN_AVRO = [cls for cls in RECORDS if cls is not Envelope]


@pytest.mark.parametrize("cls", IN_AVRO, ids=lambda cls: cls.SCHEMA)
def test_bytes_are_what_fastavro_writes_and_reads(cls: type[Record]) -> None:
    @QUICK
    @given(values(shape.type_info(cls)))
    def check(record: Record) -> None:
        data = codec.encode(record)
        theirs = io.BytesIO()
        fastavro.schemaless_writer(theirs, _PARSED[cls], plain(record))
        assert data == b"\xc3\x01" + codec.fingerprint(cls) + theirs.getvalue()
        assert codec.decode(data) == record
        assert codec.decode_as(cls, data) == record
        assert codec.record_of(data) is cls
        # And theirs reads ours.
        assert fastavro.schemaless_reader(io.BytesIO(data[10:]), _PARSED[cls]) == plain(record)

    check()


@QUICK
@given(values(shape.type_info(Envelope)))
def test_an_envelope_is_what_was_packed_and_its_avro_form_is_read_as_well(envelope: Envelope) -> None:
    data = codec.encode(envelope)
    assert data[:2] == b"\xc3\x02"
    assert codec.unpacked(data) == codec.decode(data) == codec.decode_as(Envelope, data) == envelope
    assert codec.record_of(data) is Envelope
    in_avro = encoder(Envelope, b"\xc3\x01" + codec.fingerprint(Envelope))(envelope)
    assert codec.unpacked(in_avro) == codec.decode(in_avro) == envelope


def test_golden_bytes_of_an_envelope() -> None:
    """These bytes rest, sealed, in topics and in quarantine: if this fails, the format changed, not the test."""
    envelope = Envelope(id="e1", source="s", type="t", controller="c", time_ms=1, receipt_ms=2, refs=("sub_a", ""), data=b"{}")
    assert codec.encode(envelope).hex() == PACKED
    assert codec.decode(bytes.fromhex(PACKED)) == envelope


PACKED = "c3029aa26531a173a174a1630102a0b06170706c69636174696f6e2f6176726f92a57375625f61a0c4027b7d"


CONSENT = ConsentState(
    subject_ref="sub_aaaaaaaaaaaaaaaaaaaaaaaaaa", purpose="marketing", channel="voice", brand="*", controller="acme",
    status="given", effective_ms=1_700_000_000_000, method="web", evidence_ref="ev-1", epoch=3, jurisdiction="DE",
)  # fmt: skip


def test_golden_bytes_of_a_consent_state() -> None:
    """These bytes rest in topics: if this fails, the format changed, not the test."""
    assert codec.encode(CONSENT).hex() == GOLDEN
    assert codec.decode(bytes.fromhex(GOLDEN)) == CONSENT


GOLDEN = (
    "c30122e956436647f5393c7375625f6161616161616161616161616161616161616161616161616161126d61726b6574696e"
    "670a766f696365022a0861636d650a676976656e80a0abfef962067765620865762d3106000204444500126275696c74696e"
    "2d31"
)


# --- hostile bytes


def survives(data: bytes) -> None:
    try:
        codec.decode(data)
    except (codec.Malformed, codec.SchemaUnknown) as error:
        assert error.__context__ is None
        assert error.__cause__ is None


@settings(QUICK, max_examples=300)
@given(st.sampled_from(RECORDS), st.binary(max_size=120))
def test_any_bytes_are_a_record_or_malformed(cls: type[Record], body: bytes) -> None:
    survives(b"\xc3\x01" + codec.fingerprint(cls) + body)
    survives(body)


@settings(QUICK, max_examples=300)
@given(st.data())
def test_damaged_bytes_are_a_record_or_malformed(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from([CallStarted, ConsentChanged, Envelope, ItemLines, AuditEntry, ControllerState]))
    good = bytearray(codec.encode(data.draw(values(shape.type_info(cls)))))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(10, len(good) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(good))
    survives(bytes(good[: data.draw(st.integers(0, len(good)))]))


@pytest.mark.parametrize("record", [CONSENT, Envelope(id="i", source="s", type="t", controller="c", time_ms=1, receipt_ms=2)])
def test_every_cut_and_every_longer_text_is_refused(record: Record) -> None:
    data = codec.encode(record)
    for end in range(len(data)):
        with pytest.raises(codec.Malformed):
            codec.decode(data[:end])
    with pytest.raises(codec.Malformed):
        codec.decode(data + b"\0")


CALL_ENDED = b"\xc3\x01" + codec.fingerprint(CallEnded)
ENDED = b"\xc3\x01" + codec.fingerprint(ItemEnded) + b"\x02c"
LINES = b"\xc3\x01" + codec.fingerprint(ItemLines) + b"\x02c"
STATE = b"\xc3\x01" + codec.fingerprint(ControllerState) + b"\x02c\0\0\0\0\0"  # up to sealed_fields
HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2**63 - 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CALL_ENDED + b"\x01\0", id="negative length"),
        pytest.param(CALL_ENDED + b"\x81\x01a\0", id="negative long length"),
        pytest.param(CALL_ENDED + b"\x81\x01" + b"a" * 64 + b"\0", id="negative long length that would fit"),
        pytest.param(CALL_ENDED + HUGE + b"a\0", id="length beyond the end"),
        pytest.param(CALL_ENDED + b"\x80" * 40, id="number without an end"),
        pytest.param(CALL_ENDED + b"\xff" * 9 + b"\x7f\0", id="number beyond 64 bits"),
        pytest.param(ENDED + b"\xff" * 9 + b"\x02\0", id="time beyond 64 bits"),
        pytest.param(CALL_ENDED + b"\x02\xff\0", id="not UTF-8"),
        pytest.param(CALL_ENDED + b"\x02a\x04", id="branch that is not there"),
        pytest.param(LINES + HUGE, id="count beyond the bytes left"),
        pytest.param(LINES + b"\x01\x00\x00", id="block of size 0 for one item"),
        pytest.param(STATE + b"\x04\x02a\x01\x02a\0\0\0", id="a key twice"),
        pytest.param(STATE + b"\x02\x02a\x02\0\0", id="boolean that is neither"),
    ],
)
def test_hostile_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(codec.Malformed) as caught:
        codec.decode(data)
    assert caught.value.__context__ is None


def test_a_time_beyond_the_calendar_is_malformed() -> None:
    policy = {"policy_id": "p", "selector": {}, "keep_for": "P1D", "from": "2026-01-01T00:00:00Z"}
    good = codec.encode(msgspec.convert(policy, RetentionPolicySet))
    micros = varint(1_767_225_600_000_000).encode("latin-1")
    assert micros in good
    with pytest.raises(codec.Malformed):
        codec.decode(good.replace(micros, HUGE))


def test_arrays_and_maps_in_blocks_of_other_writers_are_read() -> None:
    """Negative counts carry the block's size; several blocks follow each other (Avro 1.12, binary encoding)."""
    tail = b"\0\0\0"  # no targets, no merge keys, no law
    one = STATE + b"\x01\x06\x02a\x01" + b"\x02\x02b\x00" + b"\0" + tail
    with pytest.raises(codec.Malformed):  # the size says one byte more than the item has
        codec.decode(one.replace(b"\x01\x06\x02a", b"\x01\x08\x02a"))
    record = codec.decode_as(ControllerState, one)
    assert record.sealed_fields == {"a": True, "b": False}
    assert fastavro.schemaless_reader(io.BytesIO(one[10:]), _PARSED[ControllerState])["sealed_fields"] == record.sealed_fields
    many = STATE + b"\0" + b"\x02\x02a\x02" + b"\x01\x06\x02b\x04" + b"\0\0\0"
    assert codec.decode_as(ControllerState, many).targets == (
        Target(name="a", deadline_days=1), Target(name="b", deadline_days=2),
    )  # fmt: skip


# --- what has no bytes, what is not asked for


def test_what_avro_cannot_hold_is_refused_without_its_value() -> None:
    envelope = Envelope(id="i", source="s", type="t", controller="c", time_ms=1, receipt_ms=2)
    bad: list[Record] = [
        msgspec.structs.replace(envelope, time_ms=1 << 64),
        msgspec.structs.replace(envelope, id="secret\ud800"),
        msgspec.structs.replace(CONSENT, epoch=1 << 63),
        msgspec.structs.replace(CONSENT, epoch=-(1 << 63) - 1),
        msgspec.structs.replace(CONSENT, brand="secret\ud800"),
    ]
    for record in bad:
        with pytest.raises(codec.Unencodable) as caught:
            codec.encode(record)
        assert "secret" not in str(caught.value)
        assert caught.value.__context__ is None


def test_a_record_is_not_read_as_another() -> None:
    with pytest.raises(codec.SchemaUnknown):
        codec.decode_as(Envelope, codec.encode(CONSENT))
    with pytest.raises(codec.SchemaUnknown):
        codec.decode_as(ConsentState, b"\xc3\x02" + codec.encode(CONSENT))
    with pytest.raises(codec.SchemaUnknown):
        codec.decode(b"\xc3\x01" + b"\0" * 8)


def test_only_a_validated_record_meets_its_constraints() -> None:
    wrong = ConsentChanged(
        identifiers=(Identifier(kind="pigeon", value="+12025550123"),), purposes=("x",), method="web",  # type: ignore[arg-type]
        evidence=Evidence(),
    )  # fmt: skip
    data = codec.encode(wrong)
    assert codec.decode_as(ConsentChanged, data) == wrong
    with pytest.raises(codec.Malformed) as caught:
        codec.decode_as(ConsentChanged, data, validate=True)
    assert "pigeon" not in str(caught.value)
    right = msgspec.structs.replace(wrong, identifiers=(Identifier(kind="tel", value="+12025550123"),))
    assert codec.decode_as(ConsentChanged, codec.encode(right), validate=True) == right


def test_a_schema_is_found_by_its_fingerprint() -> None:
    for cls in RECORDS:
        text = codec.schema_text(codec.fingerprint(cls).hex())
        assert text is not None
        assert msgspec.json.decode(text) == schema_of(cls)
    assert codec.schema_text("00" * 8) is None
    assert codec.schema_text("not hexadecimal") is None


# --- older schemas


def test_an_older_schema_reads_as_the_class_of_today() -> None:
    old = copy.deepcopy(schema_of(ConsentState))
    old["fields"] = [field for field in old["fields"] if field["name"] not in ("law_pack", "notice_version")]
    dropped = {"type": "record", "name": "Gone", "namespace": "consentinel.v1", "fields": [{"name": "x", "type": "string"}]}
    gone = {"name": "gone", "type": {"type": "array", "items": ["null", dropped]}, "default": []}
    old["fields"].insert(1, gone)
    theirs = io.BytesIO()
    fastavro.schemaless_writer(theirs, copy.deepcopy(old), plain(CONSENT) | {"gone": [None, {"x": "y"}]})
    assert decoder(ConsentState, old)(theirs.getvalue(), 0) == CONSENT


def test_an_incompatible_schema_gets_no_decoder() -> None:
    for change in ({"type": "bytes"}, {"type": ["null", "string"]}, {"name": "other"}):
        old = copy.deepcopy(schema_of(ConsentState))
        old["fields"][0] |= change
        with pytest.raises(TypeError):
            decoder(ConsentState, old)


class Gone(Record, frozen=True, kw_only=True):
    """A record that is no longer among ours."""

    SCHEMA: ClassVar[str] = "Gone"
    field: str


def test_every_record_encodes_by_its_own_class() -> None:
    with pytest.raises(codec.SchemaUnknown):
        codec.decode(codec.encode(Gone(field="x")))
