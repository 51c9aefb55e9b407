"""A recorded verdict is reached again from its record alone, and another law changes it only where the law differs."""

from datetime import UTC, date, datetime
from itertools import product

import msgspec
import pytest

from law.book import Book, shipped
from law.rows import Hours, Row
from processors.decide_use import decide_use
from processors.permissions import Cell, Permissions, row_key
from processors.rejudging import Rejudged, legs_of, rejudge
from processors.uses import Mark, PartyView, Use
from schemas.places import Place
from schemas.topics import ControllerState, Decision

NEW_YORK, MANILA = Place("US-NY", ("America/New_York",)), Place("PH", ("Asia/Manila",))
PLACES = [
    (), (NEW_YORK,), (Place("FR", ("Europe/Paris",)),), (Place("DK", ("Europe/Copenhagen",)), NEW_YORK),
    (Place("US-ID", ("America/Boise", "America/Los_Angeles")),), (MANILA,),
]  # fmt: skip
CONSENTS = [
    None,
    Permissions(cells={row_key("p", "*", "*"): Cell("given", 10, "e", "e", "web")}),
    Permissions(cells={row_key("p", "*", "*"): Cell("given", 10, "e", "e", "web"),
                       row_key("q", "*", "one"): Cell("withdrawn", 20, "e", "e", "web")}),
]  # fmt: skip
TIMES = [datetime(*at, tzinfo=UTC) for at in ((2026, 8, 10, 9), (2026, 8, 11, 23), (2027, 1, 30, 17), (2027, 1, 31, 17))]
LISTED_MS = round(datetime(2026, 12, 30, 17, tzinfo=UTC).timestamp() * 1000)
SETTINGS = ControllerState(controller="acme", national_dnc_as_of_ms=LISTED_MS)


def decided(parties: list[PartyView], use: Use, book: Book) -> Decision:
    """What the door puts on record."""
    ruling = decide_use(parties, use, SETTINGS, book)
    return Decision(
        decision_id="d", controller="acme", use=use.use, verdict=ruling.verdict, reasons=ruling.reasons, at_ms=use.at_ms, epoch=0,
        purpose=use.purpose, channel=use.channel, rules=ruling.rules, legs=legs_of(parties, use), callback=use.callback,
        national_dnc_as_of_ms=SETTINGS.national_dnc_as_of_ms,
    )  # fmt: skip


def night_calls(book: Book) -> Book:
    """The same law, but in the United States calls are allowed at any hour from 2027-01-31 on."""
    packs = []
    for pack in book.packs:
        rows = []
        for row in pack.rows:
            if row.rule == "tcpa.64_1200_c_1.hours" and "US" in row.places:
                rows.append(msgspec.structs.replace(row, valid_to=date(2027, 1, 31)))
                open_hours = Hours(spans=(("00:00", "24:00"),))
                rows.append(msgspec.structs.replace(row, valid_from=date(2027, 1, 31), hours=open_hours))
            else:
                rows.append(row)
        packs.append(msgspec.structs.replace(pack, rows=tuple(rows)))
    return Book(packs)


@pytest.mark.parametrize("use", ["dial", "record", "train", "share"])
def test_a_record_gives_the_same_verdict_under_the_same_law(use: str) -> None:
    seen = set()
    for places, known, at, callback in product(PLACES, CONSENTS, TIMES, (False, True)):
        asked = msgspec.convert({"use": use, "at_ms": round(at.timestamp() * 1000), "channel": "voice", "purpose": "p",
                                 "callback": callback}, Use)  # fmt: skip
        parties = [PartyView("customer", (known,), places=places), PartyView("agent")]
        parties += [PartyView("customer", (CONSENTS[1],), marks=(Mark(("other",)),), places=(MANILA,))]
        record = decided(parties, asked, shipped())
        again = rejudge(record, shipped())
        assert (again.verdict, again.reasons) == (record.verdict, record.reasons)
        assert record.verdict == "deny" or again.rules == record.rules
        seen.add(record.reasons)
    assert len(seen) > (5 if use == "dial" else 1), "the story decides in many ways"


def night(day: int, known: Permissions | None = CONSENTS[1]) -> Decision:
    """Four in the morning in New York."""
    at_ms = round(datetime(2027, 1, day, 9, tzinfo=UTC).timestamp() * 1000)
    return decided([PartyView("customer", (known,), places=(NEW_YORK,))], Use("dial", at_ms, "voice", "p"), shipped())


def test_another_law_changes_what_it_says_and_nothing_else() -> None:
    other = night_calls(shipped())
    assert night(29).reasons == ("outside_calling_hours",)
    assert rejudge(night(29), other) == Rejudged("deny", ("outside_calling_hours",), ("tcpa.64_1200_c_1.hours",))
    assert night(31).reasons == ("national_dnc_stale", "outside_calling_hours")
    assert rejudge(night(31), other) == Rejudged("deny", ("national_dnc_stale",), ("tcpa.national_dnc.age_days",))
    assert rejudge(night(31, None), other).reasons == ("consent_unknown", "national_dnc_stale")


class Watched(Book):
    """Remembers which rules it was asked for."""

    def __init__(self, book: Book) -> None:
        super().__init__(book.packs)
        self.asked: set[str] = set()

    def row(self, rule: str, place: str, on: date, *, proposed: bool = False) -> Row | None:
        self.asked.add(rule)
        return super().row(rule, place, on, proposed=proposed)


def test_a_book_that_is_watched_is_asked_each_time() -> None:
    watched = Watched(shipped())
    for _ in range(2):
        watched.asked.clear()
        assert rejudge(night(29), watched).rules == ("tcpa.64_1200_c_1.hours",)
        assert {"tcpa.64_1200_c_1.hours", "tcpa.revoke_all"} <= watched.asked
