"""Retention at the door: what the policies, or proposed ones, would destroy and when; and what is due now, destroyed now."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.cloudevents import millis
from connectors.http.door import Door
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.deployment import Deployment, Rung
from engine.effects import AUDIT_TOPIC
from law.book import Book
from law.reading import PackRefused
from processors.forecast import Fate, fate_of
from processors.item import HeldBy, Item, ItemMedia, Tagged
from processors.policies import policy_of, with_policy, wrong_period
from processors.traits import traits_of
from schemas.base import Moment, Name
from schemas.codec import decode_as
from schemas.events import RetentionPolicySet
from schemas.topics import AuditEntry, ControllerState

PREVIEW, PROPOSED, RUN = "GET /v1/retention/preview", "POST /v1/retention/preview", "POST /v1/admin/retention/now"
ITEMS_MAX = 20_000  # looked at in one answer: `next` goes on
LISTED_MAX = 1_000
POLICIES_MAX = 64
NEVER_MS = 1 << 62


class PreviewAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Policies to be looked at as if they were set now, besides those that are; one of a name that is set takes its place."""

    controller: Name
    policies: Annotated[tuple[RetentionPolicySet, ...], msgspec.Meta(min_length=1, max_length=POLICIES_MAX)]
    before: Moment | None = None
    after: str = ""


class Going(msgspec.Struct, frozen=True):
    """What goes, when, and by which ceiling. `what`: the conversation of this identifier, or only its recordings.

    `kept_by`: the duty that keeps it until then, past its ceiling. `imported`: it is old, and gets its time from its receipt.
    """

    subject_ref: str
    conversation_id: str
    what: str
    goes_ms: int
    rule: str
    origin: str
    kept_by: str
    imported: bool


class Preview(msgspec.Struct, kw_only=True):
    """A part of the answer, and the counts of this part. `next`: where the following one begins; None at the end.

    `listed` is what goes before the time that was asked about.

    `by_month` and `by_rule` count what goes, if nobody holds it: conversations (each once for every identifier that has it) and
    recordings. `held` items wait for their release and count nowhere else. `earlier`, `later`: than without what is proposed.
    """

    controller: str
    as_of_ms: int
    law_pack: str
    items: int = 0
    held: int = 0
    restricted: int = 0
    imported: int = 0
    earlier: int = 0
    later: int = 0
    by_month: dict[str, dict[str, int]] = {}
    by_rule: dict[str, dict[str, int]] = {}
    listed: list[Going] = []
    next: str | None = None


class Ran(msgspec.Struct, frozen=True):
    """What retention has destroyed since it was asked to, by rule: entries of the audit log."""

    as_of_ms: int
    finished: bool
    conversations: dict[str, int]
    recordings: dict[str, int]


class _Owner:
    """What of one dossier bears on its items."""

    def __init__(self, service: Deployment, owner: str) -> None:
        self.name = owner
        self.tagged = {parts[0]: found for parts, found in service.records("subject", owner, Tagged)}
        self.held = {parts[0]: found for parts, found in service.records("subject", owner, HeldBy)}

    def is_held(self, conversation_id: str) -> bool:
        return any(scope in self.held and self.held[scope].holds for scope in (conversation_id, "*"))


def preview(service: Deployment, controller: str, proposed: ControllerState | None, before_ms: int, after: str) -> Preview:
    """One part. Raises `ValueError` for an `after` that is no place."""
    now_ms, present, book = service.clock(), service.settings(controller), service.law(controller)
    found = Preview(controller=controller, as_of_ms=now_ms, law_pack=book.names)
    months: dict[str, Counter[str]] = {}
    rules: dict[str, Counter[str]] = {}
    owner: _Owner | None = None
    for place, name, (conversation_id,), item in service.every("subject", Item, after):
        if found.items == ITEMS_MAX or len(found.listed) >= LISTED_MAX:
            found.next = after
            break
        after = place
        if item.controller != controller:
            continue
        owner = owner if owner is not None and owner.name == name else _Owner(service, name)
        found.items += 1
        if owner.is_held(conversation_id):
            found.held += 1
            continue
        marked = owner.tagged.get(conversation_id), owner.held.get(conversation_id)
        fate = _fate(item, *marked, proposed or present, book, now_ms)
        recordings = _recordings(service, name, conversation_id) if fate.media_ms is not None else 0
        if proposed is not None:
            was = _fate(item, *marked, present, book, now_ms)
            sooner = recordings > 0 and (fate.media_ms or NEVER_MS) < (was.media_ms or NEVER_MS)
            found.earlier += sooner or fate.goes_ms < was.goes_ms
            found.later += fate.goes_ms > was.goes_ms
        found.restricted += fate.restricted
        found.imported += fate.imported
        for going in _goings(name, conversation_id, fate, recordings):
            count = recordings if going.what == "recordings" else 1
            months.setdefault(_month(going.goes_ms), Counter())[going.what] += count
            rules.setdefault(f"{going.rule} {going.origin}".strip(), Counter())[going.what] += count
            if going.goes_ms < before_ms:
                found.listed.append(going)
    found.by_month = {label: dict(months[label]) for label in sorted(months)}
    found.by_rule = {label: dict(rules[label]) for label in sorted(rules)}
    return found


def _fate(
    item: Item, tagged: Tagged | None, held: HeldBy | None, settings: ControllerState, book: Book, now_ms: int
) -> Fate:  # fmt: skip
    ended_ms = item.ended_ms or item.started_ms
    return fate_of(traits_of(item, tagged, held, settings), ended_ms, item.received_ms, now_ms, settings, book)


def _recordings(service: Deployment, owner: str, conversation_id: str) -> int:
    """How many recordings nobody has ordered away."""
    return sum(not media.fate for _, media in service.records("subject", owner, ItemMedia, conversation_id))


def _goings(owner: str, conversation_id: str, fate: Fate, recordings: int) -> Iterator[Going]:
    """What of one item goes: itself, and before it its recordings."""
    rule, kept_by = fate.rule, f"{fate.kept_by.rule} {fate.kept_by.origin}" if fate.kept_by is not None else ""
    yield Going(owner, conversation_id, "conversation", fate.goes_ms, rule.rule, rule.origin, kept_by, fate.imported)
    if recordings and fate.media_rule is not None and fate.media_ms is not None:
        rule = fate.media_rule
        yield Going(owner, conversation_id, "recordings", fate.media_ms, rule.rule, rule.origin, "", False)


def _month(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m")


def with_proposed(present: ControllerState, policies: tuple[RetentionPolicySet, ...], now_ms: int) -> ControllerState:
    """The settings as these policies would make them. Raises `Problem` (422) that names the field of the first that is none."""
    known = present.policies
    for n, event in enumerate(policies):
        field = wrong_period(event)
        if field is not None:
            raise Problem("not-a-period", f"/policies/{n}/{field}")
        known = with_policy(known, policy_of(event, now_ms, f"proposed-{n}"), now_ms) or known
    return msgspec.structs.replace(present, policies=known)


def ran(service: Deployment, rung: Rung) -> Ran:
    """What the audit log says that retention has destroyed since."""
    conversations: Counter[str] = Counter()
    recordings: Counter[str] = Counter()
    for _, record in service.topic(AUDIT_TOPIC, after=rung.audited_from):
        entry = decode_as(AuditEntry, record.value or b"")
        rule = " ".join(filter(None, (entry.facts.get("rule"), entry.facts.get("policy") or entry.facts.get("pack"))))
        if entry.kind == "item.destroyed" and entry.facts.get("cause") == "retention":
            conversations[rule] += 1
        elif entry.kind == "item.recordings_due":
            recordings[rule] += int(entry.facts["recordings"])
    return Ran(rung.as_of_ms, rung.finished, dict(sorted(conversations.items())), dict(sorted(recordings.items())))


async def _previewed(
    door: Door, token: Token, controller: str, policies: tuple[RetentionPolicySet, ...], before_ms: int, after: str
) -> Response:  # fmt: skip
    def look() -> Preview:
        service = door.service
        proposed = with_proposed(service.settings(controller), policies, service.clock()) if policies else None
        found, fault = None, Problem("wrong-field", "/after" if policies else "after")
        try:
            found = preview(service, controller, proposed, before_ms, after)
        except PackRefused:  # what the controller chose is not here: no other law stands in for it
            fault = Problem("unknown-law", "/controller" if policies else "controller")
        except ValueError:
            pass
        if found is None:
            raise fault
        door.accessed(token, "view", {controller: found.items})
        return found

    return answer(await door.run(look))


async def get_preview(door: Door, request: Request) -> Response:
    """What the controller's policies in force and to come, and the law, will destroy, and when.

    `before` (ISO time): list only what goes before; `after`: the `next` of the part before.
    """
    token = door.caller(request, PREVIEW)
    query = request.query_params
    controller = query.get("controller")
    if not controller:
        raise Problem("missing-field", "controller")
    door.may_touch(token, controller, "controller")
    return await _previewed(door, token, controller, (), _before(query.get("before")), query.get("after", ""))


async def post_preview(door: Door, request: Request) -> Response:
    """The same as if these policies were set now, from their `from` on: nothing is set, and nothing is destroyed."""
    token = door.caller(request, PROPOSED)
    async with door.bodies.of(request) as body:
        ask = parse(body, PreviewAsk)
    door.may_touch(token, ask.controller)
    before_ms = NEVER_MS if ask.before is None else millis(ask.before)
    return await _previewed(door, token, ask.controller, ask.policies, before_ms, ask.after)


async def post_run(door: Door, request: Request) -> Response:
    """Destroy now what is due now, and say what went. What is due goes by itself; this waits for it."""
    door.caller(request, RUN)
    return answer(await door.run(lambda: ran(door.service, door.service.ring_due())))


def _before(text: str | None) -> int:
    if not text:
        return NEVER_MS
    try:
        at = datetime.fromisoformat(text)
        return millis(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        pass
    raise Problem("wrong-field", "before")
