"""The worker processes of a crash audit, and the publisher that keeps them busy."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from engine.kafka.connection import Connection
from tests.kafka.crash.job import EVENTS, PARTITIONS, RELAYED
from tests.parts.process import Child

ROOT = Path(__file__).resolve().parents[3]
READY_SECS_MAX = 60.0
END_SECS_MAX = 30.0
WAIT_SECS_MAX = 90.0
TICK_SECS = 0.1
KEYS = 300
TAIL_CHARS = 4_000
TAIL_LINES = 25


def until(true: Callable[[], Any], secs: float = WAIT_SECS_MAX, what: str = "it") -> float:
    """Wait until `true`; returns the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < secs, f"{what} did not come about in {secs} s"
        time.sleep(0.05)
    return time.monotonic() - began


class Crew:
    """Workers by name; one that ends by itself is started anew and counted in `deaths`, which should stay empty."""

    module = "tests.kafka.crash.worker"

    def __init__(self, connection: Connection, folder: Path) -> None:
        self.connection, self.folder = connection, folder
        self.living: dict[str, Child] = {}
        self.frozen: set[str] = set()
        self.deaths: list[str] = []

    def start(self, name: str, *, worker: str = "", wait: bool = True, **changed: Any) -> Child:
        """Start a worker on the folder that its earlier lives had. `worker`: what it calls itself, if not by its folder's name;
        `changed`: settings of its connection.
        """
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        connection = msgspec.json.encode(msgspec.structs.replace(self.connection, **changed)).decode()
        # `Child` removes its folder when the tests are killed: it gets the worker's own, and the module's path another way.
        run = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); "
        run += f"runpy.run_module({self.module!r}, run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", run, str(folder), worker or name, connection]
        self.living[name] = child = Child(command, folder, folder / "log")
        if wait:
            self.ready(name)
        return child

    def ready(self, name: str) -> None:
        """Wait until the worker says so."""
        child = self.living[name]
        child.wait_until(lambda: "ready\n" in child.printed(), READY_SECS_MAX)

    def order(self, name: str, what: str) -> None:
        """See `worker.py`."""
        draft = self.folder / name / "draft"
        draft.write_text(what)
        draft.rename(self.folder / name / "order")

    def has_obeyed(self, name: str) -> bool:
        """Whether the worker has done to itself what it was ordered."""
        return not (self.folder / name / "order").exists()

    def saw(self, name: str, text: str) -> bool:
        """Whether the worker's present life has printed `text`."""
        return text in self.living[name].printed()

    def told(self, name: str) -> dict[str, Any]:
        """What the worker last told of itself: units, lost commits, restored records."""
        path = self.folder / name / "owned"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"units": {}, "lost": 0, "restored": 0}
        return found

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.frozen.discard(name)
        self.living.pop(name).stop(kill=True)

    def end(self, name: str) -> None:
        """SIGTERM; what does not end by it, or not with 0, is a death."""
        child = self.living.pop(name)
        child.process.send_signal(signal.SIGTERM)
        try:
            code: Any = child.process.wait(END_SECS_MAX)
        except subprocess.TimeoutExpired:
            code = "hung"
        child.stop(kill=True)
        if code != 0:
            self.deaths.append(f"{name} ended by SIGTERM with {code}: {child.printed()[-TAIL_CHARS:]}")

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self.frozen.add(name)
        self.living[name].pause()

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.frozen.discard(name)
        self.living[name].resume()

    def care(self) -> None:
        """Start anew who ended by itself."""
        for name, child in list(self.living.items()):
            code = child.process.poll()
            if code is not None:
                self.deaths.append(f"{name} ended by itself with {code}: {child.printed()[-TAIL_CHARS:]}")
                self.kill(name)
                self.start(name, wait=False)

    def end_all(self) -> None:
        """SIGTERM to all, at once."""
        for name in list(self.living):
            if name in self.frozen:
                self.thaw(name)
        for child in self.living.values():
            child.process.send_signal(signal.SIGTERM)
        for name in list(self.living):
            self.end(name)

    def tails(self) -> str:
        """What each worker printed last, for a failure's text."""
        for child in self.living.values():
            child.process.send_signal(signal.SIGUSR1)
        time.sleep(1.0)
        said = {name: child.printed().splitlines() for name, child in self.living.items()}
        own = {name: [line for line in lines if not line.startswith("%")] for name, lines in said.items()}  # not librdkafka's
        return "\n".join(f"{name}: {line}" for name, lines in own.items() for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        """End what is left, whatever it does."""
        for name in list(self.living):
            self.kill(name)


class Publisher:
    """Publishes events at a steady rate until told to stop, each once. Keys' events are numbered in their order."""

    def __init__(self, bootstrap: str, prefix: str, rng: Random, rate: int, keys: int = KEYS) -> None:
        self.sent = 0
        self.delivered = self.refused = 0
        self._topic, self._rng, self._rate = prefix + EVENTS, rng, rate
        self._next = [0] * keys
        self._producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 5,
            "message.timeout.ms": 300_000, "partitioner": "consistent", "log_level": 0,  # the faults make it talk
        })  # fmt: skip
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def publish(self, count: int) -> None:
        """Publish so many now."""
        for _ in range(count):
            key = self._rng.randrange(len(self._next))
            value = b"k%d:%d" % (key, self._next[key])
            self._next[key] += 1
            self._producer.produce(self._topic, value, b"k%d" % key, on_delivery=self._report)
            self.sent += 1
        self._producer.poll(0)

    def start(self) -> None:
        self._thread.start()

    def stop(self, least: int = 0) -> None:
        """Stop when at least `least` were published; returns when all are on the log."""
        until(lambda: self.sent >= least, least / self._rate + WAIT_SECS_MAX)
        self.halt()
        self.flush()

    def halt(self) -> None:
        """Publish no more."""
        self._halt.set()
        if self._thread.is_alive():
            self._thread.join()

    def flush(self) -> None:
        """Return when all are on the log."""
        assert self._producer.flush(WAIT_SECS_MAX) == 0 and not self.refused, "the publisher could not publish"

    def _run(self) -> None:
        began = time.monotonic()
        first = self.sent
        while not self._halt.is_set():
            self.publish(max(0, int((time.monotonic() - began) * self._rate) - (self.sent - first)))
            self._halt.wait(TICK_SECS)

    def _report(self, fault: Any, _: Any) -> None:
        self.refused += fault is not None
        self.delivered += fault is None


class Offsets:
    """The group's offsets as they move: who works on what may be seen by nobody, but progress can."""

    def __init__(self, connection: Connection) -> None:
        self._places = [
            TopicPartition(connection.prefix + topic, n) for topic in (EVENTS, RELAYED) for n in range(PARTITIONS)
        ]  # fmt: skip
        self._consumer = Consumer({
            "bootstrap.servers": connection.bootstrap, "group.id": f"{connection.prefix}consentinel",
            "isolation.level": "read_uncommitted", "log_level": 0,
        })  # fmt: skip

    def now(self) -> list[int] | None:
        """The committed offset of each unit's input, those of the events first; None when the broker is away."""
        try:
            return [max(p.offset, 0) for p in self._consumer.committed(list(self._places), timeout=2)]
        except KafkaException:
            return None

    def moved(self, since: list[int]) -> bool:
        """Whether every unit has committed beyond `since`."""
        now = self.now()
        return now is not None and all(a > b for a, b in zip(now, since, strict=True))

    def total(self) -> int:
        """How many events have been relayed."""
        return sum((self.now() or [])[:PARTITIONS])

    def close(self) -> None:
        self._consumer.close()


def seed_of(given: int | None) -> int:
    """The seed: given, or from the environment, or a new one; print it."""
    return given if given is not None else int(os.environ.get("CONSENTINEL_SEED") or time.time_ns() % 1_000_000)
