"""What stands against a request to erase: of the holds, floors and marks on an item, those that its law lets stand.

Three things decide, each a row of the law packs (docs/law-rights.md):

* A hold that somebody placed stands against every request but one for card authentication data (PCI DSS 3.3.1): destroying it is
  not a matter of rights. It stands against Art. 17(1)(d) too, for Art. 17(3) is an exception to Art. 17(1) as a whole.
* What a compliance tag claims stands only where the request's own law knows such an exception. Neither a tag nor a duty to keep
  stands for data that was processed unlawfully: what may not be held cannot be necessary to hold.
* Legitimate interests (6(1)(f)) yield to an objection (Art. 17(1)(c), 21(1)).
"""

from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

import msgspec

from law.book import Book
from law.rights import ceiling, kept_by
from schemas.routed import HoldTerms

TAG = "tag:"  # a hold's id that begins so is a mark's: no other hold may (`admit_event`)
FLOOR = "floor\x1f"  # and one that begins so is a duty to keep (`windows.py`): no name has such a sign
INTERESTS = "art6_1_f"
UNLAWFUL, CARD_DATA = "unlawful", "card_authentication_data"  # as ceilings call these items
CEILINGS = (CARD_DATA, UNLAWFUL)
OBJECTION = "objection"
OTHER_LAW = "regime"  # the request's law knows no such exception


class Plea(NamedTuple):
    """By which law something is asked to go, and on which ground of Art. 17(1); both "" where no request asks."""

    regime: str = ""
    ground: str = ""


NO_PLEA = Plea()


class Weighed(NamedTuple):
    """The holds that stand against a plea, and of the others to what each yields, by ground."""

    standing: tuple[HoldTerms, ...]
    yielded: dict[str, str]


def weigh(holds: Iterable[HoldTerms], ceilings: Iterable[str], plea: Plea, book: Book, on: date) -> Weighed:
    """Which of `holds` stand against `plea`. A mark is told by the exception of the request's own law."""
    marked = {*ceilings} | ({plea.ground} & {UNLAWFUL})
    above = [name for name in CEILINGS if name in marked and ceiling(name, plea.regime, book, on) is not None]
    standing: list[HoldTerms] = []
    yielded: dict[str, str] = {}
    for hold in holds:
        own, to = hold, None
        if CARD_DATA in above:
            to = CARD_DATA
        elif hold.hold_id.startswith(FLOOR):
            to = UNLAWFUL if UNLAWFUL in above else None
        elif hold.hold_id.startswith(TAG):
            mark = hold.hold_id.removeprefix(TAG)
            exempt = kept_by(mark, plea.regime, book, on)
            if UNLAWFUL in above:
                to = UNLAWFUL
            elif exempt is None:
                to = OTHER_LAW
            elif mark == INTERESTS and plea.ground == OBJECTION:
                to = OBJECTION
            else:
                own = msgspec.structs.replace(hold, ground=exempt.code)
        if to is None:
            standing.append(own)
        else:
            yielded[hold.ground] = to
    return Weighed(tuple(standing), yielded)


def of_a_recording(holds: Iterable[HoldTerms], plea: Plea) -> list[HoldTerms]:
    """The holds that may keep a recording: everybody's voice, so nobody's interests keep it against who asks for it to go."""
    return [hold for hold in holds if not plea.regime or hold.hold_id != TAG + INTERESTS]
