"""Decides whether a use of people's data is allowed now: a pure function of what each party permits, with every reason.

The clock is an argument, so any verdict can be reached again later, as of its moment.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import msgspec

from processors.permissions import ANY, GRANTS, PART, Permissions, resolve, status_at
from schemas.topics import ConsentStatus, ControllerState
from schemas.topics import Verdict as Answer

UseName = Literal["dial", "record", "transcribe", "train", "share", "export"]
Reason = Literal[
    "company_dnc",  # an identifier is on the company's do-not-call list (47 CFR 64.1200(d)); dial
    "consent_expired",  # the grant's time is up
    "consent_refused",
    "consent_unknown",  # no identifier of a party has a grant for purpose × channel × brand, and none denies
    "consent_withdrawn",  # GDPR Art. 7(3)
    "employee_basis_undeclared",  # an employee takes part, no basis is declared; record, transcribe, train
    "gpc",  # Global Privacy Control (11 CCR §7025); share, export
    "national_dnc",  # an identifier is on the national do-not-call list; dial
    "no_party",  # nobody was named whose permission could be asked
    "objection",  # GDPR Art. 21; dial, share, train, export
    "purpose_missing",  # no purpose, or `*`: a use is for one purpose
    "withdrawal_pending",  # a denial was accepted and is not folded yet
]
REASONS: tuple[str, ...] = get_args(Reason)

RECORDING = "recording"  # contract, section 2: the purpose of a record decision that names none
EMPLOYEES = frozenset({"agent", "supervisor"})
EMPLOYEE_USES = frozenset({"record", "transcribe", "train"})
DENIALS: dict[ConsentStatus, Reason] = {
    "refused": "consent_refused",
    "withdrawn": "consent_withdrawn",
    "expired": "consent_expired",
}
# Which list blocks which use. An objection (Art. 21) is against marketing and processing on legitimate interests, so it
# blocks all but recording and transcribing the call that the person is on. GPC opts out of sale and sharing (§7025),
# and an export leaves the house too; training a model in the house is neither, and needs its own consent anyway.
BLOCKS: dict[str, dict[UseName, Reason]] = {
    "company_dnc": {"dial": "company_dnc"},
    "national_dnc": {"dial": "national_dnc"},
    "objection": {"dial": "objection", "share": "objection", "train": "objection", "export": "objection"},
    "gpc": {"share": "gpc", "export": "gpc"},
}


class Mark(msgspec.Struct, frozen=True):
    """A denial that the door accepted and no task has folded yet. It can only deny."""

    purposes: tuple[str, ...] = (ANY,)
    channels: tuple[str, ...] = (ANY,)
    brand: str = ANY


class PartyView(msgspec.Struct, frozen=True):
    """One party: what each of its identifiers permits (None: nothing is known), and pending denials.

    `own`: all its identifiers are the controller's own. Own identifiers beside others are left out of `permissions`.
    """

    role: str
    permissions: tuple[Permissions | None, ...] = ()
    own: bool = False
    marks: tuple[Mark, ...] = ()


class Use(msgspec.Struct, frozen=True):
    """What someone wants to do, and when (epoch ms). Without a brand, or with channel `*`, it is for all of them."""

    use: UseName
    at_ms: int
    channel: str
    purpose: str | None = None
    brand: str = ANY


class Verdict(msgspec.Struct, frozen=True):
    """`allow` has no reasons, `deny` has every one, sorted. `epoch` is the highest among the parties' identifiers."""

    verdict: Answer
    reasons: tuple[Reason, ...]
    epoch: int


def decide_use(parties: Sequence[PartyView], use: Use, settings: ControllerState) -> Verdict:
    """Whether `use` is allowed for all `parties`.

    * Consent counts per purpose × channel × brand. `record` without a purpose means `recording`; any other use without
      one denies.
    * Customers and third parties (and roles nobody knows) must all allow. Among one party's identifiers any denial
      wins, one grant is needed, and an identifier of which nothing is known is neutral beside a grant. No such party at
      all denies.
    * Refusal, withdrawal, expiry and not knowing each deny. So do suppression lists (`BLOCKS`) until they expire, and
      marks.
    * A use for all brands or all channels is denied by a denial of any one of them: nobody said which it will be.
    * Employees are not asked for consent; recording, transcribing and training need the controller's declared basis for
      them. Bots and the controller's own identifiers are nobody.
    """
    purpose = use.purpose or (RECORDING if use.use == "record" else ANY)
    reasons: set[Reason] = set()
    if purpose == ANY:
        reasons.add("purpose_missing")
    asked = [party for party in parties if party.role not in EMPLOYEES and party.role != "bot" and not party.own]
    if not asked:
        reasons.add("no_party")
    if use.use in EMPLOYEE_USES and not settings.employee_basis and any(party.role in EMPLOYEES for party in parties):
        reasons.add("employee_basis_undeclared")
    for party in asked:
        reasons.update(_suppressed(party, use))
        if any(_meets(mark, purpose, use) for mark in party.marks):
            reasons.add("withdrawal_pending")
        if purpose != ANY:
            reasons.update(_consent(party, purpose, use))
    epochs = [known.epoch for party in parties for known in party.permissions if known is not None]
    return Verdict("deny" if reasons else "allow", tuple(sorted(reasons)), max(epochs, default=0))


def _consent(party: PartyView, purpose: str, use: Use) -> set[Reason]:
    """Say why the party's identifiers, taken together, do not grant; empty when they do."""
    statuses = {status for known in party.permissions for status in _statuses(known, purpose, use)}
    denials = {DENIALS[status] for status in statuses if status in DENIALS}
    if not denials and not statuses & GRANTS:
        return {"consent_unknown"}
    return denials


def _statuses(known: Permissions | None, purpose: str, use: Use) -> Iterator[ConsentStatus]:
    """Yield what one identifier says of the cell, and the denials of narrower ones if the use stands for several."""
    if known is None:
        return
    found = resolve(known, purpose, use.channel, use.brand)
    if found is not None:
        yield status_at(found, use.at_ms)
    if ANY in (use.channel, use.brand):
        for channel, brand in _within(known, purpose, use):
            best = resolve(known, purpose, channel, brand)
            if best is not None and (status := status_at(best, use.at_ms)) in DENIALS:
                yield status  # a grant for one brand is no grant for all


def _within(known: Permissions, purpose: str, use: Use) -> set[tuple[str, str]]:
    """Find the channels and brands that the use stands for and some row about the purpose speaks of."""
    cells: set[tuple[str, str]] = set()
    for key in known.cells:
        p, channel, brand = key.split(PART)
        if p in (purpose, ANY) and _overlap(channel, use.channel) and _overlap(brand, use.brand):
            cells.add((channel if use.channel == ANY else use.channel, brand if use.brand == ANY else use.brand))
    return cells


def _overlap(one: str, other: str) -> bool:
    return one == other or ANY in (one, other)


def _suppressed(party: PartyView, use: Use) -> Iterator[Reason]:
    for known in party.permissions:
        for name, entry in known.suppressions.items() if known is not None else ():
            reason = BLOCKS.get(name, {}).get(use.use)
            if reason is not None and entry.blocks(use.at_ms):
                yield reason


def _meets(mark: Mark, purpose: str, use: Use) -> bool:
    """Whether a pending denial and the use overlap in purpose, channel and brand; `*` on either side meets all."""
    pairs = ((mark.purposes, purpose), (mark.channels, use.channel), ((mark.brand,), use.brand))
    return all(any(_overlap(name, wanted) for name in names) for names, wanted in pairs)
