"""Where a restored unit goes on: what its state says was folded, judged against the group's offsets and what topics retain.

State and offsets are written by one transaction, so a difference means that somebody changed one of them. We do not choose
between losing and doubling: we stop.
"""

import logging
from collections.abc import Mapping, Sequence

from engine.kafka.clients import Clients
from engine.kafka.names import DEPLOYMENT, POSITION, Names, Unit
from engine.kafka.store import Store
from engine.runtime import RuntimeFault, TaskSpec

log = logging.getLogger("consentinel.kafka.recovery")


class PositionLost(RuntimeFault):
    """A position points outside what its topic retains: records were deleted unread, or the topic was made anew."""


class PositionsDisagree(RuntimeFault):
    """The group's committed offset is not what the unit's state says was folded: one of the two was changed from outside."""


class RingForeign(RuntimeFault):
    """The state on the cluster was made with another key ring: with this one every person would be somebody else."""


class Positions:
    """Judges positions. `deployment` is the ring's id, empty where none is kept; `accept_loss`: go on from what is left."""

    def __init__(
        self, clients: Clients, names: Names, tasks: Sequence[TaskSpec], deployment: str = "", *, accept_loss: bool = False
    ) -> None:
        self._clients, self._names = clients, names
        self._inputs = {task.name: task.inputs for task in tasks}
        self._shared = _shared_topics(tasks)
        self._deployment, self._accept_loss = deployment.encode(), accept_loss

    def inputs(self, unit: Unit) -> list[tuple[str, int]]:
        """Kafka's names of the unit's input partitions."""
        return [(self._names.topic(topic), unit.partition) for topic in self._inputs[unit.task]]

    def of(self, unit: Unit, store: Store, committed: Mapping[str, int]) -> dict[str, int]:
        """The next offset of each input; `committed` is what the group says, by Kafka's topic name, -1001 for nothing.

        Raises `PositionLost`, `PositionsDisagree`, `RingForeign`.
        """
        places = {topic: (self._names.topic(topic), unit.partition) for topic in self._inputs[unit.task]}
        starts = self._clients.starts(places.values())
        ends = self._clients.ends(places.values(), committed=False)
        found = {}
        made_with = store.get(DEPLOYMENT)
        if self._deployment and made_with is not None and made_with != self._deployment:
            raise RingForeign("the cluster's state was made with another key ring: all workers and gateways share one")
        for topic, at in places.items():
            data = store.get(POSITION + topic.encode())
            position = None if data is None else int.from_bytes(data, "big")
            group = committed[at[0]]
            if topic not in self._shared and group >= 0 and group != position:
                said = "nothing" if position is None else position
                text = f"{topic}/{unit.partition}: the group says {group}, the state of {unit.task} says {said}"
                raise PositionsDisagree(f"{text}; put back the changelog or the group's offset, whichever was changed")
            if position is None:
                position = starts[at]
            elif not starts[at] <= position <= ends[at]:
                text = f"{topic}/{unit.partition} is at {position}, retained are {starts[at]} to {ends[at]}"
                if not self._accept_loss:
                    raise PositionLost(f"{text}: restore the topic, or start once with --accept-loss to go on from what is left")
                log.error("%s: going on from what is left, as told", text)
                position = starts[at]
            found[topic] = position
        return found


def _shared_topics(tasks: Sequence[TaskSpec]) -> set[str]:
    """Topics that several tasks read: the group has one offset for them, so only each state knows its own."""
    seen: set[str] = set()
    shared: set[str] = set()
    for task in tasks:
        shared |= seen & set(task.inputs)
        seen |= set(task.inputs)
    return shared
