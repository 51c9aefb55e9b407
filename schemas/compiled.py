"""Writes straight-line Python between structs and Avro bytes, for a record class and a schema: nothing in between.

Both directions cost a few dozen bytecodes per field, so they are generated once and run as they are.

* `encoder`: every Avro value is built as text whose code points are its bytes (Latin-1), joined by one f-string and
  turned into bytes once at the end; strings that are ASCII, nearly all of them, are joined as they are.
* `decoder`: reads along the *writer's* schema and builds the class of today: fields that the class no longer has are
  read and dropped, fields that the writer did not have take the class's defaults (Avro 1.12, "Schema Resolution").

Hostile bytes end in `Malformed`. Reading past the end stops at once, and an item of an array or a map takes at least
one byte, so a count beyond the bytes left is refused before its loop: work and memory stay in proportion to the bytes.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from msgspec import inspect as shape

from schemas import wire
from schemas.base import Record
from schemas.generate import Schema, schema_of


class Malformed(ValueError):
    """The bytes are no encoding of the record, or its values break the record's constraints."""


class Unencodable(ValueError):
    """A value has no Avro encoding: a lone surrogate, a whole number beyond 64 bits, a time outside years 1 to 9999."""


class _Names(dict[str, Schema]):
    """Named records by full name, filled as they are met: a schema declares a name before it refers to it."""

    def resolve(self, schema: Any) -> tuple[str, Any]:
        """Return the kind of a schema and the schema: of a reference what it refers to, of a union its one type."""
        if isinstance(schema, list):
            if len(schema) != 2 or schema[0] != "null":
                raise TypeError("a union is of null and one type")
            return "union", schema[1]
        if isinstance(schema, str):
            return ("record", self[schema]) if schema in self else (schema, schema)
        if schema["type"] == "record":
            self[f"{schema['namespace']}.{schema['name']}"] = schema
        return ("moment" if schema.get("logicalType") == "timestamp-micros" else schema["type"]), schema


class _Attributes(dict[str, dict[str, str]]):
    """By name of a record: its attributes by their name on the wire (`from` is a word of Python's, so some differ)."""

    def __init__(self, cls: type[Record]) -> None:
        super().__init__()
        self.classes: dict[str, type[msgspec.Struct]] = {}
        self._walk(shape.type_info(cls))

    def _walk(self, info: shape.Type) -> None:
        match info:
            case shape.StructType(cls=cls):
                self.classes[cls.__name__] = cls
                self[cls.__name__] = {field.encode_name: field.name for field in info.fields}
                for field in info.fields:
                    self._walk(field.type)
            case shape.UnionType():
                for part in info.types:
                    self._walk(part)
            case shape.Metadata():
                self._walk(info.type)
            case shape.VarTupleType():
                self._walk(info.item_type)
            case shape.DictType():
                self._walk(info.value_type)


def _function(name: str, lines: list[str], names: dict[str, Any]) -> Callable[..., Any]:
    # The lines are made of our own schemas' field names and positions alone: nothing that was received gets in.
    exec(compile("\n".join(lines), f"<avro {name}>", "exec"), names)  # noqa: S102
    made: Callable[..., Any] = names[name]
    return made


class _Encoder:
    """Generates `encode(record) -> bytes`, and one function for the text of each nested record."""

    def __init__(self, cls: type[Record], header: bytes) -> None:
        self._attributes = _Attributes(cls)
        self._schemas = _Names()
        self._fresh = count()
        self._env: dict[str, Any] = {
            "N": wire.LONGS, "L": wire.LOWS, "U": wire.HIGHS, "K": wire.Keys(),
            "S": wire.string, "B": wire.bytes_, "W": wire.wide, "M": wire.micros, "J": "".join,
            "H": header.decode("latin-1"), "FALSE": "\0", "TRUE": "\1", "NULL": "\0", "SOME": "\2", "END": "\0",
            "Unencodable": Unencodable,
        }  # fmt: skip
        lines, text = self._record(self._schemas.resolve(schema_of(cls))[1])
        self.encode = _function(
            "encode",
            [
                "def encode(r):",
                " try:",
                *(f"  {line}" for line in lines),
                f"  return f'{{H}}{text}'.encode('latin-1')",
                # Raised outside the handler and so without context: a UnicodeError holds the whole text it failed on.
                " except (UnicodeError, OverflowError): pass",
                f" raise Unencodable('{cls.__name__}')",
            ],
            self._env,
        )

    def _record(self, schema: Schema) -> tuple[list[str], str]:
        """Return statements that prepare the fields of `r`, and the inside of an f-string of their texts."""
        attributes, lines, text = self._attributes[schema["name"]], [], ""
        for position, field in enumerate(schema["fields"]):
            local = f"v{position}"
            lines.append(f"{local} = r.{attributes[field['name']]}")
            if field["type"] == "string":  # written out: a call would cost as much as all the rest
                lines.append(f"if not {local}.isascii(): {local} = W({local})")
                text += f"{{N[len({local})]}}{{{local}}}"
            else:
                text += f"{{{self._text(field['type'], local)}}}"
        return lines, text

    def _text(self, schema: Any, value: str) -> str:
        """Return an expression of the text of `value`, without quotes, since it stands in an f-string."""
        kind, inner = self._schemas.resolve(schema)
        match kind:
            case "string":
                return f"S({value})"
            case "bytes":
                return f"B({value})"
            case "long":
                # Written out as in `wire.Longs`: every record has a time or two.
                large = f"L[{value} & {wire.LOW_MASK}] + U[{value} >> {wire.LOW_BITS}]"
                return f"(N[{value}] if {value} < {1 << wire.LOW_BITS} else {large})"
            case "moment":
                return f"N[M({value})]"
            case "boolean":
                return f"(TRUE if {value} else FALSE)"
            case "union":
                return f"(NULL if {value} is None else {self._item('SOME', inner, value)})"
            case "array":
                item = f"i{next(self._fresh)}"
                texts = f"[{self._item('', inner['items'], item)} for {item} in {value}]"
                return f"(N[len({value})] + J({texts}) + END if {value} else END)"
            case "map":
                key, item = f"k{next(self._fresh)}", f"i{next(self._fresh)}"
                texts = f"[{self._item(f'K[{key}]', inner['values'], item)} for {key}, {item} in {value}.items()]"
                return f"(N[len({value})] + J({texts}) + END if {value} else END)"
            case "record":
                return f"{self._nested(inner)}({value})"
        raise TypeError(f"no codec for {kind}")

    def _item(self, key: str, schema: Any, value: str) -> str:
        """Return an expression of the text of one item after its `key`, an expression too: no call for a string in ASCII."""
        text = self._text(schema, value)
        whole = f"{key} + {text}" if key else text
        head = f"{{{key}}}" if key else ""
        return f'f"{head}{{N[len({value})]}}{{{value}}}" if {value}.isascii() else {whole}' if schema == "string" else whole

    def _nested(self, schema: Schema) -> str:
        name = f"text_{schema['name']}"
        if name not in self._env:
            lines, text = self._record(schema)
            _function(name, [f"def {name}(r):", *(f" {line}" for line in lines), f" return f'{text}'"], self._env)
        return name


class _Decoder:
    """Generates `decode(b, i) -> record`: reads the bytes `b` from `i` on to their very end."""

    def __init__(self, cls: type[Record], writer: Schema) -> None:
        self._attributes = _Attributes(cls)
        self._written, self._read = _Names(), _Names()
        self._fresh = count()
        self._env: dict[str, Any] = {
            "LONG": wire.long, "LENGTH": wire.length, "BLOCK": wire.block, "MOMENT": wire.moment,
            "Malformed": Malformed,
        }  # fmt: skip
        self._lines = ["def decode(b, i):", " try:"]
        self._value(writer, schema_of(cls), "v", "  ")
        self._lines += [
            "  if i == len(b): return v",
            # Raised outside the handler and so without context: a UnicodeDecodeError holds the bytes it failed on.
            " except (IndexError, OverflowError, UnicodeDecodeError): pass",
            f" raise Malformed('{cls.__name__}')",
        ]
        self.decode = _function("decode", self._lines, self._env)

    def _value(self, writer: Any, reader: Any, to: str, pad: str) -> None:
        """Add lines that read a value into the variable `to`. `reader` None: the value is dropped afterwards."""
        kind, inner = self._written.resolve(writer)
        wanted, want = self._read.resolve(reader) if reader is not None else (kind, None)
        if kind != wanted:
            raise TypeError(f"{kind} cannot be read as {wanted}")
        match kind:
            case "string" | "bytes":
                ending = ".decode()" if kind == "string" else ""
                self._add(
                    pad,
                    "n = b[i]; i += 1",
                    "if n & 129:",  # one test for both: more bytes follow, or it is negative
                    " m = b[i]",
                    " if n & 1 or m > 127: n, i = LENGTH(b, i - 1)",
                    " else: n = n & 126 | m << 7; i += 1",
                    # What nobody wants is not cut out; that it ends within the bytes is checked at their end.
                    f"j = i + (n >> 1); {to} = b[i:j]{ending}; i = j" if reader is not None else "i += n >> 1",
                )
            case "long" | "moment":
                self._add(pad, "n = b[i]; i += 1", "if n > 127: n, i = LONG(b, i - 1)", f"{to} = (n >> 1) ^ -(n & 1)")
                if kind == "moment":
                    self._add(pad, f"{to} = MOMENT({to})")
            case "boolean":
                self._add(pad, "n = b[i]; i += 1", "if n > 1: raise IndexError", f"{to} = n == 1")
            case "union":
                self._add(pad, "n = b[i]; i += 1", "if n == 2:")
                self._value(inner, want, to, pad + " ")
                self._add(pad, f"elif n == 0: {to} = None", "else: raise IndexError")
            case "array":
                self._blocks(inner["items"], want and want["items"], to, pad, "array")
            case "map":
                self._blocks(inner["values"], want and want["values"], to, pad, "map")
            case "record":
                self._record(inner, want, to, pad)
            case _:
                raise TypeError(f"no codec for {kind}")

    def _blocks(self, writer: Any, reader: Any, to: str, pad: str, kind: str) -> None:
        """Add lines that read an array into a tuple or a map into a dict; most are empty or of one short block."""
        mark = next(self._fresh)
        held, item, key, number, end = (f"{stem}{mark}" for stem in ("c", "i", "s", "k", "e"))
        self._add(pad, f"{held} = {'[]' if kind == 'array' else '{}'}; m{mark} = 0", "while True:")
        self._add(
            pad + " ",
            f"n = b[i]; i += 1; {end} = -1",
            "if n == 0: break",
            f"if n & 129: {number}, i, {end} = BLOCK(b, i - 1)",
            f"else: {number} = n >> 1",
            f"for _ in range({number}):",
        )
        if kind == "map":
            self._value("string", "string", key, pad + "  ")
        self._value(writer, reader, item, pad + "  ")
        self._add(pad, f"  {held}.append({item})" if kind == "array" else f"  {held}[{key}] = {item}")
        # A block's size that lies, or a key that comes twice, would be read in two ways by two readers.
        self._add(pad, f" if {end} >= 0 and i != {end}: raise IndexError")
        if kind == "array":
            self._add(pad, f"{to} = tuple({held})")
        else:
            self._add(pad, f" m{mark} += {number}", f"if m{mark} != len({held}): raise IndexError", f"{to} = {held}")

    def _record(self, writer: Schema, reader: Schema | None, to: str, pad: str) -> None:
        """Add lines that read a record's fields in the writer's order and build the class of the reader."""
        known = {field["name"]: field["type"] for field in reader["fields"]} if reader else {}
        if reader and reader["name"] != writer["name"]:
            raise TypeError(f"{writer['name']} cannot be read as {reader['name']}")
        given = []
        for field in writer["fields"]:
            local = f"v{next(self._fresh)}"
            self._value(field["type"], known.get(field["name"]), local, pad)
            if field["name"] in known:
                given.append((field["name"], local))
        if reader is None:
            self._add(pad, f"{to} = None")
            return
        cls, attributes = self._attributes.classes[reader["name"]], self._attributes[reader["name"]]
        cls_name = f"C_{reader['name']}"
        self._env[cls_name] = cls
        missing = known.keys() - {name for name, _ in given}
        required = {field.encode_name for field in msgspec.structs.fields(cls) if field.required}
        if missing & required:
            raise TypeError(f"{reader['name']} has required fields that an older schema lacks")
        self._add(pad, f"{to} = {cls_name}({', '.join(f'{attributes[name]}={local}' for name, local in given)})")

    def _add(self, pad: str, *lines: str) -> None:
        self._lines += (pad + line for line in lines)


def encoder(cls: type[Record], header: bytes) -> Callable[[Record], bytes]:
    """Return the function that writes a record of `cls` as `header` and its Avro bytes. It raises `Unencodable`."""
    return _Encoder(cls, header).encode


def decoder(cls: type[Record], writer: Schema) -> Callable[[bytes, int], Record]:
    """Return the function that reads a `cls` from bytes of the schema `writer`, from an index to their end.

    It raises `Malformed`. `TypeError` here: `writer` is no compatible schema of the record.
    """
    return _Decoder(cls, writer).decode
