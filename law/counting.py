"""When a period ends: from the moment something was received, at a place, by a named version of counting.

| counting | rule | hours | days | business days | months, years | a week-end or public holiday at the end |
|---|---|---|---|---|---|---|
| `1182_71` | Reg. (EEC, Euratom) 1182/71 Art. 3 | yes | yes | of the place | yes | runs to the next business day there |
| `ico_2019` | the ICO since 2019, after CJEU C-171/03 | yes | yes | of the place | yes | runs on |
| `ico_2018` | the ICO before: months ran from the day after receipt | yes | yes | of the place | a day later | runs on |
| `us_calendar` | calendar days | yes | yes | no | yes | no rule: nothing moves |
| `us_business` | Monday to Friday without federal holidays (5 U.S.C. 6103) | no | no | federal | no | cannot be |
| `plain_hours` | hours only | yes | no | no | no | nothing moves |

* The day of receipt, at the place, is not counted. A period in days ends that many days later; one in months or years on the day
  with the same number, or on the month's last day where there is none (Art. 3(2)(c)).
* Art. 3(5): of two days or more at least two are business days. That is kept for days, by `1182_71` only.
* Hours are elapsed time to the second, through week-ends and changes of the clock: the earliest reading of Art. 3(1) and (5).
* A day-based period is due at the end of its last day there: the last millisecond before midnight. Where the place has several
  zones, each is counted for itself and the earliest end is due.
* An extension is counted with the period, from receipt, and only then is the end moved: 1 + 2 months are 3 months.
* A pause adds the hours, or the whole days, that lie in it and in the running period: a day counts from midnight to midnight,
  parts of days do not; of a period in business days only business days. Where the end, unmoved, falls into a pause, it is the day
  on which the clock runs again. A pause that begins later changes nothing. Whether a rule may be paused, the caller knows.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from law.calendars import is_business_day, zones
from law.rows import Period

Paused = Sequence[tuple[datetime, datetime]]
_DAY = timedelta(days=1)
_MONTHS = {"months": 1, "years": 12}
_BUSINESS_DAYS_MIN = 2  # Art. 3(5)
_YEARS = range(1970, 2200)  # of receipt and of pauses
_FIRST_MS, _LAST_MS = (round(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000) for year in (_YEARS[0], _YEARS[-1]))
# A hundred years of each: no rule runs longer, and no date overflows.
_AMOUNT_MAX = {"hours": 876_600, "days": 36_525, "business_days": 26_000, "months": 1_200, "years": 100}


class Counting(NamedTuple):
    """One version of counting; `months_from` is how many days after receipt months begin to run."""

    title: str
    units: frozenset[str]
    rolls: bool
    months_from: int = 0
    two_business_days: bool = False
    federal: bool = False


_ALL = frozenset(("hours", "days", "business_days", "months", "years"))
COUNTINGS = {
    "1182_71": Counting("Reg. (EEC, Euratom) 1182/71 Art. 3", _ALL, rolls=True, two_business_days=True),
    "ico_2019": Counting("the ICO's counting since 2019, after CJEU C-171/03", _ALL, rolls=True),
    "ico_2018": Counting("the ICO's counting before 2019", _ALL, rolls=True, months_from=1),
    "us_calendar": Counting("calendar days", _ALL - {"business_days"}, rolls=False),
    "us_business": Counting("Monday to Friday less federal holidays", frozenset(("business_days",)), rolls=False, federal=True),
    "plain_hours": Counting("elapsed hours", frozenset(("hours",)), rolls=False),
}


class Due(NamedTuple):
    """`at`: the last moment, in local time. `day`: its day there, None where hours decide. `steps`: how it was counted."""

    at: datetime
    day: date | None
    steps: tuple[str, ...]


class PeriodUnusable(ValueError):
    """The period, its extension or a pause cannot be counted; the message names the field."""


def check(period: Period) -> None:
    """Raise `PeriodUnusable` where no version of counting ends the period."""
    if period.counting not in COUNTINGS:
        raise PeriodUnusable("counting: no known version")
    if period.unit not in COUNTINGS[period.counting].units:
        raise PeriodUnusable("unit: not one of this version of counting")
    if not 0 <= period.amount <= _AMOUNT_MAX[period.unit]:
        raise PeriodUnusable("amount: less than none, or more than a hundred years")


def countable_ms(stated_ms: int) -> int:
    """The moment, or the nearest that periods are counted from: what somebody states may be in any year of the calendar."""
    return min(max(stated_ms, _FIRST_MS), _LAST_MS)


def due(
    period: Period, received: datetime, place: str, *, extend: Period | None = None, paused: Paused = ()
) -> Due:  # fmt: skip
    """By when what was `received` (aware) is due at the place, with how it was counted.

    `extend` is counted by the period's version. Raises `PeriodUnusable` and `law.calendars.PlaceUnknown`.
    """
    check(period)
    parts = [period] if extend is None else [period, Period(amount=extend.amount, unit=extend.unit, counting=period.counting)]
    check(parts[-1])
    if len({part.unit == "hours" for part in parts}) > 1:
        raise PeriodUnusable("extend: hours and days do not add up")
    if received.tzinfo is None or any(moment.tzinfo is None for pause in paused for moment in pause):
        raise PeriodUnusable("received, paused: without a time zone")
    if received.year not in _YEARS:
        raise PeriodUnusable("received: not from 1970 to 2199")
    if any(to < since for since, to in paused):
        raise PeriodUnusable("paused: ends before it begins")
    if any(moment.year not in _YEARS for pause in paused for moment in pause):
        raise PeriodUnusable("paused: not from 1970 to 2199")
    if period.unit == "hours":
        return _due_hours(parts, received, place, _merged(paused))
    return min((_due_days(parts, received, place, zone, _merged(paused)) for zone in zones(place)), key=lambda found: found.at)


def _due_hours(parts: Sequence[Period], received: datetime, place: str, paused: Paused) -> Due:
    hours = sum(part.amount for part in parts)
    here = zones(place)
    start = received.astimezone(UTC)
    end = start + timedelta(hours=hours)
    steps = [f"{_length(hours, 'hours')} run from {_said(received)}; hours never move for week-ends or public holidays"]
    added = timedelta()
    for since, to in paused:
        if since < end + added:
            added += max(timedelta(), to.astimezone(UTC) - max(since.astimezone(UTC), start))
    if added:
        steps.append(f"the clock stood still for {added.total_seconds() / 3600:g} hours of it")
    at = (end + added).astimezone(here[0] if len(here) == 1 else received.tzinfo)
    return Due(at, None, (*steps, f"due {_said(at)}"))


def _due_days(parts: Sequence[Period], received: datetime, place: str, zone: ZoneInfo, paused: Paused) -> Due:
    counting = COUNTINGS[parts[0].counting]
    keeps = "US" if counting.federal else place
    day = received.astimezone(zone).date()
    steps = [f"received on {_day(day)} ({zone.key}), a day that is not counted; counted by {counting.title}"]
    last = day
    # Periods of one unit are one period: 1 + 2 months from 31 January end on 30 April, not on what 28 February comes to.
    for unit in dict.fromkeys(part.unit for part in parts):
        amount = sum(part.amount for part in parts if part.unit == unit)
        last = _ahead(last, amount, unit, keeps, counting.months_from if last == day else 0)
        steps.append(f"{_length(amount, unit)} from then: {_day(last)}")
    business = any(part.unit == "business_days" for part in parts)
    moved = _past_pauses(day, last, paused, zone, keeps if business else None)
    if moved != last:
        steps.append(f"the pauses move the end to {_day(moved)}")
    last = moved
    if counting.rolls and not is_business_day(last, keeps):
        rolled = _next_business_day(last, keeps)
        steps.append(f"{_day(last)} is no business day at {place}, so it runs to {_day(rolled)}")
        last = rolled
    if counting.two_business_days and parts[0].unit == "days" and sum(part.amount for part in parts) >= _BUSINESS_DAYS_MIN:
        stretched = _with_two_business_days(day, last, keeps)
        if stretched != last:
            steps.append(f"it has at least two business days (Art. 3(5)), so it runs to {_day(stretched)}")
        last = stretched
    at = (_midnight(last + _DAY, zone) - timedelta(milliseconds=1)).astimezone(zone)
    return Due(at, last, (*steps, f"due by the end of that day, {_said(at)}"))


def _ahead(day: date, amount: int, unit: str, place: str, months_from: int) -> date:
    """The last day of `amount` units after `day`, unmoved."""
    if unit == "days":
        return day + amount * _DAY
    if unit == "business_days":
        for _ in range(amount):
            day = _next_business_day(day, place)
        return day
    day += months_from * _DAY
    year, month = divmod(day.month - 1 + amount * _MONTHS[unit], 12)
    first = date(day.year + year, month + 1, 1)
    last_of_month = (first + 31 * _DAY).replace(day=1) - _DAY
    return min(first + (day.day - 1) * _DAY, last_of_month)


def _past_pauses(received: date, last: date, paused: Paused, zone: ZoneInfo, place: str | None) -> date:
    """The end, moved by each paused day of the running period; `place` has the business days, where only they count."""
    for since, to in paused:
        for day in _days_in(since, to, zone):
            if received < day <= last and (place is None or is_business_day(day, place)):
                last = last + _DAY if place is None else _next_business_day(last, place)
        if since < _midnight(last + _DAY, zone) < to:
            last = to.astimezone(zone).date()
            last = last if place is None or is_business_day(last, place) else _next_business_day(last, place)
    return last


def _next_business_day(day: date, place: str) -> date:
    day += _DAY
    while not is_business_day(day, place):
        day += _DAY
    return day


def _with_two_business_days(received: date, last: date, place: str) -> date:
    days = (received + n * _DAY for n in range(1, (last - received).days + 1))
    missing = _BUSINESS_DAYS_MIN - sum(is_business_day(day, place) for day in days)
    for _ in range(missing):
        last = _next_business_day(last, place)
    return last


def _merged(paused: Paused) -> list[tuple[datetime, datetime]]:
    """The pauses in order of time, those that touch or overlap as one."""
    merged: list[tuple[datetime, datetime]] = []
    for since, to in sorted(paused):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(to, merged[-1][1]))
        else:
            merged.append((since, to))
    return merged


def _days_in(since: datetime, to: datetime, zone: ZoneInfo) -> list[date]:
    """The days of the zone that lie in the pause from their first moment to their last."""
    first, end = since.astimezone(zone).date(), to.astimezone(zone).date()
    if _midnight(first, zone) < since:
        first += _DAY
    return [first + n * _DAY for n in range((end - first).days)]


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of the day, in UTC; where the clock skips midnight it is the moment of the change."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _length(amount: int, unit: str) -> str:
    return f"{amount} {unit.replace('_', ' ').removesuffix('s' if amount == 1 else '')}"


def _day(day: date) -> str:
    return f"{day:%a} {day.day} {day:%b %Y}"


def _said(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")
