"""A tag that says why a conversation is processed keeps what it may, as long as it may, from conversation to receipt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.filering import FileRing
from processors.keep_roster import KeepRoster
from processors.roster import Roster
from tests.drivers import Driver
from tests.endtoend.world import Told, request, views
from tests.harness import Deployment
from tests.properties.test_held_items import (
    ANN,
    ANN_MAIL,
    BEN,
    ann,
    ben,
    conversation,
    facts,
    gus,
    hold,
    kept,
    ordered_away,
    person,
    rest,
    status,
    tell,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Deployment]:
    ring = FileRing(tmp_path / "test.ring", create=True)
    yield Deployment(tmp_path, ring=ring)
    ring.close()


def tag(world: Deployment, conversation_id: str, name: str, *, on: bool = True, **more: Any) -> Told:
    type_ = "call.tagged" if on else "call.untagged"
    data = {"conversation_id": conversation_id, "tag": name, **more}
    return Told(type_, f"{conversation_id}/{name}/{on}", world.now_ms, data)


def ask(world: Deployment, request_id: str, *who: tuple[str, str], **more: Any) -> list[Told]:
    opened, *steps = request(request_id, world.now_ms, *who)
    return [opened._replace(data={**opened.data, **more}), *steps]


def there(world: Deployment, number: str = ANN) -> set[str]:
    return {name for ref, name in views(world) if ref == world.ref(number)}


def test_each_basis_keeps_what_it_may_and_the_end_of_its_tag_lets_it_go(world: Deployment) -> None:
    names = {letter: f"c-{letter}" for letter in "abcdef"}
    for letter, name in names.items():
        started, *others = conversation(name, ann(), gus())
        tell(world, started._replace(data={**started.data, "lawful_basis": f"art6_1_{letter}"}), *others)
        tell(world, tag(world, name, f"gdpr:6(1)({letter})"))
    tell(world, *conversation("c-bare", ann()))
    tell(world, *ask(world, "r1", ("tel", ANN)))
    rest(world)
    assert {name: grounds for name, grounds, _ in kept(world)} == {
        "c-b": ("art6_1_b",), "c-c": ("art17_3_b",), "c-d": ("art6_1_d",), "c-e": ("art17_3_b",), "c-f": ("art6_1_f",),
    }  # fmt: skip
    (told,) = facts(world, "request.exceptions")
    assert (told["rule.art17_3_b"], told["article.art17_3_b"]) == ("gdpr.art17_3.b", "Art. 17(3)(b)")
    for letter in "bcdef":
        tell(world, tag(world, names[letter], f"GDPR 6(1)({letter})", on=False))
    rest(world)
    assert status(world).state == "fulfilled" and there(world) == set()


def test_a_basis_alone_refuses_nothing(world: Deployment) -> None:
    started, *others = conversation("c1", ann())
    tell(world, started._replace(data={**started.data, "lawful_basis": "art6_1_c"}), *others)
    tell(world, *ask(world, "r1", ("tel", ANN)))
    rest(world)
    assert status(world).state == "fulfilled" and there(world) == set()


def test_an_objection_under_another_identifier_ends_an_interest_for_its_person_only(world: Deployment) -> None:
    tell(world, *conversation("c1", ann(), ben(), recorded=True), tag(world, "c1", "gdpr:6(1)(f)"))
    tell(world, *ask(world, "r1", ("tel", ANN)))
    rest(world)
    assert [grounds for _, grounds, _ in kept(world)] == [("art6_1_f",)] and ordered_away(world) == set()
    objected = {"identifiers": [{"kind": "email", "value": ANN_MAIL}], "list": "objection", "source": "letter"}
    tell(world, Told("suppression.added", "objection", world.now_ms, objected))
    rest(world)
    assert there(world) == set() and there(world, BEN) == {"c1"}, "he has not objected"
    assert ordered_away(world) == {"c1.wav"}, "his interest keeps no voice of hers"
    assert "c1: a speaks" not in str(views(world)) and "c1: b speaks" in str(views(world)), "nor her words"


def test_card_authentication_data_goes_with_its_recording_whoever_holds_it(world: Deployment) -> None:
    tell(world, *conversation("c1", ann(), gus(), recorded=True), tag(world, "c1", "gdpr:6(1)(c)"))
    tell(world, hold("h1", 1, ground="litigation", conversation_ids=["c1"]))
    tell(world, hold("h2", 1, ground="art17_3_e", **person("tel", ANN)))
    tell(world, *ask(world, "r1", ("tel", ANN)))
    rest(world)
    assert there(world) == {"c1"} and ordered_away(world) == set()
    tell(world, tag(world, "c1", "pci:sad"))
    rest(world)
    assert there(world) == set() and ordered_away(world) == {"c1.wav"}
    (told,) = facts(world, "hold.overruled")
    yields = {name.removeprefix("ground."): to for name, to in told.items() if name.startswith("ground.")}
    assert yields == dict.fromkeys(("litigation", "art17_3_b", "art17_3_e"), "card_authentication_data")


def test_unlawful_processing_beats_what_a_tag_claims_and_not_a_hold_for_legal_claims(world: Deployment) -> None:
    tell(world, *conversation("c1", ann(), gus(), recorded=True), tag(world, "c1", "gdpr:6(1)(c)"))
    tell(world, *conversation("c2", ann()), hold("h1", 1, ground="litigation", conversation_ids=["c2"]))
    tell(world, *ask(world, "r1", ("tel", ANN), ground="unlawful"))
    rest(world)
    assert kept(world) == [("c2", ("litigation",), None)] and ordered_away(world) == {"c1.wav"}
    assert facts(world, "request.opened")[0]["on_ground"] == "unlawful"


def test_california_knows_an_obligation_and_no_public_task(world: Deployment) -> None:
    tell(world, *conversation("c1", ann(), recorded=True), *conversation("c2", ann(), recorded=True))
    tell(world, tag(world, "c1", "gdpr:6(1)(c)"), tag(world, "c2", "gdpr:6(1)(e)"))
    tell(world, *ask(world, "r1", ("tel", ANN), regime="ccpa"))
    rest(world)
    assert kept(world) == [("c1", ("ccpa_d_8",), None)] and ordered_away(world) == {"c2.wav"}


def test_what_must_go_goes_in_every_spelling_of_the_tag_and_stays_once_it_is_taken_away_in_another(world: Deployment) -> None:
    world.publish("controller.configured", {"default_region": "DE", "employee_basis": "art6_1_b"})
    for name in ("c1", "c2"):
        tell(world, *conversation(name, ann(), gus()))
    tell(world, hold("h1", 1, ground="litigation", conversation_ids=["c2"]))
    tell(world, tag(world, "c1", "gdpr", value="17(1)(d)"), tag(world, "c2", "unlawful"))
    rest(world)
    assert there(world) == {"c2"}
    tell(world, tag(world, "c2", "gdpr", on=False, value="17(1)(d)"))
    tell(world, Told("hold.released", "h1/released", world.now_ms, {"hold_id": "h1"}))
    rest(world)
    assert there(world) == {"c2"}


WORDS = st.lists(
    st.tuples(st.sampled_from(["gdpr:6(1)(c)", "GDPR 6(1)(c)", "gdpr:6(1)(e)", "unlawful"]), st.booleans(), st.integers(1, 6)),
    max_size=8, unique=True,
)  # fmt: skip


@given(words=WORDS, shuffled=st.randoms(use_true_random=False))
def test_the_last_word_on_a_tag_holds_whatever_order_they_come_in(words: list[tuple[str, bool, int]], shuffled: Any) -> None:
    driver, owner, now_ms = Driver(KeepRoster()), '["conversation","acme","k1"]', 1_772_000_000_000
    party_a = {"party_id": "a", "role": "customer", "identifiers": [{"kind": "tel", "value": ANN}]}
    started = {"conversation_id": "k1", "channel": "voice", "direction": "inbound", "parties": [party_a]}
    driver.send(owner, "call.started", started, at=now_ms, refs=("A",))
    told = [*words]
    shuffled.shuffle(told)
    for name, on, at in told:
        data = {"conversation_id": "k1", "tag": name}
        driver.send(owner, "call.tagged" if on else "call.untagged", data, at=now_ms + at, received=now_ms + 10)
    last: dict[str, tuple[int, bool]] = {}
    for name, on, at in words:  # at one moment taking away wins
        mark = {"c": "art6_1_c", "e": "art6_1_e"}.get(name[-2], "unlawful")
        last[mark] = max(last.get(mark, (0, False)), (at, not on))
    standing = {mark for mark, (_, off) in last.items() if not off}
    roster = driver.get(owner, Roster)
    assert {*roster.holds} == {f"tag:{mark}" for mark in standing - {"unlawful"}}
    assert {*roster.ceilings} == standing & {"unlawful"}
    heard: dict[str, bool] = {}
    for message in driver.log:
        if message.key == ("A",) and type(message.value).SCHEMA == "Hold":
            heard[message.value.hold_id] = message.value.placed
    assert {hold_id for hold_id, placed in heard.items() if placed} == {f"tag:{mark}" for mark in standing}, "and so do the homes"
