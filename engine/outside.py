"""Events that publishers write to Kafka themselves: CloudEvents beside the sealed records of the doors (ADR 18).

What such a record says of itself is not believed: it gets no refs and no actor, and was received when the log took it.
"""

from typing import Final

from engine.runtime import LogRecord
from schemas.cloudevents import of_record
from schemas.decode import Invalid
from schemas.routed import Envelope

OPEN: Final = {"calls": "call.", "consents": "consent."}  # topics that publishers may write to, and what types begin with there


def envelope_of(topic: str, record: LogRecord) -> Envelope:
    """The envelope of a publisher's record. Raises `Invalid`."""
    event = of_record(record.headers, record.value or b"")
    if not event.type.startswith(OPEN[topic]):
        raise Invalid("unknown-type", "type")
    return Envelope(
        id=event.id, source=event.source, type=event.type, controller=event.controller,
        time_ms=record.ts_ms if event.time_ms is None else event.time_ms, receipt_ms=record.ts_ms, content_type=event.media,
        data=event.data,
    )  # fmt: skip
