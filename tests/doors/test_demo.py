"""The demonstration fails when one thing it claims is not so: it is a test that people watch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.cli import demo, demo_data, demo_later
from connectors.cli.demo_stage import Stage, found_in_text, found_on_disk
from connectors.cli.output import Format

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_runs_and_every_claim_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "connectors.cli", "demo", "--output", "json"], cwd=ROOT, capture_output=True, text=True,
        timeout=240, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert [claim for claim in document["claims"] if not claim["holds"]] == []
    assert done.returncode == 0 and document["ok"]
    assert len({claim["step"] for claim in document["claims"]}) == 9


@pytest.mark.slow
def test_the_demo_runs_on_vcons_and_prints_nobody(tmp_path: Path) -> None:
    inbox = tmp_path / "calls"
    inbox.mkdir()
    for talk in demo_data.TALKS:
        document = demo_data._vcon(talk, demo_data.datetime.now(demo_data.UTC))
        (inbox / f"{talk.name}.vcon.json").write_text(json.dumps(document))
    (inbox / "broken.vcon").write_text("{")
    done = subprocess.run(
        [sys.executable, "-m", "connectors.cli", "demo", str(inbox)], cwd=ROOT, capture_output=True, text=True, timeout=240,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "vcon-broken" in done.stdout
    clues = [clue for person in demo_data.people_of(demo_data.TALKS) for clue in person.clues]
    assert not found_in_text(clues, [done.stdout, done.stderr])


@pytest.mark.slow
def test_with_too_few_customers_the_steps_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.vcon").write_text("{}")
    assert demo.run_demo(tmp_path, Format.TABLE)
    assert "Fewer than 3 customers" in capsys.readouterr().out


@pytest.mark.slow
def test_a_demo_with_one_false_claim_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # The engine keeps its format's name on disk; as a "clue" it must be found, and the claim that nothing is must fail.
    real = demo.people_of

    def sabotaged(talks: object) -> list[demo_data.Person]:
        people = real(demo_data.TALKS)
        people[0].clues.append("SQLite format 3")
        return people

    monkeypatch.setattr(demo, "people_of", sabotaged)
    assert demo.run_demo(None, Format.JSON) is False
    failed = [claim["claim"] for claim in json.loads(capsys.readouterr().out)["claims"] if not claim["holds"]]
    assert any("bytes on disk" in claim for claim in failed)


def test_a_claim_that_does_not_hold_is_counted_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(Format.TABLE)
    stage.step("One")
    assert stage.check("so", True) and not stage.check("never so", False)
    assert stage.failed == ["never so"]
    assert "NOT SO: never so" in capsys.readouterr().out


def test_the_searches_find_what_is_there(tmp_path: Path) -> None:
    clue = "Rosalind Achterberg"
    for n, data in enumerate((clue.encode(), clue.encode("utf-16-le"), b"..rosalind achterberg..", b"RosalindAchterberg")):
        file = tmp_path / str(n)
        file.write_bytes(b"\0\xff" + data)
        assert found_on_disk([clue, "somebody else"], file) == {clue}
    assert found_in_text([clue], ["ROSALIND ACHTERBERG said"]) == {clue}
    assert found_in_text([clue], ["nobody"]) == set()


def test_the_conversations_use_reserved_numbers_and_domains_only() -> None:
    text = json.dumps([demo_data.events_of(talk, demo_data.datetime.now(demo_data.UTC)) for talk in demo_data.TALKS])
    for person in demo_data.people_of(demo_data.TALKS):
        for identifier in person.identifiers:
            value = identifier["value"]
            assert value.startswith("+1 202 555 01") or value.endswith(("@example.com", "@example.net"))
    assert "gmail" not in text
    assert demo_later.ALERTS[-1] == ("overdue", 72)
