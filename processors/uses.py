"""What is asked of `decide_use` and what it answers: uses, the parties as they are seen, reasons and rules."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec

from processors.permissions import ANY, PART, Cell, Permissions, resolve
from schemas.places import Place
from schemas.topics import Verdict as Answer

UseName = Literal["dial", "record", "transcribe", "train", "share", "export"]
Reason = Literal[
    "below_consent_age",  # somebody gave the grant who is not who gives it at that age (GDPR Art. 8; 11 CCR §7070, §7071)
    "calling_place_unknown",  # nobody knows where the called number is, so nobody knows what time it is there; dial
    "company_dnc",  # an identifier is on the company's do-not-call list (47 CFR 64.1200(d)); dial
    "consent_expired",  # the grant's time is up
    "consent_refused",
    "consent_unknown",  # no identifier of a party has a grant for purpose × channel × brand, and none denies
    "consent_withdrawn",  # GDPR Art. 7(3)
    "employee_basis_undeclared",  # an employee takes part, no basis is declared; record, transcribe, train
    "gpc",  # Global Privacy Control (11 CCR §7025); share, export
    "national_dnc",  # an identifier is on the national do-not-call list; dial
    "national_dnc_stale",  # the national list that the controller goes by is too old (47 CFR 64.1200(c)(2)(i)(D)); dial
    "no_party",  # nobody was named whose permission could be asked
    "objection",  # GDPR Art. 21; dial, share, train, export
    "outside_calling_hours",  # at the called place, or at one of several that a number may be in (47 CFR 64.1200(c)(1)); dial
    "pci_pause",  # card data is being taken: authentication data is not stored (PCI DSS 3.3.1); record, transcribe
    "purpose_missing",  # no purpose, or `*`: a use is for one purpose
    "recording_duty_unmet",  # the call has to be recorded and may not be (MiFID II Art. 16(7)); dial, record
    "revoked_elsewhere",  # consent to calls was revoked for another matter, which reaches this one (64.1200(a)(10)); dial
    "training_consent_missing",  # training needs a consent of its own at the place (Denmark); train
    "withdrawal_pending",  # a denial was accepted and is not folded yet
]
REASONS: tuple[str, ...] = get_args(Reason)
# What the rows of the packs decide as of the moment of the use: nothing that has happened since can change it.
OF_THE_MOMENT: frozenset[Reason] = frozenset((
    "outside_calling_hours", "national_dnc_stale", "revoked_elsewhere", "training_consent_missing",
))  # fmt: skip


EMPLOYEES = frozenset({"agent", "supervisor"})


class Mark(msgspec.Struct, frozen=True):
    """A denial that the door accepted and no task has folded yet. It can only deny."""

    purposes: tuple[str, ...] = (ANY,)
    channels: tuple[str, ...] = (ANY,)
    brand: str = ANY


class PartyView(msgspec.Struct, frozen=True):
    """One party: what each of its identifiers permits (None: nothing is known), and pending denials.

    `own`: all its identifiers are the controller's own. Own identifiers beside others are left out of `permissions`.
    `places`: where each of its numbers is, or the one place that was declared. No number stands here.
    """

    role: str
    permissions: tuple[Permissions | None, ...] = ()
    own: bool = False
    marks: tuple[Mark, ...] = ()
    places: tuple[Place, ...] = ()


class Use(msgspec.Struct, frozen=True):
    """What someone wants to do, and when (epoch ms). Without a brand, or with channel `*`, it is for all of them.

    `callback`: the person asked for the call. `card_data`: a card is being read out now. `recording_duty`: the law wants the
    conversation recorded, besides those that the controller's settings say so of.
    """

    use: UseName
    at_ms: int
    channel: str
    purpose: str | None = None
    brand: str = ANY
    campaign: str | None = None
    callback: bool = False
    card_data: bool = False
    recording_duty: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """`allow` has no reasons, `deny` has every one, sorted. `epoch` is the highest among the parties' identifiers.

    `rules` are ids of rows of the law packs: of a denial those behind its reasons, of an allowance those that it has met.
    """

    verdict: Answer
    reasons: tuple[Reason, ...]
    epoch: int
    rules: tuple[str, ...] = ()


class Finding(NamedTuple):
    """A rule was asked, and denied for `reason` or (None) was met. `rule` is empty where no row says so."""

    reason: Reason | None
    rule: str


def asked_of(parties: Sequence[PartyView]) -> list[PartyView]:
    """The parties whose permission is asked: neither employees nor bots nor the controller itself."""
    return [party for party in parties if party.role not in EMPLOYEES and party.role != "bot" and not party.own]


def overlap(one: str, other: str) -> bool:
    """Whether two names of a purpose, channel or brand can mean the same; `*` means all."""
    return one == other or ANY in (one, other)


def narrower(known: Permissions, purpose: str, use: Use) -> Iterator[Cell]:
    """Find what governs each channel and brand that a use for several stands for and some row about the purpose speaks of."""
    if ANY not in (use.channel, use.brand):
        return
    cells: set[tuple[str, str]] = set()
    for key in known.cells:
        p, channel, brand = key.split(PART)
        if p in (purpose, ANY) and overlap(channel, use.channel) and overlap(brand, use.brand):
            cells.add((channel if use.channel == ANY else use.channel, brand if use.brand == ANY else use.brand))
    for channel, brand in cells:
        best = resolve(known, purpose, channel, brand)
        if best is not None:
            yield best
