"""Has a recording deleted: one order for all who want it gone, repeated until somebody answers, remembered for ever.

A recording holds everybody's voice, so it goes whole when one of its customers is erased, and it goes once. Between order and
answer it is planned for deletion and still plays; afterwards it is deleted, also in what is imported again. While a legal hold
keeps the item of anybody who was there, nothing is ordered, and the release sends the order by itself (`hold_media.py`).
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, ClassVar, assert_never

import msgspec

from processors.exceptions import UNLAWFUL
from processors.grounds import facts_of
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
from processors.terms import DAY_MS, HOUR_MS, notice_by
from schemas.base import Record
from schemas.events import ErasureAcknowledged
from schemas.routed import HeldItem, MediaAnswered, MediaCheck, MediaChecked, MediaErase, MediaGone, MediaMarked
from schemas.topics import MediaOrder

ADDRESS = "media"  # data-key scope of the recording's address; shredded with the answer
REPEAT = "repeat"
REPEAT_MS = 6 * HOUR_MS  # well inside the life of the raw key that an order's address is sealed under
ASK_AGAIN_MS = DAY_MS  # a question whose answer is lost with a partition that was restored must not keep a recording for ever
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
    sent: bool = False  # nobody was held: it stands on `media.orders`
    kept: HeldItem | None = None  # by holds; nothing is ordered before their release
    regime: str = ""  # by which law it is asked for, and on which ground of Art. 17(1); "" where no request asks
    ground: str = ""


def case_of(controller: str, conversation_id: str, recording_id: str) -> str:
    """The name of a recording's case: the same for everybody who was on the conversation."""
    name = "\x1f".join((controller, conversation_id, recording_id))
    return "med_" + sha256(name.encode()).hexdigest()[:24]


def media_case(order_id: str) -> str | None:
    """The case that an order is of; None where it is about no recording."""
    return order_id.partition(".")[0] if order_id.startswith("med_") else None


def late_order(at: Receipt, conversation_id: str, recording_id: str, uri: str) -> Emit:
    """Order a recording away that is told of only after somebody who was on it was erased: no item is left to do it."""
    by_ms = notice_by(at.receipt_ms, (t.deadline_days for t in at.settings(at.controller).targets))
    order = MediaErase(
        conversation_id=conversation_id, recording_id=recording_id, cause="request", acknowledge_by_ms=by_ms, uri=uri,
    )  # fmt: skip
    return Emit("case.events", ("media", case_of(at.controller, conversation_id, recording_id)), order)


class OrderMedia(Incurious):
    """The case of one recording. `done` ends it; `held` and `failed` are told on, and the order is repeated."""

    name = "order_media"
    READS: ClassVar[tuple[type[Record], ...]] = (MediaErase, MediaChecked, ErasureAcknowledged)
    STATE: ClassVar[tuple[type[State], ...]] = (MediaTask,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the order, or what its answer changes."""
        match event:
            case MediaErase():
                yield from self._begin(view, event, at)
            case MediaChecked():
                task = view.get(MediaTask)
                if task is not None and not task.sent and event.order_id == _order_id(view, task):
                    yield from self._checked(view, task, event, at)
            case ErasureAcknowledged():
                task = view.get(MediaTask)
                if task is not None and event.target == TARGET and event.order_id == _order_id(view, task):
                    yield from self._answered(view, task, event, at)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Repeat an order that nobody has carried out, or ask again whether a hold keeps it."""
        task = view.get(MediaTask)
        if task is None or task.outcome == "done":
            return
        if task.sent:
            yield from self._send(view, task, now.now_ms)
        else:
            yield from self._ask(view, task, now.now_ms)

    def _begin(self, view: View, event: MediaErase, at: Receipt) -> Iterator[Effect]:
        old = view.get(MediaTask)
        waiting = [event.request_id] if event.request_id else []
        askers = [event.asker] if event.asker else []
        if old is not None and (old.outcome != "done" or event.uri is None):
            if old.outcome == "done":
                yield from _tell(view, old, waiting, askers)
            else:
                requests, homes = sorted({*old.requests, *waiting}), sorted({*old.askers, *askers})
                task = msgspec.structs.replace(old, requests=requests, askers=homes)
                stronger = event.ground != old.ground if event.ground == UNLAWFUL else event.regime and not old.regime
                if stronger:
                    task = msgspec.structs.replace(task, regime=event.regime, ground=event.ground)
                yield Put(task)
                if old.kept is not None:
                    yield from _held(view, old, [r for r in waiting if r not in old.requests])
                if stronger and not old.sent:
                    yield from self._ask(view, task, at.receipt_ms)
            return
        task = MediaTask(
            at.controller, event.conversation_id, event.recording_id, event.cause, event.acknowledge_by_ms, waiting, event.uri,
            round=old.round + 1 if old is not None else 0, askers=askers, regime=event.regime, ground=event.ground,
        )  # fmt: skip
        yield Mint(ADDRESS, at.controller)
        yield Put(task, (), scope=ADDRESS)
        yield from self._ask(view, task, at.receipt_ms)

    def _ask(self, view: View, task: MediaTask, now_ms: int) -> Iterator[Effect]:
        """Whether anybody who was on the conversation is held: its roster knows whom to ask."""
        check = MediaCheck(
            conversation_id=task.conversation_id, order_id=_order_id(view, task), regime=task.regime, ground=task.ground,
        )  # fmt: skip
        yield Emit("case.events", ("conversation", task.controller, task.conversation_id), check)
        yield Wake(REPEAT, now_ms + ASK_AGAIN_MS)

    def _checked(self, view: View, task: MediaTask, event: MediaChecked, at: Receipt) -> Iterator[Effect]:
        if event.kept is not None:
            if event.kept != task.kept:
                task = msgspec.structs.replace(task, kept=event.kept)
                yield Put(task)
                yield from _held(view, task, task.requests or [""])
            return
        was_kept, task = task.kept is not None, msgspec.structs.replace(task, sent=True, kept=None)
        if was_kept:  # nobody could do anything before
            by_ms = notice_by(at.receipt_ms, (t.deadline_days for t in at.settings(task.controller).targets))
            task = msgspec.structs.replace(task, acknowledge_by_ms=max(task.acknowledge_by_ms, by_ms))
        yield Put(task)
        for request_id in task.requests or [""]:
            yield Audit("media.ordered", at.controller, _facts(view, task, request_id), named=False)
            if was_kept and request_id:
                yield Emit("case.events", ("request", request_id), MediaAnswered(
                    request_id=request_id, order_id=_name(view), outcome="open", acknowledge_by_ms=task.acknowledge_by_ms,
                ))  # fmt: skip
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


def _held(view: View, task: MediaTask, requests: list[str]) -> Iterator[Effect]:
    """Say that a legal hold keeps the recording, on which grounds and until when."""
    facts = {"outcome": "held"} | facts_of([task.kept] if task.kept is not None else [])
    for request_id in requests:
        yield Audit("media.kept", task.controller, _facts(view, task, request_id) | facts, named=False)
        if request_id:
            answer = MediaAnswered(request_id=request_id, order_id=_name(view), outcome="held", kept=task.kept)
            yield Emit("case.events", ("request", request_id), answer)


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
