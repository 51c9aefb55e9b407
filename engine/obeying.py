"""Whether the orders of the erasure ledger that a process gave again have been carried out, as far as it can see.

An order travels by the log like any message, so between giving and folding there may be a moment in which nothing is to do. It
is carried out once the partition that it went to has folded it and the steps that follow, each rung by the one before, have
ended. Partitions of other processes are not waited for: they fold the order before they hear any beat that follows it.
"""

from collections.abc import Mapping, Sequence, Set

from engine.context import TaskPlan
from engine.runtime import Output, Runtime, RuntimeFault, partition_of
from schemas.routed import EraseOrder, MaskOrder

ORDERS = (EraseOrder, MaskOrder)  # what stands in the ledger
Place = tuple[str, str, int]  # task, topic, partition


class Obedience:
    """The orders that were given again and may not be carried out. `quiet_ms`: how long messages may be on their way unseen."""

    def __init__(self, runtime: Runtime, tasks: Sequence[TaskPlan], partitions: Mapping[str, int], quiet_ms: int) -> None:
        self._runtime, self._partitions, self._quiet_ms = runtime, partitions, quiet_ms
        self._readers = {topic: task.name for task in tasks for topic in task.inputs}
        self._obeyers = {p.name for task in tasks for cls in ORDERS for p in task.readers.get(cls, ())}
        self._given: dict[Place, int] = {}  # → up to where it must be folded; -1: not known yet
        self._settling = False
        self._since_ms = 0

    def give(self, orders: Sequence[Output], now_ms: int) -> None:
        """These were appended to the log."""
        self._settling, self._since_ms = True, now_ms
        for order in orders:
            place = (self._readers[order.topic], order.topic, partition_of(order.key, self._partitions[order.topic]))
            self._given[place] = -1

    def is_done(self, rang: Set[str], now_ms: int, *, blind: bool) -> bool:
        """Look, after a turn; `rang` are the processors whose alarms rang in it. `blind`: not all that were due could ring."""
        stirs = self._settling and (blind or bool(rang & self._obeyers))
        if any([not self._is_folded(place) for place in list(self._given)]) or stirs:
            self._settling, self._since_ms = True, now_ms
        self._settling = self._settling and now_ms - self._since_ms < self._quiet_ms
        return not self._settling

    def _is_folded(self, place: Place) -> bool:
        """Whether it is, or is not ours to fold: not restored yet, or another process's."""
        task, topic, n = place
        if n not in self._runtime.owned(task):
            return True
        if self._given[place] < 0:
            try:
                self._given[place] = self._runtime.end(topic, n)
            except RuntimeFault:  # the broker is away for a moment
                return False
        if self._runtime.position(task, topic, n) < self._given[place]:
            return False
        del self._given[place]
        return True
