"""Records to bytes and back in Avro's single-object encoding, across every schema that was ever released.

    bytes    = C3 01, fingerprint (8 bytes: CRC-64-AVRO of the canonical form, little-endian), body
    envelope = C3 02, msgpack: an array of the fields in the order of the class

An `Envelope` is written at every hop and read by nobody but us, always sealed: so it takes the cheaper form (ADR 0014). Its
fields are only ever appended, with a default. In Avro it is read like any other record.

Bytes of an older schema become the class of today. Decoding is safe on hostile bytes; it does not judge values, since
what we wrote is what we meant: bytes from outside are decoded with `validate=True` or by `schemas.decode`.

    ValueError
    ├── SchemaUnknown   no schema of ours, or of another record than asked for
    ├── Malformed       no encoding of its schema; or, when validated, values that break constraints
    └── Unencodable     a value that Avro cannot hold
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from schemas.base import Record
from schemas.compiled import Malformed, Unencodable, decoder, encoder
from schemas.generate import RECORDS, Schema, compact, fingerprint_of, released, schema_of
from schemas.routed import Envelope

__all__ = [
    "HEADER_BYTES", "Malformed", "SchemaUnknown", "Unencodable", "decode", "decode_as", "encode", "fingerprint",
    "record_of", "schema_text", "unpacked", "validated",
]  # fmt: skip

MARK = b"\xc3\x01"  # Avro 1.12, "Single-object encoding", version 1
PACKED = b"\xc3\x02"  # ours: an envelope in msgpack
HEADER_BYTES = 10
R = TypeVar("R", bound=Record)


class SchemaUnknown(ValueError):
    """The bytes name no schema of ours, or that of another record than the one asked for."""


@cache
def fingerprint(cls: type[Record]) -> bytes:
    """Return the 8 bytes that name the schema of `cls`, in the order in which they stand on the wire."""
    return fingerprint_of(schema_of(cls))


class _Encoders(dict[type[Record], Callable[[Record], bytes]]):
    """Encoder by class, generated at first use."""

    def __missing__(self, cls: type[Record]) -> Callable[[Record], bytes]:
        made = self[cls] = encoder(cls, MARK + fingerprint(cls))
        return made


class _Decoders(dict[bytes, tuple[type[Record], Callable[[bytes, int], Record]]]):
    """Class and decoder by the first ten bytes, generated at first use. Headers we do not know are not kept."""

    def __missing__(self, header: bytes) -> tuple[type[Record], Callable[[bytes, int], Record]]:
        if len(header) < HEADER_BYTES or not header.startswith(MARK):
            raise Malformed("not a single-object encoding")
        found = _schemas().get(header[len(MARK) :])
        if found is None or found[0] is None:
            raise SchemaUnknown("no schema has this fingerprint")
        cls, text = found[0], found[1]
        self[header] = cls, decoder(cls, cast(Schema, json.loads(text)))
        return self[header]


@cache
def _schemas() -> dict[bytes, tuple[type[Record] | None, str]]:
    """Record class of today and schema text, by fingerprint. A class that is gone leaves its text."""
    classes = {cls.SCHEMA: cls for cls in RECORDS}
    found: dict[bytes, tuple[type[Record] | None, str]] = {}
    for name, versions in released().items():
        for version in versions:
            found[bytes.fromhex(version["fingerprint"])] = classes.get(name), version["schema"]
    for cls in RECORDS:  # last: labels and docs of today, where the fingerprint is that of a released one
        found[fingerprint(cls)] = cls, compact(schema_of(cls))
    return found


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Envelope).decode


def _packed(envelope: Record) -> bytes:
    try:
        return PACKED + _pack(envelope)
    except (UnicodeError, OverflowError):
        pass  # raised anew below, without it as context: a UnicodeError holds the whole text it failed on
    raise Unencodable("Envelope")


def unpacked(data: bytes) -> Envelope:
    """Return the envelope in the bytes that `encode` made of it. Raises `Malformed` and `SchemaUnknown`."""
    if not data.startswith(PACKED):
        return decode_as(Envelope, data)
    try:
        return _unpack(data[len(PACKED) :])
    except (msgspec.MsgspecError, UnicodeError):
        pass  # as above: its text may hold values
    raise Malformed("Envelope")


def _read_packed(data: bytes, _: int) -> Envelope:
    return unpacked(data)


_ENCODERS = _Encoders()
_ENCODERS[Envelope] = _packed
_DECODERS = _Decoders()


def encode(record: Record) -> bytes:
    """Return the single-object encoding of a record. Raises `Unencodable`."""
    return _ENCODERS[record.__class__](record)


def decode(data: bytes) -> Record:
    """Return the record that the bytes say they are. Raises `SchemaUnknown` and `Malformed`."""
    if data.startswith(PACKED):
        return unpacked(data)
    return _DECODERS[data[:HEADER_BYTES]][1](data, HEADER_BYTES)


def decode_as(cls: type[R], data: bytes, validate: bool = False) -> R:
    """Return the record, which must be a `cls`. Raises `SchemaUnknown` and `Malformed`.

    With `validate` its values must also meet the constraints of the annotations (lengths, patterns, allowed values).
    """
    found, read = (Envelope, _read_packed) if data.startswith(PACKED) else _DECODERS[data[:HEADER_BYTES]]
    if found is not cls:
        raise SchemaUnknown(f"not a {cls.__name__}")
    record = cast(R, read(data, HEADER_BYTES))
    if validate:
        try:
            return validated(record)
        except msgspec.ValidationError:
            pass  # its text holds values: raised anew below, without it as context
        raise Malformed(f"a value breaks a constraint of {cls.__name__}")
    return record


def validated(record: R) -> R:
    """Return an equal record whose values meet its constraints. The text of `msgspec.ValidationError` holds values."""
    plain: Any = msgspec.to_builtins(record, builtin_types=(bytes, datetime))
    return msgspec.convert(plain, type(record))


def record_of(data: bytes) -> type[Record]:
    """Return the class that the bytes say they are of, without reading on. Raises `SchemaUnknown` and `Malformed`."""
    if data.startswith(PACKED):
        return Envelope
    return _DECODERS[data[:HEADER_BYTES]][0]


def schema_text(fingerprint_hex: str) -> str | None:
    """Return a schema as JSON text by its fingerprint (16 hexadecimal digits, wire order); None: not one of ours."""
    try:
        found = _schemas().get(bytes.fromhex(fingerprint_hex))
    except ValueError:
        return None
    return None if found is None else found[1]
