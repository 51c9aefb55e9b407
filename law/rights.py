"""Which rights a person has by which law and on which lawful basis, and what holds against them: read from the law packs.

Pure: everything is a look-up of rows in force on a date. A basis alone never refuses an erasure: Art. 17(1)(a), (c) and (d) do
not turn on it, and the CCPA knows none. Only an exception holds: Art. 17(3)(a)-(e), Cal. Civ. Code §1798.105(d)(1)-(8), or what
says that no ground of Art. 17(1) has arisen. The rows are those of kind `basis` (a right, or a mark, and the bases or codes that
go with it), `ground` (exceptions, by code) and `ceiling` (what must go, whatever keeps it); docs/law-rights.md lists them.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import NamedTuple

from law.book import Book
from law.rows import Kind, Row

PLACES = {"gdpr": "EU", "uk_gdpr": "GB", "ccpa": "US-CA"}  # where each regime is in force
DEFAULT = "gdpr"  # of what was ordered before orders said by which law
ANY, NONE, OTHER = "*", "none", "other"
HOLDS = "hold"  # the effect of an exception's row; those of Art. 17(1) have the effect `erase`


class Exempt(NamedTuple):
    """What holds against a right: its code, and the rule it is of. All but the code are "" where no row knows it."""

    code: str
    rule: str = ""
    article: str = ""
    text: str = ""


class Available(NamedTuple):
    """Whether a right exists on a basis, and by which rule: "" where the regime has no such right. `text`: its conditions."""

    exists: bool
    rule: str = ""
    article: str = ""
    text: str = ""


def exceptions(right: str, regime: str, grounds: Iterable[str], book: Book, on: date) -> tuple[Exempt, ...]:
    """Each of `grounds` as the exception that it is against `right` by this law; what no row knows is `other`, once."""
    known: dict[str, Row] = {}
    for row in _rows(book, "ground", regime, on, right=right, effect=HOLDS):
        for code in row.words or ():
            if code not in known or len(row.words or ()) < len(known[code].words or ()):  # a row of its own says more
                known[code] = row
    # A duty to keep is told by its own rule (`mifid.16_7.floor`): of whose law it is, the request's does not ask.
    rows = (row for pack in book.packs for row in pack.rows if row.status == "law" and row.in_force(on))
    floors = {row.rule: row for row in rows if row.kind == "floor"}
    known = floors | known
    found = (Exempt(c, known[c].rule, known[c].article, known[c].note) if c in known else Exempt(OTHER) for c in grounds)
    return tuple(dict.fromkeys(found))


def available(right: str, basis: str, regime: str, book: Book, on: date) -> Available:
    """Whether a person may exercise `right` where the data is processed on `basis` (art6_1_a .. art6_1_f; "": on any of them)."""
    for row in _rows(book, "basis", regime, on, right=right):
        if "mark" not in row.applies:
            bases = row.words or ()
            exists = ANY in bases or basis in bases or (not basis and NONE not in bases)
            return Available(exists, row.rule, row.article, row.note)
    return Available(False)


def kept_by(mark: str, regime: str, book: Book, on: date) -> Exempt | None:
    """The exception that a compliance tag claims against an erasure by this law; None where it keeps nothing."""
    for row in _rows(book, "basis", regime, on, right="erasure", mark=mark):
        if row.words and NONE not in row.words:
            return Exempt(row.words[0], row.rule, row.article, row.note)
    return None


def ceiling(item: str, regime: str, book: Book, on: date) -> Row | None:
    """The absolute rule by which such data must go, whatever keeps it; None where this law has none."""
    return next((row for row in _rows(book, "ceiling", regime, on, item=item) if row.absolute), None)


def words(rule: str, regime: str, book: Book, on: date) -> frozenset[str]:
    """The words of a rule, such as the purposes that are direct marketing; empty where it is not in force, or in no pack."""
    return frozenset(
        word for row in book.rows("words", PLACES[regime or DEFAULT], on) if row.rule == rule for word in row.words or ()
    )


def _rows(book: Book, kind: Kind, regime: str, on: date, **about: str) -> Iterator[Row]:
    """The rows that are about all of this, and say so: a row that names no right is no rule of every right here."""
    for row in book.rows(kind, PLACES.get(regime or DEFAULT, ANY), on):
        if all(row.applies.get(key) == value for key, value in about.items()):
            yield row
