"""How fast a wiped store comes back from its changelog, beside a bare librdkafka read of the same partitions."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from benchmarks import job
from benchmarks.cluster import QUEUE_MAX, READ_MAX, JobNames, clients_of, make_job_topics
from engine.clock import system_clock
from engine.kafka.names import Unit
from engine.kafka.recovery import Recovered, Recovery
from tests.parts.topics import drop_topics, make_topics, new_prefix

KEYS: Final = 100_000
TURN_RECORDS: Final = 20_000
SECS_MAX: Final = 120.0
BOUND: Final = 0.7


def run(bootstrap: str, records: int, rounds: int) -> bool:
    """Print both rates and their ratio; returns whether the bound holds."""
    prefix = new_prefix()
    names = JobNames(prefix, prefix + job.INPUT)
    make_job_topics(bootstrap, names)
    make_topics(bootstrap, {names.input_topic: job.PARTITIONS})
    _fill(bootstrap, names, records)
    found: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        bare_rate, bare_cpu = _bare(bootstrap, names)
        rate, cpu = _restored(bootstrap, names, records)
        found.append((bare_rate, rate, bare_cpu, cpu))
    drop_topics(bootstrap, prefix)
    ratio = median(rate / bare for bare, rate, _, _ in found)
    print(f"restore of {records:,} changelog records in {job.PARTITIONS} partitions, {rounds} rounds; medians")
    print(f"{'':24}{'records/s':>12}{'µs CPU':>9}{'of bare':>9}  bound")
    bare_rate, rate, bare_cpu, cpu = (median(row[n] for row in found) for n in range(4))
    print(f"{'bare librdkafka read':24}{bare_rate:12,.0f}{bare_cpu:9.2f}")
    print(f"{'restored':24}{rate:12,.0f}{cpu:9.2f}{ratio:9.2f}  ≥ {BOUND} {'ok' if ratio >= BOUND else 'MISSED'}")
    return ratio >= BOUND


def _fill(bootstrap: str, names: JobNames, records: int) -> None:
    """A changelog as the job leaves it: transactions of a turn's size, small states."""
    producer = Producer({
        "bootstrap.servers": bootstrap, "transactional.id": f"{names.prefix}fill", "linger.ms": 20, "partitioner": "consistent",
        "queue.buffering.max.messages": QUEUE_MAX,
    })  # fmt: skip
    producer.init_transactions(30)
    topic = names.changelog(job.TASK)
    for start in range(0, records, TURN_RECORDS):
        producer.begin_transaction()
        for n in range(start, min(start + TURN_RECORDS, records)):
            state = job.JobState(bool(n & 1), n, 1_790_000_000_000 + n, n)
            producer.produce(topic, job.pack_state(state), _key(n))
        producer.commit_transaction(60)


def _key(n: int) -> bytes:
    return f"subj-{n * 7919 % KEYS:08d}".encode()


def _bare(bootstrap: str, names: JobNames) -> tuple[float, float]:
    """Records a second and µs of CPU a record of a loop that looks at each key and value and does nothing with them."""
    reader = Consumer({
        "bootstrap.servers": bootstrap, "group.id": f"{names.prefix}bare", "enable.auto.commit": False,
        "isolation.level": "read_committed", "enable.partition.eof": True, "queued.max.messages.kbytes": 65_536,
    })  # fmt: skip
    topic = names.changelog(job.TASK)
    started, cpu, count, ended = perf_counter(), process_time(), 0, 0
    reader.assign([TopicPartition(topic, n, 0) for n in range(job.PARTITIONS)])
    while ended < job.PARTITIONS:
        assert perf_counter() - started < SECS_MAX, "the changelog could not be read in time"
        for message in reader.consume(READ_MAX, 0.1):
            if message.error() is None:
                message.key()
                message.value()
                count += 1
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error().name()  # noqa: SLF001
                ended += 1
    secs, cpu = perf_counter() - started, process_time() - cpu
    reader.close()
    return count / secs, cpu / count * 1e6


def _restored(bootstrap: str, names: JobNames, records: int) -> tuple[float, float]:
    """The same of `Recovery`, from the claim of every unit to the last store that is handed out; then every value is checked."""
    with tempfile.TemporaryDirectory() as folder:
        recovery = Recovery(clients_of(bootstrap, names, "w1"), names, job.TASKS, Path(folder), "w1", system_clock)
        started, cpu = perf_counter(), process_time()
        recovery.claim({Unit(job.TASK, n): 1 for n in range(job.PARTITIONS)})
        found = list(_ready(recovery))
        secs, cpu = perf_counter() - started, process_time() - cpu
        assert recovery.restored == records, "the restore read something else than the changelog"
        newest = {_key(n): n for n in range(records)}
        for unit in found:
            kept = {k: job.unpack_state(v).n for k, v in unit.store.scan(b"subj-", b"", KEYS)}
            assert all(newest.pop(key, None) == n for key, n in kept.items()), "a restored value is wrong"
            unit.store.close()
        assert not newest, "restored values are missing"
        recovery.close()
    return records / secs, cpu / records * 1e6


def _ready(recovery: Recovery) -> Iterator[Recovered]:
    deadline, count = monotonic() + SECS_MAX, 0
    while count < job.PARTITIONS:
        assert monotonic() < deadline, "the units were not restored in time"
        recovery.step()
        while not recovery.ready.empty():
            found = recovery.ready.get()
            if isinstance(found, BaseException):
                raise found
            count += 1
            yield found
