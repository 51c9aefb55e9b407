"""Holds on people, on conversations and on what a search found, and tags, in any order: an item is free when the last one ends.

A model of its own knows which of them cover which conversation: what a request or its time asks for goes exactly then, by itself.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.filering import FileRing
from processors.terms import DAY_MS
from tests.endtoend.world import Told, put, request, request_states, turn_all, views
from tests.harness import START_MS, Deployment, call, party
from tests.properties.test_held_items import ANN, ANN_MAIL, GUS, hold, person

BOTH = {"c1", "c2"}
COVERS: dict[str, set[str]] = {
    "tel": BOTH, "mail": BOTH, "one": {"c1"}, "other": {"c2"}, "search": BOTH, "again": {"c1"}, "tag": {"c1"},
}  # fmt: skip
SCOPES: dict[str, dict[str, Any]] = {
    "tel": person("tel", ANN), "mail": person("email", ANN_MAIL), "one": {"conversation_ids": ["c1"]},
    "other": {"conversation_ids": ["c2"]}, "search": {"conversation_ids": ["c1", "c2"]}, "again": {"conversation_ids": ["c1"]},
}  # fmt: skip
T0 = START_MS - 7 * DAY_MS


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Deployment]:
    ring = FileRing(tmp_path / "test.ring", create=True)
    yield Deployment(tmp_path, ring=ring)
    ring.close()


class Story:
    """Tells the world what happens, and knows what must be there after each step."""

    def __init__(self, world: Deployment, seed: int, *, asked: bool) -> None:
        self.world, self.rng, self.n = world, Random(seed), 0
        self.asked = asked
        self.standing: dict[str, int | None] = {}  # hold → its end, None: until it is released
        self.left = set(BOTH)

    def tell(self, *events: Told) -> None:
        self.n += 1
        put(self.world, list(events), self.world.now_ms)
        self.rest()

    def rest(self, ms: int = 10 * 60_000) -> None:
        self.world.now_ms += ms
        turn_all(self.world)
        self.standing = {k: end for k, end in self.standing.items() if end is None or end > self.world.now_ms}

    def place(self, name: str) -> None:
        until = self.world.now_ms + self.rng.randint(1, 300) * DAY_MS if self.rng.random() < 0.4 else None
        if name == "tag":
            self.standing[name] = None
            self.tell(Told("call.tagged", f"tag{self.n}", self.world.now_ms, {"conversation_id": "c1", "tag": "gdpr:6(1)(c)"}))
            return
        old = self.standing.get(name, 0)
        self.standing[name] = None if until is None or old is None else max(until, old)
        placed = hold(name, self.n, until, **SCOPES[name])
        self.tell(placed._replace(time_ms=self.world.now_ms))

    def release(self, name: str) -> None:
        if name == "tag":
            data = {"conversation_id": "c1", "tag": "GDPR 6(1)(c)"}
            event = Told("call.untagged", f"untag{self.n}", self.world.now_ms, data)
        else:
            event = Told("hold.released", f"{name}/released", self.world.now_ms, {"hold_id": name})
        del self.standing[name]
        self.tell(event)

    def check(self) -> None:
        self.rest()
        if self.asked:
            self.left &= {c for name in self.standing for c in COVERS[name]}
        there = {conversation for ref, conversation in views(self.world) if ref == self.world.ref(ANN)}
        assert there == self.left, (there, self.left, self.standing)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("cause", ["request", "retention"])
def test_an_item_is_free_when_the_last_of_overlapping_holds_ends(world: Deployment, cause: str, seed: int) -> None:
    story = Story(world, seed, asked=False)
    ann = party("a", "customer", ("tel", ANN), ("email", ANN_MAIL))
    for name in sorted(BOTH):
        story.tell(Told("call.started", f"{name}/s", T0, call(name, ann, party("g", "agent", ("email", GUS)))),
                   Told("call.ended", f"{name}/e", T0 + 1, {"conversation_id": name}))  # fmt: skip
    names = story.rng.sample(sorted(COVERS), story.rng.randint(3, len(COVERS)))
    early, late = names[: len(names) // 2 + 1], names[len(names) // 2 + 1 :]
    for name in early:
        story.place(name)
    story.check()
    if cause == "request":
        story.tell(*request("r1", world.now_ms, story.rng.choice([("tel", ANN), ("email", ANN_MAIL)])))
        story.rest()
    else:
        story.rest(900 * DAY_MS)
    story.asked = True
    story.check()
    for name in late:
        story.place(name)
        story.check()
    for name in story.rng.sample(sorted(story.standing), len(story.standing)):
        if name not in story.standing:
            continue  # its own end has come
        if story.standing[name] is None and story.rng.random() < 0.3 and name != "tag":
            story.place(name)  # placed again: it stands as it did
            story.check()
        if story.standing.get(name) is not None and story.rng.random() < 0.5:
            story.rest(310 * DAY_MS)  # it ends by itself
        elif name in story.standing:
            story.release(name)
        story.check()
    assert story.left == set() and not story.standing
    if cause == "request":
        story.rest()
        assert request_states(world)["r1"] == "fulfilled"
