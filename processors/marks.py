"""Compliance tags: which of a conversation's tags say why it is processed, and what each keeps, or has go.

A tag is a mark where it names a lawful basis (GDPR Art. 6(1)(a)-(f)), MiFID, unlawful processing or card authentication data, as
today's products write it. What a mark means is in the law packs (`law/rights.py`), by event: it begins with `call.tagged`, and
ends with `call.untagged` or at its own end, whichever comes first. To dossiers it is told as a hold on the conversation,
`tag:MARK`, so it is named, released and waited for like one; a mark that keeps nothing (6(1)(a)) is told to nobody.
"""

import re
from collections.abc import Generator, Iterator
from datetime import UTC, date, datetime, timedelta

import msgspec

from law.book import Book
from law.rights import kept_by, words
from processors.exceptions import CEILINGS, INTERESTS, TAG
from processors.grounds import later
from processors.kernel import Audit, Effect, Instant, Put, Receipt, Wake
from processors.policies import floor_ms
from processors.roster import Roster, hold
from processors.tags import MIFID
from processors.terms import day
from schemas.routed import Hold

MARKETING = "gdpr.art21.marketing_purposes"  # the purposes that are direct marketing
ENDS = "mark-ends\x1f"  # alarm: a mark has an end of its own

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def set_mark(roster: Roster, conversation_id: str, name: str, value: str | None, at: Receipt) -> Iterator[Effect]:
    """A tag that is the mark `name` was set. The last word by effective time holds; taking away wins at one moment."""
    if at.effective_ms <= roster.marks.get(name, (-1, False))[0]:
        return
    roster = msgspec.structs.replace(roster, marks={**roster.marks, name: (at.effective_ms, True)})
    book = at.law(at.controller)
    until_ms = _until(roster, name, value, book, at.receipt_ms)
    told = _told(roster, conversation_id, name, until_ms, book, day(at.receipt_ms))
    ground = {} if told is None else {"ground": told.ground}
    yield Audit("mark.set", at.controller, {"mark": name} | ground, named=False, law=book.names)
    if told is None or (until_ms is not None and until_ms <= at.receipt_ms):
        yield Wake(ENDS + name, None)
        yield from _end(roster, conversation_id, name, book, at.receipt_ms)
        return
    yield Wake(ENDS + name, until_ms)
    yield from hold(roster, told, book, day(at.receipt_ms))


def end_mark(roster: Roster, conversation_id: str, name: str, at: Receipt) -> Generator[Effect, None, Roster]:
    """A tag was taken away: what it kept goes its way by itself."""
    old_ms, on = roster.marks.get(name, (-1, False))
    if (at.effective_ms, True) <= (old_ms, not on):
        return roster
    roster = msgspec.structs.replace(roster, marks={**roster.marks, name: (at.effective_ms, False)})
    yield Audit("mark.ended", at.controller, {"mark": name, "by": "untagged"}, named=False)
    yield Wake(ENDS + name, None)
    return (yield from _end(roster, conversation_id, name, at.law(at.controller), at.receipt_ms))


def wake_mark(roster: Roster, conversation_id: str, name: str, now: Instant) -> Iterator[Effect]:
    """A mark's own end has come."""
    until_ms = roster.terms.get(TAG + name, ("", None))[1]
    if until_ms is None or TAG + name not in roster.holds:
        return
    if until_ms > now.now_ms:
        yield Wake(ENDS + name, until_ms)
        return
    yield Audit("mark.ended", roster.controller, {"mark": name, "by": "until"}, named=False)
    yield from _end(roster, conversation_id, name, now.law(roster.controller), now.now_ms)


def prolong(roster: Roster, conversation_id: str, at: Receipt) -> Generator[Effect, None, Roster]:
    """The conversation ended: what counts from its end, a MiFID record, ends later than was told."""
    if TAG + MIFID not in roster.holds:
        return roster
    book = at.law(at.controller)
    until_ms = later(roster.terms.get(TAG + MIFID, ("", 0))[1], _until(roster, MIFID, None, book, at.receipt_ms))
    told = _told(roster, conversation_id, MIFID, until_ms, book, day(at.receipt_ms))
    if told is None:
        return roster
    yield Wake(ENDS + MIFID, until_ms)
    return (yield from hold(roster, told, book, day(at.receipt_ms)))


def _end(roster: Roster, conversation_id: str, name: str, book: Book, now_ms: int) -> Generator[Effect, None, Roster]:
    """Let go of what the mark kept, if it kept anything."""
    if TAG + name in roster.holds or name in roster.ceilings:
        ended = Hold(hold_id=TAG + name, placed=False, conversation_id=conversation_id, ceiling=name in CEILINGS)
        return (yield from hold(roster, ended, book, day(now_ms)))
    yield Put(roster)
    return roster


def _told(roster: Roster, conversation_id: str, name: str, until_ms: int | None, book: Book, on: date) -> Hold | None:
    """What dossiers are told of a mark; None of one that keeps nothing here."""
    told = Hold(hold_id=TAG + name, placed=True, conversation_id=conversation_id, ground=name, until_ms=until_ms)
    if name in CEILINGS:
        return msgspec.structs.replace(told, ceiling=True, until_ms=None)
    purposes = {*roster.purposes}
    if name == INTERESTS and purposes and purposes <= words(MARKETING, "", book, on):
        return None  # Art. 21(2), (3): nothing outweighs an objection to direct marketing, so nothing is worth keeping for it
    kept = kept_by(name, "", book, on)
    return None if kept is None else msgspec.structs.replace(told, ground=kept.code)


def _until(roster: Roster, name: str, value: str | None, book: Book, now_ms: int) -> int | None:
    """A mark's own end: the end of the day that the tag's value names; of a MiFID record, the end of the period of its rule.

    What must go has none.
    """
    if name in CEILINGS:
        return None  # what must go does not stay because a day has passed
    last = _date(value or "")
    if last is not None:
        return round(datetime.combine(last + timedelta(days=1), datetime.min.time(), UTC).timestamp() * 1000)
    if name != MIFID:
        return None
    floors = [row.period for row in book.rows("floor", "EU", day(now_ms)) if row.rule.startswith("mifid.16_7") and row.period]
    created_ms = roster.ended_ms if roster.ended_ms is not None else roster.started_ms or now_ms
    return max((floor_ms(created_ms, period) for period in floors), default=None)


def _date(value: str) -> date | None:
    """The day that a tag's value names, if any. The calendar's last one, which people write for `never`, has no day after it."""
    if DATE.fullmatch(value.strip()) is None:
        return None
    try:
        return min(date.fromisoformat(value.strip()), date.max - timedelta(days=1))
    except ValueError:
        return None
