"""What a hold keeps is named with its ground and end to whoever asked for it to go, and goes by itself: items and recordings."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.filering import FileRing
from processors.terms import DAY_MS
from schemas.topics import MediaOrder, RequestStatus
from tests.endtoend.world import Told, latest, put, request, turn_all, views
from tests.harness import START_MS, Deployment, call, party

ANN, ANN_MAIL, BEN, GUS = "+12025550123", "ann@example.com", "+12025550177", "gus@example.net"
T0 = START_MS - 7 * DAY_MS
REST_MS = 10 * 60_000
HOUR_MS = 3_600_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Deployment]:
    ring = FileRing(tmp_path / "test.ring", create=True)
    yield Deployment(tmp_path, ring=ring)
    ring.close()


def conversation(name: str, *who: dict[str, Any], recorded: bool = False) -> list[Told]:
    lines = [{"party_id": p["party_id"], "text": f"{name}: {p['party_id']} speaks"} for p in who]
    tape = {"conversation_id": name, "recording_id": f"{name}.wav", "confirmed": True, "uri": f"file:///{name}.wav"}
    return [
        Told("call.started", f"{name}/s", T0, call(name, *who)),
        *([Told("call.recording_started", f"{name}/r", T0 + 1, tape)] if recorded else []),
        Told("call.transcribed", f"{name}/t", T0 + 2, {"conversation_id": name, "segments": lines}),
        Told("call.ended", f"{name}/e", T0 + 3, {"conversation_id": name}),
    ]


def ann() -> dict[str, Any]:
    return party("a", "customer", ("tel", ANN), ("email", ANN_MAIL), name="Ann Example")


def ben() -> dict[str, Any]:
    return party("b", "customer", ("tel", BEN), name="Ben Example")


def gus() -> dict[str, Any]:
    return party("g", "agent", ("email", GUS))


def hold(hold_id: str, n: int, until_ms: int | None = None, ground: str = "lawsuit", **scope: Any) -> Told:
    until = {} if until_ms is None else {"until": datetime.fromtimestamp(until_ms / 1000, UTC).isoformat()}
    return Told("hold.placed", f"{hold_id}/placed{n}", T0 + n, {"hold_id": hold_id, "ground": ground, "scope": scope} | until)


def person(kind: str, value: str) -> dict[str, Any]:
    return {"identifiers": [{"kind": kind, "value": value}]}


def tell(world: Deployment, *events: Told) -> None:
    put(world, list(events), world.now_ms)
    rest(world)


def rest(world: Deployment, until_ms: int = 0) -> None:
    world.now_ms = max(until_ms, world.now_ms + REST_MS)
    turn_all(world)


def status(world: Deployment, request_id: str = "r1") -> RequestStatus:
    found = latest(world, "requests.state")
    return next(row for row in found.values() if row.request_id == request_id)


def kept(world: Deployment) -> list[tuple[str, tuple[str, ...], int | None]]:
    return [(k.conversation_id, k.grounds, k.until_ms) for i in status(world).identifiers for k in i.kept]


def facts(world: Deployment, kind: str) -> list[dict[str, str]]:
    return [entry.facts for entry in world.audit(kind)]


def ordered_away(world: Deployment) -> set[str]:
    return {order.recording_id for order in orders(world)}


def orders(world: Deployment) -> list[MediaOrder]:
    return [order for _, order in world.rows("media.orders") if isinstance(order, MediaOrder)]


def test_an_erasure_names_what_is_held_and_a_hold_that_ends_by_itself_lets_it_go(world: Deployment) -> None:
    ends = world.now_ms + 20 * DAY_MS
    tell(world, *conversation("c1", ann()), *conversation("c2", ann()), *conversation("c3", ann()))
    tell(world, hold("h1", 1, ends, conversation_ids=["c1", "c2"]), hold("h2", 1, ground="art17_3_e", conversation_ids=["c2"]))
    tell(world, *request("r1", world.now_ms, ("tel", ANN)))
    assert status(world).state == "partially_fulfilled"
    assert kept(world) == [("c1", ("lawsuit",), ends), ("c2", ("art17_3_e", "lawsuit"), None)]
    told = facts(world, "erasure.held")[-1]
    assert (told["held"], told["items"], told["ground.lawsuit"], told["ground.art17_3_e"]) == ("2", "1", "2", "1")
    assert told["until_ms.lawsuit"] == told["until_ms.art17_3_e"] == "released"

    rest(world, ends + REST_MS)
    rest(world)
    assert kept(world) == [("c2", ("art17_3_e",), None)]
    assert facts(world, "hold.closed") == [{"hold": "h1", "by": "until"}]
    tell(world, Told("hold.released", "h2/released", world.now_ms, {"hold_id": "h2"}))
    rest(world)
    assert status(world).state == "fulfilled" and kept(world) == []
    assert views(world) == {}


def test_a_hold_that_is_placed_again_until_later_keeps_what_it_kept_and_says_so(world: Deployment) -> None:
    first, second = world.now_ms + 20 * DAY_MS, world.now_ms + 60 * DAY_MS
    tell(world, *conversation("c1", ann()), hold("h1", 1, first, **person("email", ANN_MAIL)))
    tell(world, *request("r1", world.now_ms, ("email", ANN_MAIL)))
    assert kept(world) == [("c1", ("lawsuit",), first)]
    tell(world, hold("h1", 2, second, **person("email", ANN_MAIL)))
    rest(world)
    assert kept(world) == [("c1", ("lawsuit",), second)]
    rest(world, first + DAY_MS)
    assert (world.ref(ANN), "c1") in views(world)
    rest(world, second + REST_MS)
    rest(world)
    assert status(world).state == "fulfilled" and views(world) == {}


def test_what_a_home_keeps_is_named_to_the_request_of_a_further_identifier(world: Deployment) -> None:
    ends = world.now_ms + 20 * DAY_MS
    tell(world, *conversation("c1", ann()), hold("h1", 1, ends, **person("tel", ANN)))
    tell(world, *request("r1", world.now_ms, ("email", ANN_MAIL)))
    assert kept(world) == [("c1", ("lawsuit",), ends)]
    tell(world, hold("h2", 1, ground="art17_3_e", **person("tel", ANN)))
    rest(world)
    assert kept(world) == [("c1", ("art17_3_e", "lawsuit"), None)]
    tell(world, Told("hold.released", "h2/released", world.now_ms, {"hold_id": "h2"}))
    rest(world)
    assert kept(world) == [("c1", ("lawsuit",), ends)]
    rest(world, ends + REST_MS)
    rest(world)
    assert status(world).state == "fulfilled"


@pytest.mark.parametrize("who", [("tel", BEN), ("email", GUS)], ids=["a customer", "an agent"])
def test_a_recording_stays_while_anybody_on_it_is_held_and_goes_by_itself(world: Deployment, who: tuple[str, str]) -> None:
    ends = world.now_ms + 20 * DAY_MS
    tell(world, *conversation("c1", ann(), ben(), gus(), recorded=True), *conversation("c2", ann(), gus(), recorded=True))
    tell(world, hold("h1", 1, ends, **person(*who)), hold("h2", 1, ends + DAY_MS, conversation_ids=["c1"], ground="art17_3_e"))
    tell(world, Told("hold.released", "h2/released", world.now_ms, {"hold_id": "h2"}))
    tell(world, *request("r1", world.now_ms, ("tel", ANN), ("email", ANN_MAIL)))
    rest(world)
    assert (world.ref(ANN), "c1") not in views(world), "what is hers goes at once"
    assert "c1.wav" not in ordered_away(world)
    media = next(t for t in status(world).targets if t.target == "media")
    assert (status(world).state, media.outcome) == ("partially_fulfilled", "held")
    assert ("c1", ("lawsuit",), ends) in [(k.conversation_id, k.grounds, k.until_ms) for k in media.kept]
    told = facts(world, "media.kept")[0]
    assert (told["outcome"], told["ground.lawsuit"], told["until_ms.lawsuit"]) == ("held", "1", str(ends))

    rest(world, ends + REST_MS)
    rest(world)
    assert ordered_away(world) == {"c1.wav", "c2.wav"}
    for n, order in enumerate(orders(world)):
        done = {"order_id": order.order_id, "target": "media", "outcome": "done"}
        tell(world, Told("erasure.acknowledged", f"done{n}", world.now_ms, done))
    assert status(world).state == "fulfilled" and all(not t.kept for t in status(world).targets)


def test_retention_of_one_waits_for_the_hold_on_another_as_well(world: Deployment) -> None:
    tell(world, *conversation("c1", ann(), ben(), recorded=True), hold("h1", 1, **person("tel", BEN)))
    rest(world, START_MS + 900 * DAY_MS)
    rest(world)
    assert {key for key, _ in views(world)} == {world.ref(BEN)} and ordered_away(world) == set()
    tell(world, Told("hold.released", "h1/released", world.now_ms, {"hold_id": "h1"}))
    rest(world)
    assert views(world) == {} and ordered_away(world) == {"c1.wav"}


def test_a_hold_on_somebody_else_s_call_keeps_no_recording(world: Deployment) -> None:
    tell(world, *conversation("c1", ann(), ben(), recorded=True), *conversation("c2", ben()))
    tell(world, hold("h1", 1, conversation_ids=["c2"]), *request("r1", world.now_ms, ("tel", ANN), ("email", ANN_MAIL)))
    rest(world)
    assert ordered_away(world) == {"c1.wav"}
