"""Events that publishers write to Kafka themselves: CloudEvents beside the sealed records of the doors (ADR 18).

What such a record says of itself is not believed: it gets no refs and no actor, and was received when the log took it.

Its data may be framed as the clients of a schema registry do it, where there is one: the frame goes, the datum becomes ours.

    framed = 00, id of the schema in the registry (4 bytes, big-endian), datum
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

from engine.runtime import CommitLost, LogRecord
from schemas.cloudevents import AVRO, of_record
from schemas.codec import Malformed, SchemaUnknown, Unencodable
from schemas.decode import Invalid
from schemas.events import BY_TYPE
from schemas.foreign import Conversion, conversion
from schemas.routed import Envelope

OPEN: Final = {"calls": "call.", "consents": "consent."}  # topics that publishers may write to, and what types begin with there
FRAME: Final = b"\0"
FRAME_BYTES: Final = 5
KNOWN_MAX: Final = 10_000  # more than one turn has records, so that what a lost turn has learnt is still known to the next
ASKING_SECS_MAX, ASKING_EVERY_SECS = 20.0, 60.0  # a worker that only asks is taken for dead by its group after 300 s

LookUp = Callable[[int], str | None]


class RegistryAway(CommitLost):
    """Nobody can say now what a record means, so nothing of the turn is kept: it is read again after a pause."""


class Registered:
    """Schemas of a registry, each asked for once; one thread uses it.

    `look_up` answers with the text of an Avro schema, or None when the registry has none under this id, and raises
    `RegistryAway`. It is called by the loop: it must answer within seconds.
    """

    def __init__(self, look_up: LookUp, clock: Callable[[], float] = monotonic) -> None:
        self._look_up, self._clock = look_up, clock
        self._known: dict[tuple[int, str], Conversion | None] = {}
        self._asked_since, self._asking_secs = clock(), 0.0

    def unframed(self, type_: str, data: bytes) -> bytes:
        """The data of an event of this type in single-object encoding, if it is framed. Raises `Invalid` and `RegistryAway`."""
        if not data.startswith(FRAME) or len(data) < FRAME_BYTES or type_ not in BY_TYPE:
            return data  # what is wrong with it is said where it is decoded
        asked = int.from_bytes(data[1:FRAME_BYTES], "big"), type_
        if asked not in self._known:
            self._learn(*asked)
        convert = self._known[asked]
        if convert is None:
            raise Invalid("unknown-schema")
        try:
            return convert(data[FRAME_BYTES:])
        except (Malformed, Unencodable):
            pass  # raised anew below, without it as context
        raise Invalid("not-avro")

    def _learn(self, id_: int, type_: str) -> None:
        text = self._asked(id_)
        try:
            found = None if text is None else conversion(BY_TYPE[type_], text)
        except SchemaUnknown:
            found = None
        if len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[id_, type_] = found

    def _asked(self, id_: int) -> str | None:
        began = self._clock()
        if began - self._asked_since >= ASKING_EVERY_SECS:
            self._asked_since, self._asking_secs = began, 0.0
        if self._asking_secs >= ASKING_SECS_MAX:
            raise RegistryAway("the schema registry is asked too much, or answers too slowly")
        try:
            return self._look_up(id_)
        finally:
            self._asking_secs += self._clock() - began


def envelope_of(topic: str, record: LogRecord, registered: Registered | None = None) -> Envelope:
    """The envelope of a publisher's record. Raises `Invalid`, and `RegistryAway` where schemas are registered."""
    event = of_record(record.headers, record.value or b"")
    if not event.type.startswith(OPEN[topic]):
        raise Invalid("unknown-type", "type")
    data = event.data
    if registered is not None and event.media == AVRO:
        data = registered.unframed(event.type, data)
    return Envelope(
        id=event.id, source=event.source, type=event.type, controller=event.controller,
        time_ms=record.ts_ms if event.time_ms is None else event.time_ms, receipt_ms=record.ts_ms, content_type=event.media,
        data=data,
    )  # fmt: skip
