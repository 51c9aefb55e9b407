"""A data-subject request as its case keeps it, what others are told of it, and the deadlines of those who owe it an answer."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import msgspec

from processors.grounds import ITEMS_TOLD_MAX
from processors.kernel import Audit, Effect, Emit, Put, Sealed, State, Wake
from processors.order_media import TARGET as MEDIA
from processors.terms import DAY_MS
from schemas.base import Record
from schemas.routed import EraseReport, HeldItem, MediaAnswered
from schemas.topics import BreachAlert, IdentifierStatus, RequestClock, RequestStatus, TargetStatus

DEADLINES = "targets"
ITEMS_SHOWN_MAX = 500  # held items named by one request, over all its identifiers: the status is one message
WARNINGS: tuple[tuple[int, Literal["48h", "24h", "6h", "overdue"]], ...] = (
    (2 * DAY_MS, "48h"), (DAY_MS, "24h"), (DAY_MS // 4, "6h"), (0, "overdue"),
)  # fmt: skip


class Limits(State):
    """What a partial erasure is limited to. `fields` as in `processors/fields.py`, chosen when the request was opened."""

    fields: list[str]
    conversation_ids: list[str] = []
    since_ms: int | None = None
    until_ms: int | None = None


class RequestCase(State):
    """A request as its case keeps it. `refs` go when it is closed; `claims` open only while its own key lives."""

    KIND: ClassVar[str] = "request"
    SEALED: ClassVar[dict[str, str]] = {"claims": "claims"}
    SEALED_IN: ClassVar[type[Record] | None] = RequestStatus
    request_id: str
    controller: str
    right: str
    regime: str
    state: str
    received_ms: int
    due_ms: int
    refs: list[str]
    claims: Sealed = None
    verified_by: str = ""  # keyed hash of the actor
    approved_by: str = ""
    ordered: bool = False
    extended: bool = False
    paused_ms: int | None = None
    ground: str | None = None
    reports: dict[int, tuple[int, int, bool]] = {}  # index of an identifier → erased, held, final
    targets: dict[str, tuple[int, dict[str, tuple[str, int]]]] = {}  # target → deadline, order → outcome, when
    orders: list[str] = []  # the orders that identifiers have told of; every target answers each
    closed_ms: int | None = None
    probing: list[str] = []  # identifiers that have not told of their links yet
    beyond: list[str] = []  # linked, but more than a request reaches without a review
    gathered: bool = False  # the identifiers were asked
    wide: bool = False  # a review let it reach more
    told: int = 0  # how many of `refs` were ordered
    media: dict[str, str] = {}  # orders for recordings → outcome, "" while open
    media_by_ms: int = 0
    warned: dict[str, str] = {}  # target → the last warning about its deadline
    erased: list[str] = []  # identifiers that a follow-on's parent erased: it does not reach back
    limits: Limits | None = None
    kept: dict[int, list[HeldItem]] = {}  # index of an identifier → what holds keep there; gone when it is closed
    kept_media: dict[str, HeldItem] = {}  # orders for recordings that holds keep back: nobody is late with these
    place: str = ""  # where its days are counted: chosen when it was opened
    law: str = ""  # the pack, with its version, whose clock it runs by
    pauses: list[tuple[int, int]] = []  # when the clock stood still
    confirm_ms: int | None = None  # by when its receipt must be confirmed, where the regime asks for that
    plea: str = ""  # the ground of Art. 17(1) that it rests on, where one was given
    exempt: list[str] = []  # the grounds of holds that are on record with the rule of each


def open_targets(case: RequestCase) -> dict[str, int]:
    """Deadline of every target that owes an answer. Recordings that a hold keeps here are on nobody's desk."""
    found = {
        name: deadline for name, (deadline, answers) in case.targets.items()
        if not case.orders or any(answers.get(o, ("", 0))[0] != "done" for o in case.orders)
    }  # fmt: skip
    owed = any(outcome != "done" and order not in case.kept_media for order, outcome in case.media.items())
    return found | ({MEDIA: case.media_by_ms} if owed else {})


def deadline_of(case: RequestCase, now_ms: int) -> Wake:
    """Ring at the next warning about a target's deadline."""
    moments = [case.media_by_ms, *(deadline for deadline, _ in case.targets.values())]
    ahead = [ms - before for ms in moments for before, _ in WARNINGS if ms - before > now_ms]
    return Wake(DEADLINES, min(ahead, default=None))


def warn(case: RequestCase, now_ms: int) -> Iterator[Effect]:
    """Tell of every open target whose deadline is near or past: each warning once."""
    warned = dict(case.warned)
    for target, deadline in sorted(open_targets(case).items()):
        level = next((name for before, name in reversed(WARNINGS) if deadline - before <= now_ms), None)
        if level is None or warned.get(target) == level:
            continue
        warned[target] = level
        facts = {"target": target, "level": level, "request": case.request_id}
        yield Audit("target.due", case.controller, facts, named=False)
        yield Emit("breach.alerts", (case.request_id,), BreachAlert(
            incident_id=case.request_id, controller=case.controller, clock=f"erasure.{target}", level=level, due_ms=deadline,
            headroom_ms=deadline - now_ms, risk="",
        ))  # fmt: skip
    yield Put(msgspec.structs.replace(case, warned=warned))
    yield deadline_of(case, now_ms)


def orders_of(case: RequestCase) -> set[str]:
    """The orders that may be acknowledged: the first of each identifier, and those told of since."""
    return {*case.orders, *(f"{case.request_id}.{n}" for n in range(len(case.refs)))}


def with_report(case: RequestCase, event: EraseReport) -> RequestCase:
    """The case after an identifier's report; what it names of held items is bounded, its count is not."""
    named = sum(len(items) for n, items in case.kept.items() if n != event.index)
    kept = {n: items for n, items in case.kept.items() if n != event.index}
    if event.kept and named < ITEMS_SHOWN_MAX:
        kept[event.index] = list(event.kept[: ITEMS_SHOWN_MAX - named])
    return msgspec.structs.replace(
        case, reports={**case.reports, event.index: (event.erased, event.held, event.final)}, kept=kept,
        orders=sorted({*case.orders, *filter(None, [event.order_id])}),
        media={**dict.fromkeys(event.media, ""), **case.media},
        targets={name: (max(by_ms, event.acknowledge_by_ms), answers) for name, (by_ms, answers) in case.targets.items()},
        media_by_ms=max(case.media_by_ms, event.acknowledge_by_ms),
    )  # fmt: skip


def with_media(case: RequestCase, event: MediaAnswered) -> RequestCase:
    """The case after the word of an order for a recording."""
    kept = {order: item for order, item in case.kept_media.items() if order != event.order_id}
    if event.kept is not None:
        kept[event.order_id] = event.kept
    media = {**case.media, event.order_id: "" if event.outcome == "open" else event.outcome}
    by_ms = max(case.media_by_ms, event.acknowledge_by_ms)
    return msgspec.structs.replace(case, media=media, kept_media=kept, media_by_ms=by_ms)


def status_of(case: RequestCase) -> Emit:
    """Say where a request stands, as `requests.state` carries it."""
    targets = tuple(_target(name, deadline, answers, case.orders) for name, (deadline, answers) in case.targets.items())
    if case.media:
        targets += (_media(case),)
    return Emit("requests.state", (case.request_id,), RequestStatus(
        request_id=case.request_id, controller=case.controller, state=case.state, right=case.right, regime=case.regime,  # type: ignore[arg-type]
        clock=RequestClock(received_ms=case.received_ms, due_ms=case.due_ms, paused_ms=case.paused_ms, extended=case.extended,
                           confirm_by_ms=case.confirm_ms),
        ground=case.ground, targets=targets, closed_ms=case.closed_ms, identifiers=tuple(
            IdentifierStatus(index=n, erased=e, held=h, final=f, kept=tuple(case.kept.get(n, ())))
            for n, (e, h, f) in sorted(case.reports.items())),
        fields=tuple(case.limits.fields) if case.limits else (), law_pack=case.law,
    ))  # fmt: skip


def _target(name: str, deadline_ms: int, answers: dict[str, tuple[str, int]], orders: list[str]) -> TargetStatus:
    outcomes = {answers[o][0] if o in answers else "open" for o in orders} or {"open"}
    outcome: Any = next(o for o in ("failed", "held", "open", "done") if o in outcomes)
    answered = max((when for _, when in answers.values()), default=None)
    return TargetStatus(target=name, outcome=outcome, acknowledge_by_ms=deadline_ms, answered_ms=answered)


def _media(case: RequestCase) -> TargetStatus:
    outcomes = {outcome or "open" for outcome in case.media.values()}
    outcome: Any = next(o for o in ("failed", "held", "open", "done") if o in outcomes)
    kept = tuple(case.kept_media.values())[:ITEMS_TOLD_MAX]
    return TargetStatus(target=MEDIA, outcome=outcome, acknowledge_by_ms=case.media_by_ms, kept=kept)
