"""A request's clock by the law packs: which rule it runs by, when its answer is due, and whether it may stand still."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from law.book import Book
from law.calendars import day_at, is_place
from law.counting import due
from law.places import chain
from law.rights import PLACES
from law.rows import Row
from processors.kernel import Receipt

RESPOND = {"gdpr": "gdpr.art12.response", "uk_gdpr": "uk_gdpr.art12.response", "ccpa": "ccpa.respond"}
RESPOND_TO = {("ccpa", "opt_out_sale"): "ccpa.opt_out", ("ccpa", "limit_sensitive"): "ccpa.limit"}
CONFIRM = {"ccpa": "ccpa.confirm"}

Pauses = Sequence[tuple[int, int]]


class Clock(NamedTuple):
    """What a request runs by: the row of the law on the day of its receipt, the place that counts, the pack's version."""

    row: Row
    place: str
    received_ms: int
    law: str
    confirm: Row | None = None

    def due_ms(self, *, extended: bool = False, pauses: Pauses = ()) -> int:
        """When the answer is due, epoch ms; `pauses` are (from, to) in epoch ms."""
        period, extend = self.row.period, self.row.extend if extended else None
        assert period is not None, "a rule of a period has one: packs are checked when they are read"
        stood = [(_moment(since), _moment(to)) for since, to in pauses]
        return _ms(due(period, _moment(self.received_ms), self.place, extend=extend, paused=stood).at)

    @property
    def confirm_ms(self) -> int | None:
        """By when the receipt must be confirmed, where the regime asks for that (11 CCR §7021(a))."""
        if self.confirm is None or self.confirm.period is None:
            return None
        return _ms(due(self.confirm.period, _moment(self.received_ms), self.place).at)

    @property
    def may_pause(self) -> bool:
        """Whether the clock may stand still, by statute or by practice of the authorities."""
        return self.row.pauses != "none"

    @property
    def may_extend(self) -> bool:
        """Whether the period can be made longer."""
        return self.row.extend is not None


def place_of(regime: str, region: str | None) -> str:
    """Where the days of a regime are counted: the controller's region if the regime holds there, else the regime's own place."""
    home = PLACES[regime]
    return region if region and home in chain(region) and is_place(region) else home


def clock_of(book: Book, regime: str, right: str, place: str, received_ms: int) -> Clock:
    """The clock of a request that was received then. Raises `law.reading.PackRefused` where no pack has the rule."""
    rule, on = RESPOND_TO.get((regime, right), RESPOND[regime]), day_at(place, _moment(received_ms))
    row = book.row(rule, place, on) or book.first(rule, place)
    confirm = CONFIRM.get(regime) if rule == RESPOND[regime] else None
    return Clock(
        row, place, received_ms, book.pack_of(row).name, None if confirm is None else book.row(confirm, place, on)
    )  # fmt: skip


def clock_here(regime: str, right: str, at: Receipt) -> Clock:
    """The clock of what is received now, in the place of the controller's settings."""
    place = place_of(regime, at.settings(at.controller).default_region)
    return clock_of(at.law(at.controller), regime, right, place, at.receipt_ms)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
