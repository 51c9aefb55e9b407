"""Says whether every event took effect exactly once, from what stands in Kafka alone; it shares no code with the engine.

What must hold, with the topics of `job.py`:

1. A key's last value in the changelog is the number of its events.
2. Every event was passed on once and told once, nothing else was, and each key's in the order of the events, with the
   counts 1, 2, 3 …: so every state that ever was is right, not only the last.
3. Every tenth event of a key rang its alarm, once.
4. Nothing of an aborted transaction is among it: that would be an event twice, or one that was never published. How many
   records were written and taken back (`aborted`) says how often the faults hit a transaction.
5. The group's offsets are behind the last record of each input, and are what the changelog says.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from time import monotonic
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

READ_SECS_MAX = 120.0
OWN = b"\xff\xffconsentinel\xff"  # keys of the runtime's own: positions and beats
RING_EACH = 10


class Row(NamedTuple):
    """A record, as a consumer sees it."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None


class Recording(NamedTuple):
    """What stands in Kafka, read committed; `raw` counts the records of each topic read uncommitted."""

    events: Sequence[Row]
    relayed: Sequence[Row]
    counted: Sequence[Row]
    rung: Sequence[Row]
    state: Sequence[Row]  # changelog of `count`
    relay: Sequence[Row]  # changelog of `relay`
    offsets: Mapping[tuple[str, int], int]  # the group's, per topic and partition
    raw: Mapping[str, int]


class Findings(NamedTuple):
    """All zero: exactly once. `aborted` is no finding: records that were written and taken back."""

    events: int
    lost: int  # counts too low
    doubled: int  # counts too high
    missing: int  # events not told, or not passed on
    duplicate: int  # events told, or passed on, again
    alien: int  # told, but never published
    disordered: int  # not in the order of the key's events, or with a count that is not the next
    alarms_missing: int
    alarms_duplicate: int
    positions: int  # inputs whose offsets are wrong
    aborted: int

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not any(self[1:-1])


def read(bootstrap: str, topic: str, *, committed: bool = True) -> list[Row]:
    """All records of a topic up to the end that it has now, partition by partition."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "crash-verifier", "enable.auto.commit": False, "enable.partition.eof": True,
        "isolation.level": "read_committed" if committed else "read_uncommitted", "auto.offset.reset": "earliest",
    })  # fmt: skip
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        ends = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=30)[1] for n in partitions}
        consumer.assign([TopicPartition(topic, n, 0) for n in ends])
        rows: list[Row] = []
        left = set(ends)
        give_up = monotonic() + READ_SECS_MAX
        while left:
            assert monotonic() < give_up, f"{topic} could not be read to its end: a transaction is open"
            for message in consumer.consume(10_000, 0.2):
                fault = message.error()
                if fault is None:
                    rows.append(Row(message.partition(), message.offset(), message.key() or b"", message.value()))
                else:
                    assert fault.code() == KafkaError._PARTITION_EOF, fault
                    if message.offset() >= ends[message.partition()]:
                        left.discard(message.partition())
        return sorted(rows)
    finally:
        consumer.close()


def offsets_of(bootstrap: str, group: str, topics: Iterable[str], partitions: int) -> dict[tuple[str, int], int]:
    """The group's committed offsets; 0 where there is none."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted"})
    try:
        places = [TopicPartition(topic, n) for topic in topics for n in range(partitions)]
        return {(p.topic, p.partition): max(p.offset, 0) for p in consumer.committed(places, timeout=30)}
    finally:
        consumer.close()


def record(bootstrap: str, prefix: str, partitions: int) -> Recording:
    """Read everything. The workers should have ended."""
    topics = ("events", "relayed", "counted", "rung", "changelog.count", "changelog.relay")
    rows = {topic: read(bootstrap, prefix + topic) for topic in topics}
    raw = {topic: len(read(bootstrap, prefix + topic, committed=False)) for topic in topics}
    offsets = offsets_of(bootstrap, f"{prefix}consentinel", (prefix + "events", prefix + "relayed"), partitions)
    named = {(topic.removeprefix(prefix), n): offset for (topic, n), offset in offsets.items()}
    return Recording(*(rows[topic] for topic in topics), named, raw)


def verify(found: Recording) -> Findings:
    """Compare what came out with what went in. An event's value is its id, unique among all."""
    truth = Counter(row.key for row in found.events)
    last = {row.key: row.value for row in found.state}  # a key stands in one partition
    counts = {key[1:]: int(value or 0) for key, value in last.items() if key.startswith(b"s")}
    ids = Counter(row.value or b"" for row in found.events)
    assert max(ids.values(), default=1) == 1, "the publisher published an event twice"
    passed = _own(found.relayed)
    relayed = Counter(row.value or b"" for row in passed)
    counted = [((row.value or b"").rpartition(b" "), row) for row in found.counted]
    told = Counter(id_ for (id_, _, _), _ in counted)
    rings = Counter((row.key, int(row.value or 0)) for row in found.rung)
    due = {(key, n) for key, count in truth.items() for n in range(RING_EACH, count + 1, RING_EACH)}
    order, counting = _ids_per_key(found.events), defaultdict(list)
    for (_, _, count), row in counted:
        counting[row.key].append(int(count or 0))
    spoken = {row.key: [] for row in found.counted} | _grouped((row.key, id_) for (id_, _, _), row in counted)
    outputs = (_ids_per_key(passed), spoken)
    disordered = sum(_misplaced(order[key], seen.get(key, [])) for seen in outputs for key in order)
    disordered += sum(n != i + 1 for numbers in counting.values() for i, n in enumerate(numbers))
    rows = dict(zip(("events", "relayed", "counted", "rung", "changelog.count", "changelog.relay"), found[:6], strict=True))
    return Findings(
        events=len(found.events),
        lost=sum(max(0, n - counts.get(key, 0)) for key, n in truth.items()),
        doubled=sum(max(0, n - truth[key]) for key, n in counts.items()),
        missing=len(ids.keys() - told.keys()) + len(ids.keys() - relayed.keys()),
        duplicate=sum(n - 1 for seen in (told, relayed) for n in seen.values()),
        alien=len((told.keys() | relayed.keys()) - ids.keys()),
        disordered=disordered,
        alarms_missing=len(due - rings.keys()),
        alarms_duplicate=sum(n - (ring in due) for ring, n in rings.items()),
        positions=_positions_wrong(found),
        aborted=sum(found.raw[topic] - len(of) for topic, of in rows.items()),
    )


def _own(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.key.startswith(OWN)]


def _grouped(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def _ids_per_key(rows: Iterable[Row]) -> dict[bytes, list[bytes]]:
    return _grouped((row.key, row.value or b"") for row in rows)


def _misplaced(wanted: Sequence[bytes], seen: Sequence[bytes]) -> int:
    """How many ids come after one that should follow them; what is missing or double is counted elsewhere."""
    place = {id_: n for n, id_ in enumerate(wanted)}
    known = [place[id_] for id_ in dict.fromkeys(seen) if id_ in place]
    return sum(a > b for a, b in pairwise(known))


def _positions_wrong(found: Recording) -> int:
    """Inputs whose committed offset is not behind their last event, or not what the reader's changelog says."""
    wrong = 0
    for topic, rows, changelog in (("events", found.events, found.relay), ("relayed", _own(found.relayed), found.state)):
        last = {row.partition: row.offset for row in rows}
        key = OWN + b"p" + topic.encode()
        said = {row.partition: int.from_bytes(row.value or b"", "big") for row in changelog if row.key == key}
        for (of, partition), offset in found.offsets.items():
            if of == topic:
                wrong += offset <= last.get(partition, -1) or said.get(partition, 0) != offset
    return wrong
