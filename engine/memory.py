"""The runtime in memory: the seam's promises without a disk, deterministic, and able to lose a commit on request.

It serves the simulation and the property tests, so making one costs next to nothing and every partition appears on first use.
Nothing survives `close`, since there is nowhere to survive in.
"""

import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from engine.runtime import Batch, Commit, CommitLost, LogRecord, Output, TaskSpec, TopicSpec, partition_of


class _Keyed:
    """One task partition's store: a dict, and its keys in order for as long as no key comes or goes."""

    __slots__ = ("ordered", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.ordered: list[bytes] | None = []

    def write(self, writes: dict[bytes, bytes | None]) -> None:
        values = self.values
        before = len(values)
        gone = False
        for key, value in writes.items():
            if value is None:
                gone = values.pop(key, None) is not None or gone
            else:
                values[key] = value
        if gone or len(values) != before:
            self.ordered = None

    def keys(self) -> list[bytes]:
        if self.ordered is None:
            self.ordered = sorted(self.values)
        return self.ordered


class MemoryRuntime:
    """See `engine.runtime` for the promises. Its faults are asked for by name: `fail_next_commit`, `own`."""

    def __init__(self, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec]) -> None:
        self._partitions = {topic.name: topic.partitions for topic in topics}
        self._tasks = {task.name: task for task in tasks}
        for task in tasks:
            for topic in task.inputs:
                if self._partitions[topic] != task.partitions:
                    raise ValueError(f"task {task.name} and its input {topic} differ in partitions")
        self._owned = {task.name: tuple(range(task.partitions)) for task in tasks}
        self._log: defaultdict[tuple[str, int], list[LogRecord]] = defaultdict(list)
        self._stores: defaultdict[tuple[str, int], _Keyed] = defaultdict(_Keyed)
        self._positions: dict[tuple[str, str, int], int] = {}
        self._cursors: dict[tuple[str, str, int], int] = {}
        self._moved: list[tuple[str, int]] = []
        self._failures = 0
        # Counts what became visible; a task that has read everything up to a count has nothing to look for until it grows.
        self._published = 0
        self._drained: dict[str, int] = {}
        self._changed = threading.Condition()

    def fail_next_commit(self) -> None:
        """Let the next `commit` raise `CommitLost` and do nothing. Two calls fail two commits."""
        self._failures += 1

    def own(self, task: str, partitions: Iterable[int]) -> None:
        """Change what this process owns, as a rebalance would; a commit that touches anything else is lost."""
        before, now = set(self._owned[task]), set(partitions)
        self._moved += [(task, n) for n in before ^ now]
        self._owned[task] = tuple(sorted(now))
        self._drained.clear()

    def tend(self) -> Sequence[tuple[str, int]]:
        """What `own` took away and gave since the last call."""
        moved, self._moved = self._moved, []
        return moved

    def owned(self, task: str) -> Sequence[int]:
        """The partitions of `task` that this process owns now."""
        return self._owned[task]

    def poll(self, task: str, records_max: int) -> list[Batch]:
        """At most `records_max` unread records of the owned input partitions; empty when there is nothing. Never blocks."""
        published = self._published
        if self._drained.get(task) == published:
            return []
        batches: list[Batch] = []
        left = records_max
        for partition in self._owned[task]:
            for topic in self._tasks[task].inputs:
                log = self._log.get((topic, partition))
                if log is None:
                    continue
                at = (task, topic, partition)
                cursor = self._cursors.get(at, 0)
                if cursor >= len(log):
                    continue
                if left <= 0:
                    return batches
                records = log[cursor : cursor + left]
                self._cursors[at] = cursor + len(records)
                left -= len(records)
                batches.append(Batch(task, topic, partition, records))
        if left > 0:
            self._drained[task] = published
        return batches

    def rewind(self) -> None:
        """Forget what was polled since the last commit."""
        self._cursors = dict(self._positions)
        self._drained.clear()

    def wait(self, timeout_secs: float) -> None:
        """Return when a task may have something to poll, at the latest after `timeout_secs`."""
        with self._changed:
            if all(self._drained.get(task) == self._published for task in self._tasks):
                self._changed.wait(timeout_secs)

    def commit(self, commit: Commit) -> None:
        """Make one turn visible. Raises `CommitLost` when asked to, or when a partition it touches is not owned."""
        if self._failures:
            self._failures -= 1
            raise CommitLost("a commit failed on request")
        touched = {*commit.writes, *((task, partition) for task, _, partition in commit.positions)}
        if any(partition not in self._owned[task] for task, partition in touched):
            raise CommitLost("a partition of this commit is not owned any more")
        routed = self._route(commit.outputs)
        with self._changed:
            # All checks stand before the first change, so a refused commit leaves nothing to undo.
            coming: dict[tuple[str, int], int] = {}
            for place, _ in routed:
                coming[place] = coming.get(place, 0) + 1
            for (task, topic, partition), position in commit.positions.items():
                if topic not in self._tasks[task].inputs:
                    raise ValueError(f"task {task} does not read {topic}")
                if not 0 <= position <= self.end(topic, partition) + coming.get((topic, partition), 0):
                    raise ValueError(f"a position of task {task} lies outside {topic}")
            self._publish(routed, commit.now_ms)
            for place, writes in commit.writes.items():
                self._stores[place].write(writes)
            self._positions.update(commit.positions)

    def get(self, task: str, partition: int, key: bytes) -> bytes | None:
        """The committed value of `key` in the task partition's store."""
        store = self._stores.get((task, partition))
        return None if store is None else store.values.get(key)

    def get_many(self, task: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The committed value of each key, in the order of `keys`."""
        return [self.get(task, partition, key) for key in keys]

    def scan(
        self, task: str, partition: int, prefix: bytes, after: bytes = b"", limit: int = 1_000_000
    ) -> Iterator[tuple[bytes, bytes]]:
        """Committed pairs whose key begins with `prefix` and is greater than `after`, in key order, as they are at this call."""
        store = self._stores.get((task, partition))
        if store is None or limit <= 0:
            return iter(())
        keys = store.keys()
        first = bisect_left(keys, prefix)
        if after:
            first = max(first, bisect_right(keys, after))
        pairs: list[tuple[bytes, bytes]] = []
        for key in islice(keys, first, None):
            if len(pairs) == limit or not key.startswith(prefix):
                break
            pairs.append((key, store.values[key]))
        return iter(pairs)

    def append(self, outputs: Iterable[Output], now_ms: int) -> None:
        """Append records from outside the loop. Thread-safe."""
        routed = self._route(outputs)
        with self._changed:
            self._publish(routed, now_ms)

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        """Committed records of `topic` from `offset` on. Thread-safe."""
        return self._log[self._place(topic, partition)][max(offset, 0) : max(offset, 0) + records_max]

    def end(self, topic: str, partition: int) -> int:
        """The offset after the last committed record of the partition."""
        log = self._log.get(self._place(topic, partition))
        return 0 if log is None else len(log)

    def position(self, task: str, topic: str, partition: int) -> int:
        """The committed position of `task` in an input partition."""
        return self._positions.get((task, topic, partition), 0)

    def close(self) -> None:
        """Wake whoever waits; there is nothing else to let go of."""
        with self._changed:
            self._published += 1
            self._changed.notify_all()

    def _place(self, topic: str, partition: int) -> tuple[str, int]:
        if not 0 <= partition < self._partitions[topic]:
            raise ValueError(f"{topic} has no such partition")
        return topic, partition

    def _route(self, outputs: Iterable[Output]) -> list[tuple[tuple[str, int], Output]]:
        partitions = self._partitions
        routed = []
        for output in outputs:
            if output.partition is None:
                routed.append(((output.topic, partition_of(output.key, partitions[output.topic])), output))
            else:
                routed.append((self._place(output.topic, output.partition), output))
        return routed

    def _publish(self, routed: list[tuple[tuple[str, int], Output]], now_ms: int) -> None:
        for place, output in routed:
            log = self._log[place]
            log.append(LogRecord(len(log), now_ms, output.key, output.value, output.headers))
        if routed:
            self._published += 1
            self._changed.notify_all()
