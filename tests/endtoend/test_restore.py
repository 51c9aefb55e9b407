"""A data folder that comes back from a backup: whoever was forgotten since is forgotten again before anybody is served."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.evidence import lines_of
from engine.keyring import RingDamaged
from schemas.codec import decode_as
from schemas.topics import AuditEntry
from tests.endtoend.house import House
from tests.endtoend.world import Told, request, request_states, views
from tests.harness import START_MS

GONE, KEPT = "+12025550101", "+12025550102"
DAY_MS = 86_400_000


def call(id_: str, number: str, said: str, time_ms: int) -> list[Told]:
    party = {"party_id": "p", "role": "customer", "identifiers": [{"kind": "tel", "value": number}], "name": f"Name {id_}"}
    started: dict[str, Any] = {"conversation_id": id_, "channel": "voice", "direction": "inbound", "parties": [party]}
    spoken = {"conversation_id": id_, "segments": [{"party_id": "p", "text": said}]}
    return [
        Told("call.started", f"{id_}/1", time_ms, started), Told("call.transcribed", f"{id_}/2", time_ms, spoken),
        Told("call.ended", f"{id_}/3", time_ms, {"conversation_id": id_}),
    ]  # fmt: skip


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = House(tmp_path / "data")
    yield made
    made.service.stop()


def said(house: House) -> set[str]:
    return {line[3] for view in views(house.service).values() for line in view["lines"]}


def test_who_was_forgotten_after_the_backup_is_forgotten_again_and_nobody_else(house: House) -> None:
    house.tell(*call("c1", GONE, "the secret", START_MS - 1_000), *call("c2", KEPT, "the weather", START_MS - 1_000))
    copy = house.backup()
    house.tell(*request("r1", house.now_ms, ("tel", GONE)))
    assert request_states(house.service) == {"r1": "fulfilled"} and said(house) == {"the weather"}
    later = house.now_ms + DAY_MS
    house.now_ms = later
    house.tell(*call("c3", GONE, "back again", later))

    house.restore(copy)
    assert said(house) == {"the secret", "the weather"}, "the backup brought nobody back: the test shows nothing"
    assert not house.service.loop.obeyed, "it would serve what it must not"
    house.settle()
    assert house.service.loop.obeyed
    assert said(house) == {"the weather"}
    # What was published again after the erasure, and is not in the backup, is a new incarnation's; what is older stays out.
    house.tell(*call("c1", GONE, "the secret", START_MS - 1_000), *call("c3", GONE, "back again", later))
    assert said(house) == {"the weather", "back again"}


def test_a_folder_that_lacks_nothing_obeys_at_once(house: House) -> None:
    house.tell(*call("c1", GONE, "the secret", START_MS - 1_000), *request("r1", START_MS, ("tel", GONE)))
    entries = house.service.ring.ledger_mark()
    house.restore(house.backup())
    assert house.service.loop.turn() == 0 and house.service.loop.obeyed
    assert house.service.ring.ledger_mark() == entries > 0


def test_an_order_whose_turn_was_lost_is_carried_out_once(house: House) -> None:
    """The ring had it, the folder had not: as after a crash between the two."""
    house.tell(*call("c1", GONE, "the secret", START_MS - 1_000))
    house.publish(*request("r1", house.now_ms, ("tel", GONE)))
    while not house.service.ring.ledger_mark():
        copy = house.backup()  # as it was before the turn that orders
        house.service.loop.turn()
    house.restore(copy)
    house.settle()
    house.settle()
    assert request_states(house.service) == {"r1": "fulfilled"} and said(house) == set()
    entries = [decode_as(AuditEntry, data) for _, _, data in lines_of(house.service)]
    kinds = [e.kind for e in entries if e.facts.get("request") == "r1"]
    assert [kinds.count(kind) for kind in ("erasure.fenced", "item.destroyed", "erasure.done", "request.closed")] == [1] * 4


def test_an_older_ring_beside_newer_data_is_refused(house: House, tmp_path: Path) -> None:
    ring = house.folder.with_name("data.ring")
    house.service.stop()
    shutil.copy(ring, tmp_path / "old.ring")
    house.open()
    house.tell(*call("c1", GONE, "the secret", START_MS - 1_000), *request("r1", START_MS, ("tel", GONE)))
    house.service.stop()
    shutil.copy(tmp_path / "old.ring", ring)
    house.open()
    with pytest.raises(RingDamaged):
        house.service.loop.turn()
