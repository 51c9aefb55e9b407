"""Weighs what keeps an item here, its holds, tags and floors, against what asks for it to go, and says what had to yield."""

from collections.abc import Iterator
from typing import NamedTuple

from law.book import Book
from processors.exceptions import FLOOR, NO_PLEA, Plea, Weighed, of_a_recording, weigh
from processors.grounds import held_item
from processors.item import STEP, HeldBy, Item, holds_on, is_on_hold
from processors.item_end import Asked
from processors.kernel import Audit, Context, Effect, View, Wake
from processors.terms import day
from processors.traits import window_for
from schemas.routed import HeldItem, HoldTerms


class Scales(NamedTuple):
    """What is weighed by: a controller's settings and law at a moment (epoch ms)."""

    at: Context
    controller: str
    now_ms: int

    @property
    def book(self) -> Book:
        """The law packs in force for the controller. Raises `PackRefused`."""
        return self.at.law(self.controller)


def _floors(view: View, conversation_id: str, by: Scales, *, recording: bool) -> tuple[HoldTerms, ...]:
    """The duties that keep the item by the policies and the law of this moment: its plan may not know of them yet."""
    item = view.get(Item, conversation_id)
    floors = window_for(view, conversation_id, item, by.at, by.now_ms).floors if item is not None else ()
    return tuple(
        HoldTerms(hold_id=FLOOR + floor.rule, ground=floor.ground, until_ms=floor.at_ms) for floor in floors
        if not (recording and floor.media is False)
    )  # fmt: skip


def is_kept(view: View, conversation_id: str, by: Scales) -> bool:
    """Whether a legal hold or a duty keeps this item as it is. A compliance tag does not: it stands against single requests."""
    return is_on_hold(view, conversation_id, marks=False) or bool(_floors(view, conversation_id, by, recording=False))


def weigh_item(view: View, conversation_id: str, plea: Plea, by: Scales, *, recording: bool = False) -> Weighed:
    """Which holds and floors stand against a request for this item to go, or (`recording`) for a recording of it."""
    holds = (*holds_on(view, conversation_id), *_floors(view, conversation_id, by, recording=recording))
    against = of_a_recording(holds, plea) if recording else holds
    return weigh(against, _ceilings(view, conversation_id), plea, by.book, day(by.now_ms))


def weigh_holds(view: View, conversation_id: str, by: Scales) -> Weighed:
    """Which holds stand against the end of an item's time; its floors are in its window."""
    return weigh(holds_on(view, conversation_id), _ceilings(view, conversation_id), NO_PLEA, by.book, day(by.now_ms))


def _ceilings(view: View, conversation_id: str) -> list[str]:
    held = view.get(HeldBy, conversation_id)
    return held.ceilings if held is not None else []


def kept_against(view: View, conversation_id: str, plea: Plea, by: Scales) -> HeldItem | None:
    """By which grounds holds and floors keep this item against a request, and until when; None where none stands against it."""
    return held_item(conversation_id, weigh_item(view, conversation_id, plea, by).standing)


def overruled(item: Item, weighed: Weighed, asked: Asked, by: Scales) -> Iterator[Effect]:
    """Put on record that an item goes although something keeps it: on which grounds, and to what each of them yields.

    Other requests, to which this did not yield, may wait for the item: they are to notice that it is gone.
    """
    if weighed.yielded:
        facts = {"request": asked.request_id} if asked.request_id else {"cause": "retention"}
        facts |= {f"ground.{ground}": to for ground, to in weighed.yielded.items()}
        yield Audit("hold.overruled", item.controller, facts, law=by.book.names)
        for waiting in ("erase_subject", "mask_item"):
            yield Wake(STEP, by.now_ms, of=waiting)


def overrule(view: View, item: Item, conversation_id: str, asked: Asked, by: Scales) -> Iterator[Effect]:
    """See `overruled`: of an item that a request asks for."""
    yield from overruled(item, weigh_item(view, conversation_id, asked.plea, by), asked, by)
