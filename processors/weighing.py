"""Weighs what keeps an item here, its holds, tags and floors, against what asks for it to go, and says what had to yield."""

from collections.abc import Iterator

from law.book import Book
from processors.exceptions import FLOOR, NO_PLEA, Plea, Weighed, day, of_a_recording, weigh
from processors.grounds import held_item
from processors.item import STEP, Asked, HeldBy, Item, Planned, holds_on
from processors.kernel import Audit, Effect, View, Wake
from schemas.routed import HeldItem, HoldTerms


def _floors(view: View, conversation_id: str, *, recording: bool) -> tuple[HoldTerms, ...]:
    planned = view.get(Planned, conversation_id)
    floors = planned.floors if planned is not None else ()
    return tuple(
        HoldTerms(hold_id=FLOOR + floor.rule, ground=floor.ground, until_ms=floor.until_ms) for floor in floors
        if not (recording and floor.media is False)
    )  # fmt: skip


def weigh_item(view: View, conversation_id: str, plea: Plea, book: Book, now_ms: int, *, recording: bool = False) -> Weighed:
    """Which holds and floors stand against a request for this item to go, or (`recording`) for a recording of it."""
    holds = (*holds_on(view, conversation_id), *_floors(view, conversation_id, recording=recording))
    return weigh(
        of_a_recording(holds, plea) if recording else holds, _ceilings(view, conversation_id), plea, book, day(now_ms)
    )


def weigh_holds(view: View, conversation_id: str, book: Book, now_ms: int) -> Weighed:
    """Which holds stand against the end of an item's time; its floors are in its window."""
    return weigh(holds_on(view, conversation_id), _ceilings(view, conversation_id), NO_PLEA, book, day(now_ms))


def _ceilings(view: View, conversation_id: str) -> list[str]:
    held = view.get(HeldBy, conversation_id)
    return held.ceilings if held is not None else []


def kept_against(view: View, conversation_id: str, plea: Plea, book: Book, now_ms: int) -> HeldItem | None:
    """By which grounds holds and floors keep this item against a request, and until when; None where none stands against it."""
    return held_item(conversation_id, weigh_item(view, conversation_id, plea, book, now_ms).standing)


def overruled(item: Item, weighed: Weighed, asked: Asked, book: Book, now_ms: int) -> Iterator[Effect]:
    """Put on record that an item goes although something keeps it: on which grounds, and to what each of them yields.

    Other requests, to which this did not yield, may wait for the item: they are to notice that it is gone.
    """
    if weighed.yielded:
        by = {"request": asked.request_id} if asked.request_id else {"cause": "retention"}
        facts = {f"ground.{ground}": to for ground, to in weighed.yielded.items()}
        yield Audit("hold.overruled", item.controller, by | facts, law=book.names)
        for waiting in ("erase_subject", "mask_item"):
            yield Wake(STEP, now_ms, of=waiting)


def overrule(view: View, item: Item, conversation_id: str, asked: Asked, book: Book, now_ms: int) -> Iterator[Effect]:
    """See `overruled`: of an item that a request asks for."""
    yield from overruled(item, weigh_item(view, conversation_id, asked.plea, book, now_ms), asked, book, now_ms)
