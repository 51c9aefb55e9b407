"""What every record is made of: frozen structs whose Avro schema, labels and sealed fields follow from their annotations.

A record class is the one place where a field is declared. `schemas/*.avsc` is generated from it (`python -m schemas.generate`)
and a contract test refuses a drift. Labels are fideslang data categories; a labelled field also carries the Confluent tag `PII`.
"""

from datetime import datetime
from typing import Annotated, ClassVar

import msgspec

NAMESPACE = "consentinel.v1"
TEXT_CHARS_MAX = 65_536  # one spoken line or note; a longer one is split by its publisher
NAME_PATTERN = r"^(?!\s)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+(?<!\s)$"
NAME_CHARS_MAX = 256  # ids, purposes, tags: they become keys, and a key is bounded
LIST_ITEMS_MAX = 1_000  # entries of a list in one event: an event is at most 1 MiB


class Label(msgspec.Struct, frozen=True):
    """Marks a field as personal data.

    `category` is a fideslang data category. `sealed` fields never rest in plain text: where they rest they hold a sealed token.
    """

    category: str
    sealed: bool = False


def personal(category: str) -> msgspec.Meta:
    """Annotation for a field that is personal data of `category` (fideslang)."""
    return msgspec.Meta(extra={"label": Label(category)})


def sealed(category: str) -> msgspec.Meta:
    """Annotation for a field that rests only as a sealed token (`engine/sealing.py`), opening to text of `category`."""
    return msgspec.Meta(extra={"label": Label(category, sealed=True)})


# Names become keys of topics and of state, so they are bounded, and hold no control character and nothing that is not seen: two
# names that look alike are alike.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=NAME_PATTERN)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=LIST_ITEMS_MAX)]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value with an Avro schema of its own: an event's data, a message between tasks, or a topic's value.

    `SCHEMA` is the Avro record name and the stem of its `.avsc` file; records without one are parts of others. `SEALED_RAW`
    names fields that the engine seals under the hour's raw key as it writes the record: they can be opened for a day or so.
    """

    SCHEMA: ClassVar[str] = ""
    SEALED_RAW: ClassVar[tuple[str, ...]] = ()


class EventData(Record, frozen=True, kw_only=True):
    """The `data` of one accepted CloudEvents type (contract, section 2). `TYPES` are the types that carry it."""

    TYPES: ClassVar[tuple[str, ...]] = ()
