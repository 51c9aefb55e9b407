"""Periods that no law pack carries: limits of our own, and what holds by default where nobody set anything."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
FUTURE_MS_MAX = DAY_MS  # contract section 2: a time more than 24 hours ahead is refused
SEEN_MS = 8 * DAY_MS  # contract section 1: (source, id) is remembered for 8 days

NOTICE_DAYS = 30  # what targets have to answer when the controller registered none
RETENTION_MONTHS = 24  # GDPR Art. 5(1)(e) asks for a limit; the contract's default is 24 months from the end of the conversation
IMPORT_GRACE_MS = 30 * DAY_MS  # old material that is imported is never destroyed sooner than this after its receipt


def notice_by(now_ms: int, deadline_days: Iterable[int]) -> int:
    """By when what is asked of others now must be done: the shortest period that the controller's targets have."""
    return now_ms + DAY_MS * min(deadline_days, default=NOTICE_DAYS)


def add_months(at_ms: int, months: int) -> int:
    """The corresponding moment `months` later in UTC, or the month's last day (Reg. 1182/71 Art. 3(2)(c)); no rolling."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    year, month = divmod(at.month - 1 + months, 12)
    first = at.replace(year=at.year + year, month=month + 1, day=1)
    last_day = ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    return at_ms + round((first.replace(day=min(at.day, last_day)) - at).total_seconds() * 1000)


def erase_by(ended_ms: int, received_ms: int) -> int:
    """When an item goes: 24 months after the conversation's end, never sooner than 30 days after its receipt."""
    return max(add_months(ended_ms, RETENTION_MONTHS), received_ms + IMPORT_GRACE_MS)


def day(ms: int) -> date:
    """The day of a moment, in UTC: it decides which rows are in force."""
    return datetime.fromtimestamp(ms / 1000, UTC).date()
