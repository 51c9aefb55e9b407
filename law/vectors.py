"""A pack's own tests: by when what was received is due, and what a rule says at a place on a day."""

from collections.abc import Iterable
from datetime import date, datetime, time

from law.book import Book
from law.calendars import PlaceUnknown, zone
from law.counting import Due, Paused, PeriodUnusable, due
from law.reading import PackRefused, title
from law.rows import Pack, Row, Vector

NOON, FIRST = time(12), time(0)
NOTHING = "no row"  # what a rule says where and when none of its rows holds


def moment_at(text: str, place: str, at: time = NOON) -> datetime:
    """An ISO 8601 time with its offset, or the place's; a date alone is that day there. Raises `ValueError`, `PlaceUnknown`."""
    found = datetime.combine(date.fromisoformat(text), at) if len(text) == 10 else datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=zone(place))


def pauses_at(pauses: Iterable[tuple[str, str]], place: str) -> list[tuple[datetime, datetime]]:
    """Pauses as (from, to); a date alone is its first moment there. Raises as `moment_at`."""
    return [(moment_at(since, place, FIRST), moment_at(to, place, FIRST)) for since, to in pauses]


def count(book: Book, rule: str, received: datetime, place: str, paused: Paused, *, extended: bool) -> tuple[Row, Due]:
    """The row of `rule` that holds at `place` when something is `received`, and by when it is due.

    Raises `PackRefused`: `unknown-rule`, `not-in-force`, `wrong-value` (no period), `no-extension`, `no-pause`; `PeriodUnusable`;
    `PlaceUnknown`.
    """
    since = received.astimezone(zone(place))
    row = book.row(rule, place, since.date())
    if row is None:
        raise PackRefused(rule, "not-in-force", f"no version of it holds at {place} on {since.date()}")
    if row.period is None:
        raise PackRefused(rule, "wrong-value", "it is no period")
    if extended and row.extend is None:
        raise PackRefused(title(row), "no-extension", "the row allows none")
    if paused and row.pauses == "none":
        raise PackRefused(title(row), "no-pause", "the row allows none")
    return row, due(row.period, since, place, extend=row.extend if extended else None, paused=paused)


def said(found: Due) -> str:
    """The due day, or where hours decide the time there."""
    return found.at.isoformat(timespec="seconds") if found.day is None else found.day.isoformat()


def value_of(row: Row) -> str:
    """The row's value in words: `1 months (1182_71), and 2 months more`, `08:00-21:00`, `16`, `yes`."""
    if row.period is not None:
        longer = f", and {row.extend.amount} {row.extend.unit} more" if row.extend is not None else ""
        return f"{row.period.amount} {row.period.unit} ({row.period.counting}){longer}"
    if row.hours is not None:
        return ", ".join(f"{a}-{b}" for a, b in row.hours.spans)
    if row.words is not None:
        return ", ".join(row.words)
    return f"{row.number:g}" if row.number is not None else "yes" if row.flag else "no"


def run_vectors(pack: Pack) -> int:
    """Ask for every vector of a pack; returns how many. Raises `PackRefused` with the vector that comes to something else."""
    book = Book([pack])
    for vector in pack.vectors:
        where = f"vector {vector.rule} {vector.place} {vector.received or vector.on}"
        try:
            found, wanted = (_counted(book, vector), vector.due) if vector.on is None else (_said(book, vector), vector.says)
        except (PeriodUnusable, PlaceUnknown, ValueError) as wrong:
            raise PackRefused(where, "wrong-vector", str(wrong)) from None
        if found is not None:
            raise PackRefused(where, "wrong-vector", f"it comes to {found}, not {wanted}")
    return len(pack.vectors)


def _counted(book: Book, vector: Vector) -> str | None:
    """What a vector comes to, where that is not what it wants."""
    place, pauses = vector.place, pauses_at(vector.paused, vector.place)
    _, found = count(book, vector.rule, moment_at(vector.received, place), place, pauses, extended=vector.extended)
    if found.day is not None:
        return None if date.fromisoformat(vector.due) == found.day else said(found)
    wanted = datetime.fromisoformat(vector.due)
    if wanted.tzinfo is None:
        raise ValueError("due: a time needs its offset from UTC")
    return None if wanted == found.at else said(found)


def _said(book: Book, vector: Vector) -> str | None:
    assert vector.on is not None, "it asks of a day"
    row = book.row(vector.rule, vector.place, vector.on)
    found = NOTHING if row is None else value_of(row)
    return None if found == vector.says else found
