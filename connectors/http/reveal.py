"""Sealed fields in, text or an erased marker out: never an exception, never a bare null, and on record before it leaves."""

from base64 import b64decode
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import BODY_BYTES_MAX, answer, parse
from connectors.http.door import RETRY_SECS, Door
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.sealing import Erased, SealingFault
from schemas.base import Name
from schemas.labels import labels_of
from schemas.topics import ProtectedConversation

CALL = "POST /v1/open"
ITEMS_MAX = 1_000  # half a second of work
MASK = "***"
# Of the state that says what was erased. A failover or a new start takes seconds; a cluster from a backup has beats of its backup
# until its workers have obeyed the erasure ledger.
OPEN_AGE_SECS_MAX = 60
UNREADABLE = "unreadable"
# Every field that rests sealed in `conversations.protected`, by its public name, with its category.
CATEGORIES = {path: label.category for path, label in labels_of(ProtectedConversation).items() if label.sealed}


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sealed field: `field` is its path in the record (`lines.text`), `sealed` its bytes in base64."""

    controller: Name
    subject_ref: Name
    conversation_id: Name
    field: Name
    sealed: Annotated[str, msgspec.Meta(max_length=1 << 20)]


class OpenAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sealed fields to open."""

    items: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=ITEMS_MAX)]


class OpenedField(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One of: `text`, `erased` (the marker that people see), `error` (a code)."""

    text: str | None = None
    erased: str | None = None
    error: str | None = None


class Opener:
    """Opens the fields of one answer. Raises `Problem` (503) where what was erased may not be known."""

    def __init__(self, door: Door) -> None:
        self._service = door.service
        if door.state_age_ms() > OPEN_AGE_SECS_MAX * 1000:
            raise Problem("stale", retry_after_secs=RETRY_SECS)

    def open(self, controller: str, ref: str, conversation_id: str, field: str, token: bytes) -> str | Erased | None:
        """The text, the erased marker, or None when it is no such field of this controller's."""
        category = CATEGORIES.get(field)
        if category is None or "\0" in ref or "\0" in conversation_id:
            return None
        try:
            return self._service.open_field(controller, ref, conversation_id, field, token, category)
        except SealingFault:
            return None

    @staticmethod
    def show(opener: "Opener | None", controller: str, ref: str, conversation_id: str, field: str, token: object) -> str | None:
        """A field as a person sees it: masked without an opener, text or marker with one, None where there never was one."""
        if token is None:
            return None
        if opener is None or not isinstance(token, bytes):
            return MASK
        opened = opener.open(controller, ref, conversation_id, field, token)
        return opened.marker if isinstance(opened, Erased) else MASK if opened is None else opened


def _open(door: Door, token: Token, items: tuple[Sealed, ...]) -> list[OpenedField]:
    opener = Opener(door)
    found: list[OpenedField] = []
    counts: dict[str, int] = {}
    for item in items:
        if not token.sees(item.controller):
            found.append(OpenedField(error="controller-not-yours"))
            continue
        counts[item.controller] = counts.get(item.controller, 0) + 1
        try:
            data = b64decode(item.sealed, validate=True)
        except ValueError:
            found.append(OpenedField(error=UNREADABLE))
            continue
        opened = opener.open(item.controller, item.subject_ref, item.conversation_id, item.field, data)
        if isinstance(opened, Erased):
            found.append(OpenedField(erased=opened.marker))
        else:
            found.append(OpenedField(error=UNREADABLE) if opened is None else OpenedField(text=opened))
    door.accessed(token, "reveal", counts)
    return found


async def post_open(door: Door, request: Request) -> Response:
    """Open sealed fields: how a warehouse or a tool reads what it may."""
    token = door.caller(request, CALL)
    async with door.bodies.of(request, BODY_BYTES_MAX) as body:
        ask = parse(body, OpenAsk)
    return answer(await door.run(lambda: _open(door, token, ask.items)))
