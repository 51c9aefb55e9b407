"""What is looked for, in every spelling and encoding that we or others write; found in one pass over any bytes.

* any text: as it is and in any case, NFC and NFD; UTF-8, UTF-16 LE and BE, Latin-1; hexadecimal in either case; base64, standard
  and URL-safe, at any alignment; with `+` for blanks
* a telephone number: its digits with and without country code, whatever stands between them (`(202) 555-0123`, `202.555.0123`)
* an IP address: canonical text; an IPv6 address also in full and as its 16 octets
* a subject_ref: text with and without `sub_`, in any case; its 16 octets, their hexadecimal and base64

What is escaped (JSON, percent, quoted-printable), in base64 or compressed is unwrapped first: `views.py`.
"""

import base64
import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from engine.scan.faults import NeedleUnfit

NEEDLE_BYTES_MIN: Final = 6  # what is shorter stands everywhere by chance
NEEDLES_MAX: Final = 20_000
EDGE_BYTES: Final = 4_096  # the longest spelling: so much of what follows a window is looked at with it
PREFIX_BYTES: Final = 6  # of a spelling, by which a place is found; the rest is compared there
LOOSE_DIGITS_MIN: Final = 9  # a shorter number within a longer run of digits is another one
BETWEEN: Final = b"\0 ()-./\t"  # what may stand between the digits of a number; NUL, so that UTF-16 is read as well
NUMBER: Final = re.compile(r"\+?[0-9][0-9 ().-]{6,}")
# ITU-T E.164: country codes of one and of two digits; all others have three.
_ONE, _TWO = "17", re.compile("2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]")


class Needle(NamedTuple):
    """One thing to look for. `kind`: an identifier's, `words` or `ref`; `of`: the number of the identifier that a ref is of."""

    number: int
    kind: str
    text: str
    of: int = 0

    def __repr__(self) -> str:
        return f"Needle({self.number}, {self.kind})"  # its text is what must not stand anywhere


class Hit(NamedTuple):
    """Where a needle stands: its number, and from where to where in what was searched."""

    number: int
    start: int
    end: int


class _Form(NamedTuple):
    octets: bytes
    number: int
    alone: bool = False  # no digit may stand beside it


def national_of(digits: str) -> str:
    """The digits of a number without its country code."""
    return digits[1:] if digits[0] in _ONE else digits[2:] if _TWO.match(digits) else digits[3:]


def texts_of(text: str) -> set[str]:
    """A text in the cases and normal forms that `str.lower` of ASCII octets does not bring together."""
    cases = {text, text.casefold(), text.lower(), text.upper()}
    return {unicodedata.normalize(form, case) for case in cases for form in ("NFC", "NFD")}


def base64_of(data: bytes) -> set[bytes]:
    """The octets that stand in base64 for `data` at each alignment, without those that its neighbours decide."""
    found = set()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data)
        coded = coded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        found |= {coded, coded.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def ref_octets(ref: str) -> bytes:
    """The 128 bits of a subject_ref. Raises `ValueError`."""
    return base64.b32decode(ref.removeprefix("sub_").upper() + "======")


class _Forms:
    """All spellings of all needles: `folded` for lower-cased octets, `exact`, and `digits` for what stands without BETWEEN."""

    def __init__(self) -> None:
        self.folded: set[_Form] = set()
        self.exact: set[_Form] = set()
        self.digits: set[_Form] = set()

    def add(self, needle: Needle) -> None:
        if needle.kind == "ref":
            octets = ref_octets(needle.text)
            self._text(needle, needle.text.removeprefix("sub_"))
            self.exact.add(_Form(octets, needle.number))
            self.exact |= {_Form(form, needle.number) for form in base64_of(octets)}
            self.folded.add(_Form(octets.hex().encode(), needle.number))
        elif needle.kind == "tel" or (needle.kind == "words" and NUMBER.fullmatch(needle.text)):
            self._number(needle)
        elif needle.kind == "ip":
            address = ipaddress.ip_address(needle.text)
            self._text(needle, needle.text, alone=True)
            if address.version == 6:
                self._text(needle, address.exploded)
                self.exact.add(_Form(address.packed, needle.number))
        else:
            self._text(needle, needle.text)

    def _number(self, needle: Needle) -> None:
        digits = re.sub(r"[^0-9]", "", needle.text)
        if len(digits) < NEEDLE_BYTES_MIN:
            raise NeedleUnfit(needle.number, f"it has fewer than {NEEDLE_BYTES_MIN} digits")
        national = national_of(digits)
        if len(national) >= LOOSE_DIGITS_MIN:  # it ends every other spelling, so it alone is looked for
            forms = [(national, False)]
        else:
            forms = [(digits, False)] + ([(national, True)] if len(national) >= NEEDLE_BYTES_MIN else [])
        for form, alone in forms:
            plain = form.encode()
            self.digits.add(_Form(plain, needle.number, alone))
            self.folded.add(_Form(plain.hex().encode(), needle.number))
            self.folded |= {_Form(wide.hex().encode(), needle.number) for wide in _wide(form)}
            self.exact |= {_Form(coded, needle.number) for coded in base64_of(plain) if len(coded) >= NEEDLE_BYTES_MIN}

    def _text(self, needle: Needle, text: str, *, alone: bool = False) -> None:
        if len(text.encode()) < NEEDLE_BYTES_MIN:
            raise NeedleUnfit(needle.number, f"it is shorter than {NEEDLE_BYTES_MIN} octets")
        for case in texts_of(text):
            plain = case.encode()
            written = {plain, *_wide(case)}
            if not case.isascii():
                written.add(case.encode("latin-1", "ignore") if all(ord(c) < 256 for c in case) else plain)
            self.folded |= {_Form(form.lower(), needle.number, alone) for form in written}
            self.folded |= {_Form(form.hex().encode(), needle.number) for form in written}
            if " " in case:
                self.folded.add(_Form(plain.replace(b" ", b"+").lower(), needle.number))
            self.exact |= {_Form(coded, needle.number) for coded in base64_of(plain)}
        if max(len(form.octets) for form in self.folded | self.exact) > EDGE_BYTES:
            raise NeedleUnfit(needle.number, "it is longer than what can be looked for")


def _wide(text: str) -> tuple[bytes, bytes]:
    return text.encode("utf-16-le"), text.encode("utf-16-be")


class Needles:
    """Many needles, found in one pass. Raises `NeedleUnfit`."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self.all = list(needles)
        if len(self.all) > NEEDLES_MAX:
            raise NeedleUnfit(NEEDLES_MAX + 1, "too many at once")
        forms = _Forms()
        for needle in self.all:
            forms.add(needle)
        self._folded, self._exact, self._digits = _Finder(forms.folded), _Finder(forms.exact), _Finder(forms.digits)

    def within(self, data: bytes, until: int | None = None) -> list[Hit]:
        """Where needles stand in `data`, of those that begin before `until`. The place of a spaced number is not exact."""
        until = len(data) if until is None else until
        found = [*self._folded.hits(data.lower(), until), *self._exact.hits(data, until)]
        if self._digits.some:
            tight = data.translate(None, BETWEEN)
            border = len(tight) if until == len(data) else len(data[:until].translate(None, BETWEEN))
            found += self._digits.hits(tight, border)
        return list(dict.fromkeys(found))

    def spellings(self) -> set[bytes]:
        """Every form that is looked for as it stands: for the tests of this."""
        return {form.octets for finder in (self._folded, self._exact, self._digits) for form in finder.forms}


class _Finder:
    """Many strings in one pass."""

    def __init__(self, forms: Iterable[_Form]) -> None:
        self.forms = set(forms)
        self._by_prefix: dict[bytes, list[_Form]] = {}
        for form in self.forms:
            self._by_prefix.setdefault(form.octets[:PREFIX_BYTES], []).append(form)
        self.some = bool(self._by_prefix)
        self._search = re.compile(_trie(sorted(self._by_prefix)), re.DOTALL).search if self.some else None

    def hits(self, data: bytes, until: int) -> Iterator[Hit]:
        if self._search is None:
            return
        at = 0
        # Not `finditer`: needles may overlap, and a look-ahead would give up the fast search for a first octet.
        while (match := self._search(data, at)) and match.start() < until:
            at = match.start()
            for form in self._by_prefix[match[0]]:
                if data.startswith(form.octets, at) and not (form.alone and _between_digits(data, at, at + len(form.octets))):
                    yield Hit(form.number, at, at + len(form.octets))
            at += 1


def _between_digits(data: bytes, start: int, end: int) -> bool:
    # A trunk prefix (0, 00) is no part of another number; one that ends with it is.
    before = data[max(0, start - 2) : start].rstrip(b"0")
    return before[-1:].isdigit() or data[end : end + 1].isdigit()


def _trie(words: Sequence[bytes]) -> bytes:
    """A regular expression for one of `words`, all of one length, that looks at each octet once."""
    if not words[0]:
        return b""
    by_first: dict[int, list[bytes]] = {}
    for word in words:
        by_first.setdefault(word[0], []).append(word[1:])
    parts = [re.escape(bytes([first])) + _trie(rest) for first, rest in sorted(by_first.items())]
    return b"(?:" + b"|".join(parts) + b")" if len(parts) > 1 else parts[0]
