"""Which fields of a record are personal data, read from its annotations: nothing is declared twice.

A path joins the field names on the wire by dots; lists and maps add nothing: `lines.text`, `parties.identifiers.value`.
"""

from collections.abc import Collection, Iterator

import msgspec
from msgspec import inspect

from schemas.base import Label, Record
from schemas.events import EVENTS
from schemas.routed import ROUTED, Envelope
from schemas.topics import TOPIC_VALUES

DEPTH_MAX = 16  # records nest three deep; a record that contains itself would never end


class SchemaInfo(msgspec.Struct, frozen=True):
    """What the topology must know of a record: its top-level fields and its labels by path."""

    name: str
    fields: frozenset[str]
    labels: dict[str, Label]


def labels_of(cls: type[Record]) -> dict[str, Label]:
    """Collect the labelled fields of `cls` and of the records inside it: {path: label}, in document order.

    Raises `RecursionError` for a record that contains itself and `ValueError` for a path with two different labels.
    """
    labels: dict[str, Label] = {}
    for path, label in _walk(inspect.type_info(cls), "", 0):
        if labels.setdefault(path, label) != label:
            raise ValueError(f"{cls.__name__}.{path} carries two different labels")
    return labels


def schema_info(cls: type[Record]) -> SchemaInfo:
    """`SchemaInfo` of one record class, named by its `SCHEMA`."""
    fields = frozenset(field.encode_name for field in msgspec.structs.fields(cls))
    return SchemaInfo(cls.SCHEMA, fields, labels_of(cls))


def known_schemas() -> dict[str, SchemaInfo]:
    """Every record with a schema of its own: events, messages between tasks, their envelope, and the topics' values."""
    classes: tuple[type[Record], ...] = (*EVENTS, *ROUTED, Envelope, *TOPIC_VALUES)
    return {cls.SCHEMA: schema_info(cls) for cls in classes}


def key_categories(field: str, infos: Collection[SchemaInfo], others: Collection[SchemaInfo]) -> set[str]:
    """Categories a key field may hold: as `infos` label it or, if none has it, as any of `others` labels that name."""
    if any(field in info.fields for info in infos):
        found = ((path, label) for info in infos for path, label in info.labels.items() if path.split(".")[0] == field)
    else:
        found = ((path, label) for info in others for path, label in info.labels.items() if field in path.split("."))
    return {label.category for _, label in found}


def _walk(kind: inspect.Type, path: str, depth: int) -> Iterator[tuple[str, Label]]:
    if depth > DEPTH_MAX:
        raise RecursionError(f"a record nests deeper than {DEPTH_MAX}, at {path}")
    match kind:
        case inspect.Metadata():
            label = (kind.extra or {}).get("label")
            if isinstance(label, Label):
                yield path, label
            yield from _walk(kind.type, path, depth)
        case inspect.UnionType() | inspect.TupleType():
            for part in kind.types if isinstance(kind, inspect.UnionType) else kind.item_types:
                yield from _walk(part, path, depth + 1)
        case inspect.StructType():
            for field in kind.fields:
                yield from _walk(field.type, f"{path}.{field.encode_name}" if path else field.encode_name, depth + 1)
        case inspect.CollectionType():
            yield from _walk(kind.item_type, path, depth + 1)
        case inspect.DictType():
            yield from _walk(kind.key_type, path, depth + 1)
            yield from _walk(kind.value_type, path, depth + 1)
        case _:
            pass
