"""The place of a number: country or state, and every time zone it may be in."""

from datetime import datetime
from zoneinfo import ZoneInfo

import phonenumbers
import pytest
from phonenumbers import geocoder
from phonenumbers.tzdata import TIMEZONE_DATA

from schemas.areas import ALSO_KEPT, STATE_OF, STATES
from schemas.places import NOWHERE, Place, clock, place_of

STATE_NAMES = {"California": "CA", "New York": "NY", "Texas": "TX", "Nevada": "NV", "Washington State": "WA"}


@pytest.mark.parametrize(("number", "region", "zones"), [
    ("+13105550143", "US-CA", ("America/Los_Angeles",)),
    ("+12085550143", "US-ID", ("America/Boise", "America/Los_Angeles")),
    ("+18505550143", "US-FL", ("America/Chicago", "America/New_York")),  # both, where the data does not know the exchange
    ("+16892550143", "US-FL", ("America/Chicago", "America/New_York")),  # an overlay of Orlando's that it has elsewhere
    ("+17875550143", "PR", ("America/Puerto_Rico",)),
    ("+14165550143", "CA", ("America/Toronto",)),
    ("+33199000001", "FR", ("Europe/Paris",)),
    ("+262692000001", "RE", ("Indian/Mayotte", "Indian/Reunion")),
    ("+447700900123", "GB", ("Europe/Guernsey", "Europe/Isle_of_Man", "Europe/London")),  # reserved: given out to nobody
])  # fmt: skip
def test_a_number_is_where_it_was_given_out_for(number: str, region: str, zones: tuple[str, ...]) -> None:
    assert place_of(number) == Place(region, zones)


def test_a_toll_free_number_may_be_anywhere_its_code_is() -> None:
    place = place_of("+18005550143")
    assert place.region == "US" and {"America/New_York", "Pacific/Honolulu", "Pacific/Guam"} <= set(place.zones)


def test_what_belongs_to_no_country_is_nowhere() -> None:
    assert place_of("+883510012345678") == NOWHERE and place_of("not a number") == NOWHERE


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "Factory", "Mars/Olympus", "America", "../UTC", ""])
def test_what_is_no_zone_has_no_clock(zone: str) -> None:
    assert clock(zone) is None and clock("Europe/Paris") is not None


def test_no_area_code_stands_in_two_states_and_the_table_says_what_the_numbering_data_says() -> None:
    assert len(STATE_OF) == sum(len(areas.split()) for areas in STATES.values()) and len(STATES) == 51
    for area, state in STATE_OF.items():
        told = geocoder.description_for_number(phonenumbers.parse(f"+1{area}2550143"), "en")
        assert told and state == (STATE_NAMES.get(told) or (told[-2:] if ", " in told else state)), area


def test_an_unknown_exchange_has_every_clock_that_a_known_one_of_its_area_code_has() -> None:
    def offsets(zones: set[str]) -> set[object]:
        return {tuple(datetime(2026, month, 15, tzinfo=ZoneInfo(zone)).utcoffset() for month in (1, 7)) for zone in zones}

    odd = {"1907581"}  # of Alaska, and said to be in Hawaii
    codes = {code: set(zones) for code, zones in TIMEZONE_DATA.items() if code not in odd}
    for area in STATE_OF:
        default = codes.get(f"1{area}")
        if default is not None:  # else every exchange is known
            known = set().union(*(zones for code, zones in codes.items() if code.startswith(f"1{area}")))
            assert offsets(known) <= offsets(default | ALSO_KEPT.get(area, set())), area
