"""Packs are read whole or refused with the row named; a book answers with the row of the most specific place, on the day."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from law.book import Book, shipped
from law.places import EU_MEMBERS
from law.reading import TEXT_CHARS_MAX, PackRefused, read_pack

ROW = {
    "rule": "x.rule", "kind": "period", "places": ["EU"], "period": {"amount": 1, "unit": "months"}, "article": "Art. 1",
    "source": "text", "certainty": "V", "valid_from": "2020-01-01", "status": "law",
}  # fmt: skip
AGE = {"kind": "age", "period": None, "number": 1}
HOURS = {"kind": "hours", "period": None}
VECTOR = {"rule": "x.rule", "received": "2026-01-31", "place": "DE", "due": "2026-03-02"}


def pack(*rows: dict[str, Any], vectors: tuple[dict[str, Any], ...] = (), **more: Any) -> str:
    document = {"pack": "x", "version": "1", "title": "x", "rows": [ROW | row for row in rows], "vectors": list(vectors), **more}
    return json.dumps(document)  # which is YAML as well


@pytest.mark.parametrize(
    ("text", "row", "reason"),
    [
        pytest.param(pack({"colour": "red"}), "row 1: x.rule", "unknown-key", id="unknown key"),
        pytest.param(pack({}, colour="red"), "pack", "unknown-key", id="unknown key of the pack"),
        pytest.param(pack({}, {"rule": "x.b", "kind": "edict"}), "row 2: x.b", "unknown-kind", id="unknown kind"),
        pytest.param(pack({"valid_from": "2026-02-30"}), "row 1: x.rule", "not-a-date", id="a date that is none"),
        pytest.param(pack({"valid_to": "tomorrow"}), "row 1: x.rule", "not-a-date", id="an end that is none"),
        pytest.param(pack({"valid_to": "2020-01-01"}), "row 1: x.rule", "ends-before-it-begins", id="ends as it begins"),
        pytest.param(
            pack({"valid_to": "2022-01-01"}, {"valid_from": "2021-12-31"}), "x.rule EU 2021-12-31", "overlap", id="overlap"
        ),
        pytest.param(pack({}, {"valid_from": "2022-01-01"}), "x.rule EU 2022-01-01", "overlap", id="overlap without an end"),
        pytest.param(
            pack({"valid_to": "2022-01-01"}, {"valid_from": "2022-01-02"}), "x.rule EU 2022-01-02", "gap", id="gap"
        ),
        pytest.param(
            pack({"places": ["DE", "FR"]}, {"places": ["FR"]}), "x.rule FR 2020-01-01", "overlap", id="overlap at one place"
        ),
        pytest.param(pack({}, vectors=(VECTOR | {"rule": "x.y"},)), "vector x.y DE", "unknown-rule", id="of an unknown rule"),
        pytest.param(pack({}, vectors=(VECTOR | {"on": "2026-01-01"},)), "vector x.rule DE", "wrong-value", id="of two kinds"),
        pytest.param(pack({}, vectors=({"rule": "x.rule", "place": "EU"},)), "vector x.rule EU", "wrong-value", id="of no kind"),
        pytest.param(
            pack({}, AGE | {"places": ["DE"]}), "x.rule DE 2020-01-01", "wrong-value", id="a rule of two kinds"
        ),
        pytest.param(pack({}, pack="gdpr"), "gdpr.art12.response", "rule-missing", id="a rule that code asks for"),
        pytest.param(pack({"number": 3}), "row 1: x.rule", "wrong-value", id="two values"),
        pytest.param(pack({"period": None}), "row 1: x.rule", "wrong-value", id="no value"),
        pytest.param(pack({"places": []}), "row 1: x.rule", "wrong-name", id="nowhere"),
        pytest.param(pack({"places": ["Germany"]}), "row 1: x.rule", "wrong-name", id="no code of a place"),
        pytest.param(pack({"places": ["XX"]}), "row 1: x.rule", "wrong-name", id="no place"),
        pytest.param(
            pack({"period": {"amount": 1, "unit": "days", "counting": "moon"}}), "row 1: x.rule", "wrong-value", id="no counting"
        ),
        pytest.param(
            pack({"extend": {"amount": 1, "unit": "hours"}}), "row 1: x.rule", "wrong-value", id="hours added to months"
        ),
        pytest.param(pack({"certainty": "sure"}), "row 1: x.rule", "wrong-value", id="no mark"),
        pytest.param("pack: x\npack: y\n", "pack", "unreadable", id="a key twice"),
        pytest.param("a: &a [1]\nb: *a\n", "pack", "unreadable", id="an alias"),
        pytest.param("a: !!set {x, y}\n", "pack", "unreadable", id="a tag"),
        pytest.param("a: !!bool maybe\n", "pack", "unreadable", id="a tag that its value does not fit"),
        pytest.param("a: !!timestamp soon\n", "pack", "unreadable", id="a tagged date that is none"),
        pytest.param("[", "pack", "unreadable", id="no YAML"),
        pytest.param("a" * (TEXT_CHARS_MAX + 1), "pack", "unreadable", id="too large"),
        pytest.param(pack({"article": "\ud800"}), "row 1: x.rule", "wrong-value", id="half a character"),
        *(
            pytest.param(pack(AGE).replace('"number": 1', f'"number": {value}'), "row 1: x.rule", "wrong-value", id=value)
            for value in (".nan", ".inf", "-1.5", "1:30.5")
        ),
        *(
            pytest.param(pack(HOURS | {"hours": {"spans": [[a, b]]}}), "row 1: x.rule", "wrong-value", id=f"{a} to {b}")
            for a, b in (("0830Z", "21:00"), ("08-05", "21:00"), ("T0800", "T2100"), ("24:00", "24:00"), ("08:00", "24:30"))
        ),
    ],
)  # fmt: skip
def test_a_pack_that_is_not_sound_is_refused_with_its_row(text: str, row: str, reason: str) -> None:
    with pytest.raises(PackRefused) as refused:
        read_pack(text)
    assert (refused.value.row, refused.value.reason) == (row, reason)


def test_no_more_of_a_file_is_read_than_a_pack_can_have(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: more than there is memory for
    with pytest.raises(PackRefused, match="too large"):
        read_pack(path)


def test_versions_that_meet_a_proposal_beside_the_law_and_other_places_are_sound() -> None:
    read_pack(pack(
        {"valid_to": "2022-01-01"}, {"valid_from": "2022-01-01"}, {"valid_from": "2021-06-01", "status": "proposed"},
        {"places": ["DE"], "valid_from": "2021-01-01"}, vectors=(VECTOR,),
    ))  # fmt: skip


def test_norway_is_no_denial_and_hours_are_no_numbers() -> None:
    text = "{pack: x, version: '1', title: t, rows: [{rule: x.h, kind: hours, places: [NO], hours: {spans: [[10:00, 13:30]]},"
    found = read_pack(text + " article: a, source: s, certainty: M, valid_from: 2020-01-01, status: law}]}").rows[0]
    assert found.places == ("NO",) and found.hours is not None and found.hours.spans == (("10:00", "13:30"),)


def test_the_most_specific_place_wins_and_members_fall_back_to_the_union() -> None:
    book, day = shipped(), date(2026, 9, 1)

    def number(rule: str, place: str, on: date = day) -> Any:
        row = book.row(rule, place, on)
        return None if row is None else row.number if row.flag is None else row.flag

    ages = {place: number("gdpr.art8.age", place) for place in EU_MEMBERS}
    assert len(ages) == 27 and set(ages.values()) == {13, 14, 15, 16}
    assert (number("gdpr.art8.age", "DE-BY"), number("gdpr.art8.age", "EU"), number("gdpr.art8.age", "US")) == (16, 16, None)
    assert (number("gdpr.art8.age", "DK", date(2023, 12, 31)), number("gdpr.art8.age", "DK", date(2024, 1, 1))) == (13, 15)
    assert (number("us.recording.all_party", "US-CA"), number("us.recording.all_party", "US-NY")) == (True, False)
    france = {day: number("eu.marketing.opt_in", "FR", date(2026, 8, day)) for day in (10, 11)}
    assert france == {10: False, 11: True}
    assert [number("tcpa.revoke_all", "US", d) for d in (date(2027, 1, 30), date(2027, 1, 31))] == [False, True]


def test_what_is_proposed_is_no_law_unless_it_is_asked_for() -> None:
    day = date(2026, 9, 1)

    def hours(book: Book, **more: bool) -> int:
        row = book.row("gdpr.art33.authority", "DE", day, **more)
        assert row is not None and row.period is not None
        return row.period.amount

    assert hours(shipped()) == 72 and hours(shipped(), proposed=True) == hours(shipped().with_proposals()) == 96
    assert shipped().row("gdpr.omnibus.reask", "DE", day) is None
    assert shipped().with_proposals().names.endswith(" proposed")


def test_rows_of_a_kind_fit_what_they_apply_to() -> None:
    def floors(place: str, **applies: str) -> set[str]:
        return {row.rule for row in shipped().rows("floor", place, date(2026, 9, 1), **applies)}

    assert "mifid.16_7.floor" in floors("FR", tag="mifid") and "mifid.16_7.floor" not in floors("FR", tag="sale")
    assert "mifid.16_7.floor" not in floors("US-CA") and "tsr.records.floor" in floors("US-CA", purpose="marketing")


def test_a_rule_that_no_pack_has_is_a_bug_and_not_an_absence() -> None:
    with pytest.raises(PackRefused, match=r"gdpr\.art99: unknown-rule"):
        shipped().row("gdpr.art99", "DE", date(2026, 1, 1))
