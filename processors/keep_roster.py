"""Knows who was on a conversation, by reference only, and brings each event to the dossiers that must hold it."""

from collections.abc import Generator, Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.grounds import told_of
from processors.kernel import (
    Alarm,
    Asked,
    Audit,
    Delete,
    Effect,
    Emit,
    Instant,
    Put,
    Receipt,
    Refuse,
    State,
    View,
    Wake,
)  # fmt: skip
from processors.marks import ENDS, end_mark, prolong, set_mark, wake_mark
from processors.order_media import late_order
from processors.parking import Parked, park, send_on, unpark
from processors.roster import MediaMark, Roster, RosterParty, check, drop, hold, silence, tell
from processors.tags import mark_named, marks_of
from processors.terms import SEEN_MS, day
from schemas.base import Record
from schemas.events import (
    CallAnnotated,
    CallEnded,
    CallPartyJoined,
    CallPartyLeft,
    CallRecording,
    CallStarted,
    CallTagged,
    CallTranscribed,
    Party,
)  # fmt: skip
from schemas.identifiers import home_of
from schemas.routed import (
    Hold,
    ItemEnded,
    ItemLines,
    ItemOpened,
    ItemPointed,
    ItemRecording,
    ItemUntagged,
    Line,
    MediaCheck,
    MediaMarked,
    PartyDropped,
    PartySilenced,
    Routed,
)  # fmt: skip

EMPLOYEES = ("agent", "supervisor")
KNOWN_ROLES = ("customer", "agent", "supervisor", "third_party", "bot")
PARTIES_MAX = 64
FORGET = "forget-seen"
FORGOTTEN_PER_STEP = 180  # under kernel.EFFECTS_PER_STEP_MAX
CALL_EVENTS = (
    CallStarted, CallPartyJoined, CallPartyLeft, CallRecording, CallTranscribed, CallAnnotated, CallTagged, CallEnded,
)  # fmt: skip


class Seen(State):
    """An event that was folded, remembered for 8 days."""

    KIND: ClassVar[str] = "seen"
    until_ms: int


class KeepRoster:
    """Who holds what was said: customers and third parties, one copy each; employees only that they took part.

    A party's home (first tel, else first email, else first identifier) holds the content, its further identifiers a pointer.
    When a customer was erased, what comes later for the others comes without that party's lines and without employee lines.
    """

    name = "keep_roster"
    READS: ClassVar[tuple[type[Record], ...]] = (*CALL_EVENTS, PartyDropped, PartySilenced, MediaMarked, MediaCheck, Hold)
    STATE: ClassVar[tuple[type[State], ...]] = (Roster, MediaMark, Seen, Parked)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield messages to the dossiers of the conversation's parties."""
        roster = view.get(Roster) or Roster(at.controller)
        if isinstance(event, PartyDropped):
            yield from drop(roster, event)
            return
        if isinstance(event, PartySilenced):
            yield from silence(roster, event)
            return
        if isinstance(event, Hold):
            yield from hold(roster, event, at.law(at.controller), day(at.receipt_ms))
            return
        if isinstance(event, MediaCheck):
            yield from check(roster, event, at.law(at.controller), day(at.receipt_ms))
            return
        if isinstance(event, MediaMarked):
            yield Put(MediaMark(event.state), (event.recording_id,))
            yield from tell(roster, event)
            return
        if view.get(Seen, at.event_id) is not None:
            return
        if isinstance(event, CallStarted):
            roster = yield from self._remember(roster, at)
            yield from self._start(view, roster, event, at)
        elif roster.started_ms is None:
            yield from park(view, at)
        else:
            roster = yield from self._remember(roster, at)
            yield from self._spread(view, roster, event, at)

    def asks(self, event: Any, event_id: str) -> Asked:
        """See `Processor`."""
        return ((Roster, ()), (Seen, (event_id,)))

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Send on what waited, give it up, or forget which events were seen."""
        if alarm.name == FORGET:
            yield from self._forget(view, now.now_ms)
            return
        if alarm.name.startswith(ENDS):
            ended = view.get(Roster) or Roster("")
            yield from wake_mark(ended, _case(view.owner), alarm.name.removeprefix(ENDS), now)
            return
        started = (view.get(Roster) or Roster("")).started_ms is not None
        yield from send_on(view, alarm.name, now.now_ms, started=started)

    def _remember(self, roster: Roster, at: Receipt) -> Generator[Effect, None, Roster]:
        yield Put(Seen(at.receipt_ms + SEEN_MS), (at.event_id,))
        if not roster.forget_armed:
            roster = msgspec.structs.replace(roster, forget_armed=True)
            yield Put(roster)
            yield Wake(FORGET, at.receipt_ms + SEEN_MS)
        return roster

    def _forget(self, view: View, now_ms: int) -> Iterator[Effect]:
        left = None
        for n, (parts, seen) in enumerate(list(view.scan(Seen))):
            if seen.until_ms <= now_ms and n < FORGOTTEN_PER_STEP:
                yield Delete(Seen, parts)
            else:
                left = max(min(left or seen.until_ms, seen.until_ms), now_ms)
        roster = view.get(Roster)
        if left is not None:
            yield Wake(FORGET, left)
        elif roster is not None:
            gone = roster.started_ms is not None and not any(p.refs for p in roster.parties)
            yield Delete(Roster) if gone and not roster.holds else Put(msgspec.structs.replace(roster, forget_armed=False))

    def _start(self, view: View, roster: Roster, event: CallStarted, at: Receipt) -> Iterator[Effect]:
        roster = msgspec.structs.replace(
            roster, started_ms=at.effective_ms, channel=event.channel, direction=event.direction, campaign=event.campaign,
            queue=event.queue, brand=event.brand, purposes=list(event.purposes or ()), basis=event.lawful_basis,
        )  # fmt: skip
        refs = iter(at.envelope.refs)
        for party in event.parties:
            mine = [next(refs) for _ in party.identifiers]
            roster = yield from self._admit(roster, party, mine, event.metadata or {}, at)
        yield Put(roster)
        yield from unpark(view, at)

    def _admit(self, roster: Roster, party: Party, refs: list[str], metadata: dict[str, str], at: Receipt) -> Any:
        """Open an item for one party; returns the roster with it. A party that was erased here stays out."""
        role = party.role if party.role in KNOWN_ROLES else "customer"
        mark = at.ref(at.controller, "party", party.party_id)
        known = next((n for n, p in enumerate(roster.parties) if p.mark == mark), None)
        if known is not None and not (roster.parties[known].gone and not roster.parties[known].erased):
            if roster.parties[known].erased:
                yield Audit("event.refused", at.controller, {"reason": "party-gone"}, named=False)
            else:
                yield from self._open(roster, known, party, metadata, at)
            return roster
        if known is None and len(roster.parties) >= PARTIES_MAX:
            yield Audit("event.refused", at.controller, {"reason": "too-many-parties"}, named=False)
            return roster
        home = home_of(party.identifiers) if party.identifiers else 0
        living = [r for r in dict.fromkeys([*refs[home : home + 1], *refs]) if r]
        new = RosterParty(living, role, role in EMPLOYEES, mark)
        parties = [*roster.parties]
        index = len(parties) if known is None else known
        parties[index : index + 1] = [new]
        roster = msgspec.structs.replace(roster, parties=parties)
        yield from self._open(roster, index, party, metadata, at)
        return roster

    def _open(self, roster: Roster, index: int, party: Party, metadata: dict[str, str], at: Receipt) -> Iterator[Effect]:
        known = roster.parties[index]
        if not known.refs or known.role == "bot" or roster.started_ms is None:
            return
        conversation_id = _conversation(at)
        home, *others = known.refs
        secret = {} if known.employee else {"identifiers": party.identifiers, "name": party.name, "metadata": metadata}
        yield Emit("subject.events", (home,), ItemOpened(
            conversation_id=conversation_id, party=index, role=known.role, employee=known.employee, channel=roster.channel,
            direction=roster.direction, started_ms=roster.started_ms, others=tuple(others), jurisdiction=party.jurisdiction,
            time_zone=party.time_zone, campaign=roster.campaign, queue=roster.queue, brand=roster.brand,
            purposes=tuple(roster.purposes), lawful_basis=roster.basis, holds=tuple(roster.holds),
            terms=told_of(roster.holds, roster.terms), ceilings=tuple(roster.ceilings), **secret,  # type: ignore[arg-type]
        ))  # fmt: skip
        if roster.ended_ms is not None:
            ended = ItemEnded(conversation_id=conversation_id, ended_ms=roster.ended_ms, disposition=roster.disposition)
            yield Emit("subject.events", (home,), ended)
        for other in others:
            yield Emit("subject.events", (other,), ItemPointed(conversation_id=conversation_id, home=home))

    def _spread(self, view: View, roster: Roster, event: Any, at: Receipt) -> Iterator[Effect]:
        conversation_id = event.conversation_id
        match event:
            case CallPartyJoined():
                roster = yield from self._admit(roster, event.party, list(at.envelope.refs), {}, at)
                yield Put(roster)
            case CallPartyLeft():
                return
            case CallEnded():
                ended_ms, told = max(at.effective_ms, roster.ended_ms or 0), event.disposition or roster.disposition
                roster = msgspec.structs.replace(roster, ended_ms=ended_ms, disposition=told)
                yield Put(roster)
                ended = ItemEnded(conversation_id=conversation_id, ended_ms=at.effective_ms, disposition=event.disposition)
                yield from tell(roster, ended, employees=True)
                yield from prolong(roster, conversation_id, at)
            case CallRecording():
                mark = view.get(MediaMark, event.recording_id)
                gone = mark is not None and mark.state == "deleted"  # its address would lead nowhere
                yield from self._content(roster, at, ItemRecording(
                    conversation_id=conversation_id, recording_id=event.recording_id, confirmed=event.confirmed,
                    uri=None if gone else event.uri,
                    state=at.envelope.type.removeprefix("call.recording_"),  # type: ignore[arg-type]
                ))  # fmt: skip
                if mark is not None:
                    yield from tell(roster, MediaMarked(
                        conversation_id=conversation_id, recording_id=event.recording_id, state=mark.state))  # type: ignore[arg-type]  # fmt: skip
                elif event.uri is not None and any(p.erased and not p.employee for p in roster.parties):
                    yield late_order(at, conversation_id, event.recording_id, event.uri)
            case CallTranscribed():
                segments = event.segments
                lines = [self._line(roster, at, s.party_id, "line", s.text, s.offset_ms) for s in segments]
                yield from self._lines(roster, at, lines)
            case CallAnnotated():
                yield from self._lines(roster, at, [self._line(roster, at, event.author, "note", event.note)])
            case CallTagged() if at.envelope.type == "call.untagged":
                yield from tell(roster, ItemUntagged(conversation_id=conversation_id, tag=event.tag))
                for name in marks_of(event.tag, event.value, roster.marks):
                    roster = yield from end_mark(roster, conversation_id, name, at)
            case CallTagged():
                if (named := mark_named(event.tag, event.value)) is not None:
                    yield from set_mark(roster, conversation_id, named, event.value, at)
                text = " ".join(t for t in (event.value, event.comment) if t)
                yield from self._lines(roster, at, [self._line(roster, at, None, "tag", text, tag=event.tag)])
            case _:
                assert_never(event)

    def _line(self, roster: Roster, at: Receipt, party_id: str | None, kind: Any, text: str,
              offset_ms: int | None = None, tag: str | None = None) -> Line:  # fmt: skip
        mark = party_id and at.ref(at.controller, "party", party_id)
        index = next((n for n, p in enumerate(roster.parties) if p.mark == mark), -1)
        employee = index >= 0 and roster.parties[index].employee
        return Line(party=index, employee=employee, kind=kind, text=text, offset_ms=offset_ms, tag=tag)

    def _lines(self, roster: Roster, at: Receipt, lines: list[Line]) -> Iterator[Effect]:
        silent = {n for n, p in enumerate(roster.parties) if p.silenced and p.employee}
        lines = [x for x in lines if x.party not in silent]
        erased = {n for n, p in enumerate(roster.parties) if (p.erased or p.silenced) and not p.employee}
        if erased:  # employees repeat what customers say, and a line of nobody may be the erased person's
            lines = [x for x in lines if x.party >= 0 and not x.employee and x.party not in erased]
        if lines:
            yield from self._content(roster, at, ItemLines(conversation_id=_conversation(at), lines=tuple(lines)))

    def _content(self, roster: Roster, at: Receipt, message: Routed) -> Iterator[Effect]:
        """To each customer and third party; content that nobody may hold is not kept, and that is on record."""
        if any(p.refs and not p.employee for p in roster.parties):
            yield from tell(roster, message)
        elif any(p.gone and not p.employee for p in roster.parties):
            yield Audit("event.refused", at.controller, {"reason": "party-gone"}, named=False)
        else:
            yield Refuse("no-holder", "conversation_id", like=at.envelope)


def _conversation(at: Receipt) -> str:
    return _case(at.owner)


def _case(owner: str) -> str:
    """The conversation this case is about: the last part of its key."""
    return str(msgspec.json.decode(owner)[2])
