"""Consumers that the topology declares are told of what must go and waited for, whatever a controller's settings say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.service import Service
from engine.topology import SHIPPED, load_topology
from processors.terms import DAY_MS
from schemas.codec import decode_as
from schemas.labels import known_schemas
from schemas.topics import ErasureNotice, RequestStatus
from tests.endtoend.world import Told, envelope, latest, records, request, topic_of
from tests.harness import START_MS

NUMBER = "+12025550123"
WAREHOUSE = "- {name: warehouse, topics: [conversations.protected, consent.state], deadline_days: 30}"
PARTY = {"party_id": "p", "role": "customer", "identifiers": [{"kind": "tel", "value": NUMBER}]}
STARTED = {"conversation_id": "c1", "channel": "voice", "direction": "inbound", "parties": [PARTY]}
CALL = [
    Told("call.started", "c1/1", START_MS, STARTED),
    Told("call.ended", "c1/2", START_MS, {"conversation_id": "c1"}),
]  # fmt: skip


class World:
    """A stopped service whose topology has a consumer, under a clock of the test."""

    def __init__(self, folder: Path) -> None:
        self.now_ms = START_MS
        text = SHIPPED.read_text(encoding="utf-8").replace("\nconsumers: []\n", f"\nconsumers:\n  {WAREHOUSE}\n")
        topology = load_topology(text, known_schemas())
        assert [consumer.name for consumer in topology.consumers] == ["warehouse"]
        self.service = Service.open(folder, clock=lambda: self.now_ms, topology=topology)

    def tell(self, *events: Told, ms: int = 600_000) -> None:
        for told in events:
            key = told.data.get("conversation_id") or told.data.get("request_id") or told.id
            self.service.publish([(topic_of(told.type), key, envelope(told, self.now_ms))])
        self.service.settle()
        self.now_ms += ms
        self.service.settle()

    def notices(self) -> list[ErasureNotice]:
        return [decode_as(ErasureNotice, r.value) for _, r in records(self.service, "erasure.notices") if r.value is not None]

    def status(self, request_id: str = "r1") -> RequestStatus:
        found: Any = latest(self.service, "requests.state")[request_id]
        return found  # type: ignore[no-any-return]

    def answer(self, target: str) -> None:
        for notice in self.notices():
            if target in notice.targets:
                data = {"order_id": notice.order_id, "target": target, "outcome": "done"}
                self.tell(Told("erasure.acknowledged", f"{notice.order_id}/{target}", self.now_ms, data))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "data")
    yield made
    made.service.stop()


def test_an_erasure_waits_for_a_consumer_of_a_controller_that_was_never_configured(world: World) -> None:
    world.tell(*CALL, *request("r1", START_MS, ("tel", NUMBER)))
    (notice,) = world.notices()
    assert (notice.targets, notice.items) == (("warehouse",), ("c1",))
    assert notice.acknowledge_by_ms == START_MS + 30 * DAY_MS
    assert [(t.target, t.outcome) for t in world.status().targets] == [("warehouse", "open")]
    world.tell(ms=31 * DAY_MS)
    alerts = [alert.level for alert in latest(world.service, "breach.alerts").values()]
    assert world.status().state == "in_progress" and alerts == ["overdue"]
    world.answer("warehouse")
    assert world.status().state == "fulfilled"


def test_a_target_of_the_settings_stands_beside_a_consumer_and_wins_over_one_of_its_name(world: World) -> None:
    def configured(*targets: dict[str, Any]) -> Told:
        settings = {"default_region": "US", "employee_basis": "contract", "targets": list(targets)}
        return Told("controller.configured", f"s{len(targets)}", world.now_ms, settings)

    def deadlines(request_id: str) -> dict[str, float]:
        began = world.now_ms
        world.tell(*request(request_id, began, ("tel", NUMBER)))
        return {t.target: (t.acknowledge_by_ms - began) / DAY_MS for t in world.status(request_id).targets}

    mailer = {"name": "mailer", "deadline_days": 40}
    world.tell(configured(mailer))
    assert deadlines("r1") == {"mailer": 40, "warehouse": 30}
    world.tell(configured(mailer, {"name": "warehouse", "deadline_days": 7}))
    assert deadlines("r2") == {"mailer": 40, "warehouse": 7}
    world.answer("mailer")
    assert {world.status(r).state for r in ("r1", "r2")} == {"in_progress"}
    world.answer("warehouse")
    assert {world.status(r).state for r in ("r1", "r2")} == {"fulfilled"}


def test_a_consumer_is_told_of_what_retention_destroys(world: World) -> None:
    world.tell(*CALL)
    assert world.notices() == []
    world.tell(ms=800 * DAY_MS)
    (notice,) = world.notices()
    assert (notice.cause, notice.targets, notice.items) == ("retention", ("warehouse",), ("c1",))
    assert notice.acknowledge_by_ms == world.now_ms + 30 * DAY_MS
