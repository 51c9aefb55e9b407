"""Runs the legal clocks of an incident: alerts before they run out, and after.

GDPR Art. 33(1): from awareness to the authority, in the hours that the law packs say. Art. 33(2): the processor tells the
controller without undue delay. Hours never roll over a weekend or a holiday (Regulation 1182/71 Art. 3(4) is about periods
expressed otherwise than in hours; law.md, section 2: never stretch).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import ClassVar, Literal

import msgspec

from law.calendars import day_at
from law.counting import countable_ms, due
from law.places import chain
from processors.kernel import Alarm, Audit, Effect, Emit, Incurious, Instant, Put, Receipt, Refuse, State, View, Wake
from processors.terms import HOUR_MS
from schemas.base import Record
from schemas.events import BreachEvent, Risk
from schemas.topics import BreachAlert

AUTHORITY_HOURS = 72  # Art. 33(1), for incidents that were reported before the packs were asked
AUTHORITY = {"EU": "gdpr.art33.authority", "GB": "uk_gdpr.art33.authority"}  # by where the controller is; else as in the Union
EVENTS_MAX = 1_000  # event ids remembered per incident: an incident has some tens of reports, assessments and notices
ALARM = "breach_clock"

Level = Literal["started", "48h", "24h", "6h", "overdue", "stopped"]
LEVELS: tuple[tuple[int, Level], ...] = (
    (48 * HOUR_MS, "48h"), (24 * HOUR_MS, "24h"), (6 * HOUR_MS, "6h"), (0, "overdue"),
)  # fmt: skip
CLOCKS = {"controller": "gdpr.art33.authority", "processor": "gdpr.art33_2.controller"}
TOLD = {"controller": "authority", "processor": "controller"}  # whom a notice must reach to stop the role's clock

Rank = tuple[int, int, str]  # 1 for a report or an assessment, effective time in ms, event id: the greater one wins


class Incident(State):
    """What is known of an incident: the last statement of each fact, so that the order of arrival does not matter.

    `statement`, `aware_rank` and `affected_rank` say which event each fact comes from. `notified` maps a recipient
    (`authority`, `controller`) to its first notice (ms). `clock_ms` is the latest time this incident has seen; `told_*`
    is the last alert.
    """

    KIND: ClassVar[str] = "incident"
    controller: str
    incident_id: str
    statement: Rank = (0, 0, "")
    role: Literal["controller", "processor"] = "controller"
    detected_ms: int = 0
    risk: Risk = "high"
    categories: tuple[str, ...] = ()
    aware_rank: Rank = (0, 0, "")
    aware_ms: int | None = None
    affected_rank: Rank = (0, 0, "")
    affected: int = 0
    notified: dict[str, int] = msgspec.field(default_factory=dict)
    closed_ms: int | None = None
    clock_ms: int = 0
    told_clock: str = ""
    told_level: str = ""
    told_due_ms: int = 0
    events: list[str] = msgspec.field(default_factory=list)
    authority_ms: int = 0  # by when the authority must know, as the packs in force said when it was last told of
    high_only: bool = False  # whether only a high risk is told to the authority, as is proposed
    law: str = ""  # the pack, with its version, that says so
    rule: str = ""  # and its rule

    @property
    def clock(self) -> str:
        """The role's clock, by the rule that it runs by."""
        return (self.rule if self.role == "controller" else "") or CLOCKS[self.role]

    @property
    def start_ms(self) -> int:
        """From when the role's clock runs: from detection while awareness is not stated, which is never later."""
        return countable_ms(self.detected_ms if self.aware_ms is None else self.aware_ms)

    @property
    def due_ms(self) -> int:
        """When the role's clock runs out."""
        if self.role == "processor":
            return self.start_ms
        return self.authority_ms or self.start_ms + AUTHORITY_HOURS * HOUR_MS

    @property
    def stopped(self) -> str:
        """Why no clock runs: `notified`, `unlikely`, `not_high`, `closed`; empty while one does."""
        if TOLD[self.role] in self.notified:
            return "notified"
        if self.risk == "unlikely" and self.role == "controller":
            return "unlikely"  # Art. 33(1) knows this exception; Art. 33(2) does not
        if self.high_only and self.risk != "high" and self.role == "controller":
            return "not_high"
        stated_ms = self.statement[1] if self.statement[0] else None
        if self.closed_ms is not None and (stated_ms is None or self.closed_ms > stated_ms):
            return "closed"
        return ""


class RunBreach(Incurious):
    """Runs the clocks of one incident.

    * Controller: `gdpr.art33.authority`, in the United Kingdom `uk_gdpr.art33.authority`, from awareness by the row of the law
      packs on that day (72 hours); without `aware_at` from detection, marked `assumed`. What is stated to be later than its
      receipt counts from the receipt.
      Processor: `gdpr.art33_2.controller`, due at awareness: there is no grace, so it is overdue until the controller
      has been told.
    * Alerts on `breach.alerts`: `started`, then `48h`, `24h`, `6h` of headroom and `overdue`. Of levels that had passed
      before the report, only the current one. A correction that moves the clock is told again with the new due time.
    * `stopped` when the authority (a processor's: the controller) was notified, when the risk was assessed as unlikely
      (a controller's only), or when closed. A later report or assessment opens it again. `recipient` is `authority` or
      `controller`, with a name after a colon if wanted; a notice to anyone else stops nothing.
    * Role, risk, detection, awareness and scope are each the last statement by effective time, reports and assessments
      before notices and closures; a second copy of an event changes nothing.
    * Refusal `id-taken`: the incident id belongs to another controller.
    """

    name = "run_breach"
    READS: ClassVar[tuple[type[Record], ...]] = (BreachEvent,)
    STATE: ClassVar[tuple[type[State], ...]] = (Incident,)

    def fold(self, view: View, event: BreachEvent, at: Receipt) -> Iterator[Effect]:
        """Keep what `event` states, and give the alert that follows from it; refusal `id-taken`."""
        known = view.get(Incident) or Incident(at.controller, event.incident_id)
        if known.controller != at.controller:
            yield Refuse("id-taken", "incident_id")
            return
        if at.event_id in known.events:
            return
        incident = _stated(known, event, at)
        incident.events = [*known.events, at.event_id][-EVENTS_MAX:]
        incident.clock_ms = max(known.clock_ms, at.receipt_ms)
        _take_law(incident, at)
        facts = {
            "role": event.role, "risk": event.risk, "detected_ms": str(_ms(event.detected_at)),
            "aware_ms": str(_ms(event.aware_at or event.detected_at)), "assumed": "no" if event.aware_at else "yes",
            "affected": str(incident.affected),
        }  # fmt: skip
        yield Audit(at.envelope.type, at.controller, facts, law=incident.law)
        yield from _tell(incident)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Alert at the level that the clock has reached."""
        known = view.get(Incident)
        if known is not None:
            yield from _tell(msgspec.structs.replace(known, clock_ms=max(known.clock_ms, now.now_ms)))


def _take_law(incident: Incident, at: Receipt) -> None:
    """Take what the packs in force say of the day of awareness, where the controller is."""
    book, region = at.law(at.controller), at.settings(at.controller).default_region
    home = next((place for place in chain(region or "EU") if place in AUTHORITY), "EU")
    place = region if region is not None and home in chain(region) else home
    start = datetime.fromtimestamp(incident.start_ms / 1000, UTC)
    row = book.row(AUTHORITY[home], place, day_at(place, start)) or book.first(AUTHORITY[home], place)
    assert row.period is not None, "a clock has a period: packs are checked when they are read"
    incident.authority_ms, incident.high_only = _ms(due(row.period, start, place).at), row.applies.get("only") == "high"
    incident.law, incident.rule = book.pack_of(row).name, row.rule


def _stated(known: Incident, event: BreachEvent, at: Receipt) -> Incident:
    """Copy `known` with what `event` states, wherever it is the last word."""
    kind = at.envelope.type
    rank: Rank = (int(kind in ("breach.reported", "breach.assessed")), at.effective_ms, at.event_id)
    incident = msgspec.structs.replace(known)
    if rank > known.statement:
        incident.statement, incident.role, incident.risk = rank, event.role, event.risk
        # Nobody can have become aware later than it was told: a date ahead must not put a clock off.
        incident.detected_ms, incident.categories = min(_ms(event.detected_at), at.receipt_ms), event.categories
    if event.aware_at is not None and rank > known.aware_rank:
        incident.aware_rank, incident.aware_ms = rank, min(_ms(event.aware_at), at.receipt_ms)
    if event.scope is not None and rank > known.affected_rank:
        incident.affected_rank = rank
        incident.affected = len(event.scope.conversation_ids) + len(event.scope.identifiers)
    if kind == "breach.notified" and event.recipient:
        who = event.recipient.split(":")[0]
        if who in TOLD.values():
            incident.notified = {**known.notified, who: min(at.effective_ms, known.notified.get(who, at.effective_ms))}
    if kind == "breach.closed":
        incident.closed_ms = max(at.effective_ms, known.closed_ms or 0)
    return incident


def _tell(incident: Incident) -> Iterator[Effect]:
    """Alert when clock, level or due time are not what readers were told last; set the alarm for the next level."""
    clock, due_ms, stopped = incident.clock, incident.due_ms, incident.stopped
    headroom_ms = due_ms - incident.clock_ms
    level: Level = "stopped" if stopped else "started"
    next_ms: int | None = None
    if not stopped:
        for threshold_ms, name in LEVELS:
            if headroom_ms > threshold_ms:
                next_ms = due_ms - threshold_ms
                break
            level = name
    alerts: list[tuple[str, Level, int]] = []
    if incident.told_clock not in ("", clock) and incident.told_level != "stopped":
        # the role was corrected: that clock is no more
        alerts.append((incident.told_clock, "stopped", incident.told_due_ms))
    if (incident.told_clock, incident.told_level, incident.told_due_ms) != (clock, level, due_ms):
        alerts.append((clock, level, due_ms))
    incident.told_clock, incident.told_level, incident.told_due_ms = clock, level, due_ms
    yield Put(incident)
    for told_clock, told_level, told_due_ms in alerts:
        headroom_ms = told_due_ms - incident.clock_ms
        facts = {"clock": told_clock, "level": told_level, "due_ms": str(told_due_ms), "headroom_ms": str(headroom_ms)}
        if stopped:
            facts["stopped"] = stopped
        yield Audit("breach.alert", incident.controller, facts, law=incident.law)
        alert = BreachAlert(
            incident_id=incident.incident_id, controller=incident.controller, clock=told_clock, level=told_level,
            due_ms=told_due_ms, headroom_ms=headroom_ms, risk=incident.risk, affected=incident.affected,
        )  # fmt: skip
        yield Emit("breach.alerts", (incident.incident_id,), alert)
    yield Wake(ALARM, next_ms)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
