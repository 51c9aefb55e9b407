"""`law/counting.py` against a counter of its own kind: one that walks day by day, and hour by hour, and computes nothing."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import example, given, settings
from hypothesis import strategies as st

from law.calendars import holidays_of, zones
from law.counting import COUNTINGS, due
from law.rows import Period

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
PLACES = ("DE", "DE-BY", "FR", "IE", "PT", "ES-CN", "GB-ENG", "GB-SCT", "EU", "US", "US-CA", "US-TX", "CA-NL", "CL", "EG", "*")
FIRST, LAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 12, 31, tzinfo=UTC)
AMOUNTS = {"hours": 200, "days": 400, "business_days": 60, "months": 40, "years": 8}

Pauses = Sequence[tuple[datetime, datetime]]


def works(day: date, place: str) -> bool:
    return day.strftime("%a") not in ("Sat", "Sun") and day not in holidays_of(place, day.year)


def moments(zone: ZoneInfo, day: date) -> tuple[datetime, datetime]:
    """The first moment of the day and of the next, found by walking a quarter of an hour at a time, in UTC."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - 30 * HOUR
    while at.astimezone(zone).date() < day:
        at += HOUR / 4
    first = at
    while at.astimezone(zone).date() == day:
        at += HOUR / 4
    return first, at


def walk(amount: int, unit: str, start: date, place: str) -> date:
    """The last day, one day at a time."""
    day = start
    if unit in ("days", "business_days"):
        while amount:
            day += DAY
            amount -= unit == "days" or works(day, place)
        return day
    left = amount * (12 if unit == "years" else 1)
    while left:  # into each following month
        day += DAY
        left -= day.day == 1
    if amount:
        while day.day != start.day and (day + DAY).month == day.month:
            day += DAY
    return day


def slow_day(period: Period, extra: int, received: datetime, place: str, zone: ZoneInfo, paused: Pauses) -> date:
    name, unit = period.counting, period.unit
    keeps = "US" if name == "us_business" else place
    day = received.astimezone(zone).date()
    later = name == "ico_2018" and unit in ("months", "years")
    last = walk(period.amount + extra, unit, day + DAY if later else day, keeps)
    for since, to in paused:  # disjoint and in order
        at = since.astimezone(zone).date()
        while at <= to.astimezone(zone).date():
            first, end = moments(zone, at)
            if since <= first and end <= to and day < at <= last and (unit != "business_days" or works(at, keeps)):
                last += DAY
                while unit == "business_days" and not works(last, keeps):
                    last += DAY
            at += DAY
        if since < moments(zone, last)[1] < to:
            while not moments(zone, last)[0] <= to < moments(zone, last)[1]:
                last += DAY
            while unit == "business_days" and not works(last, keeps):
                last += DAY
    if not name.startswith("us_"):
        while not works(last, keeps):
            last += DAY
    if name == "1182_71" and unit == "days" and period.amount + extra >= 2:
        while True:
            inside = [day + n * DAY for n in range(1, (last - day).days + 1)]
            if works(last, keeps) and len([d for d in inside if works(d, keeps)]) >= 2:
                break
            last += DAY
    return last


def slow_hours(hours: int, received: datetime, paused: Pauses) -> datetime:
    """Minute by minute: a minute that lies in a pause does not count. Everything begins at full minutes."""
    at, left = received.astimezone(UTC), hours * 60
    while left:
        if not any(since <= at < to for since, to in paused):
            left -= 1
        at += timedelta(minutes=1)
    return at


@st.composite
def periods(draw: Callable[..., object]) -> Period:
    name = draw(st.sampled_from(sorted(COUNTINGS)))
    unit = draw(st.sampled_from(sorted(COUNTINGS[name].units)))
    return Period(amount=draw(st.integers(1, AMOUNTS[unit])), unit=unit, counting=name)


received_at = st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None)).map(
    lambda found: found.replace(second=0, microsecond=0, tzinfo=UTC)
)


@st.composite
def pauses(draw: Callable[..., object]) -> list[tuple[int, int]]:
    """Hours after receipt, disjoint, in order, not touching."""
    cuts = sorted(draw(st.sets(st.integers(1, 1_500), max_size=6)))
    return list(zip(cuts[::2], cuts[1::2], strict=False))


@settings(max_examples=300, deadline=None)
@example(Period(amount=1, unit="months"), 2, datetime(2024, 1, 31, 23, 30, tzinfo=UTC), "US-CA", [])  # into a leap year
@example(Period(amount=1, unit="years"), 0, datetime(2028, 2, 29, 12, tzinfo=UTC), "DE", [])
@example(Period(amount=1, unit="days"), 0, datetime(2026, 9, 5, 3, tzinfo=UTC), "CL", [(1, 40)])  # begins at one o'clock
@example(Period(amount=3, unit="days"), 0, datetime(2026, 4, 2, 12, tzinfo=UTC), "DE", [])  # Easter
@given(periods(), st.integers(0, 3), received_at, st.sampled_from(PLACES), pauses())
def test_it_counts_as_somebody_would_on_a_calendar(
    period: Period, extra: int, received: datetime, place: str, hours: list[tuple[int, int]]
) -> None:  # fmt: skip
    paused = [(received + since * HOUR, received + to * HOUR) for since, to in hours]
    extend = Period(amount=extra, unit=period.unit) if extra else None
    found = due(period, received, place, extend=extend, paused=paused)
    if period.unit == "hours":
        assert found.at == slow_hours(period.amount + extra, received, paused)
        return
    days = {zone: slow_day(period, extra, received, place, zone, paused) for zone in zones(place)}
    ends = {zone: moments(zone, day)[1] - timedelta(milliseconds=1) for zone, day in days.items()}
    assert found.at == min(ends.values())
    assert found.day in {day for zone, day in days.items() if ends[zone] == found.at}


@settings(max_examples=300, deadline=None)
@given(periods(), received_at, st.integers(0, 3_000), st.sampled_from(PLACES), pauses())
def test_who_receives_later_is_never_due_earlier_and_who_is_paused_never_either(
    period: Period, received: datetime, minutes: int, place: str, hours: list[tuple[int, int]]
) -> None:  # fmt: skip
    first = due(period, received, place)
    assert first.at > received or first.day == received.astimezone(first.at.tzinfo).date()
    assert due(period, received + timedelta(minutes=minutes), place).at >= first.at
    assert due(period, received, place, paused=[(received + a * HOUR, received + b * HOUR) for a, b in hours]).at >= first.at
