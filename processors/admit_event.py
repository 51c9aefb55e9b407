"""Intake: every accepted event reaches the identifiers and cases it names, checked, and with card numbers masked."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.configure_controller import can_activate
from processors.exceptions import TAG
from processors.fields import chosen
from processors.kernel import Audit, Context, Effect, Emit, Forward, Quiet, Receipt, Refuse, State, View
from processors.order_media import media_case
from processors.permissions import grants_everything
from processors.policies import wrong_period
from processors.terms import FUTURE_MS_MAX
from schemas.base import EventData, Record
from schemas.events import (
    EVENTS,
    BreachEvent,
    CallAnnotated,
    CallEnded,
    CallPartyJoined,
    CallPartyLeft,
    CallRecording,
    CallStarted,
    CallTagged,
    CallTranscribed,
    ConsentChanged,
    ControllerConfigured,
    DataAccessed,
    ErasureAcknowledged,
    HoldPlaced,
    HoldReleased,
    Identifier,
    IdentityLink,
    LawActivated,
    RequestOpened,
    RequestScanned,
    RequestScope,
    RequestStep,
    RetentionPolicySet,
    SuppressionChanged,
)  # fmt: skip
from schemas.identifiers import NotAnIdentifier, normalise
from schemas.routed import Envelope, LinkTold
from schemas.topics import ControllerState

RIGHTS = ("erasure",)
# Digits as people and machines write them, in groups; a telephone number with its country code is none of our business.
DIGITS = re.compile(r"(?<![\d+])\d+(?:[ .-]\d+)*")
CARD_DIGITS = range(13, 20)  # ISO/IEC 7812-1: the length of a payment card's number
CARD_FIRST = "23456"  # and the first digits of the industries that issue them
CARD_MASK = "[card number]"


def identifiers_of(event: EventData) -> tuple[Identifier, ...]:
    """All identifiers an event names, in document order."""
    match event:
        case CallStarted():
            return tuple(i for party in event.parties for i in party.identifiers)
        case CallPartyJoined():
            return event.party.identifiers
        case ConsentChanged() | SuppressionChanged() | RequestOpened():
            return event.identifiers
        case IdentityLink():
            return (event.a, event.b)
        case ControllerConfigured():
            return event.own_identifiers
        case HoldPlaced() | HoldReleased() | BreachEvent():
            return event.scope.identifiers if event.scope else ()
        case DataAccessed():
            return event.identifiers or ()
    return ()


def refs_of(event: EventData, settings: ControllerState, controller: str, ctx: Context) -> tuple[str, ...]:
    """The subject_ref of each identifier, in document order; "" for the controller's own and for bots.

    Raises `NotAnIdentifier`.
    """
    region = event.default_region if isinstance(event, ControllerConfigured) else settings.default_region
    refs = [ctx.ref(controller, i.kind, normalise(i.kind, i.value, region)) for i in identifiers_of(event)]
    if isinstance(event, ControllerConfigured):
        return tuple(refs)
    own = set(settings.own_refs)
    refs = ["" if r in own else r for r in refs]
    if isinstance(event, CallStarted):
        bots = [party.role == "bot" for party in event.parties for _ in party.identifiers]
        refs = ["" if bot else r for r, bot in zip(refs, bots, strict=True)]
    elif isinstance(event, CallPartyJoined) and event.party.role == "bot":
        refs = [""] * len(refs)
    return tuple(refs)


def problem(event: EventData, time_ms: int, receipt_ms: int) -> Refuse | None:
    """What is wrong with an event besides its shape and its identifiers, or None. The door asks the same question."""
    if time_ms > receipt_ms + FUTURE_MS_MAX:
        return Refuse("time-ahead", "time")
    as_of = event.national_dnc_as_of if isinstance(event, ControllerConfigured) else None
    if as_of is not None and as_of.timestamp() * 1000 > receipt_ms + FUTURE_MS_MAX:
        return Refuse("time-ahead", "national_dnc_as_of")  # data of days to come would stay fresh until long after them
    if isinstance(event, SuppressionChanged) and event.expires and event.expires.timestamp() * 1000 <= time_ms:
        return Refuse("expired-already", "expires")  # an addition never takes a standing suppression away
    if isinstance(event, RetentionPolicySet) and (field := wrong_period(event)) is not None:
        return Refuse("not-a-period", field)
    if isinstance(event, HoldPlaced | HoldReleased) and event.hold_id.startswith(TAG):
        return Refuse("reserved", "hold_id")
    if isinstance(event, RequestOpened) and event.right not in RIGHTS:
        return Refuse("not-supported-yet", "right")
    if isinstance(event, RequestOpened) and event.scope == RequestScope():
        return Refuse("empty-scope", "scope")
    return None


def unfit(event: EventData, type_: str, refs: tuple[str, ...], settings: ControllerState) -> Refuse | None:
    """What is wrong with an event once its refs are known, or None. The door asks the same question."""
    if isinstance(event, RequestOpened) and event.scope and not (event.scope.fields or chosen(settings.sealed_fields)):
        return Refuse("nothing-chosen", "scope")
    if isinstance(event, ConsentChanged) and grants_everything(type_, event.purposes):
        return Refuse("wildcard-grant", "purposes")
    if isinstance(event, ConsentChanged | SuppressionChanged | RequestOpened) and not any(refs):
        return Refuse("never-a-subject", "identifiers")
    if isinstance(event, IdentityLink) and not all(refs):
        return Refuse("never-a-subject", "a" if not refs[0] else "b")
    if isinstance(event, IdentityLink) and refs[0] == refs[1]:
        return Refuse("same-identifier", "b")
    return None


def mask_cards(text: str) -> str:
    """`text` with every payment card number masked: whole groups of digits that pass ISO/IEC 7812's Luhn check together.

    PCI DSS 3.4.1 and 3.3.1: such numbers never rest in clear. What follows or precedes one (a date, a count) is left alone.
    """
    return DIGITS.sub(_mask_groups, text) if sum(map(str.isdigit, text)) >= CARD_DIGITS.start else text


def _mask_groups(run: re.Match[str]) -> str:
    text, at = run.group(), 0
    groups = [g.span() for g in re.finditer(r"\d+", text)]
    found: list[str] = []
    first = 0
    while first < len(groups):
        for last in range(min(len(groups), first + CARD_DIGITS.stop), first, -1):
            digits = "".join(text[i:j] for i, j in groups[first:last])
            if len(digits) in CARD_DIGITS and digits[0] in CARD_FIRST and _luhn(digits):
                found += [text[at : groups[first][0]], CARD_MASK]
                at, first = groups[last - 1][1], last - 1
                break
        first += 1
    return "".join([*found, text[at:]])


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text]
    return sum(d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))) % 10 == 0


def _masked(event: EventData) -> EventData:
    """The event with card numbers masked wherever people speak or write; itself when there are none."""
    match event:
        case CallTranscribed():
            segments = tuple(msgspec.structs.replace(s, text=mask_cards(s.text)) for s in event.segments)
            masked: EventData = msgspec.structs.replace(event, segments=segments)
        case CallAnnotated():
            masked = msgspec.structs.replace(event, note=mask_cards(event.note))
        case CallTagged():
            value, comment = (t and mask_cards(t) for t in (event.value, event.comment))
            masked = msgspec.structs.replace(event, value=value, comment=comment)
        case CallStarted() if event.metadata:
            masked = msgspec.structs.replace(event, metadata={k: mask_cards(v) for k, v in event.metadata.items()})
        case RequestOpened() if event.claims:
            masked = msgspec.structs.replace(event, claims={k: mask_cards(v) for k, v in event.claims.items()})
        case _:
            return event
    return event if masked == event else masked


class AdmitEvent(Quiet):
    """Sends each event on to who must know: identifiers, or the case of its conversation, request, incident or controller.

    What it refuses goes to quarantine: a time more than 24 hours ahead, an identifier that is none, what is not built yet.
    It keeps no state; refs are keyed hashes of normalised identifiers, so from here on nobody is named by number or address.
    """

    name = "admit_event"
    READS: ClassVar[tuple[type[Record], ...]] = EVENTS
    STATE: ClassVar[tuple[type[State], ...]] = ()

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield one message per identifier or case that the event concerns."""
        refusal = problem(event, at.time_ms, at.receipt_ms)
        if refusal is not None:
            yield refusal
            return
        try:
            # The door's refs stand, for its answer and its deny-only marks rest on them: settings may have changed since.
            # Nobody else can set them: what is not sealed by a door comes without.
            refs = at.envelope.refs or refs_of(event, at.settings(at.controller), at.controller, at)
        except NotAnIdentifier as e:
            yield Refuse(e.code, "identifiers")
            return
        refusal = unfit(event, at.envelope.type, refs, at.settings(at.controller))
        if isinstance(event, LawActivated) and not can_activate(at, at.controller, event):
            refusal = Refuse("unknown-law", "pack")
        if refusal is not None:
            yield refusal
            return
        match event:
            case ConsentChanged() | SuppressionChanged():
                yield from self._to_identifiers(event, refs)
            case (
                CallStarted() | CallTranscribed() | CallAnnotated() | CallTagged() | CallPartyJoined() | CallPartyLeft()
                | CallRecording() | CallEnded()
            ):  # fmt: skip
                yield self._on(event, ("conversation", at.controller, event.conversation_id), refs)
            case RequestOpened() | RequestStep() | RequestScanned():
                yield self._on(event, ("request", event.request_id), refs)
            case ErasureAcknowledged():
                media = media_case(event.order_id)
                case = ("media", media) if media else ("request", event.order_id.rpartition(".")[0] or event.order_id)
                yield Forward("case.events", case, ())
            case IdentityLink():
                on, (a, b) = at.envelope.type == "identity.linked", refs
                for end, peer in ((a, b), (b, a)):
                    yield Emit("subject.events", (end,), LinkTold(peer=peer, on=on, link_source=event.source))
            case HoldPlaced() | HoldReleased():
                yield Forward("case.events", ("hold", at.controller, event.hold_id), refs)
            case BreachEvent():
                yield Forward("case.events", ("incident", event.incident_id), refs)
            case ControllerConfigured() | LawActivated():
                yield Forward("case.events", ("controller", at.controller), refs)
            case RetentionPolicySet():
                yield Forward("case.events", ("controller", at.controller), ())
            case DataAccessed():
                # Who it was stands in the entry itself, taken from the caller's token.
                facts = {"action": event.action, "count": str(event.count)}
                yield Audit("data.accessed", at.controller, facts, named=False)
            case _:
                assert_never(event)

    def hand_on(self, envelope: Envelope) -> Forward | None:
        """Send a consent for one identifier on to it: nothing in its data asks for more."""
        refs = envelope.refs
        in_time = envelope.time_ms <= envelope.receipt_ms + FUTURE_MS_MAX
        if len(refs) == 1 and refs[0] and in_time and envelope.type in ConsentChanged.TYPES:
            return Forward("subject.events", refs, refs)
        return None

    def _on(self, event: EventData, key: tuple[str, ...], refs: tuple[str, ...]) -> Effect:
        masked = _masked(event)
        return Forward("case.events", key, refs) if masked is event else Emit("case.events", key, masked, refs)

    def _to_identifiers(self, event: ConsentChanged | SuppressionChanged, refs: tuple[str, ...]) -> Iterator[Effect]:
        reached = {ref: i for ref, i in zip(reversed(refs), reversed(event.identifiers), strict=True) if ref}
        for ref, identifier in reached.items():
            if len(event.identifiers) == 1:
                yield Forward("subject.events", (ref,), (ref,))
            else:
                yield Emit("subject.events", (ref,), msgspec.structs.replace(event, identifiers=(identifier,)), (ref,))
