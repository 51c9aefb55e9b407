"""Two spellings of one identifier are one; what cannot be one is refused by code."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import identifiers
from schemas.events import Identifier
from schemas.identifiers import NotAnIdentifier, home_of, normalise

E164 = "+12025550123"


@pytest.mark.parametrize(
    ("value", "region"),
    [
        ("+12025550123", None),
        ("+1 202-555-0123", None),
        (" (202) 555-0123 ", "US"),
        ("202.555.0123", "US"),
        ("tel:+1-202-555-0123", None),
        ("TEL:+12025550123", None),
        ("tel:202-555-0123;phone-context=+1", None),
        ("tel:+1-202-555-0123;ext=77", None),
        ("+1 202 555 0123 ext. 77", None),
        ("+1 202 555 0123", "DE"),
        ("\uff0b12025550123", None),
    ],
)
def test_spellings_of_a_number_are_one(value: str, region: str | None) -> None:
    assert normalise("tel", value, region) == E164


@pytest.mark.parametrize(
    ("kind", "value", "region", "code"),
    [
        ("tel", "202 555 0123", None, "number-needs-region"),
        ("tel", "tel:202-555-0123", None, "number-needs-region"),
        ("tel", "202 555 0123", "ZZ", "number-needs-region"),
        ("tel", "+999 555 0123", None, "number-not-possible"),
        ("tel", "+1 20", None, "number-not-possible"),
        ("tel", "+1 202 555 0123 0123 0123", None, "number-not-possible"),
        ("tel", "nobody", "US", "number-not-possible"),
        ("tel", "nobody", None, "number-not-possible"),
        ("tel", "1" * 500, "US", "number-not-possible"),
        ("tel", " ", None, "identifier-empty"),
        ("email", "", None, "identifier-empty"),
        ("email", "example.com", None, "address-not-possible"),
        ("email", "@example.com", None, "address-not-possible"),
        ("email", "ann@", None, "address-not-possible"),
        ("email", "ann@bob@example.com", None, "address-not-possible"),
        ("email", "mailto:", None, "address-not-possible"),
        ("ip", "192.0.2.256", None, "address-not-possible"),
        ("ip", "192.0.02.1", None, "address-not-possible"),
        ("crm", "\t ", None, "identifier-empty"),
    ],
)
def test_what_cannot_be_one_is_refused_by_code(kind: Any, value: str, region: str | None, code: str) -> None:
    with pytest.raises(NotAnIdentifier) as caught:
        normalise(kind, value, region)
    assert caught.value.code == code
    assert str(caught.value) == code
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("kind", "value", "normal"),
    [
        ("email", " Ann@Example.COM ", "ann@example.com"),
        ("email", "MailTo:ann@example.com?subject=x", "ann@example.com"),
        ("email", "Jose\u0301@example.com", "jos\u00e9@example.com"),
        ("ip", " 2001:DB8:0:0::1 ", "2001:db8::1"),
        ("ip", "::ffff:192.0.2.1", "192.0.2.1"),
        ("ip", "192.0.2.1", "192.0.2.1"),
        ("crm", " Ab-1 ", "Ab-1"),
        ("social", "e\u0301", "\u00e9"),
        ("device", "D 1", "D 1"),
        ("employee", "E1", "E1"),
    ],
)
def test_normal_forms(kind: Any, value: str, normal: str) -> None:
    assert normalise(kind, value, None) == normal


@settings(deadline=None, database=None)
@given(st.sampled_from(["email", "crm", "ip", "tel"]), st.text(max_size=20) | st.emails())
def test_a_normal_form_is_its_own_normal_form(kind: Any, value: str) -> None:
    try:
        normal = normalise(kind, value, "US")
    except NotAnIdentifier:
        return
    assert normalise(kind, normal, None) == normal


@settings(deadline=None, database=None)
@given(st.emails(domains=st.just("example.com")))
def test_case_and_form_do_not_tell_addresses_apart(address: str) -> None:
    normal = normalise("email", address, None)
    assert normalise("email", f" {address.upper()} ", None) == normal
    assert normalise("email", unicodedata.normalize("NFD", address), None) == normal


def test_the_cache_is_bounded() -> None:
    assert identifiers._tel.cache_info().maxsize == identifiers.TEL_CACHE_ENTRIES


def of(*kinds: Any) -> list[Identifier]:
    return [Identifier(kind=kind, value="x") for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "home"),
    [(("crm", "email", "tel", "tel"), 2), (("crm", "email", "email"), 1), (("crm", "ip"), 0), (("tel",), 0)],
)
def test_home_is_the_first_tel_else_the_first_email_else_the_first(kinds: tuple[str, ...], home: int) -> None:
    assert home_of(of(*kinds)) == home


def test_nobody_has_no_home() -> None:
    with pytest.raises(ValueError, match="identifier"):
        home_of(())
