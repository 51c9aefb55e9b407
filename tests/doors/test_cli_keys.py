"""`consentinel keys` on a running service and on a stopped one's folder."""

import json
from typing import Any

import pytest

from .program import CONTROLLER, NUMBER, Program, conversation, until

pytestmark = pytest.mark.slow


def rotation(document: Any) -> dict[str, Any]:
    (row,) = document["keys"]
    found: dict[str, Any] = row["rotation"]
    return found


def test_keys_rotate_on_a_running_service_and_on_its_folder_and_nothing_is_lost(program: Program) -> None:
    assert program.json("keys", "status") == {"keys": []}
    refused = program.run("keys", "rotate", "--controller", CONTROLLER, "--output", "json")
    assert (refused.returncode, refused.stdout) == (1, "") and "not-found" in refused.stderr
    (program.folder / "c1.json").write_text(json.dumps(conversation("c1")))
    program.json("publish", str(program.folder / "c1.json"))
    search = ("subject", "search", "--controller", CONTROLLER, "--identifier", NUMBER)
    ref = until(lambda: program.json(*search)["subjects"])[0]["subject_ref"]
    reveal = ("subject", "show", ref, "--controller", CONTROLLER, "--reveal")
    assert until(lambda: "bicycle" in json.dumps(program.json(*reveal)))

    ended = rotation(program.json("keys", "rotate", "--controller", CONTROLLER))
    assert (ended["phase"], ended["epoch"], ended["epochs_destroyed"]) == ("ended", 2, 4096) and ended["keys_rewrapped"] > 0
    assert "bicycle" in json.dumps(program.json(*reveal))
    assert "ended" in program.run("keys", "status").stdout  # as a table

    begun = program.run("keys", "rotate", "--controller", CONTROLLER, "--background", "--output", "json")
    assert begun.returncode == 0 and rotation(json.loads(begun.stdout))["epoch"] == 3
    assert program.json("keys", "rotate", "--controller", CONTROLLER, "--data", str(program.data))["keys"]  # in use: asks it
    assert until(lambda: rotation(program.json("keys", "status", "--controller", CONTROLLER))["phase"] == "ended")

    assert program.stop() == 0
    data = ("--data", str(program.data))
    before = rotation(program.json("keys", "status", *data))["epoch"]
    after = rotation(program.json("keys", "rotate", "--controller", CONTROLLER, *data))
    assert (after["epoch"], after["phase"], after["keys_rewrapped"]) == (before + 1, "ended", ended["keys_rewrapped"])
    assert program.json("audit", "verify", *data)["ok"]
    program.start()
    assert "bicycle" in json.dumps(program.json(*reveal))
