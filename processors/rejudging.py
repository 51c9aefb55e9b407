"""A recorded verdict under another law: what the law was told is on the record, so it is judged again without anybody's data.

A record holds a leg for each place of each party who was asked: place, zones, and whether consent to calls was revoked for
another matter as late as it was given. That names nobody. What consents, lists, declared ages and duties said stays as it was.
"""

from collections.abc import Iterator, Sequence
from typing import get_args

import msgspec

from law.book import Book
from processors.dial_rules import dial_findings, revoked_since
from processors.permissions import ANY, Cell, Permissions, row_key
from processors.record_rules import record_findings
from processors.uses import OF_THE_MOMENT, Finding, PartyView, Use, UseName, asked_of
from schemas.places import NOWHERE, Place
from schemas.topics import ControllerState, Decision, Leg, Verdict

OTHER = " revoked"  # a purpose that nobody can name: of the revocation only the order is known
GRANTED_MS, REVOKED_MS = 0, 1


class Rejudged(msgspec.Struct, frozen=True):
    """A verdict under another law. `rules`: those of the law's own reasons; without any, those that were met."""

    verdict: Verdict
    reasons: tuple[str, ...]
    rules: tuple[str, ...]


def legs_of(parties: Sequence[PartyView], use: Use) -> tuple[Leg, ...]:
    """What a record says of the parties who are asked."""
    return tuple(
        Leg(region=place.region, zones=place.zones, revoked_since=revoked_since(party, use))
        for party in asked_of(parties)
        for place in party.places or (NOWHERE,)
    )  # fmt: skip


def rejudge(decision: Decision, book: Book) -> Rejudged:
    """The verdict that `decision` would have been under `book`; under the book it was made by, the same."""
    use_name = next(name for name in get_args(UseName) if name == decision.use)
    use = Use(
        use_name, decision.at_ms, decision.channel or ANY, decision.purpose, decision.brand or ANY, decision.campaign,
        decision.callback,
    )  # fmt: skip
    settings = ControllerState(controller=decision.controller, national_dnc_as_of_ms=decision.national_dnc_as_of_ms)
    findings = [found for leg in decision.legs for found in _findings(leg, use, settings, book)]
    by_law = {found.reason for found in findings if found.reason in OF_THE_MOMENT}
    reasons = {*(reason for reason in decision.reasons if reason not in OF_THE_MOMENT), *(reason for reason in by_law if reason)}
    rules = {found.rule for found in findings if (found.reason in by_law if by_law else found.reason is None)}
    return Rejudged("deny" if reasons else "allow", tuple(sorted(reasons)), tuple(sorted(rules - {""})))


def _findings(leg: Leg, use: Use, settings: ControllerState, book: Book) -> Iterator[Finding]:
    """Ask the rules of a party of whom no more is known than the leg says."""
    cells = {row_key(use.purpose or ANY, ANY, ANY): Cell("given", GRANTED_MS, "", "", "")}
    if leg.revoked_since:
        cells[row_key(OTHER, ANY, ANY)] = Cell("withdrawn", REVOKED_MS, "", "", "")
    party = PartyView("customer", (Permissions(cells=cells),), places=(Place(leg.region, leg.zones),))
    if use.use == "dial":
        yield from dial_findings(party, use, settings, book)
    else:
        yield from record_findings(party, use, book)
