"""Knows every legal hold by its id and tells the identifiers and conversations it covers when it begins and ends."""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.grounds import code_of, later
from processors.kernel import Alarm, Audit, Effect, Emit, Incurious, Instant, Put, Receipt, State, View, Wake
from schemas.base import Record
from schemas.events import HoldPlaced, HoldReleased
from schemas.routed import Hold

EXPIRE = "expire"


class HoldRecord(State):
    """One legal hold. `released_ms` may be known before `placed_ms`: events come in any order."""

    KIND: ClassVar[str] = "hold"
    controller: str
    hold_id: str
    ground: str = ""
    authority: str | None = None
    placed_ms: int | None = None
    released_ms: int | None = None
    until_ms: int | None = None
    refs: list[str] = []
    conversations: list[str] = []
    search: dict[str, int] = {}  # what its conversations were found by, as counts


class KeepHold(Incurious):
    """Places and releases a hold, by event or when its `until` has come; the same event twice changes nothing.

    A hold that is placed again with a later `until`, or with none, ends later. Nothing else of it changes: whom it covers and on
    which ground is what was said first.
    """

    name = "keep_hold"
    READS: ClassVar[tuple[type[Record], ...]] = (HoldPlaced, HoldReleased)
    STATE: ClassVar[tuple[type[State], ...]] = (HoldRecord,)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the hold's new state and the word to those it covers."""
        old = view.get(HoldRecord) or HoldRecord(at.controller, event.hold_id)
        match event:
            case HoldPlaced():
                until = int(event.until.timestamp() * 1000) if event.until else None
                if old.placed_ms is not None:
                    yield from self._extend(old, until, at)
                    return
                hold = msgspec.structs.replace(
                    old, ground=event.ground, authority=event.authority, placed_ms=at.effective_ms, until_ms=until,
                    refs=sorted({r for r in at.envelope.refs if r}),
                    conversations=list(dict.fromkeys(event.scope.conversation_ids)),
                    search={} if event.search is None else msgspec.structs.asdict(event.search),
                )  # fmt: skip
                if hold.released_ms is not None:  # released before it was known: it never stands, and names nobody
                    yield Put(msgspec.structs.replace(hold, refs=[], conversations=[]))
                    return
                yield Put(hold)
                yield Audit("hold.opened", at.controller, {"hold": event.hold_id, "ground": code_of(event.ground),
                            "by": at.actor_hash(at.controller, at.envelope.actor), **_counts(hold)})  # fmt: skip
                yield from self._tell(hold, placed=True)
                if until is not None:
                    yield Wake(EXPIRE, until)
            case HoldReleased():
                if old.released_ms is not None:
                    return
                facts = {"hold": event.hold_id, "by": at.actor_hash(at.controller, at.envelope.actor)}
                yield from self._release(old, at.effective_ms, facts)
            case _:
                assert_never(event)

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Release the hold: its `until` has come."""
        hold = view.get(HoldRecord)
        if hold is not None and hold.released_ms is None and hold.until_ms is not None and hold.until_ms <= now.now_ms:
            yield from self._release(hold, now.now_ms, {"hold": hold.hold_id, "by": "until"})

    def _extend(self, hold: HoldRecord, until_ms: int | None, at: Receipt) -> Iterator[Effect]:
        if hold.released_ms is not None or later(hold.until_ms, until_ms) == hold.until_ms:
            return
        hold = msgspec.structs.replace(hold, until_ms=until_ms)
        yield Put(hold)
        yield Wake(EXPIRE, until_ms)
        facts = {"hold": hold.hold_id, "by": at.actor_hash(at.controller, at.envelope.actor)}
        end = {} if until_ms is None else {"until_ms": str(until_ms)}  # without it: until it is released
        yield Audit("hold.extended", at.controller, facts | end)
        yield from self._tell(hold, placed=True)

    def _release(self, hold: HoldRecord, at_ms: int, facts: dict[str, str]) -> Iterator[Effect]:
        # A released hold remembers that it was, not whom it was on: they may be forgotten now.
        yield Put(msgspec.structs.replace(hold, released_ms=at_ms, refs=[], conversations=[]))
        yield Wake(EXPIRE, None)
        yield Audit("hold.closed", hold.controller, facts)
        yield from self._tell(hold, placed=False)

    def _tell(self, hold: HoldRecord, *, placed: bool) -> Iterator[Effect]:
        told = Hold(hold_id=hold.hold_id, placed=placed, ground=code_of(hold.ground), until_ms=hold.until_ms)
        for ref in hold.refs:
            yield Emit("subject.events", (ref,), told)
        for conversation_id in hold.conversations:
            key = ("conversation", hold.controller, conversation_id)
            yield Emit("case.events", key, msgspec.structs.replace(told, conversation_id=conversation_id))


def _counts(hold: HoldRecord) -> dict[str, str]:
    """Whom and what a hold covers, and what it was found by: as counts, for the audit log names nobody."""
    counts = {"people": len(hold.refs), "conversations": len(hold.conversations)}
    return {name: str(n) for name, n in (counts | {f"search.{what}": n for what, n in hold.search.items()}).items()}
