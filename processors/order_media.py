"""Has a recording deleted: one order for all who want it gone, repeated until somebody answers, remembered for ever.

A recording holds everybody's voice, so it goes whole when one of its customers is erased, and it goes once. Between order and
answer it is planned for deletion and still plays; afterwards it is deleted, also in what is imported again.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, ClassVar, assert_never

import msgspec

from processors.kernel import (
    Alarm,
    Audit,
    Effect,
    Emit,
    Incurious,
    Instant,
    Mint,
    Put,
    Receipt,
    Sealed,
    Shred,
    State,
    View,
    Wake,
)  # fmt: skip
from processors.terms import HOUR_MS
from schemas.base import Record
from schemas.events import ErasureAcknowledged
from schemas.routed import MediaAnswered, MediaErase, MediaGone, MediaMarked
from schemas.topics import MediaOrder

ADDRESS = "media"  # data-key scope of the recording's address; shredded with the answer
REPEAT = "repeat"
REPEAT_MS = 6 * HOUR_MS  # well inside the life of the raw key that an order's address is sealed under
TARGET = "media"  # the target's name in requests and acknowledgements


class MediaTask(State):
    """One recording that has to go, or is gone. `requests` wait for it; `round` counts how often it had to go."""

    KIND: ClassVar[str] = "mediatask"
    SEALED: ClassVar[dict[str, str]] = {"uri": "recordings.uri"}
    SEALED_IN: ClassVar[type[Record] | None] = MediaOrder
    controller: str
    conversation_id: str
    recording_id: str
    cause: str
    acknowledge_by_ms: int
    requests: list[str]
    uri: Sealed = None
    outcome: str = ""  # "": nobody has answered
    round: int = 0
    askers: list[str] = []  # homes that remember the order until it is answered


def case_of(controller: str, conversation_id: str, recording_id: str) -> str:
    """The name of a recording's case: the same for everybody who was on the conversation."""
    name = "\x1f".join((controller, conversation_id, recording_id))
    return "med_" + sha256(name.encode()).hexdigest()[:24]


def media_case(order_id: str) -> str | None:
    """The case that an order is of; None where it is about no recording."""
    return order_id.partition(".")[0] if order_id.startswith("med_") else None


class OrderMedia(Incurious):
    """The case of one recording. `done` ends it; `held` and `failed` are told on, and the order is repeated."""

    name = "order_media"
    READS: ClassVar[tuple[type[Record], ...]] = (MediaErase, ErasureAcknowledged)
    STATE: ClassVar[tuple[type[State], ...]] = (MediaTask,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the order, or what its answer changes."""
        match event:
            case MediaErase():
                yield from self._order(view, event, at)
            case ErasureAcknowledged():
                task = view.get(MediaTask)
                if task is not None and event.target == TARGET and event.order_id == _order_id(view, task):
                    yield from self._answered(view, task, event, at)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Repeat an order that nobody has carried out."""
        task = view.get(MediaTask)
        if task is not None and task.outcome != "done":
            yield from self._send(view, task, now.now_ms)

    def _order(self, view: View, event: MediaErase, at: Receipt) -> Iterator[Effect]:
        old = view.get(MediaTask)
        waiting = [event.request_id] if event.request_id else []
        askers = [event.asker] if event.asker else []
        if old is not None and (old.outcome != "done" or event.uri is None):
            if old.outcome == "done":
                yield from _tell(view, old, waiting, askers)
            else:
                requests, homes = sorted({*old.requests, *waiting}), sorted({*old.askers, *askers})
                yield Put(msgspec.structs.replace(old, requests=requests, askers=homes))
            return
        task = MediaTask(
            at.controller, event.conversation_id, event.recording_id, event.cause, event.acknowledge_by_ms, waiting, event.uri,
            round=old.round + 1 if old is not None else 0, askers=askers,
        )  # fmt: skip
        yield Mint(ADDRESS, at.controller)
        yield Put(task, (), scope=ADDRESS)
        for request_id in waiting or [""]:
            yield Audit("media.ordered", at.controller, _facts(view, task, request_id), named=False)
        yield from self._mark(task, "planned_for_deletion")
        yield from self._send(view, task, at.receipt_ms)

    def _send(self, view: View, task: MediaTask, now_ms: int) -> Iterator[Effect]:
        kept = view.get(MediaTask)
        opened = None if kept is None else view.opened(kept, ADDRESS)
        uri = opened.uri if opened is not None and isinstance(opened.uri, str) else None
        order_id = _order_id(view, task)
        yield Emit("media.orders", (task.recording_id,), MediaOrder(
            order_id=order_id, controller=task.controller, conversation_id=task.conversation_id, recording_id=task.recording_id,
            cause=task.cause, acknowledge_by_ms=task.acknowledge_by_ms, uri=None if uri is None else uri.encode(),  # type: ignore[arg-type]
        ))  # fmt: skip
        yield Wake(REPEAT, now_ms + REPEAT_MS)

    def _answered(self, view: View, task: MediaTask, event: ErasureAcknowledged, at: Receipt) -> Iterator[Effect]:
        if task.outcome == "done":
            return
        task = msgspec.structs.replace(task, outcome=event.outcome, uri=None if event.outcome == "done" else task.uri)
        for request_id in task.requests or [""]:
            kind = "media.deleted" if event.outcome == "done" else "media.kept"
            yield Audit(kind, at.controller, _facts(view, task, request_id) | {"outcome": event.outcome}, named=False)
        done = event.outcome == "done"
        yield Put(msgspec.structs.replace(task, askers=[] if done else task.askers))
        if done:
            yield Shred(ADDRESS)
            yield Wake(REPEAT, None)
            yield from self._mark(task, "deleted")
        yield from _tell(view, task, task.requests, task.askers if done else [])

    def _mark(self, task: MediaTask, state: Any) -> Iterator[Effect]:
        marked = MediaMarked(conversation_id=task.conversation_id, recording_id=task.recording_id, state=state)
        yield Emit("case.events", ("conversation", task.controller, task.conversation_id), marked)


def _tell(view: View, task: MediaTask, requests: list[str], askers: list[str]) -> Iterator[Effect]:
    for asker in askers:
        yield Emit("subject.events", (asker,), MediaGone(order_id=_name(view)))
    for request_id in requests:
        answer = MediaAnswered(request_id=request_id, order_id=_name(view), outcome=task.outcome)  # type: ignore[arg-type]
        yield Emit("case.events", ("request", request_id), answer)


def _name(view: View) -> str:
    """The case's own name: the last part of its key."""
    return str(msgspec.json.decode(view.owner)[1])


def _order_id(view: View, task: MediaTask) -> str:
    return f"{_name(view)}.{task.round}"


def _facts(view: View, task: MediaTask, request_id: str) -> dict[str, str]:
    facts = {"cause": task.cause, "target": TARGET, "order": _order_id(view, task)}
    return facts | ({"request": request_id} if request_id else {})
