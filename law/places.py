"""Places and what they belong to: a rule for `US-CA` is looked for there, then in `US`, then everywhere."""

from functools import lru_cache

EU_MEMBERS = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()
)  # fmt: skip
# The EEA agreement takes over the GDPR, the ePrivacy directive and MiFID, so these three fall back to the Union's rows as well.
EEA_OTHERS = frozenset(("IS", "LI", "NO"))
# Parts of a country that have a code of their own in ISO 3166-1 and in numbering: the law of the country holds there.
OVERSEAS = {
    "PR": "US-PR", "GU": "US-GU", "VI": "US-VI", "AS": "US-AS", "MP": "US-MP",
    "GP": "FR-971", "MQ": "FR-972", "GF": "FR-973", "RE": "FR-974", "YT": "FR-976", "BL": "FR-BL", "MF": "FR-MF", "PM": "FR-PM",
    "AX": "FI-01",
}  # fmt: skip


@lru_cache(maxsize=4096)
def chain(place: str) -> tuple[str, ...]:
    """The places whose rows hold at `place`, most specific first: `DE-BY` → DE-BY, DE, EU, *; `PR` → PR, US-PR, US, *."""
    whole = OVERSEAS.get(place, place)
    country = whole.partition("-")[0]
    found = list(dict.fromkeys((place, whole, country)))
    if country in EU_MEMBERS or country in EEA_OTHERS:
        found.append("EU")
    return (*(p for p in found if p != "*"), "*")
