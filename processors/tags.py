"""Which mark a tag is, in every spelling: tags come as people and products write them."""

import re
from collections.abc import Iterable

from processors.exceptions import CARD_DATA, UNLAWFUL

MIFID = "mifid"

# Products write `gdpr:6(1)(c)`, `GDPR 6(1)(c)`, `art6_1_c`, `Art. 6 Abs. 1 lit. c DSGVO`, or a key `gdpr` with a value `6(1)(c)`.
WORD = re.compile(r"[a-z]+|[0-9]+")
LAWS = frozenset({"gdpr", "dsgvo", "rgpd", "art", "article"})
FILLING = LAWS | {"uk", "eu", "par", "para", "paragraph", "abs", "lit", "letter", "point", "legal", "lawful", "basis"}
WHOLE = {
    ("mifid",): MIFID, ("mifid", "ii"): MIFID, ("mifid", "2"): MIFID,
    ("unlawful",): UNLAWFUL, ("unlawful", "processing"): UNLAWFUL, ("unlawfully", "processed"): UNLAWFUL,
    ("card", "data"): CARD_DATA, ("card", "authentication", "data"): CARD_DATA,
    ("sensitive", "authentication", "data"): CARD_DATA,
    ("pci", "sad"): CARD_DATA, ("pci", "3", "3", "1"): CARD_DATA, ("pci", "dss", "3", "3", "1"): CARD_DATA,
}  # fmt: skip


def mark_named(tag: str, value: str | None = None) -> str | None:
    """The mark that a tag is: art6_1_a .. art6_1_f, mifid, unlawful, card_authentication_data; None for any other tag."""
    said = tuple(WORD.findall(tag.casefold()))
    if said in WHOLE:
        return WHOLE[said]
    if value and said and LAWS & {*said} and FILLING >= {*said}:
        return mark_named(f"{tag} {value}")
    named = bool(LAWS & {*said}) or "(" in tag
    match [word for word in said if word not in FILLING]:
        case ["6", "1", ("a" | "b" | "c" | "d" | "e" | "f") as letter] if named:
            return f"art6_1_{letter}"
        case ["17", "1", "d"] if named:
            return UNLAWFUL
    return None


def marks_of(tag: str, value: str | None, known: Iterable[str]) -> tuple[str, ...]:
    """The marks that `call.untagged` ends: the tag's own; of a key that says no more, all that its values may have set."""
    own = mark_named(tag, value)
    if own is not None:
        return (own,)
    said = {*WORD.findall(tag.casefold())}
    return tuple(name for name in known if name.startswith("art6")) if LAWS & said and FILLING >= said else ()
