"""Breadth first through every state that a small alphabet of actions reaches: the first counterexample is a shortest one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from processors.erase_subject import Erasure
from processors.home_erasures import Waiting
from processors.item import Item
from processors.request_case import RequestCase
from tests.model import invariants as inv
from tests.model.actions import EVERY, RETENTION_MS, TICK_MS, Action, answer, configure, open_orders, released, retried
from tests.model.world import TURNS_MAX, Looked, Snapshot, World

ROUNDS_MAX = 6  # of answers and waiting until everything that can end has ended
TURN = "turn"


class Broken(AssertionError):
    """An invariant does not hold; the text is the shortest way there."""


class Scope(NamedTuple):
    """`before`: what has happened in the first state. `depth`: actions from there.

    `racing`: actions do not wait for one another; a turn of the loop is a step as well, and does not count for the depth.

    `silent`: actions whose refusal may leave no word. `retries`: where a target's answer was lost, an operator asks it again.
    `own_media`: see `World`.
    """

    before: tuple[str, ...]
    actions: tuple[str, ...]
    depth: int
    racing: bool = False
    silent: tuple[str, ...] = ()
    retries: bool = False
    own_media: bool = False


@dataclass
class Explored:
    """How much was seen."""

    states: int = 0
    transitions: int = 0
    turns: int = 0
    names: dict[str, int] = field(default_factory=dict)  # how often each action was taken


class Explorer:
    """Explores one scope. `run` raises `Broken`."""

    def __init__(self, folder: Path, scope: Scope) -> None:
        self.world, self.scope, self.seen = World(folder, own_media=scope.own_media), scope, Explored()

    def run(self) -> Explored:
        """Every state within the scope's depth, each once."""
        world = self.world
        configure(world)
        self._fold(())
        for name in self.scope.before:
            self._step(EVERY[name], (name,))
        if self.scope.racing:
            self._rest(())
        first = world.keep()
        known = {first.digest}
        todo: deque[tuple[Snapshot, tuple[str, ...]]] = deque([(first, ())])
        while todo:
            kept, path = todo.popleft()
            self.seen.states += 1
            world.back_to(kept)
            self._liveness(path)
            for name in self._possible(kept, path):
                world.back_to(kept)
                way = (*path, name)
                self._step(EVERY[name], way) if name != TURN else self._turn(way)
                self.seen.transitions += 1
                self.seen.names[name] = self.seen.names.get(name, 0) + 1
                found = world.keep()
                if found.digest not in known:
                    known.add(found.digest)
                    todo.append((found, way))
        return self.seen

    def _possible(self, kept: Snapshot, path: Sequence[str]) -> list[str]:
        world = self.world
        world.back_to(kept)
        deep = sum(name != TURN for name in path) >= self.scope.depth
        may = [a for a in map(EVERY.__getitem__, self.scope.actions) if world.ghost.done.count(a.name) < a.times and a.may(world)]
        turn = [TURN] if self.scope.racing and world.stirs() else []
        return turn if deep else [*(a.name for a in may), *turn]

    def _step(self, action: Action, path: Sequence[str]) -> None:
        world = self.world
        before, refusals, orders = world.look(), inv.count_refusals(world), {o.order_id for o in world.records("media.orders")}
        world.now_ms += TICK_MS if not self.scope.racing else 1_000
        world.ghost = replace(world.ghost, done=(*world.ghost.done, action.name))
        action.do(world)
        if self.scope.racing:
            self._check(inv.BETWEEN, world.look(), path)
            return
        self._fold(path)
        after = self._rest(path)
        self._complain(inv.what_is_held_stays(before, after, action.name), path)
        sent = {order.conversation_id for order in world.records("media.orders") if order.order_id not in orders}
        self._complain(inv.a_voice_that_is_held_stays(before, after, sent, action.name), path)
        if action.name not in self.scope.silent:
            self._complain(inv.what_is_refused_is_on_record(world, after, action.name, refusals), path)

    def _turn(self, path: Sequence[str]) -> None:
        self.world.loop.turn()
        self.seen.turns += 1
        self._check(inv.BETWEEN, self.world.look(), path)

    def _fold(self, path: Sequence[str]) -> None:
        """Fold everything, looking between turns at what must hold there."""
        for _ in range(TURNS_MAX):
            if not self.world.loop.turn():
                return
            self.seen.turns += 1
            self._check(inv.BETWEEN, self.world.look(), path)
        raise Broken(_told(path, "the loop does not come to rest"))

    def _rest(self, path: Sequence[str]) -> Looked:
        """Let the views be published, and look at everything."""
        self.world.now_ms += TICK_MS
        self._fold(path)
        looked = self.world.look()
        self._check(inv.AT_REST, looked, path)
        return looked

    def _liveness(self, path: Sequence[str]) -> None:
        """From here, let everybody do what they have to: release holds, answer orders, wait. Then everything has ended."""
        world = self.world
        if self.scope.racing:
            self._fold(path)
            self._rest(path)
        for n in range(ROUNDS_MAX):
            world.now_ms += TICK_MS
            for hold_id in sorted(world.ghost.holds):
                released(hold_id)(world)
            orders = open_orders(world) or (self._asked_again() if self.scope.retries and n else [])
            for order in orders:
                answer(world, order)
            if n and not orders:
                break
            world.loop.drain()
        way = (*path, "(released, answered)")
        self._complain(self._ended(world.look()), way)
        world.now_ms += RETENTION_MS
        world.loop.drain()
        world.now_ms += RETENTION_MS
        world.loop.drain()
        looked = world.look()
        self._complain((f"{row.parts[0]} never leaves" for row, _ in inv.records(looked, Item)), (*way, "(much later)"))
        self._check(inv.BETWEEN, looked, way)

    def _asked_again(self) -> list[tuple[str, str]]:
        """Tell the target anew of what an open request still waits for; returns what it has to answer."""
        world = self.world
        waiting = [c.request_id for _, c in inv.records(world.look(), RequestCase) if c.ordered and c.closed_ms is None]
        for request_id in waiting:
            retried(request_id)(world)
        world.loop.drain()
        again = {n.order_id for n in world.records("erasure.notices") if n.request_id in waiting}
        answered = frozenset(order for order in world.ghost.answered if order[0] not in again)
        world.ghost = replace(world.ghost, answered=answered)
        return open_orders(world)

    def _ended(self, looked: Looked) -> Iterator[str]:
        for _, case in inv.records(looked, RequestCase):
            if case.ordered and case.closed_ms is None:
                yield f"{case.request_id} never closes: {case.state}"
        for kind in (Erasure, Waiting):
            yield from (f"an erasure never ends: {row.kind} {row.parts}" for row, _ in inv.records(looked, kind))

    def _check(self, invariants: Sequence[inv.Invariant], looked: Looked, path: Sequence[str]) -> None:
        for invariant in invariants:
            self._complain(invariant(self.world, looked), path, invariant.__name__)

    def _complain(self, complaints: Iterator[str], path: Sequence[str], name: str = "") -> None:
        found = sorted(set(complaints))
        if found:
            raise Broken(_told((*self.scope.before, "|", *path), "; ".join([name, *found] if name else found)))


def _told(path: Sequence[str], what: str) -> str:
    return f"{what}\n  after: {' → '.join(path) or 'nothing'}"
