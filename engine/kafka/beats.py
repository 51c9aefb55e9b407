"""How fresh the state is: the time up to which everything that was received has been folded, per unit, passed on once a second.

A unit that reads what publishers write asks for the end of its inputs: once it has folded beyond that end, it is complete up
to the moment it asked at. A unit that reads what other tasks write is complete up to the lowest beat of all units of the tasks it
awaits; their beats travel on the same partitions, behind the records they speak of. What a task sends back to an earlier
one (a report, an acknowledgement) is not awaited, or no beat could ever advance.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from engine.kafka.clients import At
from engine.kafka.names import BEAT_KEY, Names, Unit
from engine.runtime import TaskSpec

BEAT_MS: Final = 1_000


def beat_value(ms: int) -> bytes:
    """A beat as a record's value."""
    return ms.to_bytes(8, "big")


class Beats:
    """Beats of one process's units."""

    def __init__(self, names: Names, tasks: Sequence[TaskSpec]) -> None:
        self.low_ms: dict[Unit, int] = {}  # unit → complete up to
        self._names = names
        self._tasks = {task.name: task for task in tasks}
        self._origins = {
            task.name: {f"{name}/{n}" for name in task.awaits for n in range(self._tasks[name].partitions)} for task in tasks
        }
        self._heard: dict[Unit, dict[str, int]] = {}
        self._asked: dict[Unit, list[tuple[int, dict[At, int]]]] = {}  # ends that have not been reached yet
        self._told: dict[Unit, int] = {}

    def places(self, units: Iterable[Unit]) -> list[At]:
        """The inputs whose ends these units must know."""
        return [
            (self._names.topic(topic), unit.partition)
            for unit in units for topic in self._tasks[unit.task].inputs if not self._origins[unit.task]
        ]  # fmt: skip

    def ends(self, asked_ms: int, ends: Mapping[At, int], units: Iterable[Unit]) -> None:
        """Take the answer to a question that was asked at `asked_ms`."""
        for unit in units:
            mine = {at: ends[at] for at in self.places([unit]) if at in ends}
            if mine:
                waiting = self._asked.setdefault(unit, [])
                if len(waiting) < 2:  # the one that is nearest, and the latest after it
                    waiting.append((asked_ms, mine))
                else:
                    waiting[1] = (asked_ms, mine)

    def heard(self, unit: Unit, key: bytes, value: bytes) -> None:
        """A beat came in on an input of `unit`."""
        origin = key[len(BEAT_KEY) :].decode()
        if origin in self._origins[unit.task]:
            known = self._heard.setdefault(unit, {})
            known[origin] = max(known.get(origin, 0), int.from_bytes(value, "big"))

    def forget(self, units: Iterable[Unit]) -> None:
        """These units are not ours any more, or begin again from what was committed."""
        for unit in units:
            for known in (self.low_ms, self._heard, self._asked, self._told):
                known.pop(unit, None)

    def advance(self, unit: Unit, reached: Mapping[At, int]) -> None:
        """Everything before `reached` has been folded and committed: move the unit's beat on."""
        origins = self._origins[unit.task]
        if origins:
            known = self._heard.get(unit, {})
            low = min(known.values()) if len(known) == len(origins) else 0
        else:
            low = 0
            waiting = self._asked.get(unit, [])
            while waiting and all(reached.get(at, 0) >= end for at, end in waiting[0][1].items()):
                low = waiting.pop(0)[0]
        if low > self.low_ms.get(unit, 0):
            self.low_ms[unit] = low

    def news(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, int]]:
        """Units whose beat has moved since it was last told."""
        for unit in units:
            low = self.low_ms.get(unit, 0)
            if low > self._told.get(unit, 0):
                yield unit, low

    def told(self, news: Iterable[tuple[Unit, int]]) -> None:
        """These were passed on."""
        self._told.update(news)

    def listeners(self, task: str) -> Iterator[tuple[str, int]]:
        """Where a beat of `task` goes: every partition of the inputs of the tasks that await it."""
        for other in self._tasks.values():
            if task in other.awaits:
                for topic in other.inputs:
                    yield from ((topic, n) for n in range(other.partitions))
