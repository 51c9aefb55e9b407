"""`POST /v1/decisions`: whether a use is allowed now. Whatever is unknown, stale, unreachable or not on record is `deny`.

The order of looking is the promise: first this door's marks, then the state with its age and with the marks of other doors, as of
one moment. A withdrawal that was answered before this call began is found in one of them. Each party's state has the age of the
partition that it stands in: a partition that is behind denies for those who are in it, and for nobody else.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple
from uuid import uuid4

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import answer, parse
from connectors.http.cloudevents import millis
from connectors.http.door import FAULTS, Door
from connectors.http.marks import posted
from connectors.http.places import places_of
from connectors.http.problems import Problem
from engine.deployment import Deployment, Look
from engine.layout import key_bytes
from law.reading import PackRefused
from processors.decide_use import decide_use
from processors.fence import Fence
from processors.item import Planned
from processors.permissions import ANY, Permissions
from processors.rejudging import legs_of
from processors.roster import Roster
from processors.uses import OF_THE_MOMENT, REASONS, Mark, PartyView, Use, UseName
from processors.uses import Verdict as Ruling
from schemas.base import Moment, Name
from schemas.codec import encode
from schemas.events import Channel, Identifier, Jurisdiction
from schemas.identifiers import NotAnIdentifier, normalise
from schemas.places import Place
from schemas.topics import ControllerState, Decision, Leg, Verdict

CALL = "POST /v1/decisions"
KEPT_USES = frozenset(("transcribe", "train", "share", "export"))  # of what is kept; dialling and recording make something new
TOPIC = "decisions"
PARTIES_MAX = 64  # as many as a conversation has
IDENTIFIERS_MAX = 32
AHEAD_MS_MAX = 60_000  # clocks may differ by a minute; nobody decides about tomorrow with today's state

DoorReason = Literal[
    "stale",  # the state is older than the freshness limit
    "not_ready",  # not everything that was there at the start is folded, or the engine has stopped
    "not_fresh",  # denials are under way for which there is no mark, or it may have been lost
    "not_recorded",  # the verdict could not be appended to `decisions`
    "restricted",  # the conversation is kept for a duty only, and this is another purpose (GDPR Art. 18(2)); of what is kept
    "unreachable",  # the state cannot be read
    "law_unknown",  # the controller activated a version of a law pack that this process does not have
    "unusable_identifier",  # an identifier is none, so nobody knows whose permission to look at
]
ALL_REASONS: tuple[str, ...] = tuple(sorted({*REASONS, *DoorReason.__args__}))  # type: ignore[attr-defined]

Identifiers = Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=IDENTIFIERS_MAX)]
Zone = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class AskedParty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One party. Roles nobody knows are customers. A declared place or time zone wins over what the numbers tell."""

    role: Annotated[str, msgspec.Meta(max_length=64)]
    identifiers: Identifiers = ()
    jurisdiction: Jurisdiction | None = None
    time_zone: Zone | None = None


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A use to decide on. `identifiers` are one customer's, who is in `jurisdiction`; `parties` are all on the conversation.

    `at` asks by the law of a moment in the past; who is about to act leaves it out. See `Use` for `callback`, `card_data` and
    `recording_duty`.
    """

    controller: Name
    use: UseName
    channel: Channel | Literal["*"]
    identifiers: Identifiers = ()
    parties: Annotated[tuple[AskedParty, ...], msgspec.Meta(max_length=PARTIES_MAX)] = ()
    conversation_id: Name | None = None
    purpose: Name | None = None
    brand: Name | None = None
    campaign: Name | None = None
    callback: bool = False
    at: Moment | None = None
    jurisdiction: Jurisdiction | None = None
    time_zone: Zone | None = None
    card_data: bool = False
    recording_duty: bool = False


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict with every reason, as of the moment the state was complete up to (`fresh_as_of`, RFC 3339).

    `rules` are ids of the law's rules: of a denial those behind its reasons, of an allowance those that it has met.
    """

    decision_id: str
    verdict: Verdict
    reasons: tuple[str, ...]
    epoch: int
    law_pack: str
    fresh_as_of: str | None
    rules: tuple[str, ...] = ()


def decide(door: Door, ask: Ask) -> Decided:
    """Decide and put the verdict on record. Blocks; never raises for what the engine cannot do."""
    service = door.service
    now_ms = service.clock()
    at_ms = now_ms if ask.at is None else millis(ask.at)
    if at_ms > now_ms + AHEAD_MS_MAX:
        raise Problem("time-ahead", "/at")
    beat_ms = service.beat_ms()
    reasons: set[str] = set()
    if not service.ready:
        reasons.add("not_ready")
    if door.marks.blind(beat_ms):
        reasons.add("not_fresh")
    ruling, law_pack = Ruling("deny", (), 0), ""
    legs: tuple[Leg, ...] = ()
    settings = service.settings(ask.controller)
    try:
        book = service.law(ask.controller)
        law_pack = book.names
        asked = list(_asked(door, ask, settings, reasons))
        known = _known(door, ask, {ref for _, _, others, _ in asked for ref in others}, reasons)
        if ask.use in KEPT_USES and ask.conversation_id:
            if _is_restricted(service, ask.controller, known, ask.conversation_id, ask.purpose):
                reasons.add("restricted")
        beat_ms = min((one.beat_ms for one in known.values()), default=beat_ms)
        parties = [
            PartyView(
                role, tuple(known[ref].permissions for ref in others), own=bool(refs) and not others,
                marks=tuple(mark for ref in others for mark in known[ref].marks), places=places,
            )
            for role, refs, others, places in asked
        ]  # fmt: skip
        use = Use(
            ask.use, at_ms, ask.channel, ask.purpose, ask.brand or ANY, ask.campaign, ask.callback, ask.card_data,
            ask.recording_duty,
        )  # fmt: skip
        ruling, legs = decide_use(parties, use, settings, book), legs_of(parties, use)
        reasons.update(ruling.reasons)
        if at_ms != now_ms:
            # A moment in the past cannot bring back what has expired since, so both must allow; the law is that of the moment.
            today = decide_use(parties, msgspec.structs.replace(use, at_ms=now_ms), settings, book)
            reasons.update(reason for reason in today.reasons if reason not in OF_THE_MOMENT)
    except FAULTS:
        reasons.add("unreachable")
    except PackRefused:
        reasons.add("law_unknown")
    # A beat from the future means that the clock was set back: then nobody knows how old the state is.
    if abs(now_ms - beat_ms) > door.options.fresh_secs * 1000:
        reasons.add("stale")
    decision_id = f"dec_{uuid4().hex}"
    record = Decision(
        decision_id=decision_id, controller=ask.controller, use=ask.use, verdict="deny" if reasons else "allow",
        reasons=tuple(sorted(reasons)), at_ms=at_ms, epoch=ruling.epoch, purpose=ask.purpose, channel=ask.channel,
        brand=ask.brand, campaign=ask.campaign, conversation_id=ask.conversation_id, law_pack=law_pack,
        fresh_as_of_ms=beat_ms, rules=_rules(ruling, reasons), legs=legs, callback=ask.callback,
        national_dnc_as_of_ms=settings.national_dnc_as_of_ms,
    )  # fmt: skip
    try:
        if service.failed is not None:
            raise OSError("the engine has stopped")
        service.append(TOPIC, ask.conversation_id or decision_id, encode(record))
    except FAULTS:
        reasons.add("not_recorded")
    fresh = datetime.fromtimestamp(beat_ms / 1000, UTC).isoformat(timespec="milliseconds") if beat_ms else None
    return Decided(
        decision_id=decision_id, verdict="deny" if reasons else "allow", reasons=tuple(sorted(reasons)), epoch=ruling.epoch,
        law_pack=law_pack, fresh_as_of=fresh, rules=_rules(ruling, reasons),
    )  # fmt: skip


def _is_restricted(
    service: Deployment, controller: str, refs: Iterable[str], conversation_id: str, purpose: str | None
) -> bool:  # fmt: skip
    """Whether the part that one of these has in the conversation is kept for duties only, none of which is for this purpose.

    The part is with the party's home, by whichever identifier of the party is asked.
    """
    roster = service.record("case", key_bytes(("conversation", controller, conversation_id)).decode(), Roster)
    asked = {*refs}
    homes = {party.refs[0] for party in (roster.parties if roster is not None else ()) if asked & {*party.refs}}
    planned = (service.record("subject", ref, Planned, conversation_id) for ref in asked | homes)
    return any(
        p is not None and p.restricted_ms is not None and purpose not in {floor.purpose or floor.ground for floor in p.floors}
        for p in planned
    )  # fmt: skip


def _rules(ruling: Ruling, reasons: set[str]) -> tuple[str, ...]:
    """The rules behind the answer: those that were met explain no denial for another reason."""
    return ruling.rules if ruling.verdict == "deny" or not reasons else ()


_Party = tuple[str, list[str], list[str], tuple[Place, ...]]


class _Known(NamedTuple):
    """What is known of one ref."""

    beat_ms: int
    permissions: Permissions | None
    marks: tuple[Mark, ...]


def _asked(door: Door, ask: Ask, settings: ControllerState, reasons: set[str]) -> Iterator[_Party]:
    """Yield each party's role, its refs, those of them that are not the controller's own, and its places."""
    own = frozenset(settings.own_refs)
    customer = (AskedParty("customer", ask.identifiers, ask.jurisdiction, ask.time_zone),) if ask.identifiers else ()
    for party in (*customer, *ask.parties):
        refs: list[str] = []
        numbers: list[tuple[str, str | None]] = []
        for identifier in party.identifiers:
            try:
                normal = normalise(identifier.kind, identifier.value, settings.default_region)
            except NotAnIdentifier:
                reasons.add("unusable_identifier")
                continue
            refs.append(door.service.secrets.ref(ask.controller, identifier.kind, normal))
            if identifier.kind == "tel" and refs[-1] not in own:
                numbers.append((normal, identifier.jurisdiction))
        if not numbers:
            numbers = [("", identifier.jurisdiction) for identifier in party.identifiers if identifier.jurisdiction]
        places = places_of(numbers, party.jurisdiction, party.time_zone)
        yield party.role, refs, [ref for ref in refs if ref not in own], places


def _known(door: Door, ask: Ask, refs: set[str], reasons: set[str]) -> dict[str, _Known]:
    """Look at all refs, this door's marks first."""
    order = sorted(refs)
    marks = [door.marks.on(ref, ask.use) for ref in order]
    looks = door.service.look(order, (Permissions, Fence)) if order else []
    if not all(look.whole for look in looks):
        reasons.add("not_fresh")
    return {
        ref: _Known(look.beat_ms, _permissions(look), (*mine, *posted(look.denials, ask.use)))
        for ref, mine, look in zip(order, marks, looks, strict=True)
    }  # fmt: skip


def _permissions(look: Look) -> Permissions | None:
    permissions, fence = look.records
    assert permissions is None or isinstance(permissions, Permissions)
    if permissions is not None:
        return permissions
    # After an erasure nothing is known, but readers never see an epoch go backwards.
    assert fence is None or isinstance(fence, Fence)
    return None if fence is None else Permissions(epoch=fence.epoch)


async def post_decisions(door: Door, request: Request) -> Response:
    """Answer the call: 200 with a verdict, whatever state the engine is in."""
    token = door.caller(request, CALL)
    async with door.bodies.of(request) as body:
        ask = parse(body, Ask)
    door.may_touch(token, ask.controller)
    decided = await to_thread.run_sync(decide, door, ask)
    door.metrics.decisions.labels(ask.use, decided.verdict).inc()
    for reason in decided.reasons:
        door.metrics.reasons.labels(ask.use, reason).inc()
    return answer(decided)
