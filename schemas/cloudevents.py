"""CloudEvents 1.0 as publishers send them, read into one form: structured and binary mode, over any transport.

Attributes that the contract does not know are passed over, as the specification asks; `subject` and `dataschema` are among
them. What is wrong is named by the attribute and never by what was sent.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec

from schemas.base import NAME_CHARS_MAX, Moment, Name
from schemas.decode import Invalid

STRUCTURED: Final = "application/cloudevents"
JSON: Final = "application/json"
AVRO: Final = "application/avro"
EVENT_BYTES_MAX: Final = 1 << 20  # contract, section 2
SOURCE_CHARS_MAX = 2_048  # a URI reference; some publishers put a whole path there
PRINTED = r"^[^\x00-\x1f\x7f]+$"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CARRIED: Final = ("id", "source", "type", "specversion", "controller", "time")  # attributes that stand in headers in binary mode
ATTRIBUTES = frozenset({*CARRIED, "datacontenttype", "data", "data_base64"})

Media = Literal["application/json", "application/avro"]


class Event(msgspec.Struct):
    """One CloudEvent in JSON format, its data not read yet."""

    id: Name
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=SOURCE_CHARS_MAX, pattern=PRINTED)]
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
    specversion: Literal["1.0"]
    controller: Name
    time: Moment | None = None
    datacontenttype: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)] | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    data_base64: str | None = None


class Incoming(msgspec.Struct, frozen=True):
    """One event as every mode gives it: `data` is the exact bytes, in the encoding `media` names."""

    id: str
    source: str
    type: str
    controller: str
    time_ms: int | None
    media: Media
    data: bytes


_ONE = msgspec.json.Decoder(Event)


def millis(moment: datetime) -> int:
    """Epoch milliseconds."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def structured(body: bytes) -> Incoming:
    """One event in JSON format (CloudEvents JSON format 1.0.2). Raises `Invalid`."""
    if len(body) > EVENT_BYTES_MAX:
        raise Invalid("event-too-large")
    try:
        body.decode()  # parsers pass over strings that they do not read
        event = _ONE.decode(body)
    except msgspec.ValidationError as error:
        fault = fault_of(str(error))
    except RecursionError:
        fault = Invalid("too-deep")
    except (msgspec.DecodeError, UnicodeDecodeError):
        fault = Invalid("not-json")
    else:
        return incoming(event)
    raise fault  # outside the handler: its context would hold the value


def binary(content_type: str, attributes: Mapping[str, str], body: bytes) -> Incoming:
    """One event whose attributes stand beside its data. Raises `Invalid`."""
    media = media_of(content_type or JSON)
    if media is None:
        raise Invalid("unsupported-content-type", "content-type")
    try:
        event = msgspec.convert({name: attributes[name] for name in CARRIED if name in attributes}, Event)
    except msgspec.ValidationError as error:
        fault = fault_of(str(error))
    else:
        if len(body) > EVENT_BYTES_MAX:
            raise Invalid("event-too-large")
        time_ms = None if event.time is None else millis(event.time)
        return Incoming(event.id, event.source, event.type, event.controller, time_ms, media, body)
    raise fault


def of_record(headers: Sequence[tuple[str, bytes]], value: bytes) -> Incoming:
    """One event of a Kafka record (CloudEvents Kafka binding 1.0.2): `ce_*` headers, or structured mode. Raises `Invalid`."""
    try:
        found = {name.lower(): text.decode() for name, text in headers}
    except UnicodeDecodeError:
        found = None
    if found is None:
        raise Invalid("wrong-field", "headers")
    content_type = found.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    if media.startswith(STRUCTURED):
        if media != f"{STRUCTURED}+json":
            raise Invalid("unsupported-content-type", "content-type")
        return structured(value)
    return binary(content_type, {name[3:]: text for name, text in found.items() if name.startswith("ce_")}, value)


def incoming(event: Event) -> Incoming:
    """The common form of a structured event. Raises `Invalid`."""
    media = media_of(event.datacontenttype or JSON)
    if media is None:
        raise Invalid("unsupported-content-type", "datacontenttype")
    if event.data_base64 is None:
        if media == AVRO:
            raise Invalid("missing-field", "data_base64")
        data: bytes | None = bytes(event.data)
        if not data:
            raise Invalid("missing-field", "data")
    else:
        try:
            data = b64decode(event.data_base64, validate=True)
        except ValueError:
            data = None
    if data is None:
        raise Invalid("not-avro" if media == AVRO else "not-json", "data_base64")
    if len(data) > EVENT_BYTES_MAX:
        raise Invalid("event-too-large", "data")
    time_ms = None if event.time is None else millis(event.time)
    return Incoming(event.id, event.source, event.type, event.controller, time_ms, media, data)


def media_of(content_type: str) -> Media | None:
    """The encoding that a content type stands for; None when it is none of ours."""
    media = content_type.partition(";")[0].strip().lower()
    if media in (JSON, "text/json") or media.endswith("+json"):
        return "application/json"
    return "application/avro" if media == AVRO else None


def fault_of(text: str) -> Invalid:
    """Name the attribute, which is ours, and nothing else of msgspec's words."""
    if text.startswith("Object missing required field `"):
        return Invalid("missing-field", text.split("`")[1])
    name = text.rpartition("`$.")[2].removesuffix("`")
    return Invalid("wrong-field", name if name in ATTRIBUTES else "")
