"""Legal holds by search: one hold over all conversations that a search finds now, with its scope on record as counts."""

from typing import Annotated, Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.cloudevents import Incoming
from connectors.http.door import SOURCE, Door
from connectors.http.events import take
from connectors.http.problems import Problem
from connectors.http.subjects import NOT_SEARCHED, SEARCHED_MAX, conversations_of
from connectors.http.tokens import Token
from engine.layout import key_bytes
from processors.keep_hold import HoldRecord
from processors.roster import Roster
from schemas.base import LIST_ITEMS_MAX, Moment, Name, Names, Text
from schemas.events import HoldPlaced, HoldSearch, Identifier, Scope

PLACE = "POST /v1/holds"
HELD_MAX = LIST_ITEMS_MAX  # conversations of one hold: it is one event


class Sought(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to look for: as in a search for people, or conversations by name. Whatever any part finds is held."""

    identifiers: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=SEARCHED_MAX)] = ()
    conversation_ids: Names = ()
    metadata: dict[str, Text] | None = None
    tags: tuple[Name, ...] | None = None
    text: Text | None = None


class HoldAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A hold to place over what `search` finds."""

    controller: Name
    search: Sought
    ground: Name
    hold_id: Name | None = None
    authority: Name | None = None
    until: Moment | None = None


class HoldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The hold is durable. `not_found`: conversations that were named and of which nothing is known."""

    hold_id: str
    conversations: int
    not_found: int


class _Found(msgspec.Struct, frozen=True):
    conversations: list[str]
    people: int
    not_found: int


def _look(door: Door, token: Token, ask: HoldAsk, hold_id: str) -> _Found:
    """What the search finds, on record as a search. Raises `Problem`."""
    settings, service = door.service.settings(ask.controller), door.service
    try:
        refs = dict.fromkeys(door.refs(ask.controller, ((i.kind, i.value) for i in ask.search.identifiers), settings))
    except Problem as problem:
        fault: Problem | None = Problem(problem.code, f"/search{problem.field}")
    else:
        fault = None
    if fault is not None:
        raise fault
    theirs = {ref: conversations_of(door, ref) for ref in refs}
    named = dict.fromkeys(ask.search.conversation_ids)
    known = {
        name for name in named if "\0" not in name
        and service.record("case", key_bytes(("conversation", ask.controller, name)).decode(), Roster) is not None
    }  # fmt: skip
    found = sorted({*known, *(name for names in theirs.values() for name in names)})
    people = sum(bool(names) for names in theirs.values())
    door.accessed(token, "search", {ask.controller: people + len(known)})
    if service.record("case", key_bytes(("hold", ask.controller, hold_id)).decode(), HoldRecord) is not None:
        raise Problem("id-taken", "/hold_id")  # placed again it would cover what it covered, not what is found now
    if len(found) > HELD_MAX:
        raise Problem("too-many-items", "/search")
    if not found:
        raise Problem("nothing-found", "/search")
    return _Found(found, people, len(named) - len(known))


async def post_hold(door: Door, request: Request) -> Response:
    """Place one hold over all conversations that a search finds now: at most 1,000; what comes later is not covered.

    By identifiers, and by conversation ids; 413 when more is found, 422 when nothing is.
    """
    token = door.caller(request, PLACE)
    async with door.bodies.of(request) as body:
        ask = parse(body, HoldAsk)
    door.may_touch(token, ask.controller)
    door.may_send(token, "hold.placed")
    for field in NOT_SEARCHED:
        if getattr(ask.search, field):
            raise Problem("not-supported-yet", f"/search/{field}")
    if not ask.search.identifiers and not ask.search.conversation_ids:
        raise Problem("missing-field", "/search")
    hold_id = ask.hold_id or f"hold_{uuid4().hex}"
    found = await door.run(lambda: _look(door, token, ask, hold_id))
    sought = HoldSearch(
        identifiers=len(ask.search.identifiers), conversation_ids=len(ask.search.conversation_ids),
        found=len(found.conversations),
    )  # fmt: skip
    placed = HoldPlaced(
        hold_id=hold_id, scope=Scope(conversation_ids=tuple(found.conversations)), ground=ask.ground, authority=ask.authority,
        until=ask.until, search=sought,
    )  # fmt: skip
    await _place(door, token, ask.controller, placed)
    told = HoldAnswer(hold_id=hold_id, conversations=len(found.conversations), not_found=found.not_found)
    return answer(told, 202)


async def _place(door: Door, token: Token, controller: str, placed: HoldPlaced) -> None:
    data: dict[str, Any] = {name: value for name, value in msgspec.to_builtins(placed).items() if value is not None}
    event = Incoming(uuid4().hex, SOURCE, "hold.placed", controller, None, "application/json", msgspec.json.encode(data))
    faults = [fault for fault in await take(door, token, [event]) if fault is not None]
    if faults:
        raise faults[0]
