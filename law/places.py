"""Places and what they belong to: a rule for `US-CA` is looked for there, then in `US`, then everywhere."""

from functools import lru_cache

EU_MEMBERS = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()
)  # fmt: skip
# The EEA agreement takes over the GDPR, the ePrivacy directive and MiFID, so these three fall back to the Union's rows as well.
EEA_OTHERS = frozenset(("IS", "LI", "NO"))


@lru_cache(maxsize=4096)
def chain(place: str) -> tuple[str, ...]:
    """The places whose rows hold at `place`, most specific first: `DE-BY` → DE-BY, DE, EU, *."""
    country = place.partition("-")[0]
    found = [place] if place == country else [place, country]
    if country in EU_MEMBERS or country in EEA_OTHERS:
        found.append("EU")
    return (*(p for p in found if p != "*"), "*")
