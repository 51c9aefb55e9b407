"""The edge agents: what a committed transaction wrote for the world outside is handed to a sink, at least once, in order.

An event is acknowledged when the sink has taken it and never before: a sink that fails is asked again, for ever, with a bounded
back-off, and the events behind it wait. Faust acknowledges an event when its agent raises, and when it is cancelled by a stop, so
streams are read without its acknowledgements and each event is acknowledged by hand.

What comes twice has the same key, made of the event's place and content; a sink may know by it what it has had already. A record
that cannot be decoded cannot be handed over, so its place is: nothing is left out in silence.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic
from typing import Any, Final, Protocol

import msgspec

from schemas.base import Record
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import BreachAlert, ErasureNotice, MediaOrder

log = logging.getLogger("consentinel.edges")

WAIT_SECS_MIN, WAIT_SECS_MAX = 0.1, 30.0  # between attempts; a receiver that is back waits no longer than that
UNDECODABLE: Final = "consentinel.undecodable"
# What may stand in a log: no reference to a person and no conversation.
LOGGED: Final = (
    "incident_id", "controller", "clock", "level", "due_ms", "headroom_ms", "risk", "affected", "order_id", "cause",
    "acknowledge_by_ms", "targets", "topic", "partition", "offset",
)  # fmt: skip


class Sink(Protocol):
    """Where events go. `deliver` returns once the event is safe there, and raises anything when it is not."""

    async def deliver(self, key: str, document: bytes) -> None:
        """Take one event: a CloudEvent in JSON, and the key that is the same each time it comes."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class Message(Protocol):
    """What is used of a record of Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    value: bytes | None


class Event(Protocol):
    """What is used of Faust's events."""

    message: Message

    def ack(self) -> bool:
        """Say that it is done: its offset may be committed."""
        ...


class Stream(Protocol):
    """What is used of Faust's streams."""

    def noack(self) -> "Stream":
        """The same stream, acknowledged by hand."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Its events."""
        ...


class Kind(msgspec.Struct, frozen=True):
    """A topic of the topology whose records go out: what they are, and the CloudEvents type they go out as."""

    topic: str
    record: type[Record]
    type: str


KINDS: Final = (
    Kind("breach.alerts", BreachAlert, "breach.alert"), Kind("erasure.notices", ErasureNotice, "erasure.notice"),
)  # fmt: skip
# Only where there is somebody to delete recordings: what is handed to nobody must stay.
MEDIA: Final = Kind("media.orders", MediaOrder, "media.order")


class LogSink:
    """Where no receiver is configured: a line of JSON in the worker's log for each event, without personal data."""

    async def deliver(self, key: str, document: bytes) -> None:
        """See `Sink`."""
        event = json.loads(document)
        data = {name: event["data"][name] for name in LOGGED if name in event["data"]}
        log.warning("%s", json.dumps({"type": event["type"], "id": key, "time": event["time"], **data}))

    async def close(self) -> None:
        """See `Sink`."""


class Edge:
    """Hands the records of one topic to the sink. Its plain attributes are for metrics."""

    def __init__(
        self, kind: Kind, sink: Sink, source: str, *, sleep: Callable[[float], Any] = asyncio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.delivered = 0
        self.failures: dict[str, int] = {}  # attempts that failed, by the fault's type
        self._sink, self._source, self._sleep, self._clock = sink, source, sleep, clock
        self._since: float | None = None

    @property
    def waiting_secs(self) -> float:
        """For how long the event at hand has been failing; 0: none is."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    async def run(self, stream: Stream) -> None:
        """The agent's body: one event after the other, none acknowledged that the sink has not taken."""
        async for event in stream.noack().events():
            await self.hand_over(event.message)
            event.ack()

    async def hand_over(self, message: Message) -> None:
        """Return once the sink has taken it; only a cancellation comes between."""
        key = key_of(message)
        document = self._document(key, message)
        wait_secs = WAIT_SECS_MIN
        try:
            while True:
                try:
                    await self._sink.deliver(key, document)
                except Exception as fault:
                    self._failed(message, fault)
                    await self._sleep(wait_secs)
                    wait_secs = min(WAIT_SECS_MAX, wait_secs * 2)
                else:
                    self.delivered += 1
                    return
        finally:
            self._since = None

    def _failed(self, message: Message, fault: Exception) -> None:
        name = type(fault).__name__
        self.failures[name] = self.failures.get(name, 0) + 1
        if self._since is None:
            self._since = self._clock()
            place = (self.kind.topic, message.partition, message.offset)
            log.warning("%s/%d at %d is not taken, and is tried again: %s", *place, name)

    def _document(self, key: str, message: Message) -> bytes:
        data: Record | Mapping[str, object]
        try:
            data, type_ = decode_as(self.kind.record, message.value or b""), self.kind.type
        except (Malformed, SchemaUnknown):
            log.error("%s/%d at %d cannot be decoded", self.kind.topic, message.partition, message.offset)
            data = {"topic": self.kind.topic, "partition": message.partition, "offset": message.offset}
            type_ = UNDECODABLE
        return msgspec.json.encode({
            "specversion": "1.0", "id": key, "source": self._source, "type": type_, "datacontenttype": "application/json",
            "time": datetime.fromtimestamp(message.timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": data,
        })  # fmt: skip


def key_of(message: Message) -> str:
    """The same for the same record each time it is read, and another one for any other record."""
    place = f"{message.topic}\0{message.partition}\0{message.offset}\0".encode()
    return sha256(place + (message.value or b"")).hexdigest()[:32]
