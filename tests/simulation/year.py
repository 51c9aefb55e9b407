"""A year of due times in virtual time: a real service on its own folder, killed at random, beside an oracle that knows them.

Items are imported at the beginning and become due over a year, some of them many at once. Holds are placed and released by event
or by their own end, on conversations and on persons, nested and overlapping. What happened is read from `erasure.notices`: each
item is destroyed once, at the latest `LATE_MS_MAX` after its time or its last hold is over, and never before. Time passes as on a
busy machine: a turn takes `TURN_MS`, and the process wakes up to `NAP_MS_MAX` after the alarm that it waits for. The seed fixes
the story; keys are new each time, and with them who shares a partition.
"""

from __future__ import annotations

import calendar
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from engine.filering import FileRing
from engine.loop import ALARM_WORK_MIN
from engine.runtime import CommitLost
from engine.service import CROWDED_REST_SECS, Limits, Service
from processors.kernel import EFFECTS_PER_STEP_MAX
from schemas.codec import decode
from tests.endtoend.world import Told, codes, envelope, latest, topic_of
from tests.harness import START_MS
from tests.parts.steps import watched_steps

SECOND_MS, MINUTE_MS, DAY_MS = 1_000, 60_000, 86_400_000
LATE_MS_MAX = MINUTE_MS
TURN_MS, NAP_MS_MAX = 20, 20 * SECOND_MS
GRACE_MS = 30 * DAY_MS  # an import is never destroyed sooner
END_MS = START_MS + GRACE_MS + 366 * DAY_MS
ITEMS_PER_SLOT, SLOT_MS = 30, 15 * SECOND_MS  # calls come in bunches, and so do their ends
AT_ONCE_SHARE = 0.03  # items that are all due at one moment
ITEMS_PER_PERSON, ITEMS_PER_AGENT = 4, 50
LARGE = 250  # items of one person, whose hold ends when many of them are due
HELD_SHARE, PERSON_HOLDS_SHARE, UNTIL_SHARE = 0.05, 0.01, 0.4
RESTARTS, LOST_SHARE = 60, 0.01
BATCH = 1_000
# A step writes each effect's key and what it emits, and an entry of the audit log for some; see `engine/loop.py`. Turns of late
# alarms keep to it as well: they may write more, and no step comes near its bound.
TURN_WRITES_MAX = ALARM_WORK_MIN + 2 * EFFECTS_PER_STEP_MAX

Span = tuple[int, int]
Part = tuple[str, str]  # an owner, as the story names it, and a conversation


class Outcome(NamedTuple):
    """What a year came to. `turn_writes_max`: of a turn of alarms, beyond what records had made it write."""

    items: int
    destroyed: int
    kept: int
    holds: int
    restarts: int
    lost: int
    late_ms_max: int
    step_effects_max: int
    turn_writes_max: int
    turns: int


class Story:
    """What will be published when, and when each item must go."""

    def __init__(self, rng: Random, items: int) -> None:
        self.imported: list[Told] = []
        self.later: list[tuple[int, Told]] = []
        self.due: dict[Part, int] = {}
        self.holds: dict[Part, list[Span]] = {}
        self.hold_count = 0
        self._rng = rng
        self._of: dict[str, list[Part]] = {}
        slots = [rng.randrange(START_MS + GRACE_MS + DAY_MS, END_MS - DAY_MS) for _ in range(max(1, items // ITEMS_PER_SLOT))]
        at_once = rng.choice(slots)
        for n in range(items):
            due = at_once if rng.random() < AT_ONCE_SHARE else rng.choice(slots) + rng.randrange(SLOT_MS)
            self._call(n, due)
        parts = list(self.due)
        self._hold({"identifiers": [{"kind": "crm", "value": "customer-0"}]}, self._of["customer-0"],
                   (START_MS + MINUTE_MS, (START_MS + END_MS) // 2))  # fmt: skip
        for part in rng.sample(parts, round(HELD_SHARE * len(parts))):
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                self._hold({"conversation_ids": [part[1]]}, self._of[part[1]])
        people = sorted({owner for owner, _ in parts if owner.startswith("customer")} - {"customer-0"})
        for who in rng.sample(people, round(PERSON_HOLDS_SHARE * len(people))):
            self._hold({"identifiers": [{"kind": "crm", "value": who}]}, self._of[who])
        self.later.sort(key=lambda told: told[0])

    def goes_ms(self, part: Part) -> int | None:
        """When the item must go: due, and no longer under any hold. None: never in this year."""
        at, moved = self.due[part], True
        while moved:
            ends = [to for since, to in self.holds.get(part, ()) if since <= at < to]
            at, moved = max([at, *ends]), bool(ends)
        return at if at < END_MS else None

    def _call(self, n: int, due_ms: int) -> None:
        name, who = f"c{n}", f"customer-{0 if n < LARGE else n // ITEMS_PER_PERSON}"
        started = two_years_before(due_ms)
        parties: list[dict[str, Any]] = [{"party_id": "a", "role": "customer", "identifiers": [{"kind": "crm", "value": who}]}]
        owners = [who]
        if n % 10 == 0:  # an agent's part in the call is an item as well
            owners.append(f"agent-{n // ITEMS_PER_AGENT}")
            parties.append({"party_id": "b", "role": "agent", "identifiers": [{"kind": "employee", "value": owners[1]}]})
        data = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": parties}
        self.imported.append(Told("call.started", f"{name}/s", started, data))
        for owner in owners:
            self.due[owner, name] = due_ms
            self._of.setdefault(name, []).append((owner, name))
            self._of.setdefault(owner, []).append((owner, name))

    def _hold(self, scope: dict[str, Any], parts: list[Part], span: Span | None = None) -> None:
        """A hold on these parts, unless one of them would be just about to go when it, or another one, is placed."""
        rng = self._rng
        since = rng.choice((START_MS + MINUTE_MS, rng.randrange(START_MS + DAY_MS, END_MS)))
        to = rng.choice((END_MS + DAY_MS, rng.randrange(since + DAY_MS, END_MS + DAY_MS + 1)))
        since, to = span or (since, to)
        to -= to % SECOND_MS
        if any(self._is_close(part, since) for part in parts):
            return
        for part in parts:
            self.holds.setdefault(part, []).append((since, to))
        if any(self._is_close(part, begins) for part in parts for begins, _ in self.holds[part]):
            for part in parts:
                self.holds[part].pop()
            return
        name = f"h{self.hold_count}"
        self.hold_count += 1
        placed: dict[str, Any] = {"hold_id": name, "ground": "litigation", "scope": scope}
        if rng.random() < UNTIL_SHARE:
            placed["until"] = datetime.fromtimestamp(to // SECOND_MS, UTC).isoformat()
        else:
            self.later.append((to, Told("hold.released", f"{name}/r", to, {"hold_id": name})))
        self.later.append((since, Told("hold.placed", f"{name}/p", since, placed)))

    def _is_close(self, part: Part, at_ms: int) -> bool:
        goes = self.goes_ms(part)
        return goes is not None and abs(goes - at_ms) <= 2 * LATE_MS_MAX


def two_years_before(due_ms: int) -> int:
    """A start whose 24 months are over at `due_ms` by the calendar; 29 February has none, so it is left out of stories."""
    due = datetime.fromtimestamp(due_ms // SECOND_MS, UTC)
    day = min(due.day, calendar.monthrange(due.year - 2, due.month)[1])
    assert day == due.day, "a story has no 29 February"
    return due_ms - (round((due - due.replace(year=due.year - 2)).total_seconds()) * SECOND_MS)


class Year:
    """The service under the story, and what has gone so far."""

    def __init__(self, folder: Path, seed: int, items: int) -> None:
        self.rng = Random(seed)
        self.story = Story(self.rng, items)
        self.folder, self.now_ms = folder, START_MS
        self.lost = self.turns = self.step_effects_max = self.turn_writes_max = 0
        self.gone: dict[Part, int] = {}
        self._heard: dict[int, int] = {}
        self._record_work = 0
        self._open()
        self._part_of = {self._key(part): part for part in self.story.due}

    def run(self) -> Outcome:
        """The whole year. Raises AssertionError with what is wrong."""
        with watched_steps(self._count):
            self._publish(self.story.imported)
            later = iter([*self.story.later, (END_MS, None)])
            restarts = iter([*sorted(self.rng.randrange(START_MS, END_MS) for _ in range(RESTARTS)), END_MS])
            (at, told), restart = next(later), next(restarts)
            while self.now_ms < END_MS:
                while told is not None and at <= self.now_ms:
                    self._publish([told], settle=False)
                    at, told = next(later)
                if restart <= self.now_ms:
                    self._crash()
                    restart = next(restarts)
                if not self._turn():
                    self._hear()
                    alarm = self.service.loop.next_alarm_ms()
                    woken = END_MS if alarm is None else alarm + self.rng.randrange(NAP_MS_MAX)
                    self.now_ms = max(self.now_ms, min(woken, at, restart))
        return self._outcome()

    def _open(self) -> None:
        self.service = Service.open(self.folder, clock=lambda: self.now_ms, limits=Limits(raw_retention_secs=3_600))
        loop, commit = self.service.loop, self.service.loop._commit

        def committing(touched: Any, positions: Any, now_ms: int) -> None:
            work = sum(partition.work for partition in touched.values())
            if positions:
                self._record_work += work
            elif touched:
                self.turn_writes_max = max(self.turn_writes_max, work - self._record_work)
                self._record_work = 0
            if touched and self.rng.random() < LOST_SHARE:
                self.lost += 1
                raise CommitLost("by the story")
            commit(touched, positions, now_ms)

        loop._commit = committing  # type: ignore[method-assign]

    def _crash(self) -> None:
        """Nothing is finished, nothing is said: the next process finds what was committed."""
        self.service.runtime.close()
        assert isinstance(self.service.ring, FileRing)
        self.service.ring.close()
        self._open()
        self.service.maintain(wipe=False)

    def _turn(self) -> int:
        done = self.service.turn()
        self.turns += 1
        if done:
            self.now_ms += TURN_MS
        if self.service.loop.crowded:
            self.now_ms += round(CROWDED_REST_SECS * SECOND_MS)
        return done

    def _publish(self, events: list[Told], *, settle: bool = True) -> None:
        for at in range(0, len(events), BATCH):
            batch = [(topic_of(e.type), e.id, envelope(e, self.now_ms)) for e in events[at : at + BATCH]]
            self.service.publish(batch)
            while settle and self._turn():
                pass

    def _hear(self) -> None:
        """Check what was destroyed since the last time, by the time of its notice."""
        for partition, record in self.service.topic("erasure.notices", after=self._heard):
            self._heard[partition] = record.offset + 1
            notice: Any = decode(record.value or b"")
            for conversation in notice.items:
                part = self._part_of[notice.subject_ref, conversation]
                goes = self.story.goes_ms(part)
                assert part not in self.gone, f"{part} was destroyed twice"
                assert goes is not None, f"{part} was destroyed under a hold"
                assert record.ts_ms >= goes, f"{part} was destroyed {goes - record.ts_ms} ms early"
                assert record.ts_ms <= goes + LATE_MS_MAX, f"{part} was destroyed {record.ts_ms - goes} ms late"
                self.gone[part] = record.ts_ms

    def _outcome(self) -> Outcome:
        story, goes = self.story, {part: self.story.goes_ms(part) for part in self.story.due}
        wanted = {part for part, at in goes.items() if at is not None}
        assert wanted == set(self.gone), f"{len(wanted - set(self.gone))} are due and still there"
        rows = latest(self.service, "conversations.protected").values()
        kept = {(row.subject_ref, row.conversation_id) for row in rows}
        assert all(row.held for row in rows), "nothing else outlasts the year"
        assert kept == {self._key(part) for part in story.due if part not in wanted}
        audited = Counter(e.kind for e in (decode(r.value or b"") for _, r in self.service.topic("audit.entries")))  # type: ignore[attr-defined]
        assert audited["item.destroyed"] == len(self.gone) == audited["key.shredded"]
        assert codes(self.service) == []
        assert self.step_effects_max <= EFFECTS_PER_STEP_MAX
        assert self.turn_writes_max <= TURN_WRITES_MAX
        late = max(at - (goes[part] or 0) for part, at in self.gone.items())
        self.service.stop()
        return Outcome(
            len(story.due), len(self.gone), len(kept), story.hold_count, RESTARTS, self.lost, late, self.step_effects_max,
            self.turn_writes_max, self.turns,
        )  # fmt: skip

    def _count(self, effects: int) -> None:
        self.step_effects_max = max(self.step_effects_max, effects)

    def _key(self, part: Part) -> Part:
        kind = "employee" if part[0].startswith("agent") else "crm"
        return self.service.secrets.ref("acme", kind, part[0]), part[1]
