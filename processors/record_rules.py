"""What the law says of recording, transcribing and training: who must agree at which place, duties to record, card data.

Here every customer and third party must have granted the recording, wherever they are. That is what the strictest place on a
call asks for, so the rows about all parties explain a verdict, and never loosen one.
"""

from collections.abc import Iterator

from law.book import Book
from processors.local_rules import days_at, rule_at, rules_of
from processors.uses import Finding, PartyView, Use, overlap
from schemas.places import NOWHERE
from schemas.topics import ControllerState

TRAINING = "training"
RECORDED = frozenset({"record", "transcribe"})
CARD_RULES = ("pci.3_3_1.ceiling", "eu.recording.pause_at_bank_data")
DUTY_RULE = "mifid.16_7.duty"
ALL_PARTY = "us.recording.all_party"
OWN_CONSENT = "eu.training.prior_consent"
UNTOLD = ("", "EU")  # may be where training needs a consent of its own


def record_findings(party: PartyView, use: Use, book: Book) -> Iterator[Finding]:
    """Ask each rule about a party that is recorded, transcribed, or trained on; nothing for other uses.

    * A state that nobody knows counts as one where all parties must agree, and so does a place that nobody knows.
    * While card data is being taken there is neither recording nor transcript.
    * Where training needs a consent of its own, and where nobody knows, the grant must be for the purpose `training`.
    """
    if use.use not in RECORDED | {"train"}:
        return
    for place, rules in rules_of(party, use.at_ms, book):
        if use.use == "train" and (rules.training is not None or place.region in UNTOLD):
            yield Finding(None if use.purpose == TRAINING else "training_consent_missing", OWN_CONSENT)
        if use.use in RECORDED and (rules.all_party is not None or place.region in ("", "US")):
            yield Finding(None, ALL_PARTY)
    if use.use in RECORDED and use.card_data:
        yield Finding("pci_pause", "")
        for place in party.places or (NOWHERE,):
            for rule in CARD_RULES:
                if any(rule_at(book, rule, place.region, day) is not None for day in days_at(place, use.at_ms)):
                    yield Finding("pci_pause", rule)


def must_be_recorded(use: Use, settings: ControllerState) -> bool:
    """Whether the asker or the controller's settings say that the law wants this conversation recorded."""
    return use.recording_duty or any(
        overlap(duty.channel or "*", use.channel)
        and (duty.purpose is None or duty.purpose == use.purpose)
        and (duty.campaign is None or duty.campaign == use.campaign)
        and overlap(duty.brand or "*", use.brand)
        for duty in settings.recording_duty
    )


def duty_rules(parties: list[PartyView], use: Use, settings: ControllerState, book: Book) -> set[str]:
    """The rule that makes the duty, if it holds where one of the parties or the controller is; the duty stands without it."""
    if settings.default_region and any(
        rule_at(book, DUTY_RULE, settings.default_region, day) for day in days_at(NOWHERE, use.at_ms)
    ):  # fmt: skip
        return {DUTY_RULE}
    places = (place for party in parties for place in party.places)
    held = any(rule_at(book, DUTY_RULE, place.region, day) for place in places for day in days_at(place, use.at_ms))
    return {DUTY_RULE} if held else set()
