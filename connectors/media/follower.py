"""The embedded runtime's way to the clerk: a thread that follows `media.orders` from where it stored to have come.

    DATA/media.json     {"positions": {"0": OFFSET, ..}}    every order before OFFSET is answered

An order that must wait (a store is away) lets those behind it pass; the position stays before it. So after a restart some are
carried out again: nothing is there any more, and the answer has the id that it had.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import msgspec

from connectors.media.clerk import TOPIC, Clerk, away_of, key_of
from engine.runtime import LogRecord
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import MediaOrder

log = logging.getLogger("consentinel.media")

FILE: Final = "media.json"
LOOK_SECS: Final = 0.25
READ_MAX: Final = 100
WAITING_MAX: Final = 1_000  # orders in memory; further ones stay in the log
RETRY_SECS_MIN, RETRY_SECS_MAX = 1.0, 60.0
STOP_SECS_MAX: Final = 75.0  # a call of a store and its second try


class Log(Protocol):
    """What is used of `engine.service.Service`."""

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records of `topic` from `offset` on."""
        ...


class _Job(msgspec.Struct):
    """One order that is not answered yet."""

    key: str
    order: MediaOrder
    due: float
    wait_secs: float = RETRY_SECS_MIN


class Follower:
    """`start` it, `stop` it. `ends` gives the offset after the last record of a partition."""

    def __init__(
        self, records: Log, partitions: int, ends: Callable[[int], int], clerk: Clerk, folder: Path, *,
        passed: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self._log, self._ends, self._clerk, self._path, self._passed = records, ends, clerk, folder / FILE, passed
        self._stored = _stored(self._path, partitions)
        # A position behind the end is another log's: an older one was put back, or it was made anew.
        self._next = [at if at <= ends(n) else 0 for n, at in enumerate(self._stored)]
        self._jobs: list[dict[int, _Job]] = [{} for _ in range(partitions)]
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, name="media", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the order under way. Safe to call twice."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECS_MAX)
            self._thread = None

    def turn(self) -> int:
        """Read what is new and try what is due; returns how many orders were tried."""
        return sum(self._turn(partition) for partition in range(len(self._next)))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                tried = self.turn()
            except Exception as fault:  # the log, or our own file: an answer that is late is better than none for ever
                log.warning("media orders cannot be followed now: %s", type(fault).__name__)
                tried = 0
            if not tried:
                self._stopping.wait(LOOK_SECS)

    def _turn(self, partition: int) -> int:
        jobs, tried = self._jobs[partition], 0
        if len(jobs) < WAITING_MAX:
            for record in self._log.read(TOPIC, partition, self._next[partition], READ_MAX):
                self._take(partition, record)
                self._next[partition] = record.offset + 1
        for offset, job in list(jobs.items()):
            if self._stopping.is_set():
                break
            if job.due > self._passed():
                continue
            tried += 1
            try:
                self._clerk.carry_out(job.key, job.order)
            except Exception as fault:
                if job.wait_secs == RETRY_SECS_MIN:
                    log.warning("a recording cannot be deleted now, and is tried again: %s", away_of(fault))
                job.due, job.wait_secs = self._passed() + job.wait_secs, min(RETRY_SECS_MAX, job.wait_secs * 2)
            else:
                del jobs[offset]
                self._store(partition)
        self._store(partition)
        return tried

    def _take(self, partition: int, record: LogRecord) -> None:
        try:
            order = decode_as(MediaOrder, record.value or b"")
        except (Malformed, SchemaUnknown):
            log.error("%s/%d at %d cannot be decoded", TOPIC, partition, record.offset)
            return
        key = key_of(TOPIC, partition, record.offset, record.value or b"")
        self._jobs[partition][record.offset] = _Job(key, order, self._passed())

    def _store(self, partition: int) -> None:
        """Write down where the first order stands that is not answered."""
        reached = min(self._jobs[partition], default=self._next[partition])
        if reached != self._stored[partition]:
            self._stored[partition] = reached
            _write(self._path, self._stored)


def _stored(path: Path, partitions: int) -> list[int]:
    """The stored positions; 0 where there is none, because carrying out an order again does no harm."""
    try:
        found = json.loads(path.read_bytes())["positions"]
        return [max(0, int(found.get(str(n), 0))) for n in range(partitions)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [0] * partitions


def _write(path: Path, positions: list[int]) -> None:
    """Replace the file as a whole, durably."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as out:
        json.dump({"positions": {str(n): at for n, at in enumerate(positions)}}, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
