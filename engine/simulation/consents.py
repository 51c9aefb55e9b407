"""The real topology with the real processors: consents and calls of a few people, through intake, case and subject.

Every consent event must show as one row with the next epoch of its person: a lost or doubled one breaks the count.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from engine.simulation.auditor import cluster_faults, sequence_faults
from engine.topology import Topology, default_topology
from processors.registry import processors
from schemas.codec import decode, encode
from schemas.routed import Envelope

if TYPE_CHECKING:
    from engine.simulation.world import World

PARTITIONS = 2
PEOPLE = 3
PURPOSES = ("marketing", "analytics")
STATUS = {"consent.given": "given", "consent.refused": "refused", "consent.withdrawn": "withdrawn", "consent.renewed": "renewed"}


@lru_cache(maxsize=1)
def small_topology() -> Topology:
    """The shipped topology with fewer partitions: a story has few events."""
    shipped = default_topology()
    replace = msgspec.structs.replace
    topics = {name: replace(topic, partitions=min(topic.partitions, PARTITIONS)) for name, topic in shipped.topics.items()}
    tasks = {name: replace(task, partitions=PARTITIONS) for name, task in shipped.tasks.items()}
    return replace(shipped, topics=topics, tasks=tasks)


class ConsentJob:
    """See the module. What was published is remembered in plain lists, for the auditor."""

    def __init__(self) -> None:
        self.topology = small_topology()
        self.tasks = self.topology.task_specs()
        self.processors = processors()
        self._count = 0
        self._changes: dict[str, list[tuple[str, str, str]]] = {}  # number → (purpose, status, event id)
        self._calls: dict[str, tuple[str, bool]] = {}  # conversation → (number, whether it ended)

    def publish(self, world: World) -> None:
        """Append one event: mostly a consent, now and then a call's start or end."""
        self._count += 1
        number = f"+1202555010{world.random.randrange(PEOPLE)}"
        open_calls = [name for name, (_, ended) in self._calls.items() if not ended]
        drawn = world.random.random()
        if drawn < 0.15:
            name = f"call-{self._count}"
            self._calls[name] = (number, False)
            parties = [
                {"party_id": "p1", "role": "customer", "identifiers": [{"kind": "tel", "value": number}]},
                {"party_id": "p2", "role": "agent", "identifiers": [{"kind": "employee", "value": "agent-7"}]},
            ]
            data: dict[str, Any] = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": parties}
            self._append(world, "calls", name, "call.started", data)
        elif drawn < 0.3 and open_calls:
            name = world.random.choice(open_calls)
            self._calls[name] = (self._calls[name][0], True)
            self._append(world, "calls", name, "call.ended", {"conversation_id": name, "disposition": "done"})
        else:
            type_ = world.random.choice(list(STATUS))
            purpose = world.random.choice(PURPOSES)
            data = {
                "identifiers": [{"kind": "tel", "value": number}], "purposes": [purpose], "channels": ["voice"], "method": "web",
            }  # fmt: skip
            event_id = self._append(world, "consents", number, type_, data)
            self._changes.setdefault(number, []).append((purpose, STATUS[type_], event_id))

    def _append(self, world: World, topic: str, key: str, type_: str, data: dict[str, Any]) -> str:
        now_ms = world.clock()
        event_id = f"e{self._count}"
        envelope = Envelope(
            id=event_id, source="sim", type=type_, controller="acme", time_ms=now_ms + self._count - 1_000, receipt_ms=now_ms,
            content_type="application/json", data=msgspec.json.encode(data),
        )  # fmt: skip
        at = (world.names.topic(topic), crc32(key.encode()) % PARTITIONS)
        world.cluster.publish(at, key.encode(), world.secrets.seal_raw(topic, encode(envelope), now_ms), [])
        world.tell("-", f"published {event_id} {type_}")
        return event_id

    def faults(self, world: World) -> Iterator[str]:
        """Fold what was published, in one pass and naively; compare."""
        refs = {number: world.secrets.ref("acme", "tel", number) for number, _ in [*self._calls.values()]}
        refs |= {number: world.secrets.ref("acme", "tel", number) for number in self._changes}
        number_of = {ref: number for number, ref in refs.items()}
        rows: dict[str, list[Any]] = {}
        for _, _, value in world.outputs("consent.state"):
            row: Any = decode(value or b"")
            rows.setdefault(f"{number_of[row.subject_ref]} {row.purpose}", []).append((row.status, row.evidence_ref, row.epoch))
        wanted: dict[str, list[Any]] = {}
        for number, changes in self._changes.items():
            for epoch, (purpose, status, event_id) in enumerate(changes, 1):
                wanted.setdefault(f"{number} {purpose}", []).append((status, event_id, epoch))
        yield from sequence_faults("consent rows", wanted, rows)
        items: dict[str, list[Any]] = {}
        for _, key, value in world.outputs("conversations.protected"):
            ref, name = msgspec.json.decode(key)
            item: Any = decode(value or b"")
            if ref in number_of:
                items[name] = [(number_of[ref], item.disposition is not None)]
        yield from sequence_faults("items", {name: [call] for name, call in self._calls.items()}, items)
        yield from cluster_faults(world)
