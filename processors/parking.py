"""Where the events of a conversation wait for its beginning: sealed, bounded, for an hour, and then in quarantine, never lost."""

import base64
from collections.abc import Iterator
from typing import ClassVar

from processors.kernel import Delete, Effect, Forward, Mint, Put, Receipt, Refuse, Sealed, Shred, State, View, Wake
from processors.terms import HOUR_MS
from schemas.base import Record
from schemas.codec import decode_as, encode
from schemas.routed import Envelope

PARK_MS = HOUR_MS  # how long an event waits for its call.started before it is quarantined
PARKED_MAX = 1_000  # per conversation; beyond it events are quarantined at once
PARKED_PER_STEP = 90  # two effects each, under kernel.EFFECTS_PER_STEP_MAX
PARKED = "parked"  # data-key scope of what waits
UNPARK, GIVE_UP = "unpark", "give-up"


class Parked(State):
    """An event that came before its call.started, sealed."""

    KIND: ClassVar[str] = "parked"
    SEALED: ClassVar[dict[str, str]] = {"envelope": "envelope"}
    SEALED_IN: ClassVar[type[Record] | None] = Envelope
    envelope: Sealed


def park(view: View, at: Receipt) -> Iterator[Effect]:
    """Set an event aside; the same one twice waits once. Refuses `too-many-waiting`."""
    parts = (f"{at.receipt_ms:014d}", at.event_id)
    waiting = [p for p, _ in view.scan(Parked)]
    if any(p[1] == at.event_id for p in waiting):
        return
    if len(waiting) >= PARKED_MAX:
        yield Refuse("too-many-waiting", "conversation_id")
        return
    yield Mint(PARKED, at.controller)
    yield Put(Parked(base64.b64encode(encode(at.envelope)).decode()), parts, scope=PARKED)
    if not waiting:
        yield Wake(GIVE_UP, at.receipt_ms + PARK_MS)


def unpark(view: View, at: Receipt) -> Iterator[Effect]:
    """Let go of what waits: the conversation has begun."""
    if any(True for _ in view.scan(Parked)):
        yield Wake(UNPARK, at.receipt_ms)
        yield Wake(GIVE_UP, None)


def send_on(view: View, alarm: str, now_ms: int, *, started: bool) -> Iterator[Effect]:
    """Send what waits back to its conversation, or, where none has begun, into quarantine once its hour is over."""
    waiting = list(view.scan(Parked))
    due = waiting if started else [w for w in waiting if int(w[0][0]) + PARK_MS <= now_ms]
    for parts, parked in due[:PARKED_PER_STEP]:
        opened = view.opened(parked, PARKED)
        assert opened is not None and isinstance(opened.envelope, str), "what waits is shredded only when nothing waits"
        envelope = decode_as(Envelope, base64.b64decode(opened.envelope))
        if started:
            yield Forward("case.events", (view.owner,), envelope.refs, like=envelope)
        else:
            yield Refuse("no-conversation", "conversation_id", like=envelope)
        yield Delete(Parked, parts)
    left = waiting[min(len(due), PARKED_PER_STEP) :]
    if len(due) > PARKED_PER_STEP:
        yield Wake(alarm, now_ms)
    elif left:
        yield Wake(GIVE_UP, int(left[0][0][0]) + PARK_MS)
    else:
        yield Shred(PARKED)
