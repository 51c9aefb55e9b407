"""A conversation's parties, by reference only, and what a roster does when it is told that somebody is gone, silenced or held."""

from collections.abc import Generator, Iterator
from datetime import date
from typing import ClassVar

import msgspec

from law.book import Book
from processors.exceptions import INTERESTS, TAG, Plea, of_a_recording, weigh
from processors.grounds import held_item, told_of, with_terms
from processors.hold_media import ask_next, kept_back
from processors.kernel import Delete, Effect, Emit, Put, State
from schemas.routed import (
    HeldItem,
    Hold,
    HoldTerms,
    ItemRedacted,
    MediaCheck,
    PartyDropped,
    PartySilenced,
    PointerDropped,
    Routed,
)  # fmt: skip


class RosterParty(State):
    """Who a party is: refs, home first; none for a bot, or once the party was dropped. `erased`: it never comes back here."""

    refs: list[str]
    role: str
    employee: bool
    mark: str  # keyed hash of the publisher's party id, which is often a number or an address
    erased: bool = False
    silenced: bool = False  # what it said was erased
    gone: bool = False  # dropped by an erasure or by retention; without it, a party without refs never had any


class Roster(State):
    """A conversation's parties by index, and what a party that joins later must be told."""

    KIND: ClassVar[str] = "roster"
    controller: str
    started_ms: int | None = None
    channel: str = ""
    direction: str = ""
    campaign: str | None = None
    queue: str | None = None
    brand: str | None = None
    purposes: list[str] = []
    basis: str | None = None
    parties: list[RosterParty] = []
    holds: list[str] = []
    forget_armed: bool = False
    ended_ms: int | None = None
    disposition: str | None = None
    terms: dict[str, tuple[str, int | None]] = {}  # of `holds`: ground, until
    checks: list[str] = []  # orders for recordings that these holds keep back
    marks: dict[str, tuple[int, bool]] = {}  # compliance tag → the effective time of the last word on it, whether it is set
    ceilings: list[str] = []  # marks under which the conversation must go, whatever holds it
    pleas: dict[str, tuple[str, str]] = {}  # of `checks`: by which law, on which ground


class MediaMark(State):
    """What became of a recording: it survives an import of the conversation. Its part is the recording's id."""

    KIND: ClassVar[str] = "mark"
    state: str


def tell(roster: Roster, message: Routed, *, employees: bool = False) -> Iterator[Effect]:
    """Tell every home that holds content of the conversation, or that of employees as well."""
    for party in roster.parties:
        if party.refs and (employees or not party.employee):
            yield Emit("subject.events", (party.refs[0],), message)


def drop(roster: Roster, event: PartyDropped) -> Iterator[Effect]:
    """A party's home gave its item up: by an erasure for good, by retention until it is imported again."""
    if event.party >= len(roster.parties):
        return
    old = roster.parties[event.party]
    if not old.refs and (old.erased or not event.erased):
        return
    # Whoever shares the home (a family, an office) had the same dossier: it is gone for all of them.
    home = old.refs[:1]
    dropped = [n for n, p in enumerate(roster.parties) if n == event.party or (home and p.refs[:1] == home)]
    parties = [*roster.parties]
    for n in dropped:
        erased = parties[n].erased or event.erased
        parties[n] = msgspec.structs.replace(parties[n], refs=[], erased=erased, gone=True)
    further = {ref: None for n in dropped if n != event.party for ref in roster.parties[n].refs[1:]}
    roster = msgspec.structs.replace(roster, parties=parties)
    gone = not roster.forget_armed and not roster.holds and not any(p.refs for p in parties)
    yield Delete(Roster) if gone else Put(roster)
    for ref in further:
        yield Emit("subject.events", (ref,), PointerDropped(conversation_id=event.conversation_id))
    for n in dropped:
        if event.erased and not parties[n].employee:
            yield from tell(roster, ItemRedacted(conversation_id=event.conversation_id, party=n))


def silence(roster: Roster, event: PartySilenced) -> Iterator[Effect]:
    """What a party said was erased, and the party stays: the others lose it as well, now and from what comes later."""
    if event.party >= len(roster.parties):
        return
    party = roster.parties[event.party]
    # Whoever shares the home has the same dossier, which lost it already.
    parties = [
        msgspec.structs.replace(p, silenced=True) if n == event.party or p.refs[:1] == party.refs[:1] != [] else p
        for n, p in enumerate(roster.parties)
    ]
    yield Put(msgspec.structs.replace(roster, parties=parties))
    others = msgspec.structs.replace(roster, parties=[p for p in parties if p.refs[:1] != party.refs[:1]])
    redacted = ItemRedacted(conversation_id=event.conversation_id, party=event.party, alone=party.employee)
    yield from tell(others, redacted)


def hold(roster: Roster, event: Hold, book: Book, on: date) -> Generator[Effect, None, Roster]:
    """A hold on the conversation, or a mark, begins, changes or ends: asks again about the recordings that were kept."""
    if event.ceiling:
        name = event.hold_id.removeprefix(TAG)
        above = {*roster.ceilings, name} if event.placed else {*roster.ceilings} - {name}
        roster = msgspec.structs.replace(roster, ceilings=sorted(above))
    else:
        holds = {*roster.holds, event.hold_id} if event.placed else {*roster.holds} - {event.hold_id}
        terms = {hold_id: told for hold_id, told in roster.terms.items() if hold_id in holds}
        if event.placed:
            terms = with_terms(terms, [HoldTerms(hold_id=event.hold_id, ground=event.ground, until_ms=event.until_ms)])
        roster = msgspec.structs.replace(roster, holds=sorted(holds), terms=terms)
    asked = [_asked(roster, event.conversation_id or "", order_id) for order_id in roster.checks]
    answers = {question.order_id: _answer(roster, question, book, on) for question in asked}
    for question in asked:
        roster = _noted(roster, question, answers[question.order_id])
    yield Put(roster)
    yield from tell(roster, event, employees=True)
    if event.hold_id == TAG + INTERESTS:  # an objection by a further identifier is known there, not at the home
        for ref in dict.fromkeys(ref for party in roster.parties for ref in party.refs[1:]):
            yield Emit("subject.events", (ref,), event)
    for question in asked:  # its homes have been told of the release before they are asked
        yield from _pass_on(roster, question, answers[question.order_id])
    return roster


def check(roster: Roster, event: MediaCheck, book: Book, on: date) -> Iterator[Effect]:
    """Whether a recording may go: a hold on the conversation keeps it, or one on anybody who was there."""
    kept = _answer(roster, event, book, on)
    yield from _pass_on(roster, event, kept)
    noted = _noted(roster, event, kept)
    if noted != roster:
        yield Put(noted)


def _asked(roster: Roster, conversation_id: str, order_id: str) -> MediaCheck:
    regime, ground = roster.pleas.get(order_id, ("", ""))
    return MediaCheck(conversation_id=conversation_id, order_id=order_id, regime=regime, ground=ground)


def _answer(roster: Roster, event: MediaCheck, book: Book, on: date) -> HeldItem | None:
    plea = Plea(event.regime, event.ground)
    told = of_a_recording(told_of(roster.holds, roster.terms), plea)
    return held_item(event.conversation_id, weigh(told, roster.ceilings, plea, book, on).standing)


def _pass_on(roster: Roster, event: MediaCheck, kept: HeldItem | None) -> Iterator[Effect]:
    homes = dict.fromkeys(party.refs[0] for party in roster.parties if party.refs)
    yield ask_next(msgspec.structs.replace(event, left=tuple(homes))) if kept is None else kept_back(event.order_id, kept)


def _noted(roster: Roster, event: MediaCheck, kept: HeldItem | None) -> Roster:
    """The roster with the question that it keeps for a release, and by which law it was asked."""
    checks = [order_id for order_id in roster.checks if order_id != event.order_id or kept is not None]
    pleas = {order_id: plea for order_id, plea in roster.pleas.items() if order_id != event.order_id}
    if kept is not None:
        checks += [] if event.order_id in checks else [event.order_id]
        pleas |= {event.order_id: (event.regime, event.ground)} if event.regime else {}
    return msgspec.structs.replace(roster, checks=checks, pleas=pleas)
