"""Datums that others wrote with a schema of theirs, made ours: the schema is data here, from whoever may register one.

A schema that has the fingerprint of one of ours needs no reading: its datum is ours under another header. Any other is resolved
into the record (Avro 1.12, "Schema Resolution") as far as our own decoder can: fields may stand in another order, may be more
than ours, and optional ones may be missing; `int` is read as `long`, and namespaces, docs, defaults and the properties of other
tools do not matter. A field of another type is not read as ours, even where Avro has a promotion for it.

The decoder is generated from the schema, inlined: so a schema is first cut down to what the generator knows, with bounds on its
size and depth. None of its names gets into the code.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final

from schemas.base import EventData
from schemas.codec import HEADER_BYTES, MARK, SchemaUnknown, decode_as, encode, fingerprint_record
from schemas.compiled import decoder
from schemas.generate import Schema, fingerprint_of

SCHEMA_CHARS_MAX: Final = 256 * 1024  # ours have some 10 kB, most of it docs
NODES_MAX: Final = 2_000  # values of a datum, each named record counted wherever it is used: ours have some 100
DEPTH_MAX: Final = 12  # ours go to 4; Python's compiler nests 20 blocks, and an array takes one
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
SAME: Final = {"string": "string", "bytes": "bytes", "boolean": "boolean", "long": "long", "int": "long"}

Conversion = Callable[[bytes], bytes]


def conversion(cls: type[EventData], text: str) -> Conversion:
    """Return what turns a bare datum of the schema `text` into the single-object encoding of a `cls`.

    Raises `SchemaUnknown`: it cannot be read as a `cls`. What is returned raises `Malformed` and `Unencodable`.
    """
    found = _conversion(cls, text)
    if found is None:
        raise SchemaUnknown(f"not resolved into {cls.__name__}")
    return found


def _conversion(cls: type[EventData], text: str) -> Conversion | None:
    if len(text) > SCHEMA_CHARS_MAX:
        return None
    try:
        schema = _Narrowed().record(json.loads(text), "", 0)
        header = MARK + fingerprint_of(schema)
        if len(header) == HEADER_BYTES and fingerprint_record(header) is cls:
            return lambda datum: header + datum
        read = decoder(cls, schema)
    except (TypeError, ValueError, LookupError, RecursionError, SyntaxError):
        return None  # outside the handler it is raised anew: words of these errors may quote the schema
    return lambda datum: encode(read(datum, 0))
