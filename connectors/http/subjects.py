"""What is known of a person: found by identifier, shown masked, revealed to who may and on record before it leaves."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.door import Door
from connectors.http.links import candidates_of, links_of
from connectors.http.problems import Problem
from connectors.http.requests import cases
from connectors.http.reveal import Opener
from connectors.http.roles import REVEALERS, allows
from connectors.http.tokens import Token
from processors.fence import Fence
from processors.grounds import told_of
from processors.item import HeldBy, Item, ItemLine, ItemMedia, Masked, Planned, Pointer
from processors.item_view import end_of, is_reviewable
from processors.permissions import PART, Permissions, resolve, status_at
from schemas.base import Name, Text
from schemas.events import Identifier

SEARCH, SHOW = "POST /v1/subjects/search", "GET /v1/subjects/{subject_ref}"
SEARCHED_MAX = 100  # identifiers in one search
NOT_SEARCHED = ("metadata", "tags", "text")  # parts of a search that the contract knows and this release does not look up
CONVERSATIONS_MAX = 200  # in one answer; `truncated` says when there are more
LINES_MAX = 1_000  # of one conversation in one answer


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom to look for. Only `identifiers` are looked up in this release."""

    controller: Name
    identifiers: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=SEARCHED_MAX)] = ()
    metadata: dict[str, Text] | None = None
    tags: tuple[Name, ...] | None = None
    text: Text | None = None


class Found(msgspec.Struct, frozen=True):
    """Someone of whom something is known."""

    subject_ref: str
    conversations: list[str]
    requests: list[str]


def conversations_of(door: Door, ref: str) -> list[str]:
    """The conversations that an identifier was on, as home or as a further identifier."""
    items = (parts[0] for parts, _ in door.service.records("subject", ref, Item))
    pointers = (parts[0] for parts, _ in door.service.records("subject", ref, Pointer))
    return sorted({*items, *pointers})


def _search(door: Door, token: Token, search: Search) -> list[Found]:
    settings = door.service.settings(search.controller)
    refs = dict.fromkeys(door.refs(search.controller, ((i.kind, i.value) for i in search.identifiers), settings))
    asked = [case for case in cases(door, token, search.controller) if case.closed_ms is None]
    found: list[Found] = []
    for ref in refs:
        conversations = conversations_of(door, ref)
        requests = [case.request_id for case in asked if ref in case.refs]
        known = door.service.record("subject", ref, Permissions)
        linked = any(link.on for link in links_of(door.service, ref))
        if conversations or requests or linked or (known is not None and (known.cells or known.suppressions)):
            found.append(Found(ref, conversations, requests))
    door.accessed(token, "search", {search.controller: len(found)})
    return found


async def post_search(door: Door, request: Request) -> Response:
    """Find people by their identifiers. Every search is on record, also one that finds nobody."""
    token = door.caller(request, SEARCH)
    async with door.bodies.of(request) as body:
        search = parse(body, Search)
    door.may_touch(token, search.controller)
    for field in NOT_SEARCHED:
        if getattr(search, field):
            raise Problem("not-supported-yet", f"/{field}")
    return answer({"subjects": await door.run(lambda: _search(door, token, search))})


class _Dossier:
    """One person as far as the caller may see: every part knows whose it is, and what is another's is not there."""

    def __init__(self, door: Door, token: Token, ref: str, controller: str | None) -> None:
        self._door, self._service, self._token, self.ref = door, door.service, token, ref
        self._wanted = controller
        permissions = self._service.record("subject", ref, Permissions)
        self.permissions = permissions if permissions is not None and self._mine(permissions.controller) else None
        self.items = [(p[0], item) for p, item in self._service.records("subject", ref, Item) if self._mine(item.controller)]
        self.pointers = [(p[0], to) for p, to in self._service.records("subject", ref, Pointer) if self._mine(to.controller)]
        self.requests = [case for case in cases(door, token, controller) if ref in case.refs]
        self.links = [link for link in links_of(self._service, ref) if self._mine(link.controller)]
        self.controllers = (
            {item.controller for _, item in self.items} | {to.controller for _, to in self.pointers}
            | {link.controller for link in self.links if link.on}
            | {case.controller for case in self.requests}
            | ({self.permissions.controller} if self.permissions is not None else set())
        )  # fmt: skip
        # A fence does not say whose it is, so alone it is shown only to who may see everybody's.
        fence = self._service.record("subject", ref, Fence)
        self.fence = fence if self.controllers or token.sees_all else None

    def _mine(self, controller: str) -> bool:
        return self._token.sees(controller) and self._wanted in (None, controller)

    def shown(self, *, reveal: bool) -> dict[str, Any]:
        now_ms = self._service.clock()
        opener = Opener(self._door) if reveal else None
        conversations = [self._conversation(name, item, opener) for name, item in self.items[:CONVERSATIONS_MAX]]
        room = CONVERSATIONS_MAX - len(conversations)
        for name, to in self.pointers[:room]:
            conversations.append({"conversation_id": name, "controller": to.controller, "home": to.home})
        shared = [(name, item.controller) for name, item in self.items] + [(name, to.controller) for name, to in self.pointers]
        candidates, more = candidates_of(self._service, self.ref, shared, (link.subject_ref for link in self.links))
        return {
            "subject_ref": self.ref,
            "consents": list(self._consents(now_ms)),
            "suppressions": list(self._suppressions(now_ms)),
            "conversations": conversations,
            "holds": [
                {
                    "conversation_id": parts[0], "holds": held.holds, "terms": told_of(held.holds, held.terms),
                    "ceilings": held.ceilings,
                }
                for parts, held in self._held()
            ],
            "requests": [
                {"request_id": case.request_id, "right": case.right, "state": case.state, "due_ms": case.due_ms}
                for case in self.requests
            ],
            "links": [
                {"subject_ref": link.subject_ref, "since_ms": link.since_ms, "source": link.source}
                for link in self.links
                if link.on
            ],
            "candidates": [candidate._asdict() for candidate in candidates],
            "candidates_truncated": more,
            "fence": None if self.fence is None else msgspec.structs.asdict(self.fence),
            "truncated": len(self.items) + len(self.pointers) > CONVERSATIONS_MAX,
        }

    def _held(self) -> Iterator[tuple[tuple[str, ...], HeldBy]]:
        if self.controllers:
            found = self._service.records("subject", self.ref, HeldBy)
            yield from ((parts, held) for parts, held in found if held.holds or held.ceilings)

    def _consents(self, now_ms: int) -> Iterator[dict[str, Any]]:
        known = self.permissions
        for key in sorted(known.cells) if known is not None else ():
            purpose, channel, brand = key.split(PART)
            best = resolve(known, purpose, channel, brand) if known is not None else None
            if best is not None:
                yield {
                    "purpose": purpose, "channel": channel, "brand": brand, "status": status_at(best, now_ms),
                    "effective_ms": best.effective_ms, "valid_until_ms": best.valid_until_ms, "method": best.method,
                    "notice_version": best.notice_version, "evidence_ref": best.evidence_ref,
                }  # fmt: skip

    def _suppressions(self, now_ms: int) -> Iterator[dict[str, Any]]:
        for name, entry in sorted(self.permissions.suppressions.items()) if self.permissions is not None else ():
            if entry.blocks(now_ms):
                yield {"list": name, "since_ms": entry.effective_ms, "expires_ms": entry.expires_ms, "source": entry.source}

    def _conversation(self, name: str, item: Item, opener: "Opener | None") -> dict[str, Any]:
        service, ref = self._service, self.ref
        plain = msgspec.structs.asdict(item)
        for hidden in (*Item.SEALED, "others", "effective_ms", "lines_published"):
            del plain[hidden]

        def open_(record: Any, attribute: str) -> str | None:
            token = getattr(record, attribute)
            return Opener.show(opener, item.controller, ref, name, type(record).SEALED[attribute], token)

        lines: list[dict[str, Any]] = []
        more = False
        for parts, line in service.records("subject", ref, ItemLine, name):
            if len(lines) == LINES_MAX:
                more = True
                break
            lines.append({
                "id": "/".join(parts[1:]), "party": line.party, "employee": line.employee, "kind": line.kind,
                "offset_ms": line.offset_ms, "tag": line.tag, "text": open_(line, "text"),
            })  # fmt: skip
        heard = list(service.records("subject", ref, ItemMedia, name))
        recordings = [
            {"recording_id": recording_id, "state": x.fate or x.state, "confirmed": x.confirmed, "uri": open_(x, "uri")}
            for (_, recording_id), x in heard
        ]
        masked = next((found for _, found in service.records("subject", ref, Masked, name)), None) or Masked()
        plain["anonymised"] = masked.groups
        plain |= end_of(item, service.record("subject", ref, Planned, name))._asdict()
        plain["reviewable"] = is_reviewable(item, masked, (media.fate for _, media in heard))
        personal = {attribute: open_(item, attribute) for attribute in Item.SEALED}
        return {"conversation_id": name, **plain, **personal, "lines": lines, "more_lines": more, "recordings": recordings}


async def get_subject(door: Door, request: Request) -> Response:
    """Show a person's consents, conversations, holds, requests, links, and who was on the same conversations, for review.

    `reveal=true` opens the sealed fields.
    """
    token = door.caller(request, SHOW)
    ref = request.path_params["subject_ref"]
    reveal = request.query_params.get("reveal", "").lower() in ("true", "1")
    if reveal and not allows(token.roles, REVEALERS):
        raise Problem("role-missing", "reveal")
    controller = request.query_params.get("controller")
    if "\0" in ref or (controller is not None and not token.sees(controller)):
        raise Problem("not-found", "subject_ref")

    def look() -> dict[str, Any] | None:
        dossier = _Dossier(door, token, ref, controller)
        if not dossier.controllers and dossier.fence is None:
            return None
        found = dossier.shown(reveal=reveal)
        count = len(found["conversations"])
        door.accessed(token, "reveal" if reveal else "view", dict.fromkeys(dossier.controllers, count))
        return found

    shown = await door.run(look)
    if shown is None:
        raise Problem("not-found", "subject_ref")
    return answer(shown)
