"""One spelling per identifier: two ways to write the same number, address or name become the same text.

`subject_ref` is a hash of that text, so a change here cuts people off from what is known of them. What was sent is
kept, sealed, beside it. Errors are codes; they never contain what was sent.

| kind | normal form |
|---|---|
| tel | E.164, without extension; `tel:` URIs and any spelling of a number that is possible, and not only locally |
| email | `mailto:` and surrounding space cut, Unicode case folding, NFC |
| ip | canonical text of RFC 5952; an IPv4 address mapped into IPv6 is the IPv4 address |
| crm, device, social, employee | surrounding space cut, NFC; case counts, since their owners may tell ids apart by it |
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Literal, assert_never

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat

from schemas.events import Identifier, IdentifierKind

# Parsing a number takes about 66 µs, more than all else that is done with most events, and the same parties call again.
# 65,536 entries are some 15 MB. They are personal data in plain text, in memory only: gone with the process.
TEL_CACHE_ENTRIES = 65_536
PLUS = ("+", "\uff0b")  # what phonenumbers takes as the sign of an international number

Code = Literal["number-not-possible", "number-needs-region", "address-not-possible", "identifier-empty"]


class NotAnIdentifier(ValueError):
    """A value that cannot be what its kind says. `code` says why; the value is not in it."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code: Code = code


def normalise(kind: IdentifierKind, value: str, default_region: str | None) -> str:
    """Return the normal form of an identifier. Raises `NotAnIdentifier`.

    `default_region` (ISO 3166, two capitals) is the country of national numbers; without it they are refused.
    """
    value = value.strip()
    if not value:
        raise NotAnIdentifier("identifier-empty")
    match kind:
        case "tel":
            return _tel(value, default_region)
        case "email":
            return _email(value)
        case "ip":
            return _ip(value)
        case "crm" | "device" | "social" | "employee":
            return unicodedata.normalize("NFC", value)
        case _:
            assert_never(kind)


def home_of(identifiers: Sequence[Identifier]) -> int:
    """Return the index of the identifier whose dossier holds the content: the first tel, else the first email, else 0.

    Raises `ValueError` for no identifiers at all: nobody has a home then.
    """
    if not identifiers:
        raise ValueError("a home needs an identifier")
    for kind in ("tel", "email"):
        for index, identifier in enumerate(identifiers):
            if identifier.kind == kind:
                return index
    return 0


@lru_cache(maxsize=TEL_CACHE_ENTRIES)
def _tel(value: str, region: str | None) -> str:
    code: Code = "number-not-possible"
    try:
        number = phonenumbers.parse(value, region)
        # A local-only number is possible too, but dialled in two areas it is two people: it must not become one subject.
        if phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE:
            # E.164 has no place for an extension.
            return str(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    except NumberParseException as error:
        # Without a region a national number fails as one with an unknown country code, as `+999…` does.
        national = not any(sign in value for sign in PLUS)
        if error.error_type == NumberParseException.INVALID_COUNTRY_CODE and national:
            code = "number-needs-region"
    raise NotAnIdentifier(code)  # outside the handler: its context would hold the library's words on the value


def _email(value: str) -> str:
    """Fold case as Unicode's caseless matching does (`ß` is `ss`, `ς` is `σ`); NFC, since NFKC would invent an `@`."""
    if value[:7].lower() == "mailto:":
        value = value[7:].partition("?")[0].strip()
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())
    local, at, domain = folded.partition("@")
    # What looks like the same address to a person must not become another person: no display form, no blank, nothing unseen.
    strange = any(c in '<>",;' or c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in folded)
    if strange or not (at and local and domain.strip(".")) or "@" in domain:
        raise NotAnIdentifier("address-not-possible")
    return folded.rstrip(".")  # the root of the DNS, which some write


def _ip(value: str) -> str:
    try:
        address = ip_address(value)
    except ValueError:
        address = None
    if address is None:  # outside the handler: its context would hold the value
        raise NotAnIdentifier("address-not-possible")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
