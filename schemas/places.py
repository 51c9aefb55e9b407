"""Where a called number is, as far as a number tells: the place whose law counts, and the time zones it may be in.

A place is an ISO 3166-1 code, or 3166-2 where the number says more. It is what the number was given out for: people move, and
a mobile number says nothing of where its owner is now. What a party or its publisher declares says more, and wins.
"""

from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import phonenumbers
from phonenumbers import NumberParseException, timezone

from schemas.areas import ALSO_KEPT, STATE_OF

# As many as numbers that are remembered in `schemas/identifiers.py`, for the same reason; looking one up takes some 60 µs.
NUMBERS_MAX = 65_536
WORLD = "001"  # how numbering calls what belongs to no country: satellites, international services


class Place(msgspec.Struct, frozen=True):
    """`region`: ISO 3166-1 or 3166-2, empty when nobody knows; `zones`: IANA names, all that the number may be in."""

    region: str = ""
    zones: tuple[str, ...] = ()


NOWHERE = Place()
# Names in the zone database that are no zone: the one of this machine, and the one of a machine that nobody has set.
NO_ZONES = frozenset({"localtime", "posixrules", "Factory"})


@lru_cache(maxsize=NUMBERS_MAX)
def place_of(number: str) -> Place:
    """The place of a number in E.164; `NOWHERE` when it is nobody's.

    Of numbers of an area code that numbering data does not know one by one it tells the zone of most; `ALSO_KEPT` adds the other.
    A number that is possible and not given out (a reserved one) is in the main country of its code, in all zones of its prefix.
    """
    try:
        parsed = phonenumbers.parse(number, None)
    except NumberParseException:
        return NOWHERE
    region = phonenumbers.region_code_for_number(parsed) or phonenumbers.region_code_for_country_code(parsed.country_code or 0)
    if region in (WORLD, "ZZ"):
        return NOWHERE
    zones = timezone.time_zones_for_number(parsed)
    if timezone.UNKNOWN_TIMEZONE in zones:
        zones = timezone.time_zones_for_geographical_number(parsed)
    known = {zone for zone in zones if zone != timezone.UNKNOWN_TIMEZONE}
    if region == "US" and (state := STATE_OF.get(number[2:5])) is not None:
        region = f"US-{state}"
        known |= ALSO_KEPT.get(number[2:5], set())
    return Place(region, tuple(sorted(known)))


@lru_cache(maxsize=1024)
def clock(zone: str) -> ZoneInfo | None:
    """The clock of a time zone by its IANA name; None for what is no zone."""
    if zone in NO_ZONES:
        return None
    try:
        return ZoneInfo(zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):  # a publisher may send anything
        return None
