"""Calling hours against a reckoning of their own: several zones, places and parties only ever take hours away."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from law.book import shipped
from processors.decide_use import decide_use
from processors.permissions import Cell, Permissions, row_key
from processors.uses import PartyView, Use
from schemas.places import Place, place_of
from schemas.topics import ControllerState

GRANTED = Permissions(cells={row_key("p", "*", "*"): Cell("given", 10, "e", "e", "web")})
NOBODY = ControllerState(controller="acme")
START = datetime(2026, 1, 1, tzinfo=UTC)
ZONES = ["America/New_York", "America/Phoenix", "Pacific/Honolulu", "Pacific/Guam", "America/St_Johns", "America/Boise"]
NUMBERS = ["+12125550143", "+13055550143", "+18085550143", "+33199000001", "+493090182000"]
moments = st.integers(0, 2 * 365 * 24 * 60).map(lambda minutes: START + timedelta(minutes=minutes))
zones = st.lists(st.sampled_from(ZONES), min_size=1, max_size=4, unique=True).map(tuple)


def denied(at: datetime, *parties: tuple[Place, ...]) -> bool:
    use = Use("dial", round(at.timestamp() * 1000), "voice", "p")
    asked = [PartyView("customer", (GRANTED,), places=places) for places in parties]
    reasons = set(decide_use(asked, use, NOBODY, shipped()).reasons)
    assert reasons <= {"outside_calling_hours"}
    return bool(reasons)


@settings(max_examples=300, deadline=None)
@given(moments, zones)
def test_a_number_of_several_zones_is_called_when_it_is_day_in_all_of_them(at: datetime, names: tuple[str, ...]) -> None:
    local = [at.astimezone(ZoneInfo(name)) for name in names]
    assert denied(at, (Place("US", names),)) == any(not 8 <= time.hour < 21 for time in local)


@settings(max_examples=200, deadline=None)
@given(moments, st.lists(st.sampled_from(NUMBERS), min_size=1))
def test_places_and_parties_only_take_hours_away(at: datetime, numbers: list[str]) -> None:
    places = [place_of(number) for number in numbers]
    alone = [denied(at, (place,)) for place in places]
    assert denied(at, tuple(places)) == denied(at, *((place,) for place in places)) == any(alone)
