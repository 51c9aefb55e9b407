"""What topics a deployment needs on its cluster, with every setting that a promise rests on and the reason of its value.

The topology says which topics there are; this adds each task's changelog and `shards`, and what Kafka must be told. A setting
that is not here is the operator's: it is neither set nor looked at.

How long an erased value can still lie in a log: records of a compacted topic are superseded by a tombstone; the segment that
holds the old one rolls after at most `segment.ms` (while anything is written to the partition) and is cleaned at most
`max.compaction.lag.ms` after its record was written or superseded, and a deleted segment file goes a minute later:
`SUPERSEDED_GONE_MS` in all. A partition that nobody writes to keeps its last segment; changelogs have a beat every second, other
topics may wait. That is why physical removal is no bound of an erasure by itself: the key's epoch is (design, section 4).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from engine.declarations import FREE, Topic, Topology
from engine.kafka.connection import RECORD_BYTES_MAX, Connection
from engine.kafka.faults import SettingImpossible
from engine.kafka.names import Names

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
MIB: Final = 1 << 20
RAW_BACKSTOP_MS: Final = 7 * DAY_MS  # raw data goes earlier, by DeleteRecords, once every reader has committed it
TOMBSTONE_MS: Final = DAY_MS  # a reader that was away longer may have missed one, and starts from nothing (a store is wiped)
COMPACTION_LAG_MS: Final = 6 * HOUR_MS  # a cleaning rewrites the log: four times a day is what an erasure is worth
SUPERSEDED_GONE_MS: Final = COMPACTION_LAG_MS + HOUR_MS + 5 * 60_000  # the roll, the cleaner's round and the file's own delay
FILE_GONE_MS: Final = 10 * 60_000  # a broker looks for what is past its retention every five minutes, and unlinks a minute later
REPLICAS: Final = 3  # one broker may be down for work while another one fails
EVENT_BYTES_MAX: Final = 2 * MIB  # an event has 1 MiB (contract, section 2); around it are its envelope, its headers and its seal

EVERY: Final = {
    "unclean.leader.election.enable": "false",  # a leader that lacks records would lose what was accepted
}
COMPACTED: Final = {
    "cleanup.policy": "compact",
    "segment.ms": str(HOUR_MS),  # only closed segments are cleaned
    "segment.bytes": str(64 * MIB),  # a busy partition closes them sooner, and a cleaning has less to rewrite
    "min.compaction.lag.ms": "0",  # nobody is promised the history of a key
    "max.compaction.lag.ms": str(COMPACTION_LAG_MS),
    "min.cleanable.dirty.ratio": "0.1",  # by default half of a log may be superseded values before anybody cleans
    "delete.retention.ms": str(TOMBSTONE_MS),
}
DELETED: Final = {
    "cleanup.policy": "delete",
    "retention.bytes": "-1",  # a size limit would drop what no reader has seen
}
RAW: Final = {
    **DELETED,
    "retention.ms": str(RAW_BACKSTOP_MS),
    "segment.ms": str(HOUR_MS),  # whole segments go; a raw key is destroyed by the hour as well
    "segment.bytes": str(256 * MIB),
}
BOUNDED: Final = {
    **DELETED,
    "segment.ms": str(DAY_MS),  # a record rests its retention and at most this longer
}
KEPT: Final = {
    **DELETED,
    "retention.ms": "-1",  # audit entries are never deleted
}
SHARDS: Final = {
    **DELETED,
    "retention.ms": str(HOUR_MS),  # nobody writes to it: whatever stands there is a mistake
}
RECEIPT: Final = {
    # Legal clocks run from receipt: a publisher's own time, or its fast clock, must not be taken for ours.
    "message.timestamp.type": "LogAppendTime",
}


def removal_bounds(topology: Topology) -> dict[str, int]:
    """How long, in ms, what stands on the log now can still lie in a broker's files, by place, if its settings are these.

    For compacted topics it holds where something is written to the partition meanwhile; to changelogs something always is.
    """
    tombstones = 2 * SUPERSEDED_GONE_MS + TOMBSTONE_MS  # the cleaning that sees one first begins its time, a later one drops it
    found = {
        "changelogs": SUPERSEDED_GONE_MS, "changelogs.tombstones": tombstones,
        "topics.compacted.if_written": SUPERSEDED_GONE_MS, "topics.tombstones.if_written": tombstones,
        "topics.raw": RAW_BACKSTOP_MS + HOUR_MS + FILE_GONE_MS,
    }  # fmt: skip
    expiring = {t.name: secs * 1_000 for t in topology.topics.values() if t.erase == "expiry" and (secs := t.retention_secs(0))}
    return found | {name: rest_ms + DAY_MS + FILE_GONE_MS for name, rest_ms in expiring.items()}


class Wanted(msgspec.Struct, frozen=True):
    """A topic as it should be on the cluster. `keyed`: its partitions own keys, so none can be added once it holds records."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]
    keyed: bool

    @property
    def compact(self) -> bool:
        """Whether only the newest record of a key stays."""
        return self.config["cleanup.policy"] == "compact"


def wanted_topics(topology: Topology, names: Names, connection: Connection, brokers: int) -> list[Wanted]:
    """Every topic of the deployment, for a cluster of this many brokers, sorted by name. Raises `SettingImpossible`."""
    replicas = connection.replication_factor or min(REPLICAS, max(brokers, 1))
    in_sync = connection.min_insync_replicas or (2 if replicas >= REPLICAS else 1)
    if in_sync > replicas:
        raise SettingImpossible("min_insync_replicas", f"is more than the {replicas} replicas that this cluster gives")
    # A write counts once this many have it: with two of three, either of them may be lost and nothing accepted is.
    every = {**EVERY, "min.insync.replicas": str(in_sync)}

    def topic(name: str, partitions: int, config: Mapping[str, str], bytes_max: int, *, keyed: bool) -> Wanted:
        return Wanted(name, partitions, replicas, {**every, **config, "max.message.bytes": str(bytes_max)}, keyed)

    declared = [
        topic(names.topic(t.name), t.partitions, _config(t), _bytes_max(t), keyed=t.key != FREE) for t in topology.topics.values()
    ]
    changelogs = [
        topic(names.changelog(t.name), t.partitions, COMPACTED, RECORD_BYTES_MAX, keyed=t.partitioned_by != FREE)
        for t in topology.tasks.values()
    ]
    shards = topic(names.shards, len(names.units), SHARDS, EVENT_BYTES_MAX, keyed=False)
    return sorted([*declared, *changelogs, shards], key=lambda wanted: wanted.name)


def names_of(topology: Topology, connection: Connection) -> Names:
    """The names of this topology on this cluster."""
    return Names(connection.prefix, topology.task_specs())


def wrong_policy(wanted: Wanted, found: Mapping[str, str]) -> str:
    """What a topic's settings would lose or never drop; "": they keep the promise. Only what decides is looked at."""
    policies = set(found.get("cleanup.policy", "").replace(" ", "").split(",")) - {""}
    retention_ms = found.get("retention.ms", "")
    if wanted.compact and policies != {"compact"}:
        return "must be compacted and nothing else: deletion by time would lose state"
    if not wanted.compact and policies != {"delete"}:
        return "must delete by time and nothing else: compaction would drop records that share a key"
    if wanted.config.get("retention.ms") == "-1" and retention_ms != "-1":
        return "must never be deleted: retention.ms is -1"
    if not wanted.compact and wanted.config.get("retention.ms") != "-1" and retention_ms == "-1":
        return "must end: retention.ms is without bound"
    return ""


def _config(topic: Topic) -> dict[str, str]:
    match topic.cleanup:
        case "compact":
            return COMPACTED
        case "keep":
            return KEPT
    receipt: Mapping[str, str] = RECEIPT if "publisher" in topic.writers else {}
    if topic.retention == "raw":
        return {**RAW, **receipt}
    secs = topic.retention_secs(0)
    assert secs is not None, "a topic that deletes has a retention: the topology was refused otherwise"
    return {**BOUNDED, **receipt, "retention.ms": str(secs * 1000)}


def _bytes_max(topic: Topic) -> int:
    return EVENT_BYTES_MAX if topic.writers and topic.envelope else RECORD_BYTES_MAX


def by_name(wanted: Sequence[Wanted]) -> dict[str, Wanted]:
    """The topics by Kafka's name."""
    return {topic.name: topic for topic in wanted}
