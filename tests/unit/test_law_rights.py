"""Rights, bases and exceptions as the law packs have them: what holds is an exception, never a basis alone."""

from datetime import date

import msgspec
import pytest

from law.book import Book, shipped
from law.rights import Exempt, available, ceiling, exceptions, kept_by, words
from law.rows import Pack

BASES = [f"art6_1_{letter}" for letter in "abcdef"]
TODAY = date(2026, 11, 23)


def on(right: str, regime: str = "gdpr") -> set[str]:
    return {basis[-1] for basis in BASES if available(right, basis, regime, shipped(), TODAY).exists}


@pytest.mark.parametrize("regime", ["gdpr", "uk_gdpr"])
def test_each_right_exists_on_the_bases_of_its_article(regime: str) -> None:
    everywhere = ("access", "rectification", "erasure", "restriction", "no_automated_decision")
    assert all(on(right, regime) == set("abcdef") for right in everywhere)
    assert on("portability", regime) == {"a", "b"}
    assert on("objection", regime) == {"e", "f"}
    assert on("withdraw_consent", regime) == {"a"}
    assert on("opt_out_sale", regime) == set()


def test_the_ccpa_knows_no_basis_and_has_its_own_rights() -> None:
    requests = ("know", "know_categories", "access", "portability", "erasure", "correct")
    ours = (*requests, "opt_out_sale", "limit_sensitive", "opt_in_sale")
    assert all(on(right, "ccpa") == set("abcdef") for right in ours)
    assert on("objection", "ccpa") == on("restriction", "ccpa") == set()
    assert not available("correct", "", "ccpa", shipped(), date(2022, 12, 31)).exists, "CPRA, since 2023"


def test_a_right_names_its_rule_and_article() -> None:
    found = available("erasure", "art6_1_c", "gdpr", shipped(), TODAY)
    assert (found.exists, found.rule, found.article) == (True, "gdpr.right.erasure", "Art. 17(1)")


@pytest.mark.parametrize(("regime", "codes"), [
    ("gdpr", {f"art17_3_{letter}": f"Art. 17(3)({letter})" for letter in "abcde"}),
    ("uk_gdpr", {f"art17_3_{letter}": f"Art. 17(3)({letter})" for letter in "abcde"}),
    ("ccpa", {f"ccpa_d_{n}": f"Civ. Code 1798.105(d)({n})" for n in range(1, 9)}),
])  # fmt: skip
def test_every_exception_is_a_row_with_article_and_text(regime: str, codes: dict[str, str]) -> None:
    found = exceptions("erasure", regime, codes, shipped(), TODAY)
    assert {exempt.code: exempt.article for exempt in found} == codes
    assert all(exempt.rule and exempt.text for exempt in found)


def test_a_code_of_another_law_or_of_none_is_other_and_so_is_a_ground_for_erasing() -> None:
    asked = ["art17_3_b", "ccpa_d_8", "lawsuit", "art17_1_d"]
    assert [exempt.code for exempt in exceptions("erasure", "gdpr", asked, shipped(), TODAY)] == ["art17_3_b", "other"]
    assert [exempt.code for exempt in exceptions("erasure", "ccpa", asked, shipped(), TODAY)] == ["other", "ccpa_d_8"]
    assert exceptions("access", "gdpr", ["art17_3_b"], shipped(), TODAY) == (Exempt("other"),)


def test_a_duty_that_is_only_proposed_is_no_ground_and_stands_for_none() -> None:
    rows = tuple(
        msgspec.structs.replace(row, status="proposed", article=article, rule=rule)
        for row in shipped().rows("floor", "DE", TODAY) if row.rule == "mifid.16_7.floor"
        for rule, article in (("mifid.16_7.floor", "bill"), ("own.floor", "bill"))
    )  # fmt: skip
    book = Book([*shipped().packs, Pack(pack="own", version="1", title="own", rows=rows)])
    found = exceptions("erasure", "gdpr", ["mifid.16_7.floor", "own.floor"], book, TODAY)
    assert [(exempt.code, "bill" in exempt.article) for exempt in found] == [("mifid.16_7.floor", False), ("other", False)]


def test_a_duty_to_keep_is_told_by_its_own_rule_whatever_law_the_request_is_made_by() -> None:
    for regime in ("gdpr", "uk_gdpr", "ccpa"):
        (found,) = exceptions("erasure", regime, ["mifid.16_7.floor"], shipped(), TODAY)
        assert (found.rule, found.article) == ("mifid.16_7.floor", "Art. 16(7); Del. Reg. 2017/565 Art. 76")


def test_what_a_tag_claims_depends_on_the_law_that_is_asked() -> None:
    claims = {
        regime: {mark: found.code for mark in [*BASES, "mifid"] if (found := kept_by(mark, regime, shipped(), TODAY))}
        for regime in ("gdpr", "uk_gdpr", "ccpa", "")
    }
    european = {
        "art6_1_b": "art6_1_b", "art6_1_c": "art17_3_b", "art6_1_d": "art6_1_d", "art6_1_e": "art17_3_b", "art6_1_f": "art6_1_f",
        "mifid": "art17_3_b",
    }  # fmt: skip
    assert claims["gdpr"] == claims["uk_gdpr"] == claims[""] == european
    assert claims["ccpa"] == {"art6_1_b": "ccpa_d_1", "art6_1_c": "ccpa_d_8", "mifid": "ccpa_d_8"}
    assert {code for regime in claims.values() for code in regime.values()} <= {
        exempt.code for regime in ("gdpr", "ccpa") for exempt in exceptions("erasure", regime, {*european.values(), "ccpa_d_1",
        "ccpa_d_8"}, shipped(), TODAY)
    }, "whatever a tag claims is an exception with a row of its own"  # fmt: skip


def test_card_authentication_data_has_a_ceiling_by_every_law_and_unlawful_processing_in_europe() -> None:
    found = {
        (item, regime): row.rule for item in ("unlawful", "card_authentication_data") for regime in ("gdpr", "uk_gdpr", "ccpa")
        if (row := ceiling(item, regime, shipped(), TODAY)) is not None
    }  # fmt: skip
    assert found == {
        ("unlawful", "gdpr"): "gdpr.art17.unlawful", ("unlawful", "uk_gdpr"): "uk_gdpr.art17.unlawful",
        **{("card_authentication_data", regime): "pci.3_3_1.ceiling" for regime in ("gdpr", "uk_gdpr", "ccpa")},
    }  # fmt: skip


def test_words_are_none_where_a_version_of_the_pack_has_no_such_rule() -> None:
    rule = "gdpr.art21.marketing_purposes"
    assert "marketing" in words(rule, "", shipped(), TODAY)
    packs = [msgspec.structs.replace(pack, rows=tuple(r for r in pack.rows if r.rule != rule)) for pack in shipped().packs]
    assert words(rule, "", Book(packs), TODAY) == frozenset()
