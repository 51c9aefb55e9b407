"""The schemas others build on: generated, labelled, and readable by every other version of themselves."""

import copy
import json
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import avro.schema
import fastavro
import msgspec
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from schemas import codec, generate
from schemas.base import Record, personal, sealed
from schemas.generate import RECORDS, canonical_form, fingerprint_of, schema_of

# By the names that personal data goes by in our records; what is listed must carry a label wherever it occurs.
PERSONAL_NAMES = {
    "name", "value", "text", "note", "comment", "author", "uri", "permission_uri", "party_id", "metadata", "claims",
    "correction", "guardian", "subject_ref", "home", "asker", "refs", "others", "original", "agent", "actor",
}  # fmt: skip
# The same names where they are nobody's: (record, field) and why.
NOBODYS = {
    ("Target", "name"): "a registered system",
    ("Envelope", "actor"): "the caller's configured name, not a person's",
    ("AuditEntry", "actor"): "a keyed hash, by design of the log",
    ("RequestOpened", "agent"): "a record whose own fields carry the labels",
    ("AuditCheckpoint", "note"): "the text that is signed: origin, size, root",
}


def parts(schema: Any) -> list[dict[str, Any]]:
    """Every record in a schema, itself first."""
    found = []
    if isinstance(schema, list):
        for branch in schema:
            found += parts(branch)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            found.append(schema)
            for field in schema["fields"]:
                found += parts(field["type"])
        for inner in ("items", "values"):
            found += parts(schema.get(inner, "null"))
    return found


FIELDS = [
    pytest.param(record["name"], field, id=f"{cls.SCHEMA}:{record['name']}.{field['name']}")
    for cls in RECORDS
    for record in parts(schema_of(cls))
    for field in record["fields"]
]


def test_no_file_differs_from_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.drifted() == []
    assert generate.main(["--check"]) == 0


def test_a_changed_file_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "LOCK", tmp_path / "released.lock.json")
    assert generate.main(["--check"]) == 1
    assert generate.main(["--release"]) == 0
    assert generate.main(["--check"]) == 0
    lock = generate.LOCK.read_text()
    assert generate.main(["--release"]) == 0
    assert generate.LOCK.read_text() == lock
    (tmp_path / "CallEnded.avsc").write_text("{}")
    (tmp_path / "Gone.avsc").write_text("{}")
    assert generate.drifted() == ["CallEnded.avsc", "Gone.avsc"]


def test_a_release_never_changes_what_was_released(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "LOCK", tmp_path / "released.lock.json")
    old = {"fingerprint": "00" * 8, "schema": "old"}
    generate.LOCK.write_text(json.dumps({"CallEnded": [old]}))
    generate.main(["--release"])
    assert generate.released()["CallEnded"][0] == old
    assert len(generate.released()["CallEnded"]) == 2


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.SCHEMA)
def test_other_avro_libraries_parse_the_file_and_agree_on_its_fingerprint(cls: type[Record]) -> None:
    text = (generate.FOLDER / f"{cls.SCHEMA}.avsc").read_text()
    parsed = avro.schema.parse(text)
    assert parsed.fullname == f"consentinel.v1.{cls.SCHEMA}"
    schema = json.loads(text)
    form = fastavro.schema.to_parsing_canonical_form(schema)
    assert canonical_form(schema) == form
    assert fingerprint_of(schema).hex() == fastavro.schema.fingerprint(form, "CRC-64-AVRO")
    assert fingerprint_of(schema) == codec.fingerprint(cls)


def test_every_record_has_a_name_and_fingerprint_of_its_own() -> None:
    assert len({cls.SCHEMA for cls in RECORDS}) == len(RECORDS)
    assert all(cls.SCHEMA == cls.__name__ for cls in RECORDS)
    assert len({codec.fingerprint(cls) for cls in RECORDS}) == len(RECORDS)


@pytest.mark.parametrize(("record", "field"), FIELDS)
def test_fields_that_look_personal_are_labelled(record: str, field: dict[str, Any]) -> None:
    if field["name"] in PERSONAL_NAMES and (record, field["name"]) not in NOBODYS:
        # CallTagged.value and such: what a person says or is.
        assert field.get("fides_data_categories"), "a personal field without a label"
    assert ("confluent:tags" in field) == ("fides_data_categories" in field)
    assert field.get("confluent:tags", ["PII"]) == ["PII"]
    assert all(category.split(".")[0] == "user" for category in field.get("fides_data_categories", []))
    if "sealed" in field:
        assert field["sealed"] is True
        assert "bytes" in (field["type"], *field["type"]), "a sealed field rests as a token"


def test_exceptions_to_the_labels_are_fields_that_exist() -> None:
    known = {(parameter.values[0], parameter.values[1]["name"]) for parameter in FIELDS}  # type: ignore[index]
    assert NOBODYS.keys() <= known


class _Odd(Record, frozen=True, kw_only=True, rename={"since": "from"}):
    """Every corner at once."""

    SCHEMA: ClassVar[str] = "_Odd"
    since: Annotated[datetime, msgspec.Meta(tz=True)]
    nick: Annotated[Annotated[str, msgspec.Meta(max_length=9)], personal("user.name")] | None = None
    notes: tuple[Annotated[bytes, sealed("user.content")], ...] = ()
    by_key: dict[str, Annotated[str, personal("user.behavior")]] = {}
    level: Literal["b", "a"] | None = None
    raw: bytes = b"\xff"
    many: tuple[str, ...] = ("*",)


def test_labels_defaults_and_names_follow_from_the_annotations_however_deep() -> None:
    fields = {field["name"]: field for field in schema_of(_Odd)["fields"]}
    assert fields["from"] == {"name": "from", "type": {"type": "long", "logicalType": "timestamp-micros"}}
    assert fields["nick"]["fides_data_categories"] == ["user.name"]
    assert fields["nick"]["type"] == ["null", "string"]
    assert fields["nick"]["default"] is None
    assert fields["notes"]["sealed"] is True
    assert fields["notes"]["default"] == []
    assert fields["by_key"]["confluent:tags"] == ["PII"]
    assert fields["level"] == {"name": "level", "type": ["null", "string"], "default": None, "allowed": ["a", "b"]}
    assert fields["raw"]["default"] == "\u00ff"
    assert fields["many"]["default"] == ["*"]
    assert schema_of(_Odd)["doc"] == "Every corner at once."


def test_an_optional_field_with_another_default_is_refused() -> None:
    class Wrong(Record, frozen=True, kw_only=True):
        SCHEMA: ClassVar[str] = "Wrong"
        field: str | None = "x"

    with pytest.raises(TypeError, match=r"Wrong\.field"):
        schema_of(Wrong)


# --- full transitive compatibility


def compatible(reader: Any, writer: Any) -> bool:
    verdict = ReaderWriterCompatibilityChecker().get_compatibility(
        avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    )
    return bool(verdict.compatibility is SchemaCompatibilityType.compatible)


def fully_compatible(one: Any, other: Any) -> bool:
    return compatible(one, other) and compatible(other, one)


RELEASED = [
    pytest.param(cls, json.loads(version["schema"]), id=f"{cls.SCHEMA}-{version['fingerprint']}")
    for cls in RECORDS
    for version in generate.released().get(cls.SCHEMA, [])
]


def test_every_schema_of_today_is_released() -> None:
    lock = generate.released()
    for cls in RECORDS:
        marks = [version["fingerprint"] for version in lock[cls.SCHEMA]]
        assert codec.fingerprint(cls).hex() in marks, f"{cls.SCHEMA}: run `python -m schemas.generate --release`"
        for version in lock[cls.SCHEMA]:
            assert fingerprint_of(json.loads(version["schema"])).hex() == version["fingerprint"]


@pytest.mark.parametrize(("cls", "old"), RELEASED)
def test_each_released_schema_and_todays_read_each_other(cls: type[Record], old: dict[str, Any]) -> None:
    new = schema_of(cls)
    assert fully_compatible(new, old)
    codec.decoder(cls, old)  # and so does our own decoder: TypeError if not
    # The canonical form leaves logical types out, so a number that turns into a time would keep its fingerprint.
    shared = logical_types(new).keys() & logical_types(old).keys()
    assert all(logical_types(new)[place] == logical_types(old)[place] for place in shared)


def logical_types(schema: Any) -> dict[tuple[str, str], str]:
    return {
        (record["name"], field["name"]): json.dumps(field["type"]).count("logicalType") * "time"
        for record in parts(schema)
        for field in record["fields"]
    }


def mutants() -> list[Any]:
    base = schema_of(next(cls for cls in RECORDS if cls.SCHEMA == "ConsentState"))
    added, dropped, retyped = copy.deepcopy(base), copy.deepcopy(base), copy.deepcopy(base)
    added["fields"].append({"name": "new", "type": "string"})
    dropped["fields"] = dropped["fields"][1:]
    retyped["fields"][0]["type"] = "long"
    return [
        pytest.param(base, added, id="required field added"),
        pytest.param(base, dropped, id="required field dropped"),
        pytest.param(base, retyped, id="type changed"),
    ]


@pytest.mark.parametrize(("base", "mutant"), mutants())
def test_an_incompatible_change_is_found(base: Any, mutant: Any) -> None:
    assert fully_compatible(base, base)
    assert not fully_compatible(mutant, base)


def test_an_optional_field_may_come_and_go() -> None:
    base = schema_of(next(cls for cls in RECORDS if cls.SCHEMA == "ConsentState"))
    grown = copy.deepcopy(base)
    grown["fields"].append({"name": "new", "type": ["null", "string"], "default": None})
    assert fully_compatible(grown, base)
