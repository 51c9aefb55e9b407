"""Periods end when the tables of the law's sources say, at the place, by the version of counting that is named."""

from datetime import UTC, date, datetime, timedelta

import pytest

from law.book import shipped
from law.calendars import PlaceUnknown, holidays_of, is_business_day, is_place, zone, zones
from law.counting import PeriodUnusable, due
from law.places import EU_MEMBERS
from law.rows import Period, Unit


def period(amount: int, unit: Unit, counting: str = "1182_71") -> Period:
    return Period(amount=amount, unit=unit, counting=counting)


def at(text: str, place: str) -> datetime:
    """A moment at the place; noon where only the day is told."""
    found = datetime.fromisoformat(text if "T" in text else f"{text}T12:00")
    return found if found.tzinfo else found.replace(tzinfo=zone(place))


@pytest.mark.parametrize(
    ("rule", "received", "place", "end", "extended"),
    [
        ("gdpr.art12.response", "2026-09-03", "EU", "2026-10-05", False),
        ("uk_gdpr.art12.response", "2026-09-03", "GB", "2026-10-05", False),
        ("gdpr.art12.response", "2026-01-31", "EU", "2026-03-02", False),
        ("uk_gdpr.art12.response", "2026-01-31", "GB", "2026-03-02", False),
        ("gdpr.art12.response", "2028-01-31", "EU", "2028-02-29", False),
        ("gdpr.art12.response", "2026-08-31", "EU", "2026-09-30", False),
        ("gdpr.art12.extended", "2026-08-31", "EU", "2026-11-30", False),
        ("uk_gdpr.art12.response", "2026-04-01", "GB-ENG", "2026-05-01", False),
        ("ccpa.respond", "2026-11-20", "US-CA", "2027-01-04", False),
        ("ccpa.respond", "2026-11-20", "US-CA", "2027-02-18", True),
        ("ccpa.respond_extended", "2026-11-20", "US-CA", "2027-02-18", False),
        ("ccpa.opt_out", "2026-11-20", "US-CA", "2026-12-14", False),
        ("tcpa.revocation", "2026-11-20", "US", "2026-12-07", False),
        ("gdpr.art33.authority", "2026-11-20T18:20", "DE", "2026-11-23T18:20", False),
        ("us_ca.breach_residents", "2026-11-20", "US-CA", "2026-12-20", False),
    ],
)
def test_the_rules_of_the_shipped_packs_end_as_their_sources_say(
    rule: str, received: str, place: str, end: str, extended: bool
) -> None:  # fmt: skip
    row = shipped().row(rule, place, date.fromisoformat(received[:10]))
    assert row
    assert row.period
    found = due(row.period, at(received, place), place, extend=row.extend if extended else None)
    assert (found.at if found.day is None else found.day).isoformat().startswith(end)


MONTH, MONTHS_2 = period(1, "months"), period(2, "months")
ICO, ICO_2018 = period(1, "months", "ico_2019"), period(1, "months", "ico_2018")
CCPA = period(45, "days", "us_calendar")


@pytest.mark.parametrize(
    ("length", "extend", "received", "place", "day"),
    [
        # Examples of the ICO's and the regulations' own.
        (MONTH, None, "2026-09-03", "EU", "2026-10-05"),
        (ICO, None, "2026-09-03", "GB", "2026-10-05"),
        (ICO_2018, None, "2018-09-03", "GB", "2018-10-04"),
        (MONTH, None, "2026-01-31", "DE", "2026-03-02"),
        (ICO, None, "2026-01-31", "GB-ENG", "2026-03-02"),
        (MONTH, None, "2028-01-31", "EU", "2028-02-29"),
        (MONTH, None, "2026-08-31", "FR", "2026-09-30"),
        (ICO, None, "2026-04-01", "GB-ENG", "2026-05-01"),
        (MONTH, None, "2026-04-01", "DE", "2026-05-04"),  # where 1 May is a public holiday
        (MONTH, MONTHS_2, "2026-01-31", "IE", "2026-04-30"),  # three months, not two from 28 February
        (period(1, "years"), None, "2028-02-29", "BE", "2029-02-28"),
        (period(2, "days"), None, "2026-11-20", "DE", "2026-11-24"),  # Art. 3(5): two business days
        (period(1, "days"), None, "2026-11-20", "DE", "2026-11-23"),
        (period(30, "days", "ico_2019"), None, "2026-06-19", "GB", "2026-07-20"),  # a complaint's acknowledgement: Sunday
        (period(3, "business_days"), None, "2026-04-02", "FR-57", "2026-04-09"),  # Good Friday is kept in Moselle only
        (period(3, "business_days"), None, "2026-04-02", "FR", "2026-04-08"),
        (CCPA, None, "2026-11-20", "US-CA", "2027-01-04"),
        (CCPA, CCPA, "2026-11-20", "US-CA", "2027-02-18"),
        (period(15, "business_days", "us_business"), None, "2026-11-20", "US-CA", "2026-12-14"),
        (period(10, "business_days", "us_business"), None, "2026-11-20", "US", "2026-12-07"),
        (period(30, "days", "us_calendar"), None, "2026-11-20", "US-CA", "2026-12-20"),  # Sunday: no rule moves it
    ],
)
def test_a_period_ends_on_its_day(length: Period, extend: Period | None, received: str, place: str, day: str) -> None:
    found = due(length, at(received, place), place, extend=extend)
    assert found.day == date.fromisoformat(day)
    midnight = datetime.combine(found.day + timedelta(1), datetime.min.time(), found.at.tzinfo)
    assert found.at + timedelta(milliseconds=1) == midnight
    assert found.steps


def test_hours_are_elapsed_hours_through_week_ends_and_changes_of_the_clock() -> None:
    aware = period(72, "hours")
    assert due(aware, at("2026-11-20T18:20", "DE"), "DE").at.isoformat() == "2026-11-23T18:20:00+01:00"
    assert due(aware, at("2026-11-20T18:20", "DE"), "DE").day is None
    assert due(aware, at("2026-10-23T18:20", "DE"), "DE").at.isoformat() == "2026-10-26T17:20:00+01:00"
    assert due(aware, at("2026-03-27T18:20", "DE"), "DE").at.isoformat() == "2026-03-30T19:20:00+02:00"


def test_where_a_place_has_several_zones_the_earliest_end_is_due() -> None:
    # 05:30 UTC is the 20th in New York and still the 19th west of it.
    received = datetime(2026, 11, 20, 5, 30, tzinfo=UTC)
    found = due(CCPA, received, "US")
    assert found.day == date(2027, 1, 3)
    assert all(found.at <= due(CCPA, received, f"US-{state}").at for state in ("NY", "TX", "CA", "HI"))


def test_only_whole_days_that_lie_in_a_pause_move_the_end() -> None:
    def paused(*spans: tuple[str, str], length: Period = CCPA) -> str:
        times = [(at(since, "US-CA"), at(to, "US-CA")) for since, to in spans]
        return str(due(length, at("2026-11-20", "US-CA"), "US-CA", paused=times).day)

    assert paused() == "2027-01-04"
    assert paused(("2026-12-01T09:00", "2026-12-02T23:00")) == "2027-01-04"
    assert paused(("2026-12-01T00:00", "2026-12-03T00:00")) == "2027-01-06"
    assert paused(("2026-12-01T09:00", "2026-12-03T12:00"), ("2026-12-02T00:00", "2026-12-05T01:00")) == "2027-01-07", "merged"
    assert paused(("2026-11-01T00:00", "2026-11-19T00:00")) == "2027-01-04", "before there was anything to stop"
    assert paused(("2027-01-05T00:00", "2027-01-19T00:00")) == "2027-01-04", "too late"
    assert paused(("2027-01-04T09:00", "2027-01-19T09:00")) == "2027-01-19", "no end falls into a pause"
    business = period(10, "business_days", "us_business")
    over_thanksgiving = paused(("2026-11-25T09:00", "2026-11-30T09:00"), length=business)
    assert over_thanksgiving == "2026-12-08", "one business day lay in it"


def test_hours_stand_still_while_paused_and_pauses_after_the_end_come_too_late() -> None:
    start = datetime(2026, 11, 20, 18, 20, tzinfo=UTC)
    pauses = [(start + timedelta(hours=a), start + timedelta(hours=b)) for a, b in ((-5, 1), (70, 80), (81, 82), (95, 99))]
    assert due(period(72, "hours", "plain_hours"), start, "IE", paused=pauses).at == start + timedelta(hours=72 + 1 + 10 + 1)


def test_the_days_of_the_union_alone_are_those_that_every_member_keeps() -> None:
    for year in (2020, 2026, 2033, 2040):
        common = frozenset.intersection(*(holidays_of(country, year) for country in EU_MEMBERS))
        assert {d for d in common if d.weekday() < 5} == {d for d in holidays_of("EU", year) if d.weekday() < 5}, year


def test_business_days_are_those_of_the_place() -> None:
    assert not is_business_day(date(2026, 11, 26), "US")
    assert is_business_day(date(2026, 11, 26), "GB-ENG")
    assert not is_business_day(date(2026, 11, 21), "GB-ENG")
    assert not is_business_day(date(2026, 1, 6), "DE-BY")  # Epiphany
    assert is_business_day(date(2026, 1, 6), "DE")


def test_a_place_has_its_zones_and_what_is_none_is_refused() -> None:
    assert {z.key for z in zones("US-TX")} == {"America/Chicago", "America/Denver"}
    assert {z.key for z in zones("ES-CN")} == {"Atlantic/Canary"}
    assert [z.key for z in (*zones("FR-971"), *zones("FR-GP"), *zones("GP"))] == ["America/Guadeloupe"] * 3
    assert [z.key for z in zones("DE-BY")] == [z.key for z in zones("DE")]
    assert zone("US").key == "America/New_York"
    assert is_place("EU")
    assert is_place("*")
    for wrong in ("", "dE", "XX", "DE-", "Germany", "DE-BY-1"):
        assert not is_place(wrong)
        with pytest.raises(PlaceUnknown) as told:
            due(MONTH, at("2026-09-03", "DE"), wrong)
        assert not wrong or wrong not in str(told.value)


@pytest.mark.parametrize(
    ("length", "extend", "field"),
    [
        (period(1, "days", "plain_hours"), None, "unit"),
        (period(1, "business_days", "us_calendar"), None, "unit"),
        (period(1, "days", "1066"), None, "counting"),
        (period(-1, "days"), None, "amount"),
        (period(101, "years"), None, "amount"),
        (period(1, "days"), period(1, "hours"), "extend"),
    ],
)
def test_what_no_version_counts_is_refused_by_its_field(length: Period, extend: Period | None, field: str) -> None:
    with pytest.raises(PeriodUnusable, match=field):
        due(length, at("2026-09-03", "DE"), "DE", extend=extend)


@pytest.mark.parametrize("length", [MONTH, period(72, "hours")])
def test_a_pause_without_an_end_is_refused(length: Period) -> None:
    with pytest.raises(PeriodUnusable, match="paused"):
        due(length, at("2026-01-31", "DE"), "DE", paused=[(at("2026-02-01", "DE"), datetime.max.replace(tzinfo=UTC))])


def test_times_without_a_zone_are_refused() -> None:
    naive = datetime(2026, 9, 3)  # noqa: DTZ001 -- that is the point
    with pytest.raises(PeriodUnusable, match="time zone"):
        due(MONTH, naive, "DE")
    with pytest.raises(PeriodUnusable, match="time zone"):
        due(MONTH, at("2026-09-03", "DE"), "DE", paused=[(naive, naive)])
