"""Kill -9 at every numbered step of an erasure: whoever opens the folder again finishes it, and each thing was done once."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from engine.evidence import report_of
from engine.filering import FileRing
from engine.memory import MemoryRuntime
from engine.runtime import Commit
from schemas.base import Record
from schemas.codec import decode_as
from schemas.topics import AuditEntry, ErasureNotice, MediaOrder
from tests.endtoend.erasure_child import (
    ITEMS,
    RECORDED,
    REQUEST,
    REST_MS,
    SHARED,
    TARGET,
    TOPOLOGY,
    TURN_MS,
    TURNS_MAX,
    House,
    Outside,
    before,
    needles,
    said,
)
from tests.endtoend.world import Told, codes, latest, put, records, request_states, views
from tests.harness import START_MS, Deployment
from tests.scan import scan

R = TypeVar("R", bound=Record)
LIFE_MS = 3_600_000  # from one opening of the folder to the next
SCANNED_EVERY = 12  # points: a scan takes as long as all the rest
KILLS_IN_A_ROW = 6
SEED = random.SystemRandom().randrange(1 << 32)


# What must be true, wherever it was killed --------------------------------------------------------------------------------------


def all_of(world: Any, topic: str, kind: type[R]) -> list[R]:
    return [decode_as(kind, record.value) for _, record in records(world, topic)]


def done_once(world: Any) -> None:
    """The request is fulfilled, nobody's part was done twice, and nobody else's was touched."""
    assert request_states(world) == {REQUEST: "fulfilled"}
    [status] = latest(world, "requests.state").values()
    assert {(t.target, t.outcome) for t in status.targets} == {(TARGET, "done"), ("media", "done")}
    assert codes(world) == []

    entries = all_of(world, "audit.entries", AuditEntry)
    mine = Counter((e.kind, e.facts.get("index", "")) for e in entries if e.facts.get("request") == REQUEST)
    once = {("request.opened", ""), ("request.identity_verified", ""), ("erasure.ordered", ""), ("request.closed", ""),
            *((kind, index) for kind in ("erasure.fenced", "erasure.done") for index in "01")}  # fmt: skip
    assert {what: mine[what] for what in once} == dict.fromkeys(once, 1)
    assert mine["item.destroyed", ""] == len(ITEMS)
    assert mine["media.ordered", ""] == mine["media.deleted", ""] == len(RECORDED)
    assert mine["erasure.acknowledged", ""] == 2

    gone = Counter(
        tuple(msgspec.json.decode(r.key)) for _, r in records(world, "conversations.protected") if r.value is None
    )  # fmt: skip
    assert {name for _, name in gone} == ITEMS and set(gone.values()) == {1}
    notices = all_of(world, "erasure.notices", ErasureNotice)
    told = Counter((n.order_id, n.subject_ref, item) for n in notices for item in n.items)
    assert {item for *_, item in told} == ITEMS and set(told.values()) == {1}
    assert set(Counter((n.order_id, n.subject_ref, n.items) for n in notices).values()) == {1}, "a target was asked twice"
    assert {n.order_id for n in notices} == {f"{REQUEST}.0", f"{REQUEST}.1"}
    orders = Counter(order.order_id for order in all_of(world, "media.orders", MediaOrder))
    assert len(orders) == len(RECORDED) and set(orders.values()) == {1}

    assert latest(world, "consent.state") == {}
    left = views(world)
    assert {name for (_, name), view in left.items() if view["role"] == "agent"} == ITEMS, "that Gus took part stays"
    others = {name: [line[3] for line in view["lines"]] for (_, name), view in left.items() if view["role"] == "customer"}
    assert others == {name: [said(name, "b")] for name in SHARED}, "what Ben said, and nothing that Ann or Gus said to him"


def nothing_opens(house: House) -> None:
    """Once what was sent is past its retention, no key that lives opens anything of hers."""
    house.now_ms += 5_000
    house.service.retain_raw(at_once=True)
    house.service.maintain(wipe=False)
    assert scan(needles(), house.service.ring, world=house.service).found == {}


# Embedded: processes that die ---------------------------------------------------------------------------------------------------


class Lives:
    """Forks that live the story in a copy of one folder; see `erasure_child`."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"
        house = House(self.base, START_MS)
        for told in before():
            house.publish(told)
        house.settle()
        house.now_ms += REST_MS
        house.settle()
        found = scan(needles(), house.service.ring, world=house.service).found
        assert sorted(set(needles()) - set(found)) == [], "before the erasure each needle is found"
        house.service.stop()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.endtoend.erasure_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def copy(self, name: str) -> Path:
        folder = self.base.with_name(name)
        shutil.copytree(self.base, folder)
        shutil.copy(self.base.with_name("base.ring"), folder.with_name(f"{name}.ring"))
        return folder

    def begin(self, folder: Path, die_at: int, life: int = 1) -> None:
        """Begin one life in `folder`, and go on meanwhile."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode((str(folder), START_MS + life * LIFE_MS, die_at)) + b"\n")
        self.process.stdin.flush()

    def ended(self) -> tuple[str, int]:
        """Where the life that was begun died, or `ended`, and how many points it passed."""
        assert self.process.stdout is not None
        name, point = msgspec.json.decode(self.process.stdout.readline(), type=tuple[str, int])
        assert name != "failed", "it ended otherwise than it was asked to"
        return name, point

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.process.stdout.close()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.close()


def finish(folder: Path, life: int, *, scanned: bool) -> None:
    """Open what a killed process left, let it end, and see that all is as if nobody had been killed."""
    house = House(folder, START_MS + life * LIFE_MS)
    try:
        house.live()
        done_once(house.service)
        assert 1 <= house.service.ring.ledger_mark() <= 2, "an order that was lost after its entry is entered again, once"
        report = report_of(house.service)
        assert report.ok, report.findings
        if scanned:
            nothing_opens(house)
    finally:
        house.service.stop()
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.ring").unlink()


@pytest.mark.slow
def test_kill_9_at_every_point_of_an_erasure_and_it_finishes_once(lives: Lives) -> None:
    began = time.perf_counter()
    died: Counter[str] = Counter()
    lives.begin(following := lives.copy("p1"), 1)
    for die_at in range(1, TURNS_MAX):
        folder = following
        name, point = lives.ended()
        if name != "ended":  # the next one dies while this one is looked at
            lives.begin(following := lives.copy(f"p{die_at + 1}"), die_at + 1)
        print(f"{die_at}: {name}")
        try:
            finish(folder, 2, scanned=die_at % SCANNED_EVERY == 0 or "ledger" in name or name == "ended")
        except AssertionError as fault:
            raise AssertionError(f"killed at point {die_at}, {name}") from fault
        if name == "ended":
            break
        died[name] += 1
    print(f"{died.total()} kills: {time.perf_counter() - began:.1f} s")
    assert point == died.total() == die_at - 1, "each point that a life without a kill passes was died at"
    assert died["before ledger_append"] == died["after ledger_append"] == 1
    assert died["after commit"] >= 15 and died["after append"] >= 6


@pytest.mark.slow
def test_an_erasure_whose_every_finisher_is_killed_too_finishes_once(lives: Lives) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    for attempt in range(3):
        folder = lives.copy(f"again{attempt}")
        for life in range(1, KILLS_IN_A_ROW + 1):
            lives.begin(folder, chance.randint(1, 25), life)
            print(lives.ended())
        finish(folder, KILLS_IN_A_ROW + 1, scanned=True)


# In memory: turns that are lost -------------------------------------------------------------------------------------------------


class Losing(MemoryRuntime):
    """Loses the commits whose numbers it is given, counted from `begin`."""

    counted, losing = -1, frozenset[int]()

    def begin(self, losing: frozenset[int]) -> None:
        self.counted, self.losing = 0, losing

    def commit(self, commit: Commit) -> None:
        if self.counted >= 0:
            self.counted += 1
            if self.counted in self.losing:
                self.fail_next_commit()
        super().commit(commit)


class Remembered:
    """The story in memory, on a ring of its own."""

    def __init__(self, folder: Path, ring: Path, losing: frozenset[int] = frozenset()) -> None:
        shutil.copy(ring, own := folder / "own.ring")
        self.runtime = Losing(TOPOLOGY.topic_specs(), TOPOLOGY.task_specs())
        self.world = Deployment(folder, self.runtime, FileRing(own, create=False))
        put(self.world, before(), self.world.now_ms)
        self.settle()
        self.world.now_ms += REST_MS
        self.settle()
        self.runtime.begin(losing)
        outside = Outside(self.publish, self.read, lambda: self.world.now_ms)
        while outside.speak():
            self.settle()
        self.world.now_ms += REST_MS
        self.settle()

    def settle(self) -> None:
        for _ in range(TURNS_MAX):
            self.world.now_ms += TURN_MS
            if not self.world.loop.turn():
                return
        raise AssertionError("it never ends")

    def publish(self, told: Told) -> None:
        put(self.world, [told], self.world.now_ms)

    def read(self, topic: str) -> Iterator[bytes]:
        return (record.value for _, record in records(self.world, topic) if record.value is not None)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ring") / "test.ring"
    made = FileRing(path, create=True)
    made.kek("acme", 0)  # draws all of its keys
    made.close()
    return path


def lived(folder: Path, ring: Path, losing: frozenset[int]) -> int:
    """Live the story with some commits lost, see that all was done once, and return how many commits were tried."""
    story = Remembered(folder, ring, losing)
    try:
        assert story.world.shared.counts.get(("commits_lost",), 0) == len([n for n in losing if n <= story.runtime.counted])
        done_once(story.world)
    finally:
        story.world.close()
    return story.runtime.counted


def test_a_commit_lost_at_any_turn_of_an_erasure_changes_nothing(tmp_path: Path, ring: Path) -> None:
    commits = lived(tmp_path, ring, frozenset())
    assert commits >= 15
    for lost in range(1, commits + 1):
        try:
            lived(tmp_path, ring, frozenset([lost]))
        except AssertionError as fault:
            raise AssertionError(f"commit {lost} was lost") from fault


def test_an_erasure_that_loses_every_second_or_most_commits_is_done_once(tmp_path: Path, ring: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    lived(tmp_path, ring, frozenset(range(1, 400, 2)))
    lived(tmp_path, ring, frozenset(chance.sample(range(1, 400), 240)))
