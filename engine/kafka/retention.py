"""Raw payloads go when their time is over and every reader has committed them; then the hour's keys go.

One worker does this for the whole deployment, the owner of the first intake unit. Keys are judged by what rests on the log:
a publisher that still holds a record under a closed key has given it up after `PUBLISH_MS_MAX`, and a transaction after its own
time-out. So whatever lies behind a partition's first record, or is on its way there, is at most `GRACE_MS` older than that one.
"""

from engine.kafka.clients import PUBLISH_MS_MAX, At, Clients
from engine.kafka.edge import Edge, asking
from engine.kafka.names import Names
from engine.keyring import KeyRing
from engine.rawkeys import RawKeys
from engine.secrets import Secrets
from engine.topology import Topology

GRACE_MS = 60 * PUBLISH_MS_MAX


class RawRetention:
    """The life of raw payloads and their keys on a cluster. `secs`: how long a payload is kept."""

    def __init__(
        self, clients: Clients, names: Names, topology: Topology, edge: Edge, ring: KeyRing, secrets: Secrets, secs: int
    ) -> None:
        self._clients, self._names, self._topology = clients, names, topology
        self._keys = RawKeys(ring, secrets, topology, edge.read)
        self._retention_ms = secs * 1_000
        self._incoming = {topic for task in topology.tasks.values() for topic in task.inputs}

    def run(self, now_ms: int) -> int:
        """End what is past its time, then close and destroy keys; returns how many partitions lost records.

        Raises `BrokerAway`.
        """
        with asking():
            moved = self._delete(now_ms)
        for class_ in self._keys.topics:
            firsts = list(self._keys.firsts(class_))
            oldest_ms = min((ms for ms, _ in firsts), default=now_ms)
            self._keys.destroy(class_, min(oldest_ms, now_ms) - GRACE_MS, firsts)
        self._keys.close_due(now_ms)
        return moved

    def _delete(self, now_ms: int) -> int:
        """Delete what is older than the retention and committed by its reader."""
        places = [at for name in self._keys.topics["raw"] if name in self._incoming for at in self._places(name)]
        starts, aged = self._clients.starts(places), self._clients.since(places, now_ms - self._retention_ms)
        read = self._clients.committed(places)
        before = {at: min(aged[at], read.get(at, 0)) for at in places}
        wanted = {at: offset for at, offset in before.items() if offset > starts[at]}
        if wanted:
            self._clients.delete_before(wanted)
        return len(wanted)

    def _places(self, topic: str) -> list[At]:
        return [(self._names.topic(topic), n) for n in range(self._topology.topics[topic].partitions)]
