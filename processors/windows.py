"""How long an item is kept: floors forbid its end, ceilings its stay, from law packs and a controller's policies.

`keep_until` is the latest of the floors, `erase_by` the earliest of the ceilings (GDPR Art. 5(1)(e), 17(3)(b)). Where they clash
the floor wins for its own purpose, and for everything else the item is restricted from `erase_by` on (Art. 18(2)). An
absolute ceiling cuts every floor. The rules are pure; times are epoch milliseconds, and all of them count from the end of the
conversation, or its start while no end is known.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from law.book import Book
from law.rows import Row
from processors.grounds import code_of
from processors.policies import ceiling_ms, floor_ms, in_force, is_duty, period_of
from processors.terms import IMPORT_GRACE_MS, day, erase_by
from schemas.topics import ControllerState, RetentionPolicy

DEFAULT, POLICY = "default_period", "policy"  # the rules that are no row of a pack: the 24 months, and a controller's own
# What a row may be about, of what an item is known by. A row that is about something else (a consent, a list) is about no item,
# and so is a floor or a ceiling that is about everything: a pack cannot know every conversation.
MATCHED = frozenset(("purpose", "tag", "basis", "channel", "media", "item"))
CHOSEN = frozenset(("purpose", "tag", "basis", "item"))


class Traits(NamedTuple):
    """What rules look at in an item. `places`: the party's and the controller's, as codes of ISO 3166."""

    channel: str
    purposes: frozenset[str]
    basis: str | None
    tags: frozenset[str]  # case-folded
    places: tuple[str, ...]
    ceilings: frozenset[str] = frozenset()  # the marks under which it must go (`exceptions.CEILINGS`), as its roster told them


class Bound(NamedTuple):
    """A floor or a ceiling of one item. `media`: of its recordings only (True), of all but these (False), of both (None)."""

    at_ms: int
    rule: str  # a row's id, POLICY or DEFAULT
    origin: str = ""  # the pack with its version, or the policy's name as a code
    media: bool | None = None
    ground: str = ""  # of a floor: a code, told to the person
    purpose: str = ""  # of a floor: what it may be used for, "" where the duty names none
    absolute: bool = False

    @property
    def facts(self) -> dict[str, str]:
        """Facts for an audit entry: which rule, of which version or policy."""
        name = "policy" if self.rule == POLICY else "pack"
        return {"rule": self.rule} | ({name: self.origin} if self.origin else {})


class Window(NamedTuple):
    """What is to become of an item and its recordings. `floors` are those that still stand, the longest first."""

    erase: Bound
    floors: tuple[Bound, ...] = ()
    media: Bound | None = None  # the ceiling of recordings, where they go sooner than the item
    media_ms: int | None = None  # when they go: past their ceiling and the floors that are theirs

    @property
    def keep_until_ms(self) -> int | None:
        """The end of the last floor; None where none stands."""
        return self.floors[0].at_ms if self.floors else None

    @property
    def goes_ms(self) -> int:
        """When the item goes, if nothing changes and nobody holds it."""
        return max(self.erase.at_ms, self.keep_until_ms or 0)

    @property
    def is_default(self) -> bool:
        """Whether nothing but the default period speaks of the item."""
        return self.erase.rule == DEFAULT and not self.floors and self.media is None


class Times(NamedTuple):
    """What periods of an item are counted from, and now."""

    ended_ms: int
    received_ms: int
    now_ms: int


def window_of(traits: Traits, times: Times, settings: ControllerState, book: Book) -> Window:
    """The window of an item under a controller's policies and the law that is in force now."""
    policies = in_force(settings.policies, times.now_ms) if settings.policies else ()
    known = traits.purposes or traits.tags or traits.basis or traits.ceilings
    rows = _rows(book, traits.places, day(times.now_ms)) if known else ()
    rows = tuple(row for row in rows if _is_on(row, traits))
    if not policies and not rows:  # nearly every item
        return Window(Bound(erase_by(times.ended_ms, times.received_ms), DEFAULT))
    bounds = [*_of_policies(policies, traits, times), *_of_rows(rows, traits, times, book)]
    ceilings = [bound for bound, is_floor in bounds if not is_floor]
    default = Bound(erase_by(times.ended_ms, times.received_ms), DEFAULT)
    if not any(c.rule == POLICY and c.media is not True for c in ceilings):
        ceilings.append(default)
    elif not any(c.rule == POLICY and c.media is not False for c in ceilings):
        ceilings.append(default._replace(media=True))
    erase = min((c for c in ceilings if c.media is not True), key=_soonest)
    cut_ms = min((c.at_ms for c in ceilings if c.absolute and c.media is not True), default=None)
    floors = sorted(_standing([b for b, is_floor in bounds if is_floor], cut_ms, times.now_ms), key=lambda f: (-f.at_ms, f.rule))
    window = Window(erase, tuple(floors))
    media = min((c for c in ceilings if c.media is not False), key=_soonest, default=erase)
    media = min(media, erase, key=_soonest)
    cut_ms = min((c.at_ms for c in ceilings if c.absolute and c.media is not False), default=None)
    theirs = _standing([f for f in floors if f.media is not False], cut_ms, times.now_ms)
    media_ms = max([media.at_ms, *(f.at_ms for f in theirs)])
    return window if media_ms >= window.goes_ms else Window(erase, tuple(floors), media, media_ms)


def law_stamp(book: Book, now_ms: int) -> str:
    """What of a book decides about retention today: it changes with the pack's version, and on the day a row comes or goes."""
    return _stamp(book, day(now_ms))


@lru_cache(maxsize=256)
def _stamp(book: Book, on: date) -> str:
    rows = (row for pack in book.packs for row in pack.rows if row.kind in ("floor", "ceiling") and row.in_force(on))
    return " ".join([book.names, *(f"{row.rule}/{row.valid_from}" for row in rows)])


@lru_cache(maxsize=4_096)
def _rows(book: Book, places: tuple[str, ...], on: date) -> tuple[Row, ...]:
    """Floors and ceilings of all places, each once: the longest floor and the shortest ceiling win anyway."""
    found = [row for place in places for kind in ("floor", "ceiling") for row in book.rows(kind, place, on)]
    kept = {id(row): row for row in found if MATCHED >= row.applies.keys() and CHOSEN & row.applies.keys() and row.period}
    return tuple(kept.values())


def _of_rows(rows: Iterable[Row], traits: Traits, times: Times, book: Book) -> Iterator[tuple[Bound, bool]]:
    for row in rows:
        period = row.period
        assert period is not None, "rows without one are left out"
        for place in traits.places:
            book.row(row.rule, place, day(times.now_ms))  # asked by name: a replay notes which rules an outcome rests on
        media = True if row.applies.get("media") == "recording" else None
        origin = book.pack_of(row).name
        if row.kind == "floor":
            # The purpose in `applies` says which conversations must be kept (those of marketing), not what they are kept for.
            yield Bound(floor_ms(times.ended_ms, period), row.rule, origin, media, row.rule), True
        else:
            at_ms = ceiling_ms(times.ended_ms, period)
            at_ms = at_ms if row.absolute else max(at_ms, times.received_ms + IMPORT_GRACE_MS)
            yield Bound(at_ms, row.rule, origin, media, absolute=row.absolute), False


def _is_on(row: Row, traits: Traits) -> bool:
    for key, value in row.applies.items():
        if not _matches(key, value, traits):
            return False
    return True


def _matches(key: str, value: str, traits: Traits) -> bool:
    match key:
        case "purpose":
            return value in traits.purposes
        case "tag":
            return value.casefold() in traits.tags
        case "basis":
            return value == traits.basis
        case "channel":
            return value == traits.channel
        case "item":
            return value in traits.ceilings
    return key == "media" and value == "recording"


def _of_policies(policies: Iterable[RetentionPolicy], traits: Traits, times: Times) -> Iterator[tuple[Bound, bool]]:
    for policy in policies:
        if not _is_about(policy, traits):
            continue
        name, media = code_of(policy.policy_id), policy.selector.media
        keep, ceiling = period_of(policy.keep_for), period_of(policy.ceiling) if policy.ceiling else None
        assert keep is not None, "a policy's periods are looked at when it is set"
        ends = [ceiling] if is_duty(policy) else [keep, ceiling]
        if is_duty(policy):
            ground = code_of(policy.ground or "")
            yield Bound(floor_ms(times.ended_ms, keep), POLICY, name, media, ground, policy.selector.purpose or ""), True
        for period in ends:
            if period is not None:
                at_ms = max(ceiling_ms(times.ended_ms, period), times.received_ms + IMPORT_GRACE_MS)
                yield Bound(at_ms, POLICY, name, media), False


def _is_about(policy: RetentionPolicy, traits: Traits) -> bool:
    selector = policy.selector
    return (
        selector.channel in (None, traits.channel) and selector.basis in (None, traits.basis)
        and (selector.purpose is None or selector.purpose in traits.purposes)
        and (selector.tag is None or selector.tag.casefold() in traits.tags)
    )  # fmt: skip


def _standing(floors: Iterable[Bound], cut_ms: int | None, now_ms: int) -> list[Bound]:
    """The floors that have not ended, each cut where an absolute ceiling ends it."""
    cut = (f if cut_ms is None or f.at_ms <= cut_ms else f._replace(at_ms=cut_ms) for f in floors)
    return [f for f in cut if f.at_ms > now_ms]


def _soonest(bound: Bound) -> tuple[int, bool, str]:
    """Of two ceilings at one time the one that is no default names the reason."""
    return bound.at_ms, bound.rule == DEFAULT, bound.rule
