"""Which tags are marks: the spellings of today's products, and nothing that only looks like one."""

import pytest

from processors.tags import mark_named, marks_of


@pytest.mark.parametrize("letter", "abcdef")
def test_a_lawful_basis_is_read_in_the_spellings_that_products_write(letter: str) -> None:
    spellings = [
        f"gdpr:6(1)({letter})", f"GDPR 6(1)({letter.upper()})", f"gdpr-6-1-{letter}", f"art6_1_{letter}",
        f"GDPR Art. 6(1)({letter})", f"Art. 6 Abs. 1 lit. {letter} DSGVO", f"UK GDPR Article 6 (1) ({letter})",
        f"6(1)({letter})", f"  gdpr : 6.1.{letter} ",
    ]  # fmt: skip
    assert {mark_named(spelling) for spelling in spellings} == {f"art6_1_{letter}"}
    assert mark_named("gdpr", f"6(1)({letter})") == mark_named("Legal basis (GDPR)", f"Art. 6(1)({letter})") == f"art6_1_{letter}"


@pytest.mark.parametrize(("tag", "mark"), [
    ("MiFID", "mifid"), ("mifid2", "mifid"), ("MiFID II", "mifid"), ("unlawful", "unlawful"), ("gdpr:17(1)(d)", "unlawful"),
    ("pci:sad", "card_authentication_data"), ("PCI DSS 3.3.1", "card_authentication_data"),
    ("card_data", "card_authentication_data"),
])  # fmt: skip
def test_so_are_mifid_and_what_must_go(tag: str, mark: str) -> None:
    assert mark_named(tag) == mark


@pytest.mark.parametrize("tag", [
    "gdpr", "gdpr:6", "gdpr:6(1)", "gdpr:6(1)(g)", "gdpr:9(2)(a)", "gdpr:16(1)(a)", "version 6.1.a", "pci", "mifid-training",
    "6f", "unlawful entry reported", "gdpr:17(3)(b)", "gdpr 6 1 c 2", "", "éé",
])  # fmt: skip
def test_nothing_else_is(tag: str) -> None:
    assert mark_named(tag) is None
    assert mark_named(tag, "no basis at all") is None


def test_a_key_that_is_taken_away_ends_what_its_values_set_and_no_other_tag_ends_anything_else() -> None:
    known = ["art6_1_b", "art6_1_c", "mifid", "unlawful"]
    assert marks_of("GDPR", None, known) == ("art6_1_b", "art6_1_c")
    assert marks_of("gdpr", "6(1)(b)", known) == ("art6_1_b",)
    assert marks_of("vip", None, known) == marks_of("lawful", None, known) == ()
