"""One order, one answer: the recording is deleted, and what became of it is published as `erasure.acknowledged`.

The answer comes after the deed. When the process dies between the two, the order is carried out again: then nothing is there any
more, which is evidence too. What cannot be done now is asked for again by whoever called; only after many tries over a long time
it has failed. The id of an answer follows from the order's record, so that a repeated one changes nothing.

An address that nobody can open any more (the hour's raw key is gone) gets no answer: the order has been told again since, or
will be (`processors/order_media.py`).
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic
from typing import Any, Final

import msgspec

from connectors.media.shelf import Evidence, ShelfAway, Shelves
from engine.clock import Clock
from engine.sealing import SealingFault
from schemas.codec import encode
from schemas.events import ErasureAcknowledged
from schemas.routed import Envelope
from schemas.topics import MediaOrder

log = logging.getLogger("consentinel.media")

TARGET: Final = "media"
TOPIC: Final = "media.orders"
CONTROLS: Final = "controls"
GIVE_UP_SECS: Final = 3_600.0  # and no sooner: an order is told again after some hours
GIVE_UP_TRIES: Final = 10
OPEN_MAX: Final = 10_000  # orders that are remembered between two tries

Open = Callable[[bytes], bytes | None]  # a sealed address; None when its key was destroyed
Publish = Callable[[str, str, Envelope], None]  # topic, key, event; returns when it is durable


class _Trial(msgspec.Struct):
    """What is known of an order that is not answered yet."""

    since: float
    tries: int = 0
    evidence: Evidence | None = None  # it is done, but the log did not take the answer


class Clerk:
    """Carries out orders, one at a time; thread-safe. Its plain attributes are for whoever watches it."""

    def __init__(
        self, shelves: Shelves, opened: Open, publish: Publish, source: str, clock: Clock, *,
        give_up_secs: float = GIVE_UP_SECS, passed: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self.answered: dict[str, int] = {}  # by code
        self.expired = 0
        self._shelves, self._open, self._publish, self._source, self._clock = shelves, opened, publish, source, clock
        self._give_up_secs, self._passed = give_up_secs, passed
        self._trials: dict[str, _Trial] = {}
        self._turn = threading.Lock()

    def carry_out(self, key: str, order: MediaOrder) -> None:
        """Return once the order is answered. Raises anything when it is not: call again, with the same key."""
        with self._turn:
            trial = self._trials.get(key)
            if trial is None:
                if len(self._trials) >= OPEN_MAX:
                    self._trials.clear()  # they are tried for longer then, which harms nobody
                trial = self._trials[key] = _Trial(self._passed())
            trial.tries += 1
            if trial.evidence is None:
                trial.evidence = self._evidence(order, trial)
            if trial.evidence is None:
                self.expired += 1
                log.warning("an order's address cannot be opened any more; it is told again until somebody answers")
            else:
                self._answer(key, order, trial.evidence, trial.tries)
            del self._trials[key]

    def _evidence(self, order: MediaOrder, trial: _Trial) -> Evidence | None:
        """What became of it; None: nobody can know any more where it is. Raises anything that may pass."""
        address: str | None = None
        if order.uri is not None:
            try:
                opened = self._open(order.uri)
                if opened is None:
                    return None
                address = opened.decode()
            except (SealingFault, UnicodeDecodeError):
                return Evidence(outcome="failed", code="unreadable")
        try:
            return self._shelves.delete(address)
        except Exception:
            if trial.tries < GIVE_UP_TRIES or self._passed() - trial.since < self._give_up_secs:
                raise
        return Evidence(outcome="failed", code="unreachable")

    def _answer(self, key: str, order: MediaOrder, evidence: Evidence, tries: int) -> None:
        now_ms = self._clock()
        event = ErasureAcknowledged(
            order_id=order.order_id, target=TARGET, outcome=evidence.outcome, items=(order.recording_id,),
            ground=evidence.code if evidence.outcome == "held" else None, evidence=text_of(evidence, tries, now_ms),
        )  # fmt: skip
        self._publish(CONTROLS, order.order_id, Envelope(
            id=key, source=self._source, type=ErasureAcknowledged.TYPES[0], controller=order.controller, time_ms=now_ms,
            receipt_ms=now_ms, actor=TARGET, data=encode(event),
        ))  # fmt: skip
        self.answered[evidence.code] = self.answered.get(evidence.code, 0) + 1
        if evidence.outcome == "failed":
            log.warning("a recording is not deleted: %s; order %s", evidence.code, order.order_id)


class MediaSink:
    """The clerk as the worker's edge agents know it: at least once, in order, and none acknowledged that is not answered."""

    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk

    async def deliver(self, key: str, document: bytes) -> None:
        """Carry out one order, a CloudEvent in JSON. What was no order has been logged with its place: nobody can be answered."""
        event = msgspec.json.decode(document, type=_Event)
        if event.type == "media.order":
            order = msgspec.json.decode(event.data, type=MediaOrder)
            await asyncio.to_thread(self._clerk.carry_out, key, order)

    async def close(self) -> None:
        """Nothing is held open."""


class _Event(msgspec.Struct):
    type: str
    data: msgspec.Raw


def text_of(evidence: Evidence, tries: int, now_ms: int) -> str:
    """Evidence as it stands in the answer: one JSON object of codes, counts and times."""
    facts: dict[str, Any] = {"code": evidence.code, "shelf": evidence.shelf} if evidence.shelf else {"code": evidence.code}
    facts |= {name: count for name in ("removed", "markers", "uploads", "left") if (count := getattr(evidence, name)) != 0}
    if evidence.until_ms is not None:
        facts["until"] = _iso(evidence.until_ms)
    return msgspec.json.encode(facts | {"tries": tries, "at": _iso(now_ms)}).decode()


def key_of(topic: str, partition: int, offset: int, value: bytes) -> str:
    """The same for the same record each time it is read, and another one for any other record."""
    return sha256(f"{topic}\0{partition}\0{offset}\0".encode() + value).hexdigest()[:32]


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def away_of(fault: Exception) -> str:
    """Why it could not be done, as a code for a log."""
    return fault.reason if isinstance(fault, ShelfAway) else type(fault).__name__
