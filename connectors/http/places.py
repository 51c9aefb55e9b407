"""Where each party of a decision is: by what is declared, else by its numbers. Only places and zones leave here, no number."""

from collections.abc import Iterable

from law.calendars import is_place, zones
from law.places import chain
from schemas.places import NOWHERE, Place, clock, place_of


def places_of(numbers: Iterable[tuple[str, str | None]], jurisdiction: str | None, time_zone: str | None) -> tuple[Place, ...]:
    """The places of a party's numbers (E.164, or empty where an identifier is none; what is declared of it), or the declared one.

    What is declared of the party wins over what is declared of an identifier, and that over what a number tells; but the state
    of a country, or the member of the Union, that a later one names is where it is. A declared place without a time zone has all
    zones that are kept there. A declared code that is no place is nowhere, and a name of no zone is no time: nobody knows what
    was meant, and whatever it was goes no further.
    """
    found = dict.fromkeys(_place(place_of(number), (jurisdiction, own), time_zone) for number, own in numbers)
    if not found and (jurisdiction or time_zone):
        found = {_place(NOWHERE, (jurisdiction,), time_zone): None}
    return tuple(found)


def _place(told: Place, declared: Iterable[str | None], time_zone: str | None) -> Place:
    region = ""
    for said in (*declared, told.region):
        if said and (not region or region in chain(said)):
            region = said
    known = is_place(region)
    if time_zone is not None:
        return Place(region if known else "", (time_zone,) if clock(time_zone) else ())
    if region == told.region:
        return told
    return Place(region, tuple(zone.key for zone in zones(region))) if known else NOWHERE
