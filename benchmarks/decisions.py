"""What a verdict costs, by place: the pure decision on a party with three consents, and finding a number's place.

A place that no pack has rules for is the baseline: there only consents are asked. CPU is the whole process's; medians of the
rounds are printed. Nothing of the door is in it: no state is read, and no verdict is appended.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

import msgspec

from law.book import shipped
from processors.decide_use import decide_use
from processors.permissions import Cell, Permissions, row_key
from processors.uses import PartyView, Use
from schemas.places import Place, place_of
from schemas.topics import ControllerState

AT_MS = 1_795_449_600_000  # 2026-11-23T16:00:00Z: an hour at which calls are allowed in all of these places
PLACES = {
    "no rules (consents only)": Place("AQ", ("UTC",)),
    "DE": Place("DE", ("Europe/Berlin",)),
    "FR, holidays": Place("FR", ("Europe/Paris",)),
    "US-NY": Place("US-NY", ("America/New_York",)),
    "US-ID, two zones": Place("US-ID", ("America/Boise", "America/Los_Angeles")),
}
CELLS = {row_key(purpose, "*", "*"): Cell("given", 10, "e", "e", "web") for purpose in ("marketing", "recording", "survey")}


def run(decisions: int, rounds: int) -> None:
    """Print µs of CPU of a dial and of a record decision at each place, and of looking up a number."""
    book, settings = shipped(), ControllerState(controller="acme", national_dnc_as_of_ms=AT_MS)
    dial = Use("dial", AT_MS, "voice", "marketing")
    print(f"{decisions} decisions, {rounds} rounds; medians, µs CPU")
    print(f"{'place':26}{'dial':>8}{'record':>8}")
    for name, place in PLACES.items():
        parties = [PartyView("customer", (Permissions("acme", 3, CELLS),), places=(place,))]
        costs = []
        for use in (dial, msgspec.structs.replace(dial, use="record", purpose="recording")):
            decide = partial(decide_use, parties, use, settings, book)
            costs.append(median(_each(decide, decisions) for _ in range(rounds)))
        assert decide_use(parties, dial, settings, book).verdict == "allow", f"{name}: it measured something else"
        print(f"{name:26}{costs[0]:8.1f}{costs[1]:8.1f}")
    numbers = [f"+1{area}555{n:04d}" for area in (202, 212, 303, 415) for n in range(min(decisions, 10_000) // 4)]
    place_of.cache_clear()
    print(f"{'place of a new number':26}{_all(numbers):8.1f}")
    print(f"{'place of a known number':26}{_all(numbers):8.1f}")


def _each(job: Callable[[], object], times: int) -> float:
    began = process_time()
    for _ in range(times):
        job()
    return (process_time() - began) / times * 1e6


def _all(numbers: list[str]) -> float:
    began = process_time()
    for number in numbers:
        place_of(number)
    return (process_time() - began) / len(numbers) * 1e6
