"""What the law says of calling a party now: hours at the called place, the age of do-not-call data, how far a revocation reaches.

Purposes are names that controllers choose, so none of them is exempt by its name: every call counts as marketing, but for a
callback where the row exempts it. A mobile number is taken to be where it was given out, unless a place is declared.
"""

from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache

from law.book import Book
from law.calendars import PlaceUnknown, holidays_of
from law.rows import Hours
from processors.local_rules import LocalRules, local_times, rules_at
from processors.permissions import ANY, CALLS, GRANTS, PART, Permissions, about_calls, resolve, status_at
from processors.terms import DAY_MS
from processors.uses import Finding, PartyView, Use, overlap
from schemas.places import clock
from schemas.topics import ControllerState

NO_COUNTRY = frozenset({"", "EU"})  # hours are each member's own


def dial_findings(party: PartyView, use: Use, settings: ControllerState, book: Book) -> Iterator[Finding]:
    """Ask each rule about calling `party`; nothing for channels that ring nowhere.

    * Hours: allowed only if they are allowed in every zone of every place. Without a country and a zone the call is denied.
    * National do-not-call data of a controller that has said when it was obtained must not be older than the row has days.
    * Where a revocation reaches unrelated matters, one that is as late as every grant, or pending, denies.
    """
    if use.channel not in CALLS:
        return
    if not party.places:
        yield Finding("calling_place_unknown", "")
    for place in party.places:
        days: dict[date, LocalRules] = {}
        for local in local_times(place, use.at_ms):
            day = local.date()
            days[day] = rules = rules_at(book, place.region, day)
            for row in rules.hours:
                exempt = use.callback and row.applies.get("callback") == "exempt"
                if row.hours is not None and not exempt:
                    yield Finding(None if _within(row.hours, local, place.region) else "outside_calling_hours", row.rule)
        if place.region in NO_COUNTRY or not days or any(clock(zone) is None for zone in place.zones):
            yield Finding("calling_place_unknown", "")
        for rules in days.values():
            yield from _lists(rules, use, settings)
            yield from _revocations(rules, party, use)
            if rules.opt_in is not None and overlap(rules.opt_in.applies.get("channel", ANY), use.channel):
                yield Finding(None, rules.opt_in.rule)  # that there is a grant is asked of the consents


def _lists(rules: LocalRules, use: Use, settings: ControllerState) -> Iterator[Finding]:
    as_of_ms, row = settings.national_dnc_as_of_ms, rules.dnc_age
    if as_of_ms is not None and row is not None and row.number is not None:
        yield Finding("national_dnc_stale" if use.at_ms > as_of_ms + row.number * DAY_MS else None, row.rule)


def _revocations(rules: LocalRules, party: PartyView, use: Use) -> Iterator[Finding]:
    if rules.revoke_all is None:
        return
    yield Finding("revoked_elsewhere" if revoked_since(party, use) else None, rules.revoke_all.rule)
    if any(about_calls(mark.purposes, mark.channels) for mark in party.marks):
        yield Finding("withdrawal_pending", rules.revoke_all.rule)


def revoked_since(party: PartyView, use: Use) -> bool:
    """Whether consent to some call was revoked when the use was granted, or later."""
    granted_ms, revoked_ms = _granted_ms(party, use), _revoked_ms(party)
    return granted_ms is not None and revoked_ms is not None and revoked_ms >= granted_ms


def _granted_ms(party: PartyView, use: Use) -> int | None:
    """When the latest grant for the use was given."""
    found = (resolve(known, use.purpose or ANY, use.channel, use.brand) for known in party.permissions if known is not None)
    return max((best.effective_ms for best in found if best and status_at(best, use.at_ms) in GRANTS), default=None)


def _revoked_ms(party: PartyView) -> int | None:
    """When consent to any call was last revoked, by any identifier."""
    every = (known for known in party.permissions if known is not None)
    return max((ms for known in every for ms in _withdrawals(known)), default=None)


def _withdrawals(known: Permissions) -> Iterator[int]:
    if known.revoked_ms is not None:
        yield known.revoked_ms
    for key, cell in known.cells.items():  # of records that were written before `revoked_ms` was kept
        if cell.status == "withdrawn":
            purpose, channel, _ = key.split(PART)
            if about_calls((purpose,), (channel,)):
                yield cell.effective_ms


def _within(hours: Hours, local: datetime, region: str) -> bool:
    """Whether a local time is allowed; a day whose holidays nobody can look up counts as one where they matter."""
    minute = local.hour * 60 + local.minute
    if local.weekday() not in hours.weekdays or not any(start <= minute < end for start, end in _minutes(hours)):
        return False
    if hours.holidays:
        return True
    try:
        return local.date() not in holidays_of(region, local.year)
    except PlaceUnknown:
        return False


@lru_cache(maxsize=256)
def _minutes(hours: Hours) -> tuple[tuple[int, int], ...]:
    """The spans in minutes after midnight."""
    return tuple((_minute(start), _minute(end)) for start, end in hours.spans)


def _minute(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])
