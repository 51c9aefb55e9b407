"""A controller's retention policies: which of them are in force at a moment, what their periods mean, and whom they are about.

A policy's `keep_for` and `ceiling` are ISO 8601 durations of one kind of unit: `P24M`, `P5Y`, `P1Y6M`, `P90D`, `P6W`, `PT72H`.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from law.rows import Period
from processors.grounds import code_of
from processors.terms import DAY_MS, HOUR_MS, add_months
from schemas.cloudevents import millis
from schemas.events import RetentionPolicySet
from schemas.topics import RetentionPolicy

POLICIES_MAX = 256  # versions of policies that a controller has at once: each item is looked at by all of them
MONTHS_MAX, DAYS_MAX, HOURS_MAX = 1_200, 36_525, 876_600  # a hundred years
MONTHS = re.compile(r"P(?:(\d{1,3})Y)?(?:(\d{1,4})M)?", re.ASCII)
DAYS = re.compile(r"P(?:(\d{1,4})W|(\d{1,5})D)", re.ASCII)
HOURS = re.compile(r"PT(\d{1,6})H", re.ASCII)
# A basis that lets a controller keep data makes it no duty to: as a ground these bound the time, they do not prolong it.
NO_DUTY = frozenset((
    "art6_1_a", "art6_1_b", "art6_1_d", "art6_1_f", "consent", "contract", "vital_interests", "legitimate_interest",
    "legitimate_interests",
))  # fmt: skip


@lru_cache(maxsize=1_024)
def period_of(text: str) -> Period | None:
    """The period that an ISO 8601 duration says; None: it says none, or none of more than nothing and at most a hundred years.

    Years and months go together, weeks or days or hours stand alone: a month has no number of days.
    """
    if (found := MONTHS.fullmatch(text)) is not None:
        amount, most, unit = 12 * int(found[1] or 0) + int(found[2] or 0), MONTHS_MAX, "months"
    elif (found := DAYS.fullmatch(text)) is not None:
        amount, most, unit = 7 * int(found[1] or 0) + int(found[2] or 0), DAYS_MAX, "days"
    elif (found := HOURS.fullmatch(text)) is not None:
        amount, most, unit = int(found[1]), HOURS_MAX, "hours"
    else:
        return None
    return Period(amount=amount, unit=unit) if 0 < amount <= most else None  # type: ignore[arg-type]


def wrong_period(event: RetentionPolicySet) -> str | None:
    """The field of a policy that should be a period and is none."""
    if period_of(event.keep_for) is None:
        return "keep_for"
    return "ceiling" if event.ceiling is not None and period_of(event.ceiling) is None else None


def ceiling_ms(from_ms: int, period: Period) -> int:
    """When a period that bounds ends: exactly, in UTC, and never rolled over a week-end."""
    match period.unit:
        case "hours":
            return from_ms + period.amount * HOUR_MS
        case "days" | "business_days":  # shorter than it may be, if holidays are not counted out
            return from_ms + period.amount * DAY_MS
        case "months":
            return add_months(from_ms, period.amount)
        case "years":
            return add_months(from_ms, 12 * period.amount)


def floor_ms(from_ms: int, period: Period) -> int:
    """When a duty to keep ends: with the last day of the period, wherever on earth that day ends last (UTC-12).

    Reg. 1182/71 Art. 3(2): a period of months or years ends with the expiry of its last day. It never ends sooner than that.
    """
    if period.unit == "hours":
        return from_ms + period.amount * HOUR_MS
    longer = Period(amount=2 * period.amount, unit="days") if period.unit == "business_days" else period
    last = ceiling_ms(from_ms, longer)
    return (last // DAY_MS + 1) * DAY_MS + DAY_MS // 2


def is_duty(policy: RetentionPolicy) -> bool:
    """Whether a policy names a duty to keep: then `keep_for` is a floor, else it is when things go."""
    return policy.ground is not None and policy.ground.casefold() not in NO_DUTY


def policy_of(event: RetentionPolicySet, effective_ms: int, event_id: str) -> RetentionPolicy:
    """The event as it is kept."""
    return RetentionPolicy(
        policy_id=event.policy_id, selector=event.selector, keep_for=event.keep_for, ceiling=event.ceiling, ground=event.ground,
        since_ms=millis(event.since), set_ms=effective_ms, event_id=event_id,
        until_ms=None if event.until is None else millis(event.until),
    )  # fmt: skip


def _rank(policy: RetentionPolicy) -> tuple[int, str]:
    return policy.set_ms, policy.event_id


def with_policy(known: Iterable[RetentionPolicy], new: RetentionPolicy, now_ms: int) -> tuple[RetentionPolicy, ...] | None:
    """`known` with `new`, in whatever order they come; None: what was said later of this policy leaves it nothing.

    What is set of a policy holds from its `from` on, until what is set of it later, by effective time, comes into force. Versions
    that are over by now are forgotten.
    """
    others = [p for p in known if p.policy_id != new.policy_id]
    mine = [p for p in known if p.policy_id == new.policy_id]
    if any(_rank(p) >= _rank(new) and p.since_ms <= new.since_ms for p in mine):
        return None
    mine = [p for p in mine if p.since_ms < new.since_ms or _rank(p) > _rank(new)]
    mine = sorted([*mine, new], key=lambda p: p.since_ms)
    begun = [p for p in mine if p.since_ms <= now_ms]
    return tuple(sorted([*others, *begun[-1:], *mine[len(begun) :]], key=lambda p: (p.policy_id, p.since_ms)))


def in_force(policies: Iterable[RetentionPolicy], now_ms: int) -> tuple[RetentionPolicy, ...]:
    """One version of each policy that has begun and has not ended."""
    latest: dict[str, RetentionPolicy] = {}
    for policy in sorted((p for p in policies if p.since_ms <= now_ms), key=lambda p: p.since_ms):
        latest[policy.policy_id] = policy
    return tuple(p for p in latest.values() if p.until_ms is None or now_ms < p.until_ms)


def facts_of_policy(policy: RetentionPolicy) -> dict[str, str]:
    """What goes on record of a policy: its name and ground are typed by people, so only codes are repeated."""
    facts = {"policy": code_of(policy.policy_id), "keep_for": policy.keep_for, "since_ms": str(policy.since_ms)}
    more = {"ceiling": policy.ceiling, "ground": policy.ground and code_of(policy.ground),
            "until_ms": None if policy.until_ms is None else str(policy.until_ms)}  # fmt: skip
    return facts | {name: value for name, value in more.items() if value is not None}
