"""Datums that others wrote with a schema of theirs, made ours: the schema is data here, from whoever may register one.

A schema that has the fingerprint of one of ours needs no reading: its datum is ours under another header. Any other is resolved
into the record (Avro 1.12, "Schema Resolution") as far as our own decoder can: fields may stand in another order, may be more
than ours, and optional ones may be missing; `int` is read as `long`, and docs, defaults, namespaces and the properties of other
tools do not matter. A field of another type is not read as ours, even where Avro has a promotion for it.

The decoder is generated from the schema, inlined: so a schema is first cut down to what the generator knows, with bounds on its
size and depth. None of its names gets into the code.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final

from schemas.base import EventData
from schemas.codec import MARK, SchemaUnknown, encode, record_of
from schemas.compiled import decoder
from schemas.generate import Schema, fingerprint_of

SCHEMA_CHARS_MAX: Final = 256 * 1024  # ours have some 10,000, most of them docs
VALUES_MAX: Final = 2_000  # of a datum, those of a named record counted wherever it is used: ours have some 100
DEPTH_MAX: Final = 9  # ours have 6; Python's compiler nests 20 blocks, and an array takes two
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
PRIMITIVES: Final = {"string": "string", "bytes": "bytes", "boolean": "boolean", "long": "long", "int": "long"}

Conversion = Callable[[bytes], bytes]


def conversion(cls: type[EventData], text: str) -> Conversion:
    """Return what turns a bare datum of the schema `text` into the single-object encoding of a `cls`.

    Raises `SchemaUnknown`: it cannot be read as a `cls`. What is returned raises `Malformed` and `Unencodable`.
    """
    found = _conversion(cls, text) if len(text) <= SCHEMA_CHARS_MAX else None
    if found is None:
        raise SchemaUnknown(f"not resolved into {cls.__name__}")
    return found


def _conversion(cls: type[EventData], text: str) -> Conversion | None:
    try:
        schema = _Narrowing().record(json.loads(text))
        header = MARK + fingerprint_of(schema)
        if _is_ours(cls, header):
            return lambda datum: header + datum
        read = decoder(cls, schema)
    except (TypeError, ValueError, LookupError, RecursionError):
        return None  # the caller raises anew, outside the handler: the words of these errors may quote the schema
    return lambda datum: encode(read(datum, 0))


def _is_ours(cls: type[EventData], header: bytes) -> bool:
    try:
        return record_of(header) is cls
    except SchemaUnknown:
        return False


class _Narrowing:
    """A schema of anybody's in the few kinds that ours are made of. Raises `TypeError`, `ValueError`, `LookupError`."""

    def __init__(self) -> None:
        self._values = 0
        self._sizes: dict[str, int] = {}  # values in each named record that is closed
        self._open: set[str] = set()

    def record(self, schema: Any, space: str = "", depth: int = 0) -> Schema:
        """A record; it is named in full from here on."""
        if schema["type"] != "record":
            raise TypeError("no record")
        name = _full(schema["name"], schema.get("namespace", space))
        if name in self._sizes or name in self._open or name in PRIMITIVES:
            raise ValueError("a name is given twice")
        before, space = self._values, name.rpartition(".")[0]
        self._open.add(name)
        fields = [{"name": _named(f["name"]), "type": self._type(f["type"], space, depth + 1)} for f in schema["fields"]]
        if len({field["name"] for field in fields}) != len(fields):
            raise ValueError("a field is given twice")
        if not fields:
            raise ValueError("no fields: its datum takes no byte, and the decoder's work is bounded by bytes")
        self._open.discard(name)
        self._sizes[name] = self._values - before
        return {"type": "record", "name": name.rpartition(".")[2], "namespace": space, "fields": fields}

    def _type(self, schema: Any, space: str, depth: int) -> Any:
        self._count(1)
        if depth > DEPTH_MAX:
            raise ValueError("too deep")
        match schema:
            case str():
                return PRIMITIVES.get(schema) or self._reference(_full(schema, space))
            case ["null", other]:
                return ["null", self._type(other, space, depth + 1)]
            case {"type": "long", "logicalType": "timestamp-micros"}:
                return {"type": "long", "logicalType": "timestamp-micros"}
            case {"type": "array", "items": items}:
                return {"type": "array", "items": self._type(items, space, depth + 1)}
            case {"type": "map", "values": values}:
                return {"type": "map", "values": self._type(values, space, depth + 1)}
            case {"type": "record"}:
                return self.record(schema, space, depth)
            case {"type": str() | dict() as bare}:  # a primitive with the properties of some tool
                return self._type(bare, space, depth + 1)
        raise TypeError("no type of ours")

    def _reference(self, name: str) -> str:
        """A record that is named again: it must be closed, or it would hold itself."""
        self._count(self._sizes[name])
        space, _, name = name.rpartition(".")
        return f"{space}.{name}"

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > VALUES_MAX:
            raise ValueError("too many values")


def _full(name: str, space: str) -> str:
    """The full name. A name with dots is one already."""
    return _named(name) if "." in name or not space else f"{_named(space)}.{_named(name)}"


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("no name")
    return name
