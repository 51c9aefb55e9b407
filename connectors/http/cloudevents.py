"""The three HTTP modes of CloudEvents 1.0, read into one form: binary, structured and batched.

Attributes that the contract does not know are passed over, as the specification asks; `subject` and `dataschema` are among
them. In batches what is wrong with one event is a value, so that the others are taken.
"""

from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from connectors.http.bodies import EVENT_BYTES_MAX
from connectors.http.problems import Problem
from schemas.base import NAME_CHARS_MAX, Moment, Name

BATCH, STRUCTURED = "application/cloudevents-batch", "application/cloudevents"
JSON, AVRO = "application/json", "application/avro"
SOURCE_CHARS_MAX = 2_048  # a URI reference; some publishers put a whole path there
PRINTED = r"^[^\x00-\x1f\x7f]+$"
EVENTS_MAX = 10_000  # of one batch: what is wrong with each is answered, and answers take memory too
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ATTRIBUTES = frozenset({
    "id", "source", "type", "specversion", "controller", "time", "datacontenttype", "data", "data_base64",
})  # fmt: skip

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
_MANY = msgspec.json.Decoder(list[Event])
_RAW = msgspec.json.Decoder(list[msgspec.Raw])


def read(content_type: str, headers: Mapping[str, str], body: bytes) -> tuple[list[Incoming | Problem], bool]:
    """The events of a body, and whether it was a batch. Raises `Problem` when the body as a whole is no use."""
    media = content_type.partition(";")[0].strip().lower()
    if media == f"{BATCH}+json":
        return _batch(body), True
    if media == f"{STRUCTURED}+json":
        if len(body) > EVENT_BYTES_MAX:
            raise Problem("event-too-large")
        _check_text(body)
        return [_structured(body)], False
    if media.startswith(STRUCTURED):
        raise Problem("unsupported-content-type", "content-type")
    return [_binary(media, headers, body)], False


def millis(moment: datetime) -> int:
    """Epoch milliseconds."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _check_text(body: bytes) -> None:
    """Refuse what is not UTF-8 as a whole: parsers pass over strings that they do not read."""
    try:
        body.decode()
        return
    except UnicodeDecodeError:
        pass
    raise Problem("not-json")


def _batch(body: bytes) -> list[Incoming | Problem]:
    _check_text(body)
    if body.count(b"{") > EVENTS_MAX and len(_elements(body)) > EVENTS_MAX:
        raise Problem("too-many-items")
    try:
        return [_incoming(event) for event in _MANY.decode(body)]
    except msgspec.ValidationError:
        pass  # one of them is wrong; find out which, one by one
    except RecursionError:
        raise Problem("too-deep") from None
    except msgspec.DecodeError:
        raise Problem("not-json") from None
    items = _elements(body)
    if len(items) > EVENTS_MAX:
        raise Problem("too-many-items")
    found: list[Incoming | Problem] = []
    for item in items:
        try:
            found.append(_structured(bytes(item)))
        except Problem as problem:
            found.append(problem)
    return found


def _elements(body: bytes) -> list[msgspec.Raw]:
    """The events of a batch as they stand, unread. The first decoder stops at what is wrong first, so all can be wrong here."""
    try:
        return _RAW.decode(body)
    except msgspec.ValidationError:
        fault = Problem("wrong-field")  # a batch is an array
    except RecursionError:
        fault = Problem("too-deep")
    except msgspec.DecodeError:
        fault = Problem("not-json")
    raise fault


def _structured(data: bytes) -> Incoming:
    try:
        event = _ONE.decode(data)
    except msgspec.ValidationError as error:
        fault = _fault(str(error))
    except RecursionError:
        fault = Problem("too-deep")
    except msgspec.DecodeError:
        fault = Problem("not-json")
    else:
        made = _incoming(event)
        if isinstance(made, Incoming):
            return made
        fault = made
    raise fault


def _fault(text: str) -> Problem:
    """Name the attribute, which is ours, and nothing else of msgspec's words."""
    if text.startswith("Object missing required field `"):
        return Problem("missing-field", text.split("`")[1])
    name = text.rpartition("`$.")[2].removesuffix("`")
    return Problem("wrong-field", name if name in ATTRIBUTES else "")


def _incoming(event: Event) -> Incoming | Problem:
    media = _media(event.datacontenttype or JSON)
    if media is None:
        return Problem("unsupported-content-type", "datacontenttype")
    if event.data_base64 is None:
        if media == AVRO:
            return Problem("missing-field", "data_base64")
        data = bytes(event.data)
        if not data:
            return Problem("missing-field", "data")
    else:
        try:
            data = b64decode(event.data_base64, validate=True)
        except ValueError:
            data = None
        if data is None:  # outside the handler: its context would hold the value
            return Problem("not-avro" if media == AVRO else "not-json", "data_base64")
    if len(data) > EVENT_BYTES_MAX:
        return Problem("event-too-large", "data")
    time_ms = None if event.time is None else millis(event.time)
    return Incoming(event.id, event.source, event.type, event.controller, time_ms, media, data)


def _media(content_type: str) -> Media | None:
    media = content_type.partition(";")[0].strip().lower()
    if media in (JSON, "text/json") or media.endswith("+json"):
        return "application/json"
    return "application/avro" if media == AVRO else None


def _binary(content_type: str, headers: Mapping[str, str], body: bytes) -> Incoming:
    """Attributes from `ce-` headers, percent-encoded as the binding says (CloudEvents HTTP binding 1.0.2, 3.1.3.2)."""
    attributes: dict[str, str] = {}
    for name in ("id", "source", "type", "specversion", "controller", "time"):
        value = headers.get(f"ce-{name}")
        if value is None:
            continue
        try:
            attributes[name] = unquote_to_bytes(value.encode("latin-1")).decode()
        except UnicodeError:
            raise Problem("wrong-field", name) from None
    media = _media(content_type or JSON)
    if media is None:
        raise Problem("unsupported-content-type", "content-type")
    try:
        event = msgspec.convert(attributes, Event)
    except msgspec.ValidationError as error:
        fault = _fault(str(error))
    else:
        if len(body) > EVENT_BYTES_MAX:
            raise Problem("event-too-large")
        time_ms = None if event.time is None else millis(event.time)
        return Incoming(event.id, event.source, event.type, event.controller, time_ms, media, body)
    raise fault
