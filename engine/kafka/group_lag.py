"""How far behind a deployment is, as Kafka itself knows it: no worker is asked, so it is true when none lives.

Records: from the offset that the group has committed to the last stable one, without what is the runtime's own (beats, marks of
transactions); where there is much, marks are counted as well, since reading it all would take longer than the answer is worth.
Seconds: the age of the beat at the end of each changelog, which says up to when its unit is complete.
"""

from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.admin import fault_of
from engine.kafka.clients import At, Client, Clients
from engine.kafka.faults import BrokerUnreachable
from engine.kafka.names import BEAT_KEY, RESERVED, Names, Unit
from engine.kafka.reactions import error_of
from engine.kafka.worker import Lag
from engine.runtime import TaskSpec

COUNTED_MAX: Final = 2_000  # offsets of one partition that are read to be counted
TAIL_MIN, TAIL_MAX = 64, 65_536  # offsets from the end of a changelog, looked through for a beat
WIDER: Final = 32
READ_MAX: Final = 10_000
WAIT_MS: Final = 10
POLL_SECS: Final = 0.05
LOOK_SECS_MAX: Final = 8.0  # for all of it


def group_lag(clients: Clients, names: Names, tasks: Sequence[TaskSpec], now_ms: int) -> list[Lag]:
    """The lag of every input of every task partition, in the order of the topology. Raises a `KafkaFault`."""
    reader = clients.reader("lag", wait_ms=WAIT_MS)
    try:
        return _looked(clients, reader, names, tasks, now_ms)
    except KafkaException as fault:
        raise fault_of(error_of(fault), "reading lag") from None
    except TimeoutError:
        raise BrokerUnreachable("reading lag: the broker did not answer in time") from None
    finally:
        reader.close()


def _looked(clients: Clients, reader: Client, names: Names, tasks: Sequence[TaskSpec], now_ms: int) -> list[Lag]:
    until = monotonic() + LOOK_SECS_MAX
    inputs = [(task.name, topic, n) for task in tasks for n in range(task.partitions) for topic in task.inputs]
    places: dict[tuple[str, str, int], At] = {one: (names.topic(one[1]), one[2]) for one in inputs}
    starts, ends = clients.starts(places.values()), clients.ends(places.values(), committed=True)
    committed = {
        (place.topic, place.partition): place.offset
        for place in reader.committed([Place(*at) for at in places.values()], timeout=_left(until))
    }
    froms = {at: min(max(committed[at], starts[at]), ends[at]) for at in places.values()}
    near = {at: first for at, first in froms.items() if 0 < ends[at] - first <= COUNTED_MAX}
    counts = dict.fromkeys(near, 0)
    for message in _read(reader, near, ends, until):
        counts[message.topic(), message.partition()] += not (message.key() or b"").startswith(RESERVED)
    beats = _beats(clients, reader, names, until)
    found = []
    for one, at in places.items():
        task, topic, partition = one
        beat_ms = beats.get(Unit(task, partition))
        secs = None if beat_ms is None else max(0.0, (now_ms - beat_ms) / 1_000)
        found.append(Lag(task, topic, partition, counts.get(at, ends[at] - froms[at]), secs))
    return found


def _beats(clients: Clients, reader: Client, names: Names, until: float) -> dict[Unit, int]:
    """The last beat of each unit that has one near the end of its changelog."""
    units: dict[At, Unit] = {(names.changelog(unit.task), unit.partition): unit for unit in names.units}
    starts, ends = clients.starts(units), clients.ends(units, committed=True)
    found: dict[Unit, int] = {}
    back = TAIL_MIN
    while back <= TAIL_MAX:
        missing = [at for at, unit in units.items() if unit not in found and ends[at] > starts[at]]
        for message in _read(reader, {at: max(starts[at], ends[at] - back) for at in missing}, ends, until):
            value = message.value()
            if message.key() == BEAT_KEY and value is not None:
                found[units[message.topic(), message.partition()]] = int.from_bytes(value, "big")
        back *= WIDER
    return found


def _read(reader: Client, froms: Mapping[At, int], ends: Mapping[At, int], until: float) -> Iterable[Any]:
    """The records of each partition from its offset to its end. Raises `KafkaException`, `TimeoutError`."""
    reader.assign([Place(*at, offset) for at, offset in froms.items()])
    open_ = set(froms)
    while open_:
        for message in reader.consume(READ_MAX, min(POLL_SECS, _left(until))):
            fault, at = message.error(), (message.topic(), message.partition())
            if fault is not None and fault.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(fault)
            if fault is None and at in open_:
                yield message
            if message.offset() + (fault is None) >= ends[at]:
                open_.discard(at)


def _left(until: float) -> float:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
