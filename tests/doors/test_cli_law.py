"""`consentinel law`: in process, since none of these commands needs a service."""

import json
from pathlib import Path
from typing import Any

import pytest

from connectors.cli.app import run
from law.book import SHIPPED


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    assert run(["law", *args, "--output", "json"]) == code
    out = capsys.readouterr().out
    return json.loads(out) if out else None


# shared/law.md, section 2, as the contract's rule ids.
VECTORS = [
    ("gdpr.art12.response", "2026-09-03", "DE", "2026-10-05"),
    ("uk_gdpr.art12.response", "2026-09-03", "GB-ENG", "2026-10-05"),
    ("gdpr.art12.response", "2026-01-31", "EU", "2026-03-02"),
    ("uk_gdpr.art12.response", "2026-01-31", "GB-ENG", "2026-03-02"),
    ("gdpr.art12.response", "2028-01-31", "EU", "2028-02-29"),
    ("gdpr.art12.response", "2026-08-31", "EU", "2026-09-30"),
    ("gdpr.art12.extended", "2026-08-31", "EU", "2026-11-30"),
    ("uk_gdpr.art12.response", "2026-04-01", "GB-ENG", "2026-05-01"),
    ("ccpa.respond", "2026-11-20", "US-CA", "2027-01-04"),
    ("ccpa.respond_extended", "2026-11-20", "US-CA", "2027-02-18"),
    ("ccpa.opt_out", "2026-11-20", "US-CA", "2026-12-14"),
    ("tcpa.revocation", "2026-11-20", "US", "2026-12-07"),
    ("gdpr.art33.authority", "2026-11-20T18:20:00", "DE", "2026-11-23T18:20:00+01:00"),
    ("gdpr.art33.authority", "2026-11-20T17:20:00Z", "DE", "2026-11-23T18:20:00+01:00"),
    ("us_ca.breach_residents", "2026-11-20", "US-CA", "2026-12-20"),
]


@pytest.mark.parametrize(("rule", "received", "place", "day"), VECTORS)
def test_due_says_when_and_how_it_was_counted(
    rule: str, received: str, place: str, day: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    found = asked(capsys, "due", "--rule", rule, "--received", received, "--place", place)
    assert found["due"] == day and found["steps"][0].split(": ")[1].startswith(rule) and len(found["steps"]) > 1


def test_an_extension_and_a_pause_count_where_the_row_allows_them(capsys: pytest.CaptureFixture[str]) -> None:
    due = ("due", "--received", "2026-11-20", "--place")
    assert asked(capsys, *due, "US-CA", "--rule", "ccpa.respond", "--extended")["due"] == "2027-02-18"
    paused = ("--paused", "2026-11-23/2026-11-28")
    assert asked(capsys, *due, "GB", "--rule", "uk_gdpr.art12.response", *paused)["due"] == "2026-12-29"  # 25, 26 and 28 December
    assert run(["law", *due, "US-CA", "--rule", "ccpa.respond", *paused]) == 1
    assert "ccpa.respond US-CA 2020-01-01: no-pause" in capsys.readouterr().err
    assert run(["law", *due, "US-CA", "--rule", "ccpa.opt_out", "--extended"]) == 1
    assert run(["law", *due, "Berlin", "--rule", "ccpa.opt_out"]) == 2
    assert run(["law", *due, "DE", "--rule", "ccpa.opt_out"]) == 1 and "not-in-force" in capsys.readouterr().err


def test_what_is_proposed_can_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    due = ("due", "--rule", "gdpr.art33.authority", "--received", "2026-11-20T18:20+01:00", "--place", "DE", "--proposed")
    found = asked(capsys, *due)
    assert found["due"] == "2026-11-24T18:20:00+01:00" and "this row is proposed, not law" in found["steps"]


def test_list_shows_what_holds_at_a_place_on_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (asked(capsys, "list", "--place", "FR", "--on", f"2026-08-{day}")["rows"] for day in (10, 11))
    opt_in = [{row["rule"]: row["value"] for row in rows}["eu.marketing.opt_in"] for rows in (before, after)]
    assert opt_in == ["no", "yes"]
    assert all({"article", "source", "certainty", "pack"} <= set(row) for row in after)
    assert not any(row["status"] == "proposed" for row in asked(capsys, "list")["rows"])
    assert any(row["status"] == "proposed" for row in asked(capsys, "list", "--proposed")["rows"])
    assert run(["law", "list", "--place", "Germany"]) == 2 and "--place" in capsys.readouterr().err


def test_check_runs_every_vector_and_names_the_row_that_is_wrong(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    packs = asked(capsys, "check")["packs"]
    assert {pack["pack"].partition("@")[0] for pack in packs} == {path.stem for path in SHIPPED.glob("*.yaml")}
    text = (SHIPPED / "gdpr.yaml").read_text()
    for wrong, row, reason in (
        (text.replace("due: 2026-10-05", "due: 2026-10-03"), "vector gdpr.art12.response DE 2026-09-03", "wrong-vector"),
        (text.replace('2024-01-01, says: "15"', '2024-01-01, says: "13"'), "vector gdpr.art8.age DK 2024-01-01", "wrong-vector"),
        (text.replace("2024-01-01, status", "2024-13-01, status", 1), "row", "not-a-date"),
        (text.replace('{amount: 3, unit: months, counting: "1182_71"}', "{amount: 3, unit: months, counting: moon}"),
         "row 2: gdpr.art12.extended", "wrong-value"),
    ):  # fmt: skip
        (folder / "own.yaml").write_text(wrong)
        found = asked(capsys, "check", "own.yaml", code=1)
        assert found["row"].startswith(row) and found["reason"] == reason, found


def test_an_operator_signs_own_packs_and_what_was_changed_since_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    own = folder / "packs"
    own.mkdir()
    text = (SHIPPED / "gdpr.yaml").read_text().replace('version: "2026.1"', 'version: "2026.1.1"')
    (own / "gdpr@2026.1.1.yaml").write_text(text)
    vkey = asked(capsys, "key", "own.key", "--name", "acme.example/law")["vkey"]
    assert (folder / "own.key").stat().st_mode & 0o077 == 0 and run(["law", "key", "own.key", "--name", "x"]) == 1
    monkeypatch.setenv("CONSENTINEL_LAW__FOLDER", str(own))
    monkeypatch.setenv("CONSENTINEL_LAW__KEYS", json.dumps([vkey]))
    capsys.readouterr()
    assert run(["law", "list"]) == 2 and "gdpr@2026.1.1: unsigned" in capsys.readouterr().err
    asked(capsys, "sign", str(own / "gdpr@2026.1.1.yaml"), "--key", "own.key")
    found = asked(capsys, "list")
    assert [p["version"] for p in found["packs"] if p["pack"] == "gdpr"] == ["2026.1", "2026.1.1"]
    assert {row["pack"] for row in found["rows"] if row["pack"].startswith("gdpr")} == {"gdpr@2026.1"}  # until it is activated
    (own / "gdpr@2026.1.1.yaml").write_text(text.replace("number: 14", "number: 12"))
    assert run(["law", "list"]) == 2 and "gdpr@2026.1.1: wrong-signature" in capsys.readouterr().err
