"""Days and clocks at a place: its time zones, its public holidays, its business days.

Places are ISO 3166-1 and 3166-2 codes (`DE`, `US-CA`, `GB-ENG`), `EU`, or `*`. Public holidays are those of the place (Reg.
1182/71 Art. 2(1)): of the subdivision where it is named and known, else those that the whole country keeps. `EU` alone has the
two days that every member keeps, 1 January and 25 December, and `*` none. So who knows less about the place gets the earlier due
time. The tables of holidays and zones are read once a process, from pinned packages; nothing here looks at the clock.
"""

import re
import zoneinfo
from collections import defaultdict
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

from law.zones import ZONES

_CODE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_SATURDAY = 5
_CACHED = 4096  # places and years: each a few hundred bytes
_REFERENCE = datetime(2026, 1, 1)  # noqa: DTZ001 -- a wall clock that each zone reads its offset for


class PlaceUnknown(ValueError):
    """The place is no ISO 3166 code of a country or of one's subdivision, nor `EU` or `*`; the message does not repeat it."""

    def __init__(self) -> None:
        super().__init__("place: no ISO 3166 code of a country or subdivision, nor EU or *")


@lru_cache(_CACHED)
def zones(place: str) -> tuple[ZoneInfo, ...]:
    """The time zones that are kept at the place, at least one. Raises `PlaceUnknown`."""
    names = ZONES.get(place)
    if names is None and _CODE.fullmatch(place):
        country = place.partition("-")[0]
        names = ZONES.get(country) or _zones_by_country().get(country)
    if names is None:
        raise PlaceUnknown
    return tuple(ZoneInfo(name) for name in names)


def is_place(place: str) -> bool:
    """Whether days can be counted there: a code of a country or of one's subdivision, `EU`, or `*`."""
    try:
        return bool(zones(place))
    except PlaceUnknown:
        return False


def zone(place: str) -> ZoneInfo:
    """The one zone of the place, or of several that whose days begin and end first. Raises `PlaceUnknown`."""
    return max(zones(place), key=lambda each: each.utcoffset(_REFERENCE) or timedelta())


def day_at(place: str, moment: datetime) -> date:
    """The day it is there, by `zone`: the day by which a row is in force or not. Raises `PlaceUnknown`."""
    return moment.astimezone(zone(place)).date()


@lru_cache(_CACHED)
def holidays_of(place: str, year: int) -> frozenset[date]:
    """The public holidays of the place in that year, those moved from a week-end included. Raises `PlaceUnknown`.

    A country whose holidays are not known has none, which only makes a due time earlier.
    """
    zones(place)
    if place == "*":
        return frozenset()
    if place == "EU":
        return frozenset((date(year, 1, 1), date(year, 12, 25)))
    import holidays  # noqa: PLC0415 -- takes as long to load as everything else, and most commands count no days

    country, _, region = place.partition("-")
    known = holidays.list_supported_countries(include_aliases=False)
    if country not in known:
        return frozenset()
    found = holidays.country_holidays(country, subdiv=region if region in known[country] else None, years=year)
    return frozenset(day for day in found if day.year == year)


def is_business_day(day: date, place: str) -> bool:
    """Whether it is neither Saturday nor Sunday nor a public holiday there (Reg. 1182/71 Art. 2(2)). Raises `PlaceUnknown`."""
    return day.weekday() < _SATURDAY and day not in holidays_of(place, day.year)


@cache
def _zones_by_country() -> dict[str, tuple[str, ...]]:
    """The tz database's own table, from where zoneinfo takes its zones: the system's, else the package's."""
    found: dict[str, list[str]] = defaultdict(list)
    system = (Path(folder) / "zone.tab" for folder in zoneinfo.TZPATH)
    path = next((p for p in system if p.is_file()), None)
    table = path.read_text("utf-8") if path else (files("tzdata") / "zoneinfo" / "zone.tab").read_text("utf-8")
    for line in table.splitlines():
        if line and not line.startswith("#"):
            country, _, name = line.split("\t")[:3]
            found[country].append(name)
    return {country: tuple(names) for country, names in found.items()}
