"""`consentinel sim` ends as a build needs it: 0 when nothing was found, 1 with the seed and the trace when something was."""

import json

import pytest

from connectors.cli.app import run


def test_a_sound_engine_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seed", "3", "--seeds", "4", "--events", "10", "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert document["seeds"] == 4


def test_a_finding_ends_with_1_and_says_how_it_came_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seeds", "20", "--bug", "kept_outputs", "--output", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["finding"]
    assert any("fate: " in line for line in document["trace"])
    assert run(["sim", "--seed", str(document["seed"]), "--bug", "kept_outputs", "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["trace"] == document["trace"], "the seed alone tells it again"


def test_a_bug_that_is_not_known_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--bug", "none-such"]) == 2
    assert "torn_write" in capsys.readouterr().err
