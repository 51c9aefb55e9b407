"""What may be told of a hold: its ground as a code, its end, and what both say of the items that it keeps.

An item may be kept by several holds. It goes when the last of them ends, so its `until_ms` is the latest of theirs, and None
(until released) where one of them has no end of its own.
"""

import re
from collections.abc import Iterable, Mapping

from processors.exceptions import TAG
from schemas.routed import HeldItem, HoldTerms

# GDPR Art. 17(3), Cal. Civ. Code §1798.105(d) and legal holds have codes (art17_3_e, ccpa_d_8, litigation). A ground is typed by
# people, and audit entries stay for good: what is no code is told as `other`. The list of holds says it in full.
CODE = re.compile(r"(?!.*[0-9]{5})[A-Za-z][A-Za-z0-9_.:-]{0,63}", re.ASCII)
OTHER = "other"
GROUNDS_MAX = 8  # of one item, and in one audit entry
ITEMS_TOLD_MAX = 100  # held items that an identifier names to its request; it counts all of them

Terms = Mapping[str, tuple[str, int | None]]  # hold → ground, until


def code_of(ground: str) -> str:
    """The ground where it is a code, else `other`."""
    return ground if CODE.fullmatch(ground) else OTHER


def later(a: int | None, b: int | None) -> int | None:
    """The later of two ends; None is without end."""
    return None if a is None or b is None else max(a, b)


def with_terms(terms: Terms, told: Iterable[HoldTerms]) -> dict[str, tuple[str, int | None]]:
    """`terms` with what was told of further holds. An end only moves later, in whatever order it is told.

    Of a mark the roster has put its words in order: what it told last is what holds.
    """
    grown = dict(terms)
    for one in told:
        known = grown if not one.hold_id.startswith(TAG) else {}
        ground, until_ms = known.get(one.hold_id, (one.ground or OTHER, one.until_ms))
        grown[one.hold_id] = (ground, later(until_ms, one.until_ms))
    return grown


def told_of(holds: Iterable[str], terms: Terms) -> tuple[HoldTerms, ...]:
    """What is known of some holds, to be told on."""
    known = ((hold_id, *terms.get(hold_id, (OTHER, None))) for hold_id in holds)
    return tuple(HoldTerms(hold_id=hold_id, ground=ground, until_ms=until_ms) for hold_id, ground, until_ms in known)


def held_item(conversation_id: str, holds: Iterable[HoldTerms]) -> HeldItem | None:
    """One item as its holds keep it; None where there are none."""
    every = tuple(holds)
    if not every:
        return None
    until_ms = every[0].until_ms
    for hold in every:
        until_ms = later(until_ms, hold.until_ms)
    grounds = sorted({hold.ground or OTHER for hold in every})
    return HeldItem(conversation_id=conversation_id, grounds=tuple(grounds[:GROUNDS_MAX]), until_ms=until_ms)


def facts_of(items: Iterable[HeldItem]) -> dict[str, str]:
    """Facts for an audit entry, by ground: how many items, and when the last of them goes.

    `ground.CODE` is a count; `until_ms.CODE` a time, or `released`. An item with several grounds counts for each of them. Grounds
    past the limit count as `other`.
    """
    counts: dict[str, int] = {}
    ends: dict[str, int | None] = {}
    for item in items:
        for ground in item.grounds:
            name = ground if ground in counts or len(counts) < GROUNDS_MAX else OTHER
            counts[name] = counts.get(name, 0) + 1
            ends[name] = later(ends[name], item.until_ms) if name in ends else item.until_ms
    facts = {f"ground.{name}": str(count) for name, count in counts.items()}
    return facts | {f"until_ms.{name}": "released" if end is None else str(end) for name, end in ends.items()}
