"""Keeps the read model going: changelogs in, Redis out, one thread, for ever.

Nothing that Redis or Kafka do ends it: what cannot be written is read again later, from where Redis says that it stands, and a
Kafka client that is of no use any more is replaced. Waits between attempts double up to `WAIT_SECS_MAX`. Only a bug ends it, and
then `failed` says so: whoever hosts it ends with it.
"""

import logging
import threading
import time
from collections.abc import Callable

from connectors.redis.writer import Changelog, RedisWriter
from engine.clock import Clock
from engine.deployment import Unreachable
from engine.kafka.changelog_reader import ChangelogBatch, ChangelogReader
from engine.kafka.names import Unit
from engine.runtime import RuntimeFault

log = logging.getLogger("consentinel.readmodel")

POLL_SECS = 0.1
WAIT_SECS_MIN, WAIT_SECS_MAX = 0.1, 5.0
LAG_SECS = 1.0  # how often the lag is looked at
STOP_SECS_MAX = 30.0


class Feed:
    """`start` it, `stop` it. Its plain attributes are for metrics; other threads may read them at any time."""

    def __init__(self, source: Callable[[], ChangelogReader], writer: RedisWriter, clock: Clock) -> None:
        self.failed: str | None = None  # what it died of: a bug
        self.last_error: str | None = None  # why it cannot go on at this moment
        self.positions: dict[Unit, int] = {}  # the changelog offset that each of our units stands at
        self.lag: dict[Unit, int] = {}  # how many offsets each of our units is behind
        self.applied = 0  # records since the start
        self.begun = 0  # units taken up since the start
        self._source, self._writer, self._clock = source, writer, clock
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._ids: dict[Unit, str] = {}
        self._wait_secs = WAIT_SECS_MIN
        self._not_before = 0.0  # Redis is not asked before then
        self._lag_after = 0.0

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, name="readmodel", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave the group after the batch under way. Safe to call twice."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECS_MAX)
            self._thread = None

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._follow()
                except RuntimeFault as fault:
                    self._trouble(fault)
                    self._stopping.wait(self._wait_secs)
        except Exception as bug:
            self.failed = type(bug).__name__
            bare = RuntimeError("details withheld: they may hold values")
            log.error("the read model stopped: %s", self.failed, exc_info=(RuntimeError, bare, bug.__traceback__))

    def _follow(self) -> None:
        """Follow with one client until we are stopped or it is of no use any more."""
        source = self._source()
        try:
            while not self._stopping.is_set():
                self._take_up(source)
                for batch in source.poll(POLL_SECS):
                    self._write(source, batch)
                self.positions = dict(source.positions)
                self._look_at_lag(source)
        finally:
            source.close()
            self.positions, self.lag = {}, {}

    def _take_up(self, source: ChangelogReader) -> None:
        """Ask Redis where each unit that was given to us stands, and read on from there."""
        if not source.waiting or time.monotonic() < self._not_before:
            return
        try:
            for unit in sorted(source.waiting):
                id_, first, end = source.describe(unit)
                offset = self._writer.begin(unit, Changelog(id_, first, end), self._clock())
                self._ids[unit] = id_
                source.start(unit, offset)
                self.begun += 1
        except Unreachable as fault:
            self._trouble(fault)

    def _write(self, source: ChangelogReader, batch: ChangelogBatch) -> None:
        """Apply one batch; a unit that Redis has otherwise than we think is taken up anew."""
        unit = batch.unit
        if unit not in source.positions:
            return  # an earlier batch of this round met the trouble
        try:
            upto = self._writer.apply(unit, self._ids[unit], batch.first, batch.records, batch.upto)
        except Unreachable as fault:
            self._trouble(fault)
            for held in list(source.positions):
                source.hold(held)
            return
        if upto < batch.upto:
            source.hold(unit)
            return
        self.applied += len(batch.records)
        self._wait_secs, self.last_error = WAIT_SECS_MIN, None

    def _trouble(self, fault: RuntimeFault) -> None:
        if self.last_error is None:
            log.warning("the read model stands still: %s", fault)
        self.last_error = str(fault)
        self._wait_secs = min(WAIT_SECS_MAX, self._wait_secs * 2)
        self._not_before = time.monotonic() + self._wait_secs

    def _look_at_lag(self, source: ChangelogReader) -> None:
        if time.monotonic() >= self._lag_after:
            self._lag_after = time.monotonic() + LAG_SECS
            self.lag = source.lag()
            if source.last_error is not None and self.last_error is None:
                self.last_error = source.last_error
