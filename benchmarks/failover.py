"""How long the partitions of a worker stand still that is killed: from `kill -9` until every partition has committed again."""

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks import job
from benchmarks.cluster import JobNames, make_job_topics
from benchmarks.floor import common as floor
from benchmarks.verify import verify_job
from engine.kafka.connection import SESSION_TIMEOUT_MS
from tests.parts.topics import drop_topics, make_topics, new_prefix

EVENTS_PER_SEC: Final = 1_000
EVENTS_MAX: Final = 10_000_000
PULSE_SECS: Final = 0.02
SETTLE_SECS: Final = 2.0  # both work, and their heartbeats have become regular
SECS_MAX: Final = 90.0
SLACK_SECS: Final = 3.0
BOUND_SECS: Final = SESSION_TIMEOUT_MS / 1000 + SLACK_SECS


def run(bootstrap: str, kills: int) -> bool:
    """Print the median and the longest of `kills` kills, after checking every answer; returns whether the bound holds."""
    prefix = new_prefix()
    names = JobNames(prefix, prefix + job.INPUT)
    make_job_topics(bootstrap, names)
    make_topics(bootstrap, {names.input_topic: job.PARTITIONS}, retention_ms="-1")
    watch, load = _Watch(bootstrap, names), _Load(bootstrap, names)
    rnd = random.Random(11)
    gaps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        workers = [_Worker(bootstrap, names, Path(folder), f"w{n}") for n in range(2)]
        try:
            for n in range(kills):
                _until(lambda: all(worker.owned for worker in workers), "two workers did not share the partitions")
                time.sleep(SETTLE_SECS + rnd.random())
                gaps.append(watch.stopped(workers[n % 2].kill))
                print(f"kill {n + 1}: {gaps[-1]:.1f} s", file=sys.stderr, flush=True)
                workers[n % 2] = _Worker(bootstrap, names, Path(folder), f"w{n % 2}")
            sent = load.stop()
            _until(lambda: watch.seen >= sent, "not every event was decided in time")
        finally:
            load.stop()
            watch.stop()
            for worker in workers:
                worker.kill()
    verify_job(bootstrap, names, sent)
    drop_topics(bootstrap, prefix)
    found, session_secs = median(gaps), SESSION_TIMEOUT_MS / 1000
    verdict = "ok" if found <= BOUND_SECS else "MISSED"
    print(f"{kills} kills of one of two workers under {EVENTS_PER_SEC} events/s, session time-out {session_secs:.0f} s")
    print("until every partition has committed again:", end=" ")
    print(f"median {found:.1f} s (≤ {BOUND_SECS:.0f} {verdict}), longest {max(gaps):.1f} s")
    print(f"{sent:,} events, every decision and state right")
    return found <= BOUND_SECS


class _Worker:
    """A process that runs the job; `owned` is how many units it last said it has."""

    def __init__(self, bootstrap: str, names: JobNames, folder: Path, worker: str) -> None:
        self.owned = 0
        command = [sys.executable, "-m", "benchmarks.measured", "worker", "--bootstrap", bootstrap, "--prefix", names.prefix]
        command += ["--input", names.input_topic, "--folder", str(folder / worker), "--worker", worker]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("OWNS "):
                self.owned = int(line.split()[1])

    def kill(self) -> None:
        """`kill -9`."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


class _Watch:
    """Follows the committed decisions: when each partition's newest one was made."""

    def __init__(self, bootstrap: str, names: JobNames) -> None:
        self.seen = 0
        self._newest_ms = dict.fromkeys(range(job.PARTITIONS), 0)
        self._reader = Consumer({
            "bootstrap.servers": bootstrap, "group.id": f"{names.prefix}watch", "enable.auto.commit": False,
            "isolation.level": "read_committed", "fetch.wait.max.ms": 50,
        })  # fmt: skip
        self._reader.assign([TopicPartition(names.topic(job.OUTPUT), n, 0) for n in range(job.PARTITIONS)])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            for message in self._reader.consume(1_000, PULSE_SECS):
                if message.error() is None:
                    self._newest_ms[message.partition()] = message.timestamp()[1]
                    self.seen += 1

    def stopped(self, kill: Callable[[], Any]) -> float:
        """Seconds from `kill` until each partition has a committed decision that was made after it."""
        kill()
        killed = time.time()
        _until(lambda: min(self._newest_ms.values()) > killed * 1000, "a partition did not come back")
        return time.time() - killed

    def stop(self) -> None:
        """Let go of the client."""
        self._stopping.set()
        self._thread.join()
        self._reader.close()


class _Load:
    """A steady stream of events, whoever works on them."""

    def __init__(self, bootstrap: str, names: JobNames) -> None:
        self._topic = names.input_topic
        self._producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "consistent", "acks": "all", "linger.ms": 5})
        self._sent = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        events = floor.gen(EVENTS_MAX)
        started = time.monotonic()
        while not self._stopping.wait(PULSE_SECS):
            while self._sent < (time.monotonic() - started) * EVENTS_PER_SEC:
                subject, event = next(events)
                self._producer.produce(self._topic, floor.enc(floor.EVENT, event), subject.encode())
                self._sent += 1
            self._producer.poll(0)

    def stop(self) -> int:
        """End it; returns how many events there are."""
        self._stopping.set()
        self._thread.join()
        assert self._producer.flush(SECS_MAX) == 0, "the events were not taken in time"
        return self._sent


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + SECS_MAX
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(PULSE_SECS)
