"""Whether a grant was given by somebody old enough for it, or by a holder of parental responsibility (GDPR Art. 8).

Only a declared age is known. It was true when the grant was given, so a grant that was no grant then does not become one with
the years: somebody has to ask again. The Article is about services offered directly to a child; here every consent counts so.
"""

from collections.abc import Iterator

from law.book import Book
from law.rows import Row
from processors.local_rules import days_at, rules_at
from processors.permissions import GRANTS, Cell, resolve, status_at
from processors.uses import Finding, PartyView, Use
from schemas.places import NOWHERE

SALE = "sale_or_sharing"  # how the CCPA's rows name what `share` and `export` may be
SOLD = frozenset({"share", "export"})
STRICTEST = "EU"  # the age of a place that nobody knows: the Regulation's own, which no member exceeds


def age_findings(party: PartyView, purpose: str, use: Use, book: Book) -> Iterator[Finding]:
    """Ask each rule on ages about the grants of a party that told an age under 18 and no guardian.

    The place is the one that the consent declares, else the party's. Both the day of the grant and that of the use count.
    """
    for known in party.permissions:
        cell = resolve(known, purpose, use.channel, use.brand) if known is not None else None
        if cell is None or cell.age is None or cell.by_guardian or status_at(cell, use.at_ms) not in GRANTS:
            continue
        for row in _rows(cell, party, use, book):
            below = row.number is not None and cell.age < row.number
            # Below the age for an opt-in of one's own it takes one, and this is one; only the age for a guardian's denies.
            own_opt_in = row.applies.get("by") == "self"
            yield Finding("below_consent_age" if below and not own_opt_in else None, row.rule)


def _rows(cell: Cell, party: PartyView, use: Use, book: Book) -> Iterator[Row]:
    moments = (cell.effective_ms, use.at_ms)
    days = {day for place in party.places or (NOWHERE,) for at_ms in moments for day in days_at(place, at_ms)}
    regions = [cell.jurisdiction] if cell.jurisdiction else [place.region or STRICTEST for place in party.places]
    for region in regions or [STRICTEST]:
        for day in days:
            for row in rules_at(book, region, day).ages:
                about = row.applies.get("purpose")
                if (about is None and "item" not in row.applies) or (about == SALE and use.use in SOLD):
                    yield row
