"""A needle is found in every spelling that anybody gives it, and near misses are not."""

import base64

import phonenumbers
import pytest

from engine.scan.faults import NeedleUnfit
from engine.scan.needles import Needle, Needles, national_of, ref_octets
from engine.sealing import subject_ref
from tests.harness import OTHER

# Of the ranges that NANPA, Ofcom, ACMA, BNetzA, Arcep, PTS and ComReg keep for drama: country codes of one, two and three digits.
NUMBERS = ["+12025550123", "+442079460958", "+61255501234", "+493023125000", "+33199001234", "+46313900600", "+353209100123"]
FORMATS = [getattr(phonenumbers.PhoneNumberFormat, name) for name in ("E164", "NATIONAL", "INTERNATIONAL", "RFC3966")]


def within(needle: Needle, data: bytes) -> bool:
    return bool(Needles([needle]).within(data))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_found_as_its_country_writes_it(number: str) -> None:
    parsed = phonenumbers.parse(number)
    assert national_of(number[1:]) == str(parsed.national_number)
    needle = Needle(1, "tel", number)
    for form in FORMATS:
        text = phonenumbers.format_number(parsed, form)
        for data in (text.encode(), text.encode("utf-16-le"), text.replace("-", ".").encode(), b"00" + number[1:].encode()):
            assert within(needle, b"<" + data + b">"), form
    digits = str(parsed.national_number).encode()
    for data in (digits.hex().upper().encode(), base64.b64encode(b"+" + digits + b"!")):
        assert within(needle, data)
    assert not within(needle, number[:-1].encode() + b"x")


def test_a_short_number_within_a_longer_one_is_another() -> None:
    needle = Needle(1, "tel", "+3725550123")  # Estonia has numbers of seven digits
    assert national_of("3725550123") == "5550123"
    assert within(needle, b"(555 0123)") and within(needle, b"tel 05550123,") and within(needle, b"+372 555 0123")
    assert not within(needle, b"155501234") and not within(needle, b"1772055501230")


def test_an_address_within_a_longer_one_is_another() -> None:
    needle = Needle(1, "ip", "192.0.2.1")
    assert within(needle, b"from 192.0.2.1:80") and not within(needle, b"192.0.2.10")
    six = Needle(1, "ip", "2001:db8::1")
    assert within(six, b"[2001:DB8::1]") and within(six, b"2001:0db8:0000:0000:0000:0000:0000:0001")
    assert within(six, b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01")


@pytest.mark.parametrize("text", ["Zoë Gränz", "ΣΟΦΟΣ ανήρ", "Straße 11"])
def test_text_is_found_in_any_case_and_normal_form(text: str) -> None:
    needle = Needle(1, "words", text)
    for form in (text, text.upper(), text.lower(), text.casefold()):
        assert within(needle, form.encode()) and within(needle, form.encode("utf-16-be"))
    assert not within(needle, text[:-1].encode())


def test_a_ref_is_found_as_text_and_as_its_octets() -> None:
    ref = subject_ref(bytes(32), "tel", OTHER)
    needle, octets = Needle(1, "ref", ref), ref_octets(ref)
    for form in (
        ref.encode(), ref[4:].upper().encode(), ref.encode("utf-16-le"), octets, octets.hex().encode(),
        octets.hex().upper().encode(),
        base64.b64encode(b"." + octets), base64.urlsafe_b64encode(ref.encode()), ref.encode().hex().encode(),
    ):  # fmt: skip
        assert within(needle, b"\xff" + form + b"\xff")
    assert not within(needle, subject_ref(bytes(32), "tel", OTHER + "1").encode())


@pytest.mark.parametrize(("kind", "text"), [("words", "brief"), ("crm", "42"), ("words", "long " * 2_000)])
def test_what_cannot_be_looked_for_is_refused_by_its_number(kind: str, text: str) -> None:
    with pytest.raises(NeedleUnfit) as refused:
        Needles([Needle(7, kind, text)])
    assert refused.value.number == 7 and text not in str(refused.value)


def test_needles_that_overlap_or_share_their_beginning_are_all_found() -> None:
    texts = ["parrot of Ann", "parrot of Annabel", "Ann Example", "of Annabel"]
    needles = Needles(Needle(n, "words", text) for n, text in enumerate(texts))
    assert {hit.number for hit in needles.within(b"the parrot of Annabel, and Ann Example")} == {0, 1, 2, 3}


def test_a_needle_does_not_show_itself() -> None:
    assert "2025550123" not in repr(Needle(1, "tel", "+12025550123"))
