"""What a law pack is made of: rows with a value, places, dates and a source, and vectors that the pack is tested by."""

from datetime import date
from typing import Literal

import msgspec

Unit = Literal["hours", "days", "business_days", "months", "years"]
Kind = Literal[
    "period", "clock", "floor", "ceiling", "age", "hours", "flag", "number", "words", "ground", "basis",
]  # fmt: skip
EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Defaults are left out when a pack is encoded, so a field that a later release adds changes no pack's content hash."""


class Period(_Part, frozen=True, kw_only=True):
    """A length of time. `counting` names the version of counting that ends it (`law/counting.py`)."""

    amount: int
    unit: Unit
    counting: str = "1182_71"


class Hours(_Part, frozen=True, kw_only=True):
    """When something is allowed, in local time. `spans` are half open; weekdays are 0 (Monday) to 6.

    `holidays`: whether it is allowed on public holidays.
    """

    spans: tuple[tuple[str, str], ...]
    weekdays: tuple[int, ...] = EVERY_DAY
    holidays: bool = True


class Row(_Part, frozen=True, kw_only=True):
    """One version of one rule, for its places, from `valid_from` until the day before `valid_to`.

    `rule` is the same in every version; exactly one of `period`, `number`, `flag`, `words`, `hours` is its value. `places`: ISO
    3166-1 alpha-2, 3166-2 (`US-CA`, `GB-ENG`), `EU`, or `*`. `certainty`: V read in the primary text, S from a secondary source
    that was read, M from memory, X computed. `applies` says what the row is about. An `absolute` ceiling beats every floor.
    """

    rule: str
    kind: Kind
    places: tuple[str, ...]
    period: Period | None = None
    number: float | None = None
    flag: bool | None = None
    words: tuple[str, ...] | None = None
    hours: Hours | None = None
    extend: Period | None = None
    pauses: Literal["none", "practice", "statutory"] = "none"
    absolute: bool = False
    applies: dict[str, str] = {}
    article: str
    source: str
    certainty: Literal["V", "S", "M", "X"]
    valid_from: date
    valid_to: date | None = None
    status: Literal["law", "proposed"]
    note: str = ""

    def in_force(self, on: date) -> bool:
        """Whether the row's dates hold `on`; what is only proposed has dates as well."""
        return self.valid_from <= on and (self.valid_to is None or on < self.valid_to)


class Vector(_Part, frozen=True, kw_only=True):
    """A pack's own test: what is `received` at a place is `due` then; or what the rule `says` there, `on` a day.

    ISO 8601; a date alone means that day there. `says` reads as in `law list`: `16`, `yes`, `08:00-21:00`, or `no row`.
    """

    rule: str
    place: str
    received: str = ""
    due: str = ""
    on: date | None = None
    says: str = ""
    extended: bool = False
    paused: tuple[tuple[str, str], ...] = ()
    why: str = ""
    source: str = ""


class Pack(_Part, frozen=True, kw_only=True):
    """A version of a pack. Two texts with the same content are the same pack (`law/signing.py`)."""

    pack: str
    version: str
    title: str
    rows: tuple[Row, ...]
    vectors: tuple[Vector, ...] = ()

    @property
    def name(self) -> str:
        """How decisions and audit entries name it: `gdpr@2026.1`."""
        return f"{self.pack}@{self.version}"
