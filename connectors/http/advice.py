"""What whoever sends an event should know although it is accepted."""

from collections.abc import Iterator, Sequence

import msgspec

from connectors.http.cloudevents import Incoming
from connectors.http.problems import Problem
from processors.fields import merged_by, unknown
from schemas.decode import decode_event
from schemas.events import ControllerConfigured

CONFIGURED = "controller.configured"
SETTLES = (CONFIGURED, "law.activated")  # what follows one of these is judged by what it changed


class Warning(msgspec.Struct):
    """`field` is a JSON pointer into the event's data.

    `merges-conversations`: metadata by which the publisher's systems merge conversations will be erased; `unknown-group`: a
    choice without effect.
    """

    code: str
    field: str


def warnings_of(events: Sequence[Incoming | Problem]) -> Iterator[Warning]:
    """The warnings about accepted events, in their order."""
    for incoming in events:
        if isinstance(incoming, Incoming) and incoming.type == CONFIGURED:
            event = decode_event(incoming.type, incoming.media, incoming.data)
            assert isinstance(event, ControllerConfigured)
            for code, names in (
                ("merges-conversations", merged_by(event.sealed_fields, event.merge_keys)),
                ("unknown-group", unknown(event.sealed_fields)),
            ):  # fmt: skip
                yield from (Warning(code, f"/sealed_fields/{name}") for name in names)
