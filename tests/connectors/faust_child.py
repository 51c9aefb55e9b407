"""A hosted worker as a child process with an engine that does nothing: what is tested is the host, not what it hosts.

    python -m tests.connectors.faust_child BOOTSTRAP PREFIX FOLDER URL [MODE]

URL is the receiver's ("" is the log). MODE: `dies` (the engine dies once it was ready), `dies-amid-a-rebalance` (of the edges),
`late` (it is ready after a second), `feed-dies`.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from connectors.faust import HostedFailed, LogSink, Place, host
from connectors.faust.pages import bound
from connectors.faust.transport import CommittedConsumer
from connectors.webhook import Webhook
from engine.kafka.connection import Connection
from engine.kafka.names import Unit
from engine.kafka.worker import Figures, Histogram, Lag

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret of the tests"
WAIT_SECS_MAX = 60.0


class StubEngine:
    """Is ready at once, or after `late_secs`; dies when told."""

    def __init__(self, late_secs: float = 0.0) -> None:
        self.failed: str | None = None
        self.reason = ""
        self.stops = 0
        self._ready_at = time.monotonic() + late_secs

    @property
    def ready(self) -> bool:
        return self.failed is None and time.monotonic() >= self._ready_at

    def die(self) -> None:
        self.reason, self.failed = "a topic no longer has what is to be read", "PositionLost"

    def start(self) -> None:
        print("engine started", flush=True)

    def stop(self) -> None:
        self.stops += 1
        if self.stops == 1:
            print("engine stopped", flush=True)

    def lag(self) -> list[Lag]:
        return [Lag("intake", "calls", 0, 7, 1.5), Lag("intake", "consents", 0, 0, 1.5), Lag("case", "case.events", 2, 3, None)]

    def figures(self) -> Figures:
        records, secs = Histogram.over((1, 10)), Histogram.over((0.1, 1.0))
        for value in (1, 5, 5, 100):
            records.observe(value)
        secs.observe(0.5)
        counts = {("folded", "intake"): 4, ("quarantined", "unknown-type"): 2, ("commits_lost",): 1}
        return Figures(
            transactions=9, aborts={"_FENCED": 2}, batch_records=records, batch_secs=secs, restored=11,
            restoring={Unit("subject", 1): 5}, counts=counts, units=3,
        )  # fmt: skip


class StubFeed:
    """A read-model writer that does nothing."""

    def __init__(self) -> None:
        self.failed: str | None = None
        self.last_error: str | None = None
        self.lag: dict[Any, int] = {}
        self.applied = 0

    def start(self) -> None:
        print("feed started", flush=True)

    def stop(self) -> None:
        pass


class Child:
    """One run of this module."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, url: str = "", mode: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.err = folder / f"out-{time.monotonic_ns()}", folder / f"err-{time.monotonic_ns()}"
        args = [sys.executable, "-m", "tests.connectors.faust_child", bootstrap, prefix, str(folder), url, mode]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(args, cwd=ROOT, stdout=out, stderr=err, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def printed(self) -> str:
        return self.out.read_text()

    def wait_for(self, text: str) -> str:
        """Until `text` was printed; returns the rest of its line."""
        until(lambda: text in self.printed() or self.process.poll() is not None)
        assert text in self.printed(), self.printed() + self.err.read_text()
        return self.printed().partition(text)[2].partition("\n")[0].strip()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal (0: none), wait until it has ended; returns the exit code."""
        if number and self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(WAIT_SECS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)


def until(true: Any, secs: float = WAIT_SECS_MAX) -> None:
    give_up = time.monotonic() + secs
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.02)


def die_amid_a_rebalance(engine: StubEngine) -> None:
    """Have the engine die, and the worker see it, between the rebalance and what Faust asks its loop about it."""
    asks = CommittedConsumer.threadsafe_partitions_revoked

    async def dies_first(self: CommittedConsumer, receiver_loop: asyncio.AbstractEventLoop, revoked: set[Any]) -> None:
        engine.die()
        while not self.should_stop:
            await asyncio.sleep(0.01)
        await asks(self, receiver_loop, revoked)

    CommittedConsumer.threadsafe_partitions_revoked = dies_first  # type: ignore[method-assign]


def run(bootstrap: str, prefix: str, folder: str, url: str, mode: str = "") -> None:
    engine = StubEngine(late_secs=1.0 if mode == "late" else 0.0)
    feed = StubFeed() if mode == "feed-dies" else None

    def ready(where: str) -> None:
        print(f"ready {where}", flush=True)
        if mode == "dies":
            threading.Timer(0.3, engine.die).start()
        if feed is not None:
            feed.failed = "KeyError"

    if mode == "dies-amid-a-rebalance":
        die_amid_a_rebalance(engine)
    sink = Webhook(url, SECRET) if url else LogSink()
    place = Place(Connection(bootstrap=bootstrap, prefix=prefix), "w1", Path(folder), bound("127.0.0.1", 0))
    try:
        host(place, engine, feed, sink, "consentinel/tests", ready)
    except HostedFailed as ended:
        sys.exit(f"ended: {ended}")


if __name__ == "__main__":
    run(*sys.argv[1:])
