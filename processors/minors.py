"""Whether a grant was given by somebody old enough for it, or by a holder of parental responsibility (GDPR Art. 8).

Only a declared age is known. It was true when the grant was given, so a grant that was no grant then does not become one with
the years: somebody has to ask again. The Article is about services offered directly to a child; here every consent counts so.
"""

from collections.abc import Iterator

from law.book import Book
from law.calendars import is_place
from law.places import chain
from law.rows import Row
from processors.local_rules import days_at, rules_at
from processors.permissions import GRANTS, Cell, Permissions, resolve, status_at
from processors.uses import Finding, PartyView, Use, narrower
from schemas.places import NOWHERE

SALE = "sale_or_sharing"  # how the CCPA's rows name what `share` and `export` may be
SOLD = frozenset({"share", "export"})
STRICTEST = "EU"  # the age of a place that nobody knows: the Regulation's own, which no member exceeds


def age_findings(party: PartyView, purpose: str, use: Use, book: Book) -> Iterator[Finding]:
    """Ask each rule on ages about the grants of a party that told an age under 18.

    The place is the one that the consent declares, or the closer one of the party's in it, else the party's. Both the day of the
    grant and that of the use count.
    """
    cells = (cell for known in party.permissions if known is not None for cell in _governing(known, purpose, use))
    for cell in cells:
        if cell.age is None or status_at(cell, use.at_ms) not in GRANTS:
            continue
        for rows in _rows(cell, party, use, book):
            guardians = any(_below(cell.age, row) for row in rows if not _own(row))
            for row in rows:
                # At an age for an opt-in of one's own nobody else's is one; below the age for a guardian's, only that is.
                wrong = cell.by_guardian and not guardians if _own(row) else not cell.by_guardian
                yield Finding("below_consent_age" if wrong and _below(cell.age, row) else None, row.rule)


def _governing(known: Permissions, purpose: str, use: Use) -> Iterator[Cell]:
    best = resolve(known, purpose, use.channel, use.brand)
    if best is not None:
        yield best
    yield from narrower(known, purpose, use)  # the use is for those as well


def _below(age: int, row: Row) -> bool:
    return row.number is not None and age < row.number


def _own(row: Row) -> bool:
    return row.applies.get("by") == "self"


def _rows(cell: Cell, party: PartyView, use: Use, book: Book) -> Iterator[list[Row]]:
    """Yield the rows about the use, of each region and day."""
    moments = (cell.effective_ms, use.at_ms)
    days = {day for place in party.places or (NOWHERE,) for at_ms in moments for day in days_at(place, at_ms)}
    for region in {_region(cell.jurisdiction, place.region) for place in party.places or (NOWHERE,)}:
        for day in days:
            rows = ((row, row.applies.get("purpose")) for row in rules_at(book, region, day).ages)
            yield [
                row for row, about in rows
                if (about is None and "item" not in row.applies) or (about == SALE and use.use in SOLD)
            ]  # fmt: skip


def _region(declared: str | None, told: str) -> str:
    region = told if declared is None or declared in chain(told) else declared
    return region if is_place(region) else STRICTEST
