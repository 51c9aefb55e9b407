"""CPU of this process, all its threads, and who of them used it; and where the main thread's goes."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from types import FrameType
from typing import Any

SAMPLE_SECS = 0.001
REPORTED = 45
MAIN = "python"
NAMES = {"rdk:": "librdkafka", "rocksdb:": "rocksdb"}


class Meter:
    """Started at the first event, stopped after the last commit."""

    def __init__(self) -> None:
        self._threads = _threads()
        self._cpu, self._wall = process_time(), perf_counter()

    def stop(self, events: int) -> dict[str, Any]:
        """What an event cost: µs of CPU in all and by kind of thread, and events per second."""
        cpu, wall = process_time() - self._cpu, perf_counter() - self._wall
        kinds: dict[str, float] = {}
        for thread, (kind, used) in _threads().items():
            kinds[kind] = kinds.get(kind, 0.0) + used - self._threads.get(thread, (kind, 0.0))[1]
        return {
            "events": events, "cpu_us": cpu / events * 1e6, "rate": events / wall,
            "threads_us": {kind: used / events * 1e6 for kind, used in sorted(kinds.items())},
        }  # fmt: skip


def _threads() -> dict[str, tuple[str, float]]:
    """By thread id: its kind, and the CPU seconds it has used so far."""
    found: dict[str, tuple[str, float]] = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm") as comm, open(f"/proc/self/task/{thread}/schedstat") as stat:
                name, used = comm.read(), int(stat.read().split()[0]) / 1e9
        except OSError:  # it ended meanwhile
            continue
        kind = next((kind for start, kind in NAMES.items() if name.startswith(start)), "other threads")
        found[thread] = (MAIN if thread == str(os.getpid()) else kind, used)
    return found


class Sampler:
    """Looks at where the main thread is once per `SAMPLE_SECS` of the process's CPU: a profile that slows nothing.

    What C code takes, such as librdkafka's `produce`, counts for the line that calls it.
    """

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()  # function → samples in itself
        self.within: Counter[str] = Counter()  # function → samples in itself or in what it called
        self.lines: Counter[str] = Counter()

    def look(self, _: int, frame: FrameType | None) -> None:
        """Take one sample."""
        if frame is None:
            return
        self.own[_place(frame)] += 1
        self.lines[f"{_place(frame)}:{frame.f_lineno}"] += 1
        seen = set()
        while frame is not None:
            seen.add(_place(frame))
            frame = frame.f_back
        self.within.update(seen)

    def clear(self) -> None:
        """Begin anew."""
        for found in (self.own, self.within, self.lines):
            found.clear()

    def report(self, cpu_us: float) -> str:
        """Shares of `cpu_us`, the CPU of one event, by function and by line."""
        every = self.own.total() or 1
        parts = [f"{every} samples of {cpu_us:.1f} µs an event", ""]
        for title, found in (("own", self.own), ("with what it calls", self.within), ("by line", self.lines)):
            parts.append(f"µs {title}")
            parts += [f"{count / every * cpu_us:7.2f}  {place}" for place, count in found.most_common(REPORTED)]
            parts.append("")
        return "\n".join(parts)


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-2:])} {code.co_qualname}"


@contextmanager
def sampled(wanted: bool) -> Iterator[Sampler | None]:
    """Sample the block, when it is wanted."""
    if not wanted:
        yield None
        return
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.look)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECS, SAMPLE_SECS)
    try:
        yield sampler
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
