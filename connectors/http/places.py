"""Where each party of a decision is: by what is declared, else by its numbers. Only places and zones leave here, no number."""

from collections.abc import Iterable

from law.calendars import PlaceUnknown, zones
from schemas.places import NOWHERE, Place, place_of


def places_of(numbers: Iterable[tuple[str, str | None]], jurisdiction: str | None, time_zone: str | None) -> tuple[Place, ...]:
    """The places of a party's numbers (E.164, the number's own jurisdiction), or the one place that is declared.

    What is declared of the party wins over what is declared of a number, and that over what the number tells; a number may
    still tell the state of a declared country. A declared place without a time zone has all zones that are kept there.
    """
    found = dict.fromkeys(_place(place_of(number), jurisdiction or own, time_zone) for number, own in numbers)
    if not found and (jurisdiction or time_zone):
        found = {_place(NOWHERE, jurisdiction, time_zone): None}
    return tuple(found)


def _place(told: Place, region: str | None, time_zone: str | None) -> Place:
    if region is None or region == told.region.partition("-")[0]:
        region = told.region
    if time_zone is not None:
        return Place(region, (time_zone,))
    if region == told.region:
        return told
    try:
        return Place(region, tuple(zone.key for zone in zones(region)))
    except PlaceUnknown:
        return Place(region, ())
