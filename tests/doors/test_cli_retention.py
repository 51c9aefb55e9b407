"""`retention` as people use it: a policy is looked at, set and carried out, on a running service and on a stopped folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.doors.program import CONTROLLER, Program

pytestmark = pytest.mark.slow

POLICY = {"policy_id": "short", "selector": {"channel": "chat"}, "keep_for": "P1M", "from": "2020-01-01T00:00:00Z"}


def write(folder: Path, name: str, *documents: dict[str, Any]) -> str:
    (folder / name).write_text("\n".join(json.dumps(document) for document in documents))
    return str(folder / name)


def event(type_: str, id_: str, data: dict[str, Any], days_ago: int = 0) -> dict[str, Any]:
    at = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    return {"specversion": "1.0", "id": id_, "source": "t", "type": type_, "controller": CONTROLLER, "time": at, "data": data}


def call(name: str, channel: str, days_ago: int) -> dict[str, Any]:
    party = {"party_id": "a", "role": "customer", "identifiers": [{"kind": "crm", "value": f"C-{name}"}]}
    data = {"conversation_id": name, "channel": channel, "direction": "inbound", "parties": [party]}
    return event("call.started", name, data, days_ago)


def test_a_policy_is_looked_at_set_and_carried_out(program: Program) -> None:
    folder = program.folder
    calls = call("c1", "chat", 40), call("c2", "voice", 40), call("c3", "chat", 800)
    program.json("publish", write(folder, "calls.jsonl", *calls))
    assert program.json("retention", "run", "--now")["finished"], "and so all is folded"
    there = program.json("retention", "preview", "--controller", CONTROLLER)
    assert (there["items"], there["imported"], there["more"]) == (3, 1, False)
    proposed = program.json("retention", "preview", "--controller", CONTROLLER, "--policy", write(folder, "p.json", POLICY))
    assert proposed["earlier"] == 1 and set(proposed["by_rule"]) == {"default_period", "policy short"}
    assert proposed["imported"] == 2, "both chats are past their month, and get 30 days from their receipt"
    cut = program.json("retention", "preview", "--controller", CONTROLLER, "--limit", "1")
    assert len(cut["listed"]) == 1 and cut["more"] and cut["by_rule"] == there["by_rule"]

    program.json("publish", write(folder, "set.jsonl", event("retention.policy_set", "p1", POLICY)))
    ran = program.json("retention", "run", "--now")
    assert ran["finished"] and ran["conversations"] == {}
    assert program.json("retention", "preview", "--controller", CONTROLLER)["by_rule"] == proposed["by_rule"]
    assert program.run("retention", "run").returncode == 2, "it says what"
    assert program.run("retention", "preview", "--controller", CONTROLLER, "--policy", str(folder / "none")).returncode == 2
    bad = write(folder, "bad.json", POLICY | {"keep_for": "soon"})
    assert "not-a-period" in program.run("retention", "preview", "--controller", CONTROLLER, "--policy", bad).stderr

    program.stop()
    ran = program.json("retention", "run", "--now", "--data", str(program.data))
    assert ran["finished"] and ran["conversations"] == {}
