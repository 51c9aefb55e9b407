"""One target of an erasure is told again, by call and by command: nobody else is, and whoever owes nothing is not."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from connectors.cli import app
from schemas.codec import decode_as
from schemas.topics import ErasureNotice

from .conftest import Still

TEL = {"kind": "tel", "value": "+12025550123"}
TARGETS = [{"name": name, "deadline_days": 30} for name in ("warehouse", "mailer")]
SETTINGS = {"default_region": "US", "employee_basis": "contract", "targets": TARGETS}
ASK = {"right": "erasure", "regime": "gdpr", "identifiers": [TEL], "received_via": "web", "verified_by": "desk"}


def notices(house: Any, request_id: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    found = [decode_as(ErasureNotice, r.value) for _, r in house.service.topic("erasure.notices") if r.value]
    return [(n.order_id, n.targets, n.items) for n in found if n.request_id == request_id]


def erasure(house: Any, controller: str = "acme") -> str:
    """An erasure that two targets must answer; the first has."""
    call = {"conversation_id": "c1", "channel": "voice", "direction": "inbound"}
    house.send("call.started", {**call, "parties": [{"party_id": "p", "role": "customer", "identifiers": [TEL]}]}, controller)
    request_id: str = house.root.post("/v1/requests", json={"controller": controller, **ASK}).json()["request_id"]
    house.settle() if isinstance(house, Still) else settled(house, request_id)
    done = {"order_id": f"{request_id}.0", "target": "mailer", "outcome": "done"}
    house.send("erasure.acknowledged", done, controller)
    return request_id


def settled(house: Any, request_id: str) -> None:
    for _ in range(20):
        house.folded()
        if house.root.get(f"/v1/requests/{request_id}").json()["identifiers"]:
            return
    raise AssertionError("it was never carried out")


def test_a_retry_tells_one_target_and_is_on_record_with_who_asked(still: Still) -> None:
    still.send("controller.configured", SETTINGS)
    still.settle()
    request_id = erasure(still)
    still.settle()
    told = (f"{request_id}.0", ("warehouse", "mailer"), ("c1",))
    assert notices(still, request_id) == [told]
    path = f"/v1/requests/{request_id}/retry"
    analyst = still.by_role("analyst")
    assert analyst.post(path, json={"target": "warehouse"}).status_code == 202
    still.settle()
    again = (f"{request_id}.0", ("warehouse",), ())
    assert notices(still, request_id) == [told, again]
    (sent,) = [e for e in still.envelopes("requests") if e.type == "request.retried"]
    assert sent.actor == "a-analyst"
    assert still.by_role("approver").post(path, json={"target": "warehouse"}).status_code == 403


@pytest.mark.parametrize(("body", "status", "code", "field"), [
    ({"target": "mailer"}, 422, "unusable", "/target"),  # it has answered
    ({"target": "media"}, 422, "unusable", "/target"),  # no recording was ordered away; those repeat by themselves
    ({"target": "Sentinel"}, 422, "unusable", "/target"),
    ({}, 400, "missing-field", "/target"),
    ({"target": ""}, 400, "wrong-field", "/target"),
    ({"target": "warehouse", "reason": "Sentinel"}, 400, "unknown-field", None),
])  # fmt: skip
def test_a_retry_that_would_tell_nobody_says_so(still: Still, body: Any, status: int, code: str, field: str | None) -> None:
    still.send("controller.configured", SETTINGS)
    still.settle()
    request_id = erasure(still)
    still.settle()
    response = still.root.post(f"/v1/requests/{request_id}/retry", json=body)
    assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (status, code)
    assert response.json().get("field") == field and "Sentinel" not in response.text
    assert len(notices(still, request_id)) == 1
    assert still.root.post("/v1/requests/none/retry", json={"target": "warehouse"}).status_code == 404


def test_the_command_does_the_same(
    house: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    controller = uuid4().hex
    house.send("controller.configured", SETTINGS, controller)
    request_id = erasure(house, controller)
    token = tmp_path / "token"
    token.write_text(house.store.create(uuid4().hex, ["analyst"], [controller]))
    at = ["--url", house.url, "--token-file", str(token), "--output", "json"]
    assert app.run(["request", "retry", request_id, "--target", "warehouse", *at]) == 0
    assert json.loads(capsys.readouterr().out) == {"request_id": request_id, "accepted": 1}
    house.folded()
    assert [(targets, items) for _, targets, items in notices(house, request_id)][1:] == [(("warehouse",), ())]
    assert app.run(["request", "retry", request_id, "--target", "nobody", *at]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "unusable" in err and "nobody" not in err
    assert app.run(["request", "retry", request_id, *at]) == 2
