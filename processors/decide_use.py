"""Decides whether a use of people's data is allowed: a pure function of what each party permits and of the law.

The clock and the law's book are arguments, so any verdict can be reached again later, as of its moment or under another law.
"""

from collections.abc import Iterable, Iterator, Sequence

from law.book import Book
from processors.dial_rules import dial_findings
from processors.local_rules import behind
from processors.minors import age_findings
from processors.permissions import ANY, GRANTS, Permissions, resolve, status_at
from processors.record_rules import duty_rules, must_be_recorded, record_findings
from processors.uses import (
    EMPLOYEES,
    Finding,
    Mark,
    PartyView,
    Reason,
    Use,
    UseName,
    Verdict,
    asked_of,
    narrower,
    overlap,
)
from schemas.topics import ConsentStatus, ControllerState

RECORDING = "recording"  # contract, section 2: the purpose of a record decision that names none
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


def decide_use(parties: Sequence[PartyView], use: Use, settings: ControllerState, book: Book) -> Verdict:
    """Whether `use` is allowed for all `parties`, by the rows of `book` that hold at their places on that day.

    * Consent counts per purpose × channel × brand. `record` without a purpose means `recording`; any other use without
      one denies.
    * Customers and third parties (and roles nobody knows) must all allow. Among one party's identifiers any denial
      wins, one grant is needed, and an identifier of which nothing is known is neutral beside a grant. No such party at
      all denies.
    * Refusal, withdrawal, expiry and not knowing each deny. So do suppression lists (`BLOCKS`) until they expire, and
      marks. So does a grant that a child was too young to give.
    * A use for all brands or all channels is denied by a denial of any one of them: nobody said which it will be.
    * Employees are not asked for consent; recording, transcribing and training need the controller's declared basis for
      them. Bots and the controller's own identifiers are nobody.
    * Calling, recording and training follow the rules of each party's place (`dial_rules`, `record_rules`).
    * Where a conversation has to be recorded and may not be, the call is denied as well.
    """
    found = _Found()
    purpose = use.purpose or (RECORDING if use.use == "record" else ANY)
    if purpose == ANY:
        found.deny("purpose_missing")
    asked = asked_of(parties)
    if not asked:
        found.deny("no_party")
    if use.use in EMPLOYEE_USES and not settings.employee_basis and any(party.role in EMPLOYEES for party in parties):
        found.deny("employee_basis_undeclared")
    for party in asked:
        reasons = set(_suppressed(party, use))
        if any(_meets(mark, purpose, use) for mark in party.marks):
            reasons.add("withdrawal_pending")
        if purpose != ANY:
            reasons.update(_consent(party, purpose, use))
            found.take(age_findings(party, purpose, use, book))
        for reason in reasons:
            found.deny(reason, behind(reason, use, party, book))
        found.take(dial_findings(party, use, settings, book) if use.use == "dial" else record_findings(party, use, book))
    if use.use in ("dial", "record") and must_be_recorded(use, settings):
        denied = bool(found.reasons) if use.use == "record" else _may_not_be_recorded(parties, use, settings, book)
        rules = duty_rules(asked, use, settings, book) or {""}
        found.take(Finding("recording_duty_unmet" if denied else None, rule) for rule in rules)
    epochs = [known.epoch for party in parties for known in party.permissions if known is not None]
    return found.verdict(max(epochs, default=0))


class _Found:
    """What was found: reasons with the rules behind them, and the rules that were met."""

    def __init__(self) -> None:
        self.reasons: set[Reason] = set()
        self.against: set[str] = set()
        self.met: set[str] = set()

    def deny(self, reason: Reason, rules: Iterable[str] = ()) -> None:
        self.reasons.add(reason)
        self.against.update(rules)

    def take(self, findings: Iterable[Finding]) -> None:
        for reason, rule in findings:
            if reason is None:
                self.met.add(rule)
            else:
                self.deny(reason, (rule,))

    def verdict(self, epoch: int) -> Verdict:
        rules = (self.against if self.reasons else self.met) - {""}
        return Verdict("deny" if self.reasons else "allow", tuple(sorted(self.reasons)), epoch, tuple(sorted(rules)))


def _may_not_be_recorded(parties: Sequence[PartyView], use: Use, settings: ControllerState, book: Book) -> bool:
    recording = Use("record", use.at_ms, use.channel, RECORDING, use.brand, use.campaign, card_data=use.card_data)
    return decide_use(parties, recording, settings, book).verdict == "deny"


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
    for best in narrower(known, purpose, use):
        if (status := status_at(best, use.at_ms)) in DENIALS:
            yield status  # a grant for one brand is no grant for all


def _suppressed(party: PartyView, use: Use) -> Iterator[Reason]:
    for known in party.permissions:
        for name, entry in known.suppressions.items() if known is not None else ():
            reason = BLOCKS.get(name, {}).get(use.use)
            if reason is not None and entry.blocks(use.at_ms):
                yield reason


def _meets(mark: Mark, purpose: str, use: Use) -> bool:
    """Whether a pending denial and the use overlap in purpose, channel and brand; `*` on either side meets all."""
    pairs = ((mark.purposes, purpose), (mark.channels, use.channel), ((mark.brand,), use.brand))
    return all(any(overlap(name, wanted) for name in names) for names, wanted in pairs)
