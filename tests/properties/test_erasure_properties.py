"""Forgetting someone reaches everything of theirs and nothing of others, in any order, and nothing brings them back."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.filering import FileRing
from processors.terms import DAY_MS, SEEN_MS
from tests.endtoend.world import Told, latest, put, request, request_states, split, turn_all, views, where_in_state
from tests.harness import START_MS, Deployment, call, party

ANN, ANN_MAIL, BEN, GUS = "+12025550123", "ann@example.com", "+12025550177", "gus@example.net"
T0 = START_MS - 7 * DAY_MS
REST_MS = 10 * 60_000
MAY_REMAIN = ("fence", "fenced")  # design section 6.3: after completion a ref exists only in fence and suppression


@pytest.fixture
def ring(tmp_path: Path) -> Any:
    ring = FileRing(tmp_path / "test.ring", create=True)  # each world its own: the ledger in it is obeyed
    yield ring
    ring.close()


@pytest.fixture
def world(ring: FileRing, tmp_path: Path) -> Deployment:
    return Deployment(tmp_path, ring=ring)


def conversation(name: str, *who: dict[str, Any], at: int = T0, source: str = "") -> list[Told]:
    """A call with one line per party and one of nobody."""
    who = who or (ann(), gus())
    lines = [{"party_id": p["party_id"], "text": f"{name}: {p['party_id']} speaks"} for p in who]
    lines.append({"text": f"{name}: somebody"})
    return [
        Told("call.started", f"{source}{name}/s", at, call(name, *who)),
        Told("call.transcribed", f"{source}{name}/t", at + 1000, {"conversation_id": name, "segments": lines}),
        Told("call.ended", f"{source}{name}/e", at + 2000, {"conversation_id": name}),
    ]


def ann(mail: bool = True) -> dict[str, Any]:
    return party("a", "customer", ("tel", ANN), *([("email", ANN_MAIL)] if mail else []), name="Ann Example")


def ben() -> dict[str, Any]:
    return party("b", "customer", ("tel", BEN), name="Ben Example")


def gus() -> dict[str, Any]:
    return party("g", "agent", ("email", GUS))


def consent(n: int, type_: str, *identifiers: tuple[str, str], at: int = T0) -> Told:
    named = [{"kind": k, "value": v} for k, v in identifiers]
    proof = {"agent": "gus", "uri": "https://proof.example.com/1"}
    return Told(type_, f"consent{n}", at, {"identifiers": named, "purposes": ["marketing"], "method": "web", "evidence": proof})


def hold(hold_id: str, at: int, **scope: Any) -> Told:
    return Told("hold.placed", f"{hold_id}/placed", at, {"hold_id": hold_id, "ground": "lawsuit", "scope": scope})


def release(hold_id: str, at: int) -> Told:
    return Told("hold.released", f"{hold_id}/released", at, {"hold_id": hold_id})


def tell(world: Deployment, events: list[Told], rng: Random | None = None, crash: float = 0.0) -> None:
    """Publish, fold, and let every view be published."""
    for batch in split(rng, events) if rng else [events]:
        turn_all(world, rng, crash)
        put(world, batch, world.now_ms, rng=None)
        turn_all(world, rng, crash)
    world.now_ms += REST_MS
    turn_all(world, rng, crash)


def forget(world: Deployment, request_id: str, *identifiers: tuple[str, str]) -> None:
    tell(world, request(request_id, world.now_ms, *identifiers))


def remains(world: Deployment, value: str, kind: str = "tel", *, alarms: bool = False) -> list[str]:
    """Where the ref of an identifier stands in state, besides where it may; alarms have tests of their own."""
    found = where_in_state(world, world.ref(value, kind))
    return [at for at in found if at.split(" ")[3] not in MAY_REMAIN and (alarms or at.split(" ")[1] not in "at")]


def lines(world: Deployment, value: str, name: str, kind: str = "tel") -> list[str]:
    return [line[3] for line in views(world)[world.ref(value, kind), name]["lines"]]


# What goes, and what stays -----------------------------------------------------------------------------------------------------


def test_one_customer_erased_takes_own_and_employee_lines_from_the_others_copy(world: Deployment) -> None:
    tell(world, conversation("c1", ann(), ben(), gus()))
    assert lines(world, BEN, "c1") == ["c1: a speaks", "c1: b speaks", "c1: g speaks", "c1: somebody"]
    forget(world, "r1", ("tel", ANN))
    assert request_states(world) == {"r1": "fulfilled"}
    assert lines(world, BEN, "c1") == ["c1: b speaks"]
    assert (world.ref(ANN), "c1") not in views(world)
    assert (world.ref(GUS, "email"), "c1") in views(world), "the employee's participation stays"


def test_what_is_said_after_an_erasure_keeps_out_of_the_others_copy(world: Deployment) -> None:
    tell(world, conversation("c1", ann(), ben(), gus()))
    forget(world, "r1", ("tel", ANN))
    more = [{"party_id": p, "text": f"late {p}"} for p in "abg"] + [{"text": "late nobody"}]
    tell(world, [Told("call.transcribed", "late", world.now_ms, {"conversation_id": "c1", "segments": more})])
    assert lines(world, BEN, "c1") == ["c1: b speaks", "late b"]


@pytest.mark.parametrize("seed", range(12))
def test_an_erasure_amid_a_call_leaves_the_other_only_own_words(ring: FileRing, tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    world = Deployment(tmp_path, ring=ring)
    parts = [Told("call.transcribed", f"t{n}", T0 + n, {"conversation_id": "c1", "segments": [
        {"party_id": p, "text": f"{p}{n}"} for p in "abg"]}) for n in range(6)]  # fmt: skip
    events = [*conversation("c1", ann(), ben(), gus()), *parts]
    rng.shuffle(events)
    at = rng.randrange(len(events))
    print(f"seed {seed}: erased before {at} of {[e.id for e in events]}")
    put(world, events[:at], world.now_ms)
    for _ in range(rng.randint(0, 4)):
        world.loop.turn()
    world.now_ms += 1
    put(world, request("r1", world.now_ms, ("tel", ANN), ("email", ANN_MAIL)), world.now_ms)
    for _ in range(rng.randint(0, 8)):
        world.loop.turn()
    tell(world, events[at:])
    assert request_states(world) == {"r1": "fulfilled"}
    assert sorted(lines(world, BEN, "c1")) == sorted(["c1: b speaks", *(f"b{n}" for n in range(6))])
    assert (world.ref(ANN), "c1") not in views(world)
    assert remains(world, ANN) == []
    assert remains(world, ANN_MAIL, "email") == []


@pytest.mark.parametrize("seed", range(6))
def test_lost_commits_change_no_erasure(ring: FileRing, tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = Random(seed)
    world = Deployment(tmp_path, ring=ring)
    calls = [e for n in range(30) for e in conversation(f"c{n}", ann(n % 2 == 0), ben(), gus(), at=T0 + n * 10_000)]
    tell(world, [*calls, consent(1, "consent.given", ("tel", ANN), ("email", ANN_MAIL))], rng, 0.3)
    put(world, request("r1", world.now_ms, ("email", ANN_MAIL), ("tel", ANN)), world.now_ms)
    turn_all(world, rng, 0.4)
    world.now_ms += REST_MS
    turn_all(world, rng, 0.4)
    assert request_states(world) == {"r1": "fulfilled"}
    assert {ref for ref, _ in views(world)} == {world.ref(BEN), world.ref(GUS, "email")}
    assert all(len(lines(world, BEN, f"c{n}")) == 1 for n in range(30))
    assert sum(1 for e in world.audit("item.destroyed")) == 30


def test_a_further_identifier_reaches_the_item_at_its_home(world: Deployment) -> None:
    tell(world, [*conversation("c1"), *conversation("c2", ann(mail=False), gus())])
    forget(world, "r1", ("email", ANN_MAIL))
    assert request_states(world) == {"r1": "fulfilled"}
    assert [name for ref, name in views(world) if ref == world.ref(ANN)] == ["c2"], "c2 never knew the address"
    assert remains(world, ANN_MAIL, "email") == []


# Nothing of a forgotten person is left ------------------------------------------------------------------------------------------


def test_after_completion_the_ref_is_only_in_the_fence(world: Deployment) -> None:
    tell(world, [*conversation("c1"), *conversation("c2", ann(), ben(), gus())])
    tell(world, [consent(1, "consent.given", ("tel", ANN), ("email", ANN_MAIL))])
    forget(world, "r1", ("tel", ANN), ("email", ANN_MAIL))
    assert request_states(world) == {"r1": "fulfilled"}
    assert remains(world, ANN) == []
    assert remains(world, ANN_MAIL, "email") == []


def test_an_item_that_was_to_expire_leaves_no_alarm(world: Deployment) -> None:
    tell(world, conversation("c1"))
    forget(world, "r1", ("tel", ANN))
    assert remains(world, ANN, alarms=True) == []


def test_a_grant_that_was_to_expire_leaves_no_alarm(world: Deployment) -> None:
    given = consent(1, "consent.given", ("tel", ANN))
    tell(world, [given._replace(data=given.data | {"valid_until": "2027-01-01T00:00:00Z"})])
    forget(world, "r1", ("tel", ANN))
    assert remains(world, ANN, alarms=True) == []


def test_a_released_hold_forgets_the_person_it_was_on(world: Deployment) -> None:
    tell(world, [*conversation("c1"), hold("h1", T0, identifiers=[{"kind": "tel", "value": ANN}])])
    tell(world, [release("h1", world.now_ms)])
    forget(world, "r1", ("tel", ANN))
    assert request_states(world) == {"r1": "fulfilled"}
    assert remains(world, ANN) == []


def test_suppressions_survive_and_nothing_else(world: Deployment) -> None:
    dnc = {"identifiers": [{"kind": "tel", "value": ANN}], "list": "company_dnc", "source": "web"}
    tell(world, [*conversation("c1"), consent(1, "consent.given", ("tel", ANN)), Told("suppression.added", "s1", T0, dnc)])
    forget(world, "r1", ("tel", ANN))
    assert len(latest(world, "suppression.state")) == 1
    assert latest(world, "consent.state") == {}
    assert [at for at in remains(world, ANN) if " permissions" not in at and " nonce" not in at] == []


def test_two_people_who_share_a_number_on_one_call_leave_nothing_of_it(world: Deployment) -> None:
    bob = party("b", "customer", ("tel", ANN), ("email", "bob@example.com"), name="Bob Example")
    tell(world, conversation("c1", ann(), bob, gus()))
    forget(world, "r1", ("tel", ANN))
    assert request_states(world) == {"r1": "fulfilled"}
    assert remains(world, ANN) == []


# Nothing comes back -------------------------------------------------------------------------------------------------------------


def test_late_and_repeated_events_of_a_forgotten_person_leave_no_state(world: Deployment) -> None:
    told = [*conversation("c1"), consent(1, "consent.given", ("tel", ANN), ("email", ANN_MAIL))]
    tell(world, told)
    forget(world, "r1", ("tel", ANN), ("email", ANN_MAIL))
    before = views(world)
    tell(world, [*told, *conversation("c1", source="again/"), *conversation("c9", at=T0 + 5)])
    tell(world, [consent(2, "consent.withdrawn", ("tel", ANN))])
    assert {at for at in views(world) if at[0] in (world.ref(ANN), world.ref(ANN_MAIL, "email"))} == set()
    assert views(world).keys() >= before.keys()
    assert latest(world, "consent.state") == {}
    assert remains(world, ANN) == []
    assert remains(world, ANN_MAIL, "email") == []


def test_an_old_call_that_is_imported_after_an_erasure_by_tel_leaves_no_pointer_to_the_forgotten(world: Deployment) -> None:
    tell(world, conversation("c1"))
    forget(world, "r1", ("tel", ANN))
    tell(world, conversation("c0", at=T0 - DAY_MS))
    assert (world.ref(ANN), "c0") not in views(world)
    assert remains(world, ANN) == []


def test_an_old_call_that_is_imported_after_an_erasure_by_email_does_not_bring_the_address_back(world: Deployment) -> None:
    tell(world, conversation("c1"))
    forget(world, "r1", ("email", ANN_MAIL))
    tell(world, conversation("c0", at=T0 - DAY_MS))
    assert remains(world, ANN_MAIL, "email") == []
    assert not [v for v in views(world).values() if ANN_MAIL in (v["identifiers"] or "")]


def test_the_same_call_imported_again_when_its_ids_are_forgotten_leaves_no_state(world: Deployment) -> None:
    alone = conversation("c1", ann())
    tell(world, alone)
    forget(world, "r1", ("tel", ANN))
    world.settle(SEEN_MS + DAY_MS)
    tell(world, alone)
    assert views(world) == {}
    assert remains(world, ANN) == []
    assert [at for at in where_in_state(world, world.ref(ANN_MAIL, "email")) if "pointer" in at] == []


def test_a_roster_of_forgotten_people_goes(world: Deployment) -> None:
    tell(world, conversation("c1", ann()))
    world.settle(SEEN_MS + DAY_MS)  # its seen events are forgotten before the person is
    forget(world, "r1", ("tel", ANN))
    world.settle(SEEN_MS + DAY_MS)
    assert where_in_state(world, "roster") == []


def test_a_returning_person_starts_clean(world: Deployment) -> None:
    tell(world, [*conversation("c1", ann(), ben(), gus()), consent(1, "consent.given", ("tel", ANN))])
    forget(world, "r1", ("tel", ANN), ("email", ANN_MAIL))
    now = world.now_ms
    tell(world, [*conversation("c2", ann(), ben(), gus(), at=now), consent(2, "consent.refused", ("tel", ANN), at=now)])
    assert len(lines(world, ANN, "c2")) == 4
    assert len(lines(world, BEN, "c2")) == 4
    assert [row.status for row in latest(world, "consent.state").values()] == ["refused"]
    assert (world.ref(ANN), "c1") not in views(world)
    subjects = {e.subject for e in world.audit("item.protected")}
    assert len(subjects) == 4, "ann, ben, gus, and ann anew: the audit log cannot tell that she is the same"


def test_a_returning_person_can_be_forgotten_again(world: Deployment) -> None:
    tell(world, conversation("c1"))
    forget(world, "r1", ("tel", ANN), ("email", ANN_MAIL))
    tell(world, conversation("c2", at=world.now_ms))
    forget(world, "r2", ("email", ANN_MAIL))
    assert request_states(world) == {"r1": "fulfilled", "r2": "fulfilled"}
    assert remains(world, ANN_MAIL, "email") == []
    assert (world.ref(ANN), "c2") not in views(world)


# Holds --------------------------------------------------------------------------------------------------------------------------


def test_an_erasure_under_hold_is_partial_and_completes_by_itself(world: Deployment) -> None:
    tell(world, [*conversation("c1"), *conversation("c2"), hold("h1", T0, conversation_ids=["c1"])])
    forget(world, "r1", ("tel", ANN), ("email", ANN_MAIL))
    assert request_states(world) == {"r1": "partially_fulfilled"}
    assert [name for ref, name in views(world) if ref == world.ref(ANN)] == ["c1"]
    tell(world, [release("h1", world.now_ms)])
    assert request_states(world) == {"r1": "fulfilled"}
    assert remains(world, ANN) == []
    assert remains(world, ANN_MAIL, "email") == []


def test_two_erasures_of_one_held_item_complete_together(world: Deployment) -> None:
    tell(world, [*conversation("c1"), hold("h1", T0, conversation_ids=["c1"])])
    forget(world, "r1", ("tel", ANN))
    forget(world, "r2", ("tel", ANN))
    assert request_states(world) == {"r1": "partially_fulfilled", "r2": "partially_fulfilled"}
    tell(world, [release("h1", world.now_ms)])
    assert request_states(world) == {"r1": "fulfilled", "r2": "fulfilled"}


def test_an_erasure_by_a_further_identifier_under_a_hold_at_home_completes_by_itself(world: Deployment) -> None:
    tell(world, [*conversation("c1"), hold("h1", T0, identifiers=[{"kind": "tel", "value": ANN}])])
    forget(world, "r1", ("email", ANN_MAIL))
    assert request_states(world) == {"r1": "partially_fulfilled"}
    tell(world, [release("h1", world.now_ms)])
    assert request_states(world) == {"r1": "fulfilled"}
    assert (world.ref(ANN), "c1") not in views(world)


def test_a_hold_on_a_further_identifier_is_released_for_what_it_held_at_home(world: Deployment) -> None:
    tell(world, [*conversation("c1"), hold("h1", T0, identifiers=[{"kind": "email", "value": ANN_MAIL}])])
    forget(world, "r1", ("email", ANN_MAIL))
    assert request_states(world) == {"r1": "partially_fulfilled"}
    tell(world, [release("h1", world.now_ms)])
    assert request_states(world) == {"r1": "fulfilled"}
    assert (world.ref(ANN), "c1") not in views(world)


def test_each_of_many_held_items_goes_with_its_own_release(world: Deployment) -> None:
    names = [f"c{n}" for n in range(7)]
    tell(world, [e for name in names for e in conversation(name)])
    tell(world, [hold(f"h{name}", T0, conversation_ids=[name]) for name in names])
    forget(world, "r1", ("email", ANN_MAIL))
    left = set(names)
    for name in reversed(names):
        tell(world, [release(f"h{name}", world.now_ms)])
        left -= {name}
        assert {at for ref, at in views(world) if ref == world.ref(ANN)} == left
    assert request_states(world) == {"r1": "fulfilled"}


@pytest.mark.parametrize("seed", range(10))
def test_holds_erasures_and_releases_in_any_order_end_in_fulfilment(ring: FileRing, tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    world = Deployment(tmp_path, ring=ring)
    names = [f"c{n}" for n in range(6)]
    tell(world, [e for name in names for e in conversation(name, ann(), ben(), gus())])
    scopes: list[dict[str, Any]] = [
        {"conversation_ids": rng.sample(names, 2)}, {"identifiers": [{"kind": "tel", "value": ANN}]},
        {"identifiers": [{"kind": "email", "value": ANN_MAIL}]}, {"conversation_ids": rng.sample(names, 3)},
    ]  # fmt: skip
    holds = [[hold(f"h{n}", T0, **scope), release(f"h{n}", T0 + 1)] for n, scope in enumerate(scopes)]
    by = rng.choice([[("tel", ANN)], [("email", ANN_MAIL)], [("tel", ANN), ("email", ANN_MAIL)]])
    steps = [*(h for pair in holds for h in pair), *request("r1", T0, *by)]
    order = sorted(range(len(steps)), key=lambda _: rng.random())
    # A request's steps come in order; holds may be released before they are known.
    opened, verified = sorted((order.index(len(steps) - 2), order.index(len(steps) - 1)))
    order[opened], order[verified] = len(steps) - 2, len(steps) - 1
    print(f"seed {seed}: by {by}: {[steps[n].id for n in order]}")
    for n in order:
        put(world, [steps[n]], world.now_ms)
        for _ in range(rng.randint(0, 6)):
            world.loop.turn()
        world.now_ms += rng.choice([0, 1, REST_MS])
    tell(world, [])
    tell(world, [])
    assert request_states(world) == {"r1": "fulfilled"}
    assert (world.ref(ANN), "c0") not in views(world)
    assert all(lines(world, BEN, name) == [f"{name}: b speaks"] for name in names)
    assert all(not v["held"] for v in views(world).values())


def test_an_erasure_that_waited_past_the_items_own_end_still_counts_as_an_erasure(world: Deployment) -> None:
    old = T0 - 25 * 31 * DAY_MS  # its 24 months are over
    told = conversation("c1", ann(), ben(), gus(), at=old)
    tell(world, [*told, hold("h1", T0, conversation_ids=["c1"]), hold("h2", T0, identifiers=[{"kind": "tel", "value": BEN}])])
    forget(world, "r1", ("email", ANN_MAIL))
    world.settle(40 * DAY_MS)
    tell(world, [release("h1", world.now_ms)])
    assert request_states(world) == {"r1": "fulfilled"}
    assert lines(world, BEN, "c1").count("c1: a speaks") == 1, "held by Ben's own hold"
    tell(world, conversation("c1", ann(), ben(), gus(), at=old, source="again/"))
    assert lines(world, BEN, "c1").count("c1: a speaks") == 1, "the roster knows that Ann was erased, so nothing of hers is added"


def test_nothing_under_hold_loses_a_line(world: Deployment) -> None:
    tell(world, [*conversation("c1", ann(), ben(), gus()), hold("h1", T0, identifiers=[{"kind": "tel", "value": BEN}])])
    before = lines(world, BEN, "c1")
    forget(world, "r1", ("tel", ANN))
    assert lines(world, BEN, "c1") == before, "what is held for a court stays whole until its release"
    tell(world, [release("h1", world.now_ms)])
    assert lines(world, BEN, "c1") == ["c1: b speaks"]
