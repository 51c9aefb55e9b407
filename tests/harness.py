"""A whole deployment without doors: the real loop, processors and sealing, on any runtime, under a clock the test sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.context import Shared
from engine.filering import FileRing
from engine.layout import key_bytes
from engine.loop import TaskLoop, plans
from engine.memory import MemoryRuntime
from engine.runtime import Output, Runtime
from engine.secrets import Secrets
from engine.topology import default_topology
from processors.registry import processors
from schemas.base import Record
from schemas.codec import decode, encode
from schemas.identifiers import normalise
from schemas.routed import Envelope

START_MS = 1_772_000_000_000  # 2026-02-25T06:13:20Z
TOPIC_OF = {"call": "calls", "consent": "consents", "request": "requests"}
CUSTOMER, OTHER = "+12025550123", "+12025550177"


class Deployment:
    """`publish` events, `settle` the loop, and look at topics. Times are epoch ms; `now_ms` is the test's to move."""

    def __init__(self, folder: Path, runtime: Runtime | None = None, ring: FileRing | None = None, records: bool = True) -> None:
        topology = default_topology()
        self.topology = topology
        self.runtime: Any = runtime or MemoryRuntime(topology.topic_specs(), topology.task_specs())
        self.ring = ring or FileRing(folder / "test.ring", create=True)
        self.secrets = Secrets(self.ring, os.urandom)
        self.now_ms = START_MS
        self.shared = Shared(self.secrets, topology)
        self.loop = TaskLoop(self.runtime, plans(topology, processors()), self.shared, lambda: self.now_ms)
        self._n = 0

    def publish(
        self, type_: str, data: dict[str, Any], *, controller: str = "acme", time_ms: int | None = None, id_: str | None = None,
        actor: str = "tester", refs: tuple[str, ...] = (), settle: bool = True,
    ) -> str:  # fmt: skip
        """Append one event as the gateway does; returns its id."""
        self._n += 1
        event_id = id_ or f"e{self._n}"
        envelope = Envelope(
            id=event_id, source="test", type=type_, controller=controller, time_ms=self.now_ms if time_ms is None else time_ms,
            receipt_ms=self.now_ms, actor=actor, content_type="application/json", data=msgspec.json.encode(data),
            refs=refs,
        )  # fmt: skip
        topic = TOPIC_OF.get(type_.partition(".")[0], "controls")
        key = str(data.get("conversation_id") or data.get("request_id") or event_id).encode()
        self.runtime.append([Output(topic, key, self.secrets.seal_raw(topic, encode(envelope), self.now_ms))], self.now_ms)
        if settle:
            self.settle()
        return event_id

    def settle(self, ms: int = 0) -> None:
        """Move the clock by `ms` and fold everything, ringing each alarm that is due by then."""
        self.now_ms += ms
        self.loop.drain()

    def rows(self, topic: str) -> Iterator[tuple[str, Record | None]]:
        """(key, value) of every record of a topic, oldest first per partition; None is a tombstone."""
        for partition in range(self.topology.topics[topic].partitions):
            for record in self.runtime.read(topic, partition, 0, 1_000_000):
                yield record.key.decode(), None if record.value is None else decode(record.value)

    def latest(self, topic: str) -> dict[str, Any]:
        """What a compacted topic says now: no tombstoned keys."""
        found = dict(self.rows(topic))
        return {k: v for k, v in found.items() if v is not None}

    def audit(self, kind: str) -> list[Any]:
        """Audit entries of a kind."""
        return [v for _, v in self.rows("audit.entries") if getattr(v, "kind", None) == kind]

    def ref(self, value: str, kind: str = "tel", controller: str = "acme") -> str:
        """subject_ref of an identifier."""
        return self.secrets.ref(controller, kind, normalise(kind, value, None))

    def close(self) -> None:
        self.ring.close()


def party(party_id: str, role: str, *identifiers: tuple[str, str], name: str | None = None) -> dict[str, Any]:
    """One party of a call.started."""
    return {"party_id": party_id, "role": role, "identifiers": [{"kind": k, "value": v} for k, v in identifiers], "name": name}


def call(conversation_id: str, *parties: dict[str, Any], channel: str = "voice") -> dict[str, Any]:
    """The data of a call.started."""
    return {"conversation_id": conversation_id, "channel": channel, "direction": "inbound", "parties": list(parties)}


__all__ = ["CUSTOMER", "OTHER", "START_MS", "Deployment", "call", "key_bytes", "party"]
