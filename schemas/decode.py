"""Turns the `data` of an event from outside into its record, or says which field is wrong: never with what was sent.

A field is named by a JSON pointer made of our own field names and list positions only (`/parties/0/role`; the whole is
""). Keys that the sender chose, of maps or unknown fields, are never in it: the pointer ends at their parent.
"""

import json
import re
from datetime import datetime
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec
from msgspec import inspect as shape

from schemas import wire
from schemas.base import EventData, Record
from schemas.codec import Malformed, SchemaUnknown, Unencodable, decode_as, encode, validated
from schemas.events import BY_TYPE

Code = Literal[
    "unknown-type", "not-json", "not-avro", "unknown-schema",
    "missing-field", "wrong-field", "unknown-field", "too-deep", "unsupported-content-type", "event-too-large",
]  # fmt: skip


class Invalid(ValueError):
    """An event that cannot be used: `code` from a closed list, `field` a pointer into its data. It holds no value."""

    def __init__(self, code: Code, field: str = "") -> None:
        super().__init__(f"{code}: {field}")
        self.code: Code = code
        self.field = field


def decode_event(type_: str, content_type: str, data: bytes) -> EventData:
    """Return the record of an event's data. Raises `Invalid`.

    `content_type` is JSON (`application/json`, `+json`, "" as CloudEvents says) or `application/avro` (single-object).
    Any other is refused as `not-json`.
    """
    cls = BY_TYPE.get(type_)
    if cls is None:
        raise Invalid("unknown-type")
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/avro":
        return _from_avro(cls, data)
    if media in ("", "application/json", "text/json") or media.endswith("+json"):
        return _from_json(cls, data)
    raise Invalid("not-json")


def _from_avro(cls: type[EventData], data: bytes) -> EventData:
    try:
        return validated(decode_as(cls, data))
    except SchemaUnknown:
        fault = Invalid("unknown-schema")
    except Malformed:
        fault = Invalid("not-avro")
    except msgspec.ValidationError as error:
        fault = _wrong_field(str(error))
    raise fault  # outside the handlers, here and below: the context's text holds values


class _Decoders(dict[type[EventData], msgspec.json.Decoder[EventData]]):
    def __missing__(self, cls: type[EventData]) -> msgspec.json.Decoder[EventData]:
        made = self[cls] = msgspec.json.Decoder(cls)
        return made


_DECODERS = _Decoders()


def _from_json(cls: type[EventData], data: bytes) -> EventData:
    try:
        record = _DECODERS[cls].decode(data)
    except msgspec.ValidationError as error:
        text = str(error)
        fault = _unknown_field(cls, data) if text.startswith("Object contains unknown field") else _wrong_field(text)
    except RecursionError:
        fault = Invalid("too-deep")
    except (msgspec.DecodeError, UnicodeDecodeError):
        fault = Invalid("not-json")
    else:
        pointer = ambiguous(data)
        if pointer is None:
            pointer = _unencodable(record)
        if pointer is None:
            return record
        fault = Invalid("wrong-field", pointer)
    raise fault


# --- what was checked before


def decode_checked(type_: str, content_type: str, data: bytes) -> EventData:
    """Return the record of data that `decode_event` has accepted before, without looking at constraints again. Raises `Invalid`.

    It is of a `trusting` class. Each name is checked by a regular expression: of a consent, three quarters of the work.
    """
    if content_type == "application/json":
        try:
            return _TRUSTING[type_].decode(data)
        except (LookupError, msgspec.MsgspecError, ValueError):
            pass  # another release accepted it: what is wrong with it here is said below
    return decode_event(type_, content_type, data)


@cache
def trusting(cls: type[EventData]) -> type[EventData]:
    """Return a subclass of `cls` with the same fields and schema, but without constraints on their values."""
    return cast(type[EventData], _trusting(cls))


@cache
def _trusting(cls: type[Record]) -> type[Record]:
    fields = [(field.name, _unconstrained(field.type), _default(field)) for field in msgspec.structs.fields(cls)]
    made = msgspec.defstruct(cls.__name__, fields, bases=(cls,), module=cls.__module__, frozen=True, kw_only=True)
    made.__doc__ = cls.__doc__
    return cast(type[Record], made)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return msgspec.field(name=field.encode_name, default=field.default)
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(name=field.encode_name, default_factory=field.default_factory)
    return msgspec.field(name=field.encode_name)


def _unconstrained(annotation: Any) -> Any:
    """The annotation with nothing of its `msgspec.Meta` but labels, and that a time has a zone: its schema rests on both."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = _unconstrained(args[0])
        kept = [msgspec.Meta(extra=meta.extra, tz=meta.tz) for meta in args[1:] if meta.extra or meta.tz]
        return Annotated[(inner, *kept)] if kept else inner
    if origin in (Union, UnionType):
        return reduce(or_, map(_unconstrained, args))
    if origin in (tuple, dict):
        return origin[tuple(map(_unconstrained, args))]
    return _trusting(annotation) if isinstance(annotation, type) and issubclass(annotation, Record) else annotation


class _Trusting(dict[str, msgspec.json.Decoder[EventData]]):
    def __missing__(self, type_: str) -> msgspec.json.Decoder[EventData]:
        made = self[type_] = msgspec.json.Decoder(trusting(BY_TYPE[type_]))
        return made


_TRUSTING = _Trusting()


# --- where it is wrong


def _wrong_field(text: str) -> Invalid:
    """Read code and pointer off msgspec's words. Only the path at their end is ours: values may stand before it."""
    path = re.search(r" - at `\$([^`]*)`$", text)
    pointer = ""
    for name, index in re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", path[1] if path else ""):
        if index == "...":  # a value of a map: its key is the sender's
            break
        pointer += f"/{name or index}"
    missing = re.match(r"Object missing required field `(\w+)`", text)
    return Invalid("missing-field", f"{pointer}/{missing[1]}") if missing else Invalid("wrong-field", pointer)


def _unknown_field(cls: type[EventData], data: bytes) -> Invalid:
    """Find the record that holds the unknown field. msgspec's words quote its name, which may look like a path."""
    try:
        document = msgspec.json.decode(data)
    except RecursionError:
        return Invalid("too-deep")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Invalid("not-json")
    return Invalid("unknown-field", _parent(document, shape.type_info(cls), "") or "")


def _parent(value: Any, info: shape.Type, pointer: str) -> str | None:
    match info:
        case shape.Metadata():
            return _parent(value, info.type, pointer)
        case shape.UnionType():
            parts = [(value, part, pointer) for part in info.types]
        case shape.VarTupleType() if isinstance(value, list):
            parts = [(item, info.item_type, f"{pointer}/{index}") for index, item in enumerate(value)]
        case shape.StructType() if isinstance(value, dict):
            known = {field.encode_name: field.type for field in info.fields}
            if value.keys() - known.keys():
                return pointer
            parts = [(item, known[name], f"{pointer}/{name}") for name, item in value.items()]
        case _:
            return None
    return next((found for part in parts if (found := _parent(*part)) is not None), None)


class _Doubled(dict[str, Any]):
    """An object of which one key came twice: two readers could take two different values from it."""


def ambiguous(data: bytes) -> str | None:
    """Point to an object that names a key twice; None: there is none.

    Call it for what has fitted its class only: that is shallow, and its whole numbers are not read here.
    """
    seen: list[_Doubled] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(found)
        if len(read) == len(found):
            return read
        seen.append(_Doubled(read))
        return seen[-1]

    document = json.loads(data.decode(), object_pairs_hook=pairs, parse_int=str)
    return _doubled(document, "") if seen else None


def _doubled(value: Any, pointer: str) -> str | None:
    """Walk to the first doubled object. Names on the way are ours: a map's values are no objects."""
    if isinstance(value, _Doubled):
        return pointer
    if isinstance(value, dict):
        parts = [(item, f"{pointer}/{name}") for name, item in value.items()]
    elif isinstance(value, list):
        parts = [(item, f"{pointer}/{index}") for index, item in enumerate(value)]
    else:
        return None
    return next((found for part in parts if (found := _doubled(*part)) is not None), None)


def _unencodable(record: EventData) -> str | None:
    """Point to a whole number or a time that Avro cannot hold, which would stop a task later on; None: all is well."""
    try:
        encode(record)
    except Unencodable:
        return _beyond(record, "") or ""
    return None


def _beyond(value: Any, pointer: str) -> str | None:
    match value:
        case msgspec.Struct():
            parts = [(getattr(value, field.name), f"{pointer}/{field.encode_name}") for field in msgspec.structs.fields(value)]
        case tuple():
            parts = [(item, f"{pointer}/{index}") for index, item in enumerate(value)]
        case int():
            return None if wire.LONG_MIN <= value <= wire.LONG_MAX else pointer
        case datetime():
            return None if wire.MICROS_MIN <= (value - wire.EPOCH) // wire.MICRO <= wire.MICROS_MAX else pointer
        case _:
            return None
    return next((found for part in parts if (found := _beyond(*part)) is not None), None)
