"""The three HTTP modes of CloudEvents 1.0, read into one form: binary, structured and batched.

In batches what is wrong with one event is a value, so that the others are taken.
"""

from collections.abc import Callable, Mapping
from urllib.parse import unquote_to_bytes

import msgspec

from connectors.http.problems import Problem
from schemas.cloudevents import CARRIED, STRUCTURED, Event, Incoming, binary, incoming, millis, structured
from schemas.decode import Invalid

BATCH = "application/cloudevents-batch"
EVENTS_MAX = 10_000  # of one batch: what is wrong with each is answered, and answers take memory too

_MANY = msgspec.json.Decoder(list[Event])
_RAW = msgspec.json.Decoder(list[msgspec.Raw])


def read(content_type: str, headers: Mapping[str, str], body: bytes) -> tuple[list[Incoming | Problem], bool]:
    """The events of a body, and whether it was a batch. Raises `Problem` when the body as a whole is no use."""
    media = content_type.partition(";")[0].strip().lower()
    if media == f"{BATCH}+json":
        return _batch(body), True
    if media == f"{STRUCTURED}+json":
        return [_read(lambda: structured(body))], False
    if media.startswith(STRUCTURED):
        raise Problem("unsupported-content-type", "content-type")
    attributes = _attributes(headers)
    return [_read(lambda: binary(content_type, attributes, body))], False


def _read(one: Callable[[], Incoming]) -> Incoming:
    try:
        return one()
    except Invalid as error:
        fault = Problem(error.code, error.field)
    raise fault  # outside the handler: its context may hold the value


def _batch(body: bytes) -> list[Incoming | Problem]:
    _check_text(body)
    if body.count(b"{") > EVENTS_MAX and len(_elements(body)) > EVENTS_MAX:
        raise Problem("too-many-items")
    try:
        return [_each(lambda event=event: incoming(event)) for event in _MANY.decode(body)]  # type: ignore[misc]
    except msgspec.ValidationError:
        pass  # one of them is wrong; find out which, one by one
    except RecursionError:
        raise Problem("too-deep") from None
    except msgspec.DecodeError:
        raise Problem("not-json") from None
    items = _elements(body)
    if len(items) > EVENTS_MAX:
        raise Problem("too-many-items")
    return [_each(lambda item=item: structured(bytes(item))) for item in items]  # type: ignore[misc]


def _each(one: Callable[[], Incoming]) -> Incoming | Problem:
    try:
        return one()
    except Invalid as error:
        return Problem(error.code, error.field)


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


def _check_text(body: bytes) -> None:
    """Refuse what is not UTF-8 as a whole: parsers pass over strings that they do not read."""
    try:
        body.decode()
        return
    except UnicodeDecodeError:
        pass
    raise Problem("not-json")


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """Attributes from `ce-` headers, percent-encoded as the binding says (CloudEvents HTTP binding 1.0.2, 3.1.3.2)."""
    attributes: dict[str, str] = {}
    for name in CARRIED:
        value = headers.get(f"ce-{name}")
        if value is None:
            continue
        try:
            attributes[name] = unquote_to_bytes(value.encode("latin-1")).decode()
        except UnicodeError:
            raise Problem("wrong-field", name) from None
    return attributes


__all__ = ["Incoming", "millis", "read"]
