"""The alphabet of the life cycle: what publishers, people, targets, operators and time can do, each as few times as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from tests.harness import START_MS, TOPIC_OF, call, party
from tests.model.world import HOUR_MS, MINUTE_MS, World

A, A_MAIL, B, C, AGENT = "+12025550101", "ann@example.com", "+12025550102", "+12025550103", "gus@example.net"
TARGET = "crm"
DAY_MS = 24 * HOUR_MS
T0 = START_MS - DAY_MS  # when the first call and the first grant were
RETENTION_MS = 27 * 31 * DAY_MS  # past every period: 24 months, and 30 days after receipt

Event = tuple[str, dict[str, Any], str, int]  # type, data, id, time
Do = Callable[[World], None]
May = Callable[[World], bool]


class Action(NamedTuple):
    """`do` publishes or moves the clock and updates the ghost; `may` says whether it can happen now."""

    name: str
    do: Do
    may: May
    times: int = 1  # at most


def tel(value: str) -> dict[str, str]:
    return {"kind": "tel", "value": value}


def ann() -> dict[str, Any]:
    return party("a", "customer", ("tel", A), ("email", A_MAIL), name="Ann Example")


def ben() -> dict[str, Any]:
    return party("b", "customer", ("tel", B), name="Ben Example")


def gus() -> dict[str, Any]:
    return party("g", "agent", ("email", AGENT))


def conversation(name: str, *who: dict[str, Any], at: int, source: str = "", recorded: bool = False) -> Iterator[Event]:
    """A call with one line per party, recorded or not, and ended."""
    lines = [{"party_id": p["party_id"], "text": f"{name}: {p['party_id']} speaks"} for p in who]
    yield "call.started", call(name, *who), f"{source}{name}/s", at
    if recorded:
        recording = {"conversation_id": name, "recording_id": f"{name}.wav", "confirmed": True, "uri": f"file:///{name}.wav"}
        yield "call.recording_started", recording, f"{source}{name}/r", at + 1
    yield "call.transcribed", {"conversation_id": name, "segments": lines}, f"{source}{name}/t", at + 1_000
    yield "call.ended", {"conversation_id": name}, f"{source}{name}/e", at + 2_000


def publish(world: World, *events: Event) -> None:
    for type_, data, id_, time_ms in events:
        assert type_.partition(".")[0] in (*TOPIC_OF, "controller", "hold", "erasure", "suppression", "identity")
        world.publish(type_, data, id_=id_, time_ms=time_ms, settle=False)


def once(world: World, name: str) -> str:
    """An event id that is new each time an action happens."""
    return f"{name}#{world.ghost.done.count(name)}"


def did(*names: str) -> May:
    """All of these happened."""
    return lambda world: all(name in world.ghost.done for name in names)


def always(world: World) -> bool:
    return True


def spoken(world: World, **changes: Any) -> None:
    """A was named in something new."""
    world.ghost = replace(world.ghost, spoke_ms=world.now_ms, **changes)


# What each action does ----------------------------------------------------------------------------------------------------------


def first_call(world: World) -> None:
    publish(world, *conversation("c1", ann(), ben(), gus(), at=T0, recorded=True))


def again(world: World) -> None:
    publish(world, *conversation("c1", ann(), ben(), gus(), at=T0, source=once(world, "again"), recorded=True))


def repeat(world: World) -> None:
    publish(world, *conversation("c1", ann(), ben(), gus(), at=T0, recorded=True))


def old_call(world: World) -> None:
    publish(world, *conversation("c0", ann(), gus(), at=T0 - DAY_MS))


def more(world: World) -> None:
    lines = [{"party_id": p, "text": f"c1: {p} speaks on"} for p in "abg"]
    publish(world, ("call.transcribed", {"conversation_id": "c1", "segments": lines}, once(world, "more"), world.now_ms))


def returns(world: World) -> None:
    publish(world, *conversation("c2", ann(), gus(), at=world.now_ms))
    spoken(world)


def third(world: World) -> None:
    who = party("c", "customer", ("tel", C), name="Cia Example")
    publish(world, *conversation("c3", who, gus(), at=T0))


def opened(request_id: str, value: str) -> Do:
    data = {"request_id": request_id, "right": "erasure", "regime": "gdpr", "identifiers": [tel(value)], "received_via": "web"}
    return lambda world: publish(world, ("request.opened", data, once(world, request_id + "/o"), world.now_ms))


def verified(request_id: str) -> Do:
    def do(world: World) -> None:
        name = once(world, request_id + "/v")
        publish(world, ("request.identity_verified", {"request_id": request_id}, name, world.now_ms))
        world.ghost = replace(world.ghost, ordered_ms=world.now_ms, ledgered=world.ghost.ledgered | {request_id})

    return do


def retried(request_id: str) -> Do:
    data = {"request_id": request_id, "target": TARGET}
    return lambda world: publish(world, ("request.retried", data, f"{request_id}/again/{world.now_ms}", world.now_ms))


def placed(hold_id: str, **scope: Any) -> Do:
    def do(world: World) -> None:
        data = {"hold_id": hold_id, "ground": "lawsuit", "scope": scope}
        publish(world, ("hold.placed", data, once(world, hold_id), world.now_ms))
        world.ghost = replace(world.ghost, holds=world.ghost.holds | {hold_id})
        if tel(A) in scope.get("identifiers", ()):
            spoken(world)

    return do


def released(hold_id: str) -> Do:
    def do(world: World) -> None:
        publish(world, ("hold.released", {"hold_id": hold_id}, once(world, hold_id + "/end"), world.now_ms))
        world.ghost = replace(world.ghost, holds=world.ghost.holds - {hold_id})

    return do


def consent(type_: str, at_ms: int | None = None) -> Do:
    def do(world: World) -> None:
        time_ms = world.now_ms if at_ms is None else at_ms
        proof = {"uri": "https://proof.example.com/1"}
        data = {"identifiers": [tel(A)], "purposes": ["marketing"], "method": "web", "evidence": proof}
        publish(world, (f"consent.{type_}", data, once(world, f"{type_}@{at_ms}"), time_ms))
        ghost = world.ghost
        if time_ms > ghost.consent_ms or (time_ms == ghost.consent_ms and type_ == "withdrawn"):
            world.ghost = replace(ghost, consent=type_, consent_ms=time_ms)
        if at_ms is None:
            spoken(world)

    return do


def suppressed(world: World) -> None:
    data = {"identifiers": [tel(A)], "list": "company_dnc", "source": "web"}
    publish(world, ("suppression.added", data, once(world, "suppressed"), world.now_ms))
    spoken(world, suppressed=True)


def linked(on: bool, at_ms: int | None = None) -> Do:
    def do(world: World) -> None:
        data = {"a": tel(A), "b": tel(C), "source": "crm"}
        time_ms = world.now_ms if at_ms is None else at_ms
        publish(world, ("identity.linked" if on else "identity.unlinked", data, once(world, f"link {on} {at_ms}"), time_ms))
        if at_ms is None:
            spoken(world)

    return do


def open_orders(world: World) -> list[tuple[str, str]]:
    """(order, target) that nobody has answered with `done`, oldest first."""
    notices = [(n.order_id, t) for n in world.records("erasure.notices") if n.request_id for t in n.targets]
    media = [(m.order_id, "media") for m in world.records("media.orders")]
    return [o for o in dict.fromkeys([*notices, *media]) if o not in world.ghost.answered]


def answer(world: World, order: tuple[str, str]) -> None:
    data = {"order_id": order[0], "target": order[1], "outcome": "done"}
    publish(world, ("erasure.acknowledged", data, f"ack/{'/'.join(order)}/{len(world.ghost.answered)}", world.now_ms))
    world.ghost = replace(world.ghost, answered=world.ghost.answered | {order})


def answers(target: str) -> tuple[Do, May]:
    def first(world: World) -> tuple[str, str] | None:
        return next((o for o in open_orders(world) if o[1] == target), None)

    def do(world: World) -> None:
        order = first(world)
        assert order is not None
        answer(world, order)

    return do, lambda world: first(world) is not None


def next_alarm(world: World) -> None:
    world.now_ms = max(world.now_ms, world.next_alarm_ms() or 0)


def past_retention(world: World) -> None:
    world.now_ms += RETENTION_MS


def backup(world: World) -> None:
    world.ghost = replace(world.ghost, backup=world.keep())


def restore(world: World) -> None:
    assert world.ghost.backup is not None
    world.restore(world.ghost.backup)


def configure(world: World) -> None:
    """Before anything: a controller with one target."""
    targets = [{"name": TARGET, "deadline_days": 10}]
    data = {"default_region": "US", "employee_basis": "art6_1_f", "targets": targets}
    publish(world, ("controller.configured", data, "configured", T0))


HELD = {"conversation_ids": ["c1"]}
EVERY = {
    a.name: a
    for a in (
        Action("call", first_call, always),
        Action("again", again, did("call")),
        Action("repeat", repeat, did("call")),
        Action("old call", old_call, always),
        Action("more", more, did("call")),
        Action("returns", returns, did("verify")),
        Action("third", third, always),
        Action("open", opened("r1", A), lambda world: "r1" not in world.ghost.ledgered),
        Action("open again", opened("r1", A), lambda world: "r1" in world.ghost.ledgered and "open" not in world.ghost.done),
        Action("verify", verified("r1"), lambda world: bool({"open", "open again"} & {*world.ghost.done})),
        Action("open 2", opened("r2", A), lambda world: "r2" not in world.ghost.ledgered),
        Action("verify 2", verified("r2"), did("open 2")),
        Action("hold", placed("h1", **HELD), always),
        Action("release", released("h1"), lambda world: "h1" in world.ghost.holds),
        Action("hold A", placed("h2", identifiers=[tel(A)]), always),
        Action("release A", released("h2"), lambda world: "h2" in world.ghost.holds),
        Action("hold B", placed("h3", identifiers=[tel(B)]), always),
        Action("release B", released("h3"), lambda world: "h3" in world.ghost.holds),
        Action("given", consent("given"), always),
        Action("old grant", consent("given", T0), always),
        Action("withdrawn", consent("withdrawn"), always),
        Action("suppressed", suppressed, always),
        Action("linked", linked(True), always),
        Action("linked late", linked(True, T0), always),
        Action("unlinked", linked(False), did("linked")),
        Action("acknowledged", *answers(TARGET), 2),
        Action("media gone", *answers("media")),
        Action("alarm", next_alarm, lambda world: world.next_alarm_ms() is not None, 2),
        Action("past retention", past_retention, always),
        Action("backup", backup, always),
        Action("restore", restore, did("backup")),
    )
}
TICK_MS = MINUTE_MS  # between actions: shorter than every period but that of publishing a view
