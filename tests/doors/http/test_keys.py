"""Key-encryption keys at the door: who may rotate them, what is shown, and a rotation that runs behind the answer."""

from time import monotonic, sleep
from typing import Any
from uuid import uuid4

WAIT_SECS = 30.0
PARTY = {"party_id": "p", "role": "customer", "identifiers": [{"kind": "tel", "value": "+493090182990"}], "name": "Kay"}


def with_keys(house: Any) -> str:
    """A controller of its own, with a call of one party."""
    controller, name = uuid4().hex, uuid4().hex
    started = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": [PARTY]}
    assert house.send("call.started", started, controller).status_code == 202
    house.folded()
    return controller


def rotation_of(client: Any, controller: str) -> dict[str, Any]:
    (row,) = client.get("/v1/keys", params={"controller": controller}).json()["keys"]
    assert row["controller"] == controller
    found: dict[str, Any] = row["rotation"]
    return found


def test_a_rotation_runs_in_the_background_and_its_end_is_seen(house: Any) -> None:
    controller = with_keys(house)
    begun = house.root.post("/v1/keys/rotations", json={"controller": controller})
    assert begun.status_code == 202 and begun.json()["keys"][0]["controller"] == controller
    give_up = monotonic() + WAIT_SECS
    while rotation_of(house.root, controller)["phase"] != "ended":
        assert monotonic() < give_up and house.service.failed is None
        sleep(0.02)
    seen = rotation_of(house.root, controller)
    assert (seen["shards_rotated"], seen["epochs_destroyed"], seen["owners_acknowledged"]) == (4096, 4096, 8)
    assert (seen["keys_rewrapped"], seen["waits_for"]) == (1, [])


def test_nobody_rotates_what_is_not_theirs_or_not_there(house: Any) -> None:
    missing = house.root.post("/v1/keys/rotations", json={"controller": uuid4().hex})
    assert (missing.status_code, missing.json()["field"]) == (404, "/controller")
    mine = house.by_role("administrator")
    theirs = mine.post("/v1/keys/rotations", json={"controller": "rival"})
    assert theirs.status_code == 403 and theirs.json()["type"].endswith(":controller-not-yours")
    assert mine.get("/v1/keys?controller=rival").status_code == 403
    assert {row["controller"] for row in mine.get("/v1/keys").json()["keys"]} <= {"acme"}
    assert house.root.post("/v1/keys/rotations", json={}).json()["field"] == "/controller"


def test_no_key_and_no_ref_is_shown(house: Any) -> None:
    controller = with_keys(house)
    assert house.root.post("/v1/keys/rotations", json={"controller": controller}).status_code == 202
    text = house.root.get("/v1/keys", params={"controller": controller}).text
    assert "sub_" not in text and "act_" not in text
    assert not any(key.hex() in text for name, key in house.service.ring.all_keys_alive() if controller in name)
