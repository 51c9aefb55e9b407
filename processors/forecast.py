"""What retention will do with an item, and when, under policies that come into force one after the other. Pure.

A policy is looked at before it is set: what it would destroy is what the item's window says at each moment at which a policy
begins or ends. The law is taken as it is in force today.
"""

from typing import NamedTuple

from law.book import Book
from processors.policies import in_force
from processors.terms import IMPORT_GRACE_MS
from processors.windows import Bound, Times, Traits, Window, window_of
from schemas.topics import ControllerState


class Fate(NamedTuple):
    """When the item goes, by which ceiling, and its recordings where they go sooner.

    `kept_by`: the floor that keeps it past its ceiling. `restricted`: that is so now.
    """

    goes_ms: int
    rule: Bound
    kept_by: Bound | None
    media_ms: int | None
    media_rule: Bound | None
    restricted: bool
    imported: bool  # it goes no sooner than its receipt allows


def fate_of(traits: Traits, ended_ms: int, received_ms: int, now_ms: int, settings: ControllerState, book: Book) -> Fate:
    """What becomes of an item from `now_ms` on, if nobody holds it."""
    changes = {p.since_ms for p in settings.policies} | {p.until_ms for p in settings.policies if p.until_ms is not None}
    moments = [now_ms, *sorted(at_ms for at_ms in changes if at_ms > now_ms)]
    media: tuple[int, Bound] | None = None
    first: Window | None = None
    for n, at_ms in enumerate(moments):
        then = _settled(settings, at_ms)
        window = window_of(traits, Times(ended_ms, received_ms, at_ms), then, book)
        first = first or window
        end_ms = moments[n + 1] if n + 1 < len(moments) else None
        if media is None and window.media is not None and window.media_ms is not None:
            when_ms = max(window.media_ms, at_ms)
            media = (when_ms, window.media) if end_ms is None or when_ms < end_ms else None
        goes_ms = max(window.goes_ms, at_ms)
        if end_ms is None or goes_ms < end_ms:
            restricted = bool(first.floors) and first.erase.at_ms <= now_ms
            kept_by = window.floors[0] if window.floors and window.floors[0].at_ms > window.erase.at_ms else None
            imported = goes_ms == received_ms + IMPORT_GRACE_MS
            media_ms, media_rule = media or (None, None)
            return Fate(goes_ms, window.erase, kept_by, media_ms, media_rule, restricted, imported)
    raise AssertionError("the last moment has no end")


def _settled(settings: ControllerState, at_ms: int) -> ControllerState:
    """The settings with the policies of one moment, which hold for as long as nothing changes."""
    return ControllerState(
        controller=settings.controller, default_region=settings.default_region, policies=in_force(settings.policies, at_ms),
    )  # fmt: skip
