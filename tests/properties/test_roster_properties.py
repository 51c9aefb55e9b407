"""However the events of a conversation arrive (any order, copies, batches, lost commits), each party ends with the same view."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.filering import FileRing
from processors.parking import PARK_MS
from tests.endtoend.world import Told, codes, put, split, turn_all, views
from tests.harness import START_MS, Deployment, call, party

SEEDS = range(20)
REST_MS = 10 * 60_000  # until every protected view has been published
ANN, ANN_MAIL, BEN, CARL = "+12025550123", "ann@example.com", "+12025550177", "+12025550142"
T0 = START_MS - 3_600_000


@pytest.fixture
def ring(tmp_path: Path) -> Any:
    ring = FileRing(tmp_path / "test.ring", create=True)  # each world its own: the ledger in it is obeyed
    yield ring
    ring.close()


def started() -> Told:
    data = call(
        "c1", party("a", "customer", ("tel", ANN), ("email", ANN_MAIL), name="Ann Example"),
        party("b", "third_party", ("tel", BEN), name="Ben Example"),
        party("g", "agent", ("email", "gus@example.net"), name="Gus"),
    )  # fmt: skip
    return Told("call.started", "started", T0, data | {"metadata": {"subject": "a claim"}, "purposes": ["service"]})


def transcribed(n: int, *lines: tuple[str | None, str]) -> Told:
    segments = [{"text": text, "offset_ms": n} | ({"party_id": who} if who else {}) for who, text in lines]
    return Told("call.transcribed", f"lines{n}", T0 + n * 1000, {"conversation_id": "c1", "segments": segments})


def said(type_: str, n: int, **data: Any) -> Told:
    return Told(type_, f"{type_}{n}", T0 + n * 1000, {"conversation_id": "c1", **data})


def plain_story() -> list[Told]:
    return [
        started(),
        said("call.recording_started", 1, recording_id="r1", confirmed=True, uri="https://media.example.com/r1"),
        transcribed(2, ("g", "Good morning, who is this?"), ("a", "Ann speaking")),
        transcribed(3, ("b", "And Ben"), (None, "a voice")),
        transcribed(4, ("a", "I want to leave")),
        said("call.annotated", 5, note="wants to leave", author="g"),
        said("call.tagged", 6, tag="churn", value="yes", comment="soon"),
        said("call.recording_stopped", 7, recording_id="r1", confirmed=True, uri="https://media.example.com/r1"),
        said("call.ended", 8, disposition="done"),
    ]


def outcome(ring: FileRing, folder: Path, events: list[Told], rng: Random | None, crash: float = 0.0) -> Any:
    """What is left of `events`, in their order under free keys when there is an `rng`, else one by one."""
    deployment = Deployment(folder, ring=ring)
    batches = split(rng, events) if rng else ([e] for e in events)
    for batch in batches:
        put(deployment, batch, deployment.now_ms, rng=rng)
        if rng is None or rng.random() < 0.7:
            turn_all(deployment, rng, crash)
    turn_all(deployment, rng, crash)
    deployment.now_ms += REST_MS
    turn_all(deployment, rng, crash)
    deployment.now_ms += 3 * PARK_MS
    turn_all(deployment, rng, crash)
    return views(deployment), codes(deployment)


def shuffled(rng: Random, events: list[Told], copies: int = 3) -> list[Told]:
    mixed = [*events, *rng.choices(events, k=copies)]
    rng.shuffle(mixed)
    return mixed


def same_in_any_order(ring: FileRing, folder: Path, story: list[Told], crash: float = 0.0, seeds: range = SEEDS) -> None:
    expected = outcome(ring, folder, story, None)
    assert expected[0], "the story leaves something"
    for seed in seeds:
        rng = Random(seed)
        events = shuffled(rng, story)
        print(f"seed {seed}: {[e.id for e in events]}")
        found = outcome(ring, folder, events, rng, crash)
        assert found[1] == expected[1]
        assert sorted(found[0]) == sorted(expected[0])
        differs = [
            (view["party"], field, view[field], expected[0][at][field])
            for at, view in found[0].items() for field in view if view[field] != expected[0][at][field]
        ]  # fmt: skip
        assert differs == [], "party, field, found, expected"


def test_any_order_copies_and_batches_give_each_party_the_same_view(ring: FileRing, tmp_path: Path) -> None:
    same_in_any_order(ring, tmp_path, plain_story())


def test_lost_commits_change_nothing(ring: FileRing, tmp_path: Path) -> None:
    same_in_any_order(ring, tmp_path, plain_story(), crash=0.3)


def test_each_home_has_its_own_whole_copy_and_employees_have_none(ring: FileRing, tmp_path: Path) -> None:
    found, refused = outcome(ring, tmp_path, plain_story(), None)
    assert refused == []
    by_party = {view["party"]: view for view in found.values()}
    assert sorted(by_party) == [0, 1, 2]
    texts = ["Good morning, who is this?", "Ann speaking", "And Ben", "a voice", "I want to leave", "wants to leave", "yes soon"]
    for index in (0, 1):
        assert [line[3] for line in by_party[index]["lines"]] == texts
        assert by_party[index]["recordings"] == [("r1", "stopped", True, "https://media.example.com/r1")]
        assert by_party[index]["ended_ms"] == T0 + 8000
    assert [by_party[2][field] for field in ("lines", "name", "identifiers", "metadata")] == [[], None, None, None]


def with_copies(rng: Random, story: list[Told]) -> list[Told]:
    """The story in its order, with copies of what was told before strewn in."""
    told: list[Told] = []
    for event in story:
        told += [event, *rng.choices(told or [event], k=rng.randint(0, 2))]
    return told


@pytest.mark.parametrize("seed", range(5))
def test_who_joins_hears_what_the_log_has_after_the_joining(ring: FileRing, tmp_path: Path, seed: int) -> None:
    # Nobody keeps what was said but its holders, so a joining is the one event whose place in the log counts.
    rng = Random(seed)
    print(f"seed {seed}")
    joined = said("call.party_joined", 3, party=party("c", "customer", ("tel", CARL), name="Carl Example"))
    story = [*plain_story()[:4], joined, transcribed(5, ("c", "Carl here")), *plain_story()[4:]]
    expected = outcome(ring, tmp_path, story, None)
    assert outcome(ring, tmp_path, with_copies(rng, story), None) == expected
    carl = next(view for view in expected[0].values() if view["party"] == 3)
    assert [line[3] for line in carl["lines"]] == ["I want to leave", "wants to leave", "Carl here", "yes soon"]


def test_an_employee_who_joins_gets_the_participation_only(ring: FileRing, tmp_path: Path) -> None:
    joined = said("call.party_joined", 3, party=party("s", "supervisor", ("email", "sue@example.net")))
    story = [*plain_story()[:4], joined, transcribed(5, ("s", "Sue here")), *plain_story()[4:]]
    found, _ = outcome(ring, tmp_path, story, None)
    sue = next(view for view in found.values() if view["party"] == 3)
    assert (sue["lines"], sue["name"], sue["identifiers"], sue["ended_ms"]) == ([], None, None, T0 + 8000)
    ann = next(view for view in found.values() if view["party"] == 0)
    assert [line[:2] for line in ann["lines"] if line[3] == "Sue here"] == [(3, True)]


def test_an_end_that_is_heard_before_a_joining_ends_the_joined_party_too(ring: FileRing, tmp_path: Path) -> None:
    joined = said("call.party_joined", 3, party=party("c", "customer", ("tel", CARL)))
    ended = said("call.ended", 8)
    forwards, _ = outcome(ring, tmp_path, [started(), joined, ended], None)
    backwards, _ = outcome(ring, tmp_path, [started(), ended, joined], None)
    assert backwards == forwards


def test_a_tag_taken_away_stays_away_in_any_order(ring: FileRing, tmp_path: Path) -> None:
    same_in_any_order(ring, tmp_path, [*plain_story(), said("call.untagged", 9, tag="churn")])


def test_a_recordings_address_is_kept_in_any_order(ring: FileRing, tmp_path: Path) -> None:
    story = plain_story()
    story[7] = said("call.recording_stopped", 7, recording_id="r1", confirmed=True)
    same_in_any_order(ring, tmp_path, story)


def test_two_words_on_a_recording_at_one_time_give_the_same_state_in_any_order(ring: FileRing, tmp_path: Path) -> None:
    story = [started(), said("call.recording_paused", 1, recording_id="r1", confirmed=True),
             said("call.recording_resumed", 1, recording_id="r1", confirmed=True), said("call.ended", 2)]  # fmt: skip
    same_in_any_order(ring, tmp_path, story)


def test_a_hold_is_seen_in_any_order(ring: FileRing, tmp_path: Path) -> None:
    held = Told("hold.placed", "hold", T0, {"hold_id": "h1", "ground": "lawsuit", "scope": {"conversation_ids": ["c1"]}})
    person = Told("hold.placed", "hold2", T0, {
        "hold_id": "h2", "ground": "lawsuit", "scope": {"identifiers": [{"kind": "email", "value": ANN_MAIL}]}})  # fmt: skip
    released = Told("hold.released", "free2", T0 + 1, {"hold_id": "h2"})
    for story in ([*plain_story(), held], [*plain_story(), person], [*plain_story(), held, person, released]):
        same_in_any_order(ring, tmp_path, story, seeds=range(8))
        assert any(view["held"] for view in outcome(ring, tmp_path, story, None)[0].values())


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_before_its_start_waits_and_is_not_lost(ring: FileRing, tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    print(f"seed {seed}")
    many = [transcribed(10 + n, ("a", f"line {n}")) for n in range(250)]  # more than one step of the unparking takes
    early = [*plain_story()[1:], *many]
    expected = outcome(ring, tmp_path, [started(), *early], None)
    deployment = Deployment(tmp_path, ring=ring)
    rng.shuffle(early)
    for batch in split(rng, early, 40):
        put(deployment, batch, deployment.now_ms, rng=rng)
        turn_all(deployment, rng, 0.2)
    assert views(deployment) == {}
    deployment.now_ms += PARK_MS - 1  # as long as can be
    turn_all(deployment)
    put(deployment, [started()], START_MS)  # received with the others, as `outcome` has it
    deployment.now_ms -= PARK_MS - 1
    turn_all(deployment, rng, 0.2)
    deployment.now_ms += REST_MS + 3 * PARK_MS
    turn_all(deployment)
    assert (views(deployment), codes(deployment)) == expected
    assert not list(deployment.runtime.scan("case", 0, b"k")), "the key of what waited is shredded"


def test_what_never_starts_ends_in_quarantine_after_the_wait(ring: FileRing, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, ring=ring)
    early = plain_story()[1:]
    put(deployment, early, deployment.now_ms)
    deployment.settle(PARK_MS - 1)
    assert codes(deployment) == []
    deployment.settle(1)
    assert codes(deployment) == ["no-conversation"] * len(early)
    assert [k for p in range(4) for k, _ in deployment.runtime.scan("case", p, b"k")] == []
    assert views(deployment) == {}
    deployment.settle(30 * 86_400_000)
    assert codes(deployment) == ["no-conversation"] * len(early), "each once"


def test_a_waiting_conversation_that_starts_at_the_last_moment_loses_nothing(ring: FileRing, tmp_path: Path) -> None:
    many = [transcribed(10 + n, ("a", f"line {n}")) for n in range(250)]
    deployment = Deployment(tmp_path, ring=ring)
    put(deployment, many, deployment.now_ms)
    turn_all(deployment)
    deployment.now_ms += PARK_MS
    deployment.loop.turn()  # gives up the first, not yet all
    put(deployment, [started()], deployment.now_ms)
    turn_all(deployment)
    deployment.settle(REST_MS)
    given_up = codes(deployment).count("no-conversation")
    kept = next(v for v in views(deployment).values() if v["party"] == 0)["lines"]
    assert given_up + len(kept) == len(many)
