"""Raw payloads go when their time is over and every reader has committed them; then the hour's keys go.

One worker does this for the whole deployment, the owner of the first intake unit. Keys are judged by what rests on the log:
a publisher that still holds a record under a closed key has given it up after `PUBLISH_MS_MAX`, and a transaction after its own
time-out, so a key that was closed `GRACE_MS` ago and under which nothing rests will never be needed.
"""

from collections.abc import Iterator, Sequence

from engine.kafka.clients import PUBLISH_MS_MAX, At, Clients
from engine.kafka.edge import Edge
from engine.kafka.names import Names
from engine.keyring import RAW_SPAN_MS, KeyRing, RawClass
from engine.sealing import form_of, raw_key_id
from engine.secrets import Secrets
from engine.topology import Topology
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import QuarantineEntry

GRACE_MS = 10 * PUBLISH_MS_MAX
QUARANTINE = "quarantine"


class RawRetention:
    """The life of raw payloads and their keys on a cluster."""

    def __init__(self, clients: Clients, names: Names, topology: Topology, edge: Edge, secrets: Secrets, secs: int) -> None:
        self._clients, self._names, self._topology, self._edge = clients, names, topology, edge
        self._ring: KeyRing = secrets.ring
        self._secrets = secrets
        self._retention_ms = secs * 1_000
        self._raw = [name for name, topic in topology.topics.items() if topic.retention == "raw"]
        self._incoming = {topic for task in topology.tasks.values() for topic in task.inputs}

    def run(self, now_ms: int) -> int:
        """End what is past its time, then close and destroy keys; returns how many partitions lost records."""
        moved = self._delete(now_ms)
        for class_, topics in (("raw", self._raw), ("quarantine", [QUARANTINE])):
            self._destroy(class_, topics, now_ms)  # type: ignore[arg-type]
        for _, class_, opened_ms, closed_ms in self._ring.raw_keys():
            if closed_ms is None and opened_ms <= now_ms - RAW_SPAN_MS[class_]:
                self._ring.close_raw(class_, now_ms)  # idle: nobody asked for the next one, but this one's time is over
        return moved

    def _delete(self, now_ms: int) -> int:
        """Delete what is older than the retention and committed by its reader."""
        places = [at for name in self._raw if name in self._incoming for at in self._places(name)]
        starts, aged = self._clients.starts(places), self._clients.since(places, now_ms - self._retention_ms)
        read = self._clients.committed(places)
        before = {at: min(aged[at], read.get(at, 0)) for at in places}
        wanted = {at: offset for at, offset in before.items() if offset > starts[at]}
        if wanted:
            self._clients.delete_before(wanted)
        return len(wanted)

    def _destroy(self, class_: RawClass, topics: Sequence[str], now_ms: int) -> None:
        """Destroy closed keys under which no record is left: closed before the oldest that rests, and none under it or before."""
        oldest = min((ms for topic in topics for ms, _ in self._firsts(topic)), default=now_ms)
        before_id = min((n for topic in topics for _, n in self._firsts(topic) if n is not None), default=1 << 32)
        limit_ms = min(oldest, now_ms - GRACE_MS)
        gone = [
            n for n, c, _, closed_ms in self._ring.raw_keys()
            if c == class_ and closed_ms is not None and closed_ms < limit_ms and n < before_id
        ]  # fmt: skip
        if gone:
            self._ring.destroy_raw(gone)
            self._secrets.forget_raw(gone)

    def _firsts(self, topic: str) -> Iterator[tuple[int, int | None]]:
        """Time and key number of the first record of each partition; no number where it is not sealed."""
        for partition in range(self._topology.topics[topic].partitions):
            for record in self._edge.read(topic, partition, 0, 1):
                yield record.ts_ms, _key_of(topic, record.value)

    def _places(self, topic: str) -> list[At]:
        return [(self._names.topic(topic), n) for n in range(self._topology.topics[topic].partitions)]


def _key_of(topic: str, value: bytes | None) -> int | None:
    try:
        if topic == QUARANTINE and value is not None:
            value = decode_as(QuarantineEntry, value).original
    except (Malformed, SchemaUnknown):
        return None
    return raw_key_id(value) if value is not None and form_of(value) == "raw" else None
