"""Derives every record's Avro schema from its class, the only place where a field, a label or a default is declared.

`python -m schemas.generate` writes `schemas/<SCHEMA>.avsc`; `--check` exits 1 when a file differs from its class;
`--release` also adds the schemas that are not yet in `released.lock.json`. What is in the lock stays: bytes written
under it may still be read.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as shape

from schemas.base import NAMESPACE, Label, Record
from schemas.events import EVENTS
from schemas.routed import ROUTED, Envelope
from schemas.topics import TOPIC_VALUES

FOLDER = Path(__file__).parent
LOCK = FOLDER / "released.lock.json"
RECORDS: tuple[type[Record], ...] = (*EVENTS, Envelope, *ROUTED, *TOPIC_VALUES)

Schema = dict[str, Any]  # a record schema, as its JSON document
# Attributes that the parsing canonical form keeps, in its order (Avro 1.12 specification, "Parsing Canonical Form").
CANONICAL_KEYS = ("name", "type", "fields", "symbols", "items", "values", "size")
CRC_EMPTY = 0xC15D213AA4D7A795  # CRC-64-AVRO of no bytes, also its polynomial


def schema_of(cls: type[Record]) -> Schema:
    """Return the Avro schema of a record class, nested records inlined at their first use.

    Raises `TypeError` for a field that has no Avro type here, and for an optional one whose default is not None.
    """
    info = shape.type_info(cls)
    if not isinstance(info, shape.StructType):
        raise TypeError(f"{cls.__name__}: not a struct")
    schema: Schema = _record(info, set())
    return schema


def _record(info: shape.StructType, named: set[str]) -> Any:
    name = info.cls.__name__
    full_name = f"{NAMESPACE}.{name}"
    if full_name in named:
        return full_name
    named.add(full_name)
    schema: Schema = {"type": "record", "name": name, "namespace": NAMESPACE}
    if info.cls.__doc__:
        schema["doc"] = inspect.cleandoc(info.cls.__doc__)
    schema["fields"] = [_field(name, field, named) for field in info.fields]
    return schema


def _field(record: str, field: shape.Field, named: set[str]) -> Schema:
    where = f"{record}.{field.name}"
    out: Schema = {"name": field.encode_name, "type": _type(where, field.type, named)}
    nullable = isinstance(out["type"], list)
    if nullable and field.default is not None:
        # A union's default must be of its first branch, and `null` is first: None is the only default there can be.
        raise TypeError(f"{where}: an optional field defaults to None")
    if field.default_factory is not msgspec.NODEFAULT:
        out["default"] = _default(where, field.default_factory())
    elif field.default is not msgspec.NODEFAULT:
        out["default"] = _default(where, field.default)
    labels = list(_labels(field.type))
    if labels:
        out["fides_data_categories"] = list(dict.fromkeys(label.category for label in labels))
        out["confluent:tags"] = ["PII"]
    if any(label.sealed for label in labels):
        out["sealed"] = True
    allowed = list(_allowed(field.type))
    if allowed:
        # Plain strings and not Avro enums: a reader that does not know an enum's new symbol cannot read the record, so
        # every new symbol would break full compatibility. The property informs, `validate=True` enforces.
        out["allowed"] = allowed
    return out


def _type(where: str, info: shape.Type, named: set[str]) -> Any:
    match info:
        case shape.Metadata():
            return _type(where, info.type, named)
        case shape.StrType():
            return "string"
        case shape.LiteralType(values=values) if all(isinstance(value, str) for value in values):
            return "string"
        case shape.BoolType():
            return "boolean"
        case shape.IntType():
            return "long"
        case shape.BytesType():
            return "bytes"
        case shape.DateTimeType(tz=True):
            return {"type": "long", "logicalType": "timestamp-micros"}
        case shape.VarTupleType():
            return {"type": "array", "items": _type(where, info.item_type, named)}
        case shape.DictType() if isinstance(_bare(info.key_type), shape.StrType):
            return {"type": "map", "values": _type(where, info.value_type, named)}
        case shape.StructType():
            return _record(info, named)
        case shape.UnionType():
            some = [part for part in info.types if not isinstance(_bare(part), shape.NoneType)]
            if len(some) == 1 and len(info.types) == 2:
                return ["null", _type(where, some[0], named)]
    raise TypeError(f"{where}: no Avro type for {type(info).__name__}")


def _bare(info: shape.Type) -> shape.Type:
    while isinstance(info, shape.Metadata):
        info = info.type
    return info


def _inside(info: shape.Type) -> Iterator[shape.Type]:
    """`info` and everything in it, but not the fields of nested records: those speak for themselves."""
    yield info
    match info:
        case shape.Metadata():
            yield from _inside(info.type)
        case shape.UnionType():
            for part in info.types:
                yield from _inside(part)
        case shape.VarTupleType():
            yield from _inside(info.item_type)
        case shape.DictType():
            yield from _inside(info.key_type)
            yield from _inside(info.value_type)


def _labels(info: shape.Type) -> Iterator[Label]:
    for part in _inside(info):
        if isinstance(part, shape.Metadata) and part.extra and "label" in part.extra:
            yield part.extra["label"]


def _allowed(info: shape.Type) -> Iterator[str]:
    for part in _inside(info):
        if isinstance(part, shape.LiteralType):
            yield from (str(value) for value in part.values)


def _default(where: str, value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case bytes():
            return value.decode("latin-1")  # Avro's JSON spelling of bytes: one code point each
        case tuple():
            return [_default(where, item) for item in value]
        case dict():
            return {key: _default(where, item) for key, item in value.items()}
    raise TypeError(f"{where}: no Avro default for {type(value).__name__}")


def canonical_form(schema: Any, namespace: str = "") -> str:
    """Return the parsing canonical form: how bytes are read, without docs, defaults, labels and logical types."""
    match schema:
        case str():
            # `.avsc` files refer to named types by full name only, so a name needs no lookup.
            return json.dumps(schema)
        case list():
            return f"[{','.join(canonical_form(branch, namespace) for branch in schema)}]"
    kind = schema["type"]
    if kind not in ("record", "array", "map"):
        return canonical_form(kind, namespace)
    space = schema.get("namespace", namespace)
    parts = []
    for key in CANONICAL_KEYS:
        if key not in schema:
            continue
        if key == "fields":
            fields = (
                f'{{"name":{json.dumps(field["name"])},"type":{canonical_form(field["type"], space)}}}'
                for field in schema["fields"]
            )
            text = f"[{','.join(fields)}]"
        elif key == "name":
            text = json.dumps(f"{space}.{schema['name']}")
        elif key == "type":
            text = json.dumps(kind)
        else:
            text = canonical_form(schema[key], space)
        parts.append(f'"{key}":{text}')
    return f"{{{','.join(parts)}}}"


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CRC_EMPTY if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def fingerprint_of(schema: Schema) -> bytes:
    """CRC-64-AVRO of the canonical form: 8 bytes, little-endian, as they stand in a single-object encoding."""
    table, crc = _crc_table(), CRC_EMPTY
    for byte in canonical_form(schema).encode():
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc.to_bytes(8, "little")


def compact(schema: Schema) -> str:
    """Return the schema as one line of JSON: what the lock keeps and `GET /v1/schemas/{fingerprint}` answers."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def released() -> dict[str, list[dict[str, str]]]:
    """Read the lock: by record name, oldest first, `{fingerprint, schema}` of every schema ever released."""
    if not LOCK.exists():
        return {}
    lock: dict[str, list[dict[str, str]]] = json.loads(LOCK.read_text(encoding="utf-8"))
    return lock


def _pretty(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def files() -> dict[Path, str]:
    """Return what every `.avsc` file should hold."""
    return {FOLDER / f"{cls.SCHEMA}.avsc": _pretty(schema_of(cls)) for cls in RECORDS}


def drifted() -> list[str]:
    """Name the `.avsc` files that are missing, differ from their class or have lost it."""
    wanted = files()
    stale = [path.name for path in FOLDER.glob("*.avsc") if path not in wanted]
    differing = (p.name for p, text in wanted.items() if not p.exists() or p.read_text(encoding="utf-8") != text)
    return sorted([*stale, *differing])


def _release() -> None:
    lock = released()
    for cls in RECORDS:
        schema = schema_of(cls)
        versions = lock.setdefault(cls.SCHEMA, [])
        mark = fingerprint_of(schema).hex()
        if all(version["fingerprint"] != mark for version in versions):
            versions.append({"fingerprint": mark, "schema": compact(schema)})
    LOCK.write_text(_pretty(dict(sorted(lock.items()))), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code is returned."""
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="exit 1 when a file differs from its class")
    group.add_argument("--release", action="store_true", help="also add new schemas to released.lock.json")
    options = parser.parse_args(arguments)
    if options.check:
        names = drifted()
        for name in names:
            print(f"schemas/{name}: error: differs from its class; run `python -m schemas.generate`", file=sys.stderr)
        return 1 if names else 0
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
    if options.release:
        _release()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
