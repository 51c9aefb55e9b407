"""The rows of the law packs that a decision asks for, per place and day: looked up once, since a place has many people.

What a row does not say nobody makes up: a rule that no pack here has denies nothing and explains nothing.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from typing import NamedTuple

from law.book import Book
from law.reading import PackRefused
from law.rows import Row
from processors.uses import PartyView, Reason, Use
from schemas.places import NOWHERE, Place, clock

PLACE_DAYS_MAX = 4096  # places × days × books: a few days of every place that people call
EARLIEST_MS = -2_208_988_800_000  # 1900: older than every row; a publisher's or an asker's year 1 has no day before it
SAME_FOR_ALL = "*"
# Which rules stand behind a reason that consents and lists give, per use: they explain, and decide nothing.
BEHIND: dict[str, dict[Reason, tuple[str, ...]]] = {
    SAME_FOR_ALL: {
        "consent_withdrawn": ("gdpr.art7.withdrawal_as_easy",),
        "withdrawal_pending": ("gdpr.art7.withdrawal_as_easy",),
        "objection": ("gdpr.art21.marketing_absolute",),
        "gpc": ("us.gpc_honoured",),
    },
    "dial": {
        "consent_unknown": ("eu.marketing.opt_in",),
        "consent_refused": ("eu.marketing.opt_in",),
        "consent_expired": ("eu.marketing.opt_in",),
        "consent_withdrawn": ("tcpa.revocation",),
        "withdrawal_pending": ("tcpa.revocation",),
        "company_dnc": ("tcpa.company_dnc",),
        "national_dnc": ("tcpa.64_1200_c_2.national_dnc",),
    },
    "record": {
        "consent_unknown": ("us.recording.all_party",),
        "consent_refused": ("us.recording.all_party",),
        "consent_expired": ("us.recording.all_party",),
        "consent_withdrawn": ("us.recording.all_party",),
    },
    "train": {"consent_unknown": ("eu.training.prior_consent",), "consent_refused": ("eu.training.prior_consent",)},
}


class LocalRules(NamedTuple):
    """What holds at a place on a day. A flag that a row sets to false is as no row."""

    hours: tuple[Row, ...] = ()
    ages: tuple[Row, ...] = ()
    opt_in: Row | None = None
    dnc_age: Row | None = None
    revoke_all: Row | None = None
    all_party: Row | None = None
    training: Row | None = None


def rules_at(book: Book, region: str, on: date) -> LocalRules:
    """Find the rows that hold at `region` (ISO 3166, empty for nowhere) on a day."""
    return _kept_rules(book, region, on) if type(book) is Book else _rules_at(book, region, on)


def rule_at(book: Book, rule: str, region: str, on: date) -> Row | None:
    """The row of a rule, if it holds there and is no flag that says no."""
    return _kept_rule(book, rule, region, on) if type(book) is Book else _rule_at(book, rule, region, on)


def _rules_at(book: Book, region: str, on: date) -> LocalRules:
    return LocalRules(
        hours=tuple(book.rows("hours", region, on)),
        ages=tuple(book.rows("age", region, on)),
        opt_in=rule_at(book, "eu.marketing.opt_in", region, on),
        dnc_age=rule_at(book, "tcpa.national_dnc.age_days", region, on),
        revoke_all=rule_at(book, "tcpa.revoke_all", region, on),
        all_party=rule_at(book, "us.recording.all_party", region, on),
        training=rule_at(book, "eu.training.prior_consent", region, on),
    )


def _rule_at(book: Book, rule: str, region: str, on: date) -> Row | None:
    try:
        row = book.row(rule, region, on)
    except PackRefused:
        return None
    return None if row is None or row.flag is False else row


# A book never changes, so its answers are kept; one of another class may watch what it is asked, and is asked each time.
_kept_rules = lru_cache(maxsize=PLACE_DAYS_MAX)(_rules_at)
_kept_rule = lru_cache(maxsize=PLACE_DAYS_MAX)(_rule_at)


def local_times(place: Place, at_ms: int) -> Iterator[datetime]:
    """The time on the clocks of the place, one for each zone it may be in; none when a zone is none."""
    for zone in place.zones:
        kept = clock(zone)
        if kept is not None:
            yield _local(at_ms, kept)


def days_at(place: Place, at_ms: int) -> set[date]:
    """The day it is at the place: two where its zones are on either side of midnight; the day of UTC where nobody knows."""
    return {local.date() for local in local_times(place, at_ms)} or {_local(at_ms, UTC).date()}


def _local(at_ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(max(at_ms, EARLIEST_MS) / 1000, zone)


def rules_of(party: PartyView, at_ms: int, book: Book) -> Iterator[tuple[Place, LocalRules]]:
    """Each place of a party with its rules, once for each day it is there; of somebody without a place those of everywhere."""
    for place in party.places or (NOWHERE,):
        for day in days_at(place, at_ms):
            yield place, rules_at(book, place.region, day)


def behind(reason: Reason, use: Use, party: PartyView, book: Book) -> Iterator[str]:
    """The rules of a party's places that stand behind a reason."""
    for rule in (*BEHIND[SAME_FOR_ALL].get(reason, ()), *BEHIND.get(use.use, {}).get(reason, ())):
        for place in party.places or (NOWHERE,):
            if any(rule_at(book, rule, place.region, day) is not None for day in days_at(place, use.at_ms)):
                yield rule
