"""The task loop: one piece of code for every runtime. A turn polls every task, folds, and commits everything at once.

A turn, by its numbered steps (a crash or an error between any two of them leaves nothing half-done):

1. Let ownership change, read new controller settings from the global table `controllers`, and the clock.
2. Poll each task's owned input partitions.
3. Fold each record through its task's processors; effects go to the partition's overlay and outputs.
4. Commit outputs, state, audit frontiers and positions: one `Commit`, atomic and durable.
5. Only now what was written becomes what is known (caches), and counters move.
6. Alarms that are due ring in a turn of their own, by the same steps 3 to 5. Records that come meanwhile wait for it, and a
   hundred erasures at once must not keep others' consents waiting: so a turn of alarms is small, and comes when no record waits.

`CommitLost` takes one path: forget every overlay, rewind, begin again from the committed positions. `RegistryAway` does as well,
and the task whose input cannot be read is not polled for a moment, so that the others and their alarms go on.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Protocol

from engine.clock import Clock
from engine.context import Shared, TaskPlan, take_settings
from engine.layout import DUE, LEDGER, DueAlarm, due_alarm
from engine.obeying import Obedience
from engine.outside import RegistryAway
from engine.partition import Partition
from engine.reviewing import Reviews
from engine.runtime import Batch, Commit, CommitLost, Runtime
from engine.topology import Topology
from processors.kernel import Processor

log = logging.getLogger("consentinel.engine")

RECORDS_PER_TASK_MAX = 1_000  # records of one task in one turn: bounds a commit, and what a crash folds again
# What the alarms of one turn may write, in keys and records, besides as many as records made us write since: under load alarms
# have half of the time, else a turn takes milliseconds. An alarm is never broken off, so its own last step (200 effects) may come
# on top. A transaction of Kafka costs more than one of SQLite: `engine/kafka/worker.py` has a limit of its own.
ALARM_WORK_MIN = 16
# For each so much that alarms are late they may write as much again: what is due all at once, or after a standstill, gets done.
ALARM_LATE_MS = 10_000
ALARM_WORK_TIMES_MAX = 8
ALARMS_WAIT_TURNS_MAX = 4  # an event passes intake, case and subject in three turns, with no alarms in between; but they come
WORK_PER_ALARM_MIN = 2  # it and its place in the order of time are written
SETTINGS_PER_READ_MAX = 1_000
PIPELINE_TURNS = 4  # an event passes intake, case, subject; after this many drained turns all that was there is folded
PAUSE_MS = 5_000  # of a task whose input cannot be read now: to read it again costs every task a rewind
CONTROLLERS = "controllers"


def plans(topology: Topology, processors: Mapping[str, Processor]) -> list[TaskPlan]:
    """How the engine runs each task: which processor reads which record class, in topology order."""
    found: list[TaskPlan] = []
    for name, task in topology.tasks.items():
        mine = {p: processors[p] for p in task.processors}
        classes = {cls for p in mine.values() for cls in p.READS}
        readers = {cls: tuple(p for p in mine.values() if cls in p.READS) for cls in classes}
        found.append(TaskPlan(name, mine, readers, task.keys_topic, task.inputs))
    return found


class Upkeep(Protocol):
    """What is done in the loop's thread between turns, when nothing is uncommitted: reviewing, rotating, removing."""

    def adopted(self) -> None:
        """Partitions have come or gone; before the first turn on them."""
        ...

    def work(self, owned: Callable[[], list[Partition]], commit: Callable[[Sequence[Partition], int], None], now_ms: int) -> int:
        """Do a bounded part of it; returns how much that was. Raises `CommitLost`."""
        ...


class TaskLoop:
    """Runs all tasks of a topology on a runtime. One thread calls `turn`; the fields it leaves are read by others."""

    def __init__(
        self, runtime: Runtime, tasks: list[TaskPlan], shared: Shared, clock: Clock, records_max: int = RECORDS_PER_TASK_MAX,
        *, quiet_ms: int = 0, alarm_work_min: int = ALARM_WORK_MIN,
    ) -> None:  # fmt: skip
        self.runtime, self.shared, self.clock, self.records_max = runtime, shared, clock, records_max
        self.tasks = tasks
        self.reviews = Reviews(runtime, shared)
        self.upkeep: list[Upkeep] = [self.reviews]
        self.beat_ms = 0  # everything received up to here has been folded by every task
        self.seen_ms = 0  # the latest time any turn began at: no beat of a turn under way can be later
        self.turns = 0
        self.crowded = False  # alarms that are due were left to the next turn
        self._alarm_work_min = alarm_work_min
        self._alarm_turns = 0
        self._record_work = 0  # keys and records that records have made us write since the last turn of alarms
        self._alarms_waited = 0  # for how many turns
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._controllers_read = 0
        self._paused_ms: dict[str, int] = {}  # until when a task is not polled
        self._ledgered: set[tuple[str, int]] = set()  # partitions that are known not to be behind the ledger
        self.obeyed = False  # every order that a restored partition had forgotten is carried out; see `engine.ledger`
        self._obedience = Obedience(runtime, tasks, shared.partitions, quiet_ms)
        self._drained: deque[int] = deque(maxlen=PIPELINE_TURNS)

    def turn(self) -> int:
        """One turn; returns how many records and alarms it handled. 0: there was nothing to do. A paused task counts as one."""
        try:
            self.shared.rang.clear()
            done = self._records()
            self._alarms_waited += 1
            looked = not done or self._alarms_waited >= ALARMS_WAIT_TURNS_MAX
            if looked:
                done += self._alarms()
            done += self._keep_up()
            self.obeyed = self._obedience.is_done(self.shared.rang, self.clock(), blind=self.crowded or not looked)
            return done or len(self._paused_ms)
        except CommitLost as lost:
            log.warning("turn lost (%s): reading again from the committed positions", type(lost).__name__)
            self.shared.count("commits_lost")
            for partition in self._partitions.values():
                partition.forget()
            self._drained.clear()
            self.runtime.rewind()
            return 1

    def drain(self, turns_max: int = 100_000) -> int:
        """Turn until there is nothing to do; returns the number of records and alarms. Raises when it does not end."""
        total = 0
        for _ in range(turns_max):
            done = self.turn()
            total += done
            if not done:
                return total
        raise RuntimeError("the loop did not come to rest")

    def next_alarm_ms(self) -> int | None:
        """When the next alarm is due, as far as is known; 0: look now."""
        known = [p.effects.alarms_due_ms for p in self._owned() if p.effects.alarms_due_ms is not None]
        return min(known, default=None)

    def rung_ms(self) -> int:
        """Up to when every due time of what this process owns was noticed, and every alarm has rung; 0: that is not known."""
        due_ms = self.next_alarm_ms()
        return self.reviews.seen_ms if due_ms is None else max(0, min(self.reviews.seen_ms, due_ms - 1))

    def lag(self) -> dict[tuple[str, str, int], int]:
        """Unread records per (task, topic, partition)."""
        return {
            (task.name, topic, n): self.runtime.end(topic, n) - self.runtime.position(task.name, topic, n)
            for task in self.tasks for topic in task.inputs for n in self.runtime.owned(task.name)
        }  # fmt: skip

    def _records(self) -> int:
        moved = self.runtime.tend()  # step 1
        self.obeyed = self.obeyed and not moved  # what has come may be behind the ledger
        for at in moved:
            self._partitions.pop(at, None)
            self._ledgered.discard(at)
        for upkeep in self.upkeep if moved else ():
            upkeep.adopted()
        now_ms = self.clock()
        self._obey(now_ms)
        self.seen_ms = max(self.seen_ms, now_ms)
        self._read_settings()
        batches: list[Batch] = []  # step 2
        drained = True
        for task in self.tasks:
            if self._is_paused(task.name, now_ms):
                drained = False
                continue
            polled = self.runtime.poll(task.name, self.records_max)
            batches += polled
            drained = drained and sum(len(b.records) for b in polled) < self.records_max
        started = perf_counter()
        touched: dict[tuple[str, int], Partition] = {}
        positions: dict[tuple[str, str, int], int] = {}
        for batch in batches:  # step 3
            partition = touched[batch.task, batch.partition] = self._partition(batch.task, batch.partition)
            try:
                partition.fold(batch.topic, batch.records, now_ms)
            except RegistryAway as fault:
                self._pause(batch.task, now_ms, fault)
                raise
            positions[batch.task, batch.topic, batch.partition] = batch.records[-1].offset + 1
        self._record_work += sum(p.work for p in touched.values())
        self._commit(touched, positions, now_ms)  # steps 4 and 5
        count = sum(len(b.records) for b in batches)
        if count:
            self.turns += 1
            for batch in batches:
                self.shared.count("folded", batch.task, by=len(batch.records))
            self.shared.count("turn_us", by=round((perf_counter() - started) * 1e6))
        self._advance_beat(now_ms, drained, count)
        return count

    def _obey(self, now_ms: int) -> None:
        """Give the orders again that a partition's state does not know of: it comes from a backup, or its turn was lost."""
        fresh = [(t.name, n) for t in self.tasks for n in self.runtime.owned(t.name) if (t.name, n) not in self._ledgered]
        given = 0
        for task, n in fresh:
            data = self.runtime.get(task, n, LEDGER)
            known = 0 if data is None else int.from_bytes(data, "big")
            mark, orders = self.shared.ledger.since(self._partition(task, n).effects.origin, known, now_ms)
            if orders:
                log.warning("%s/%d is behind the erasure ledger: giving %d orders again", task, n, len(orders))
                self.runtime.commit(Commit(orders, {(task, n): {LEDGER: mark.to_bytes(8, "big")}}, {}, now_ms))
                self._obedience.give(orders, now_ms)
                given += len(orders)
            self._ledgered.add((task, n))
        if given:
            self.shared.count("ledger_orders", by=given)

    def _is_paused(self, task: str, now_ms: int) -> bool:
        until_ms = self._paused_ms.get(task, now_ms)
        if until_ms <= now_ms:
            self._paused_ms.pop(task, None)
        return until_ms > now_ms

    def _pause(self, task: str, now_ms: int, fault: RegistryAway) -> None:
        log.warning("%s waits and drops nothing: %s", task, fault)
        self.shared.count("registry_away")
        self._paused_ms[task] = now_ms + PAUSE_MS

    def _advance_beat(self, now_ms: int, drained: bool, count: int) -> None:
        """The beat of design section 5: the lowest receipt time that all inputs have been folded to."""
        if not drained:
            self._drained.clear()
        elif not count:
            self.beat_ms = max(self.beat_ms, now_ms)
            self._drained.clear()
        else:
            self._drained.append(now_ms)
            if len(self._drained) == PIPELINE_TURNS:
                self.beat_ms = max(self.beat_ms, self._drained[0])

    def _alarms(self) -> int:
        now_ms = self.clock()
        touched: dict[tuple[str, int], Partition] = {}
        owned = [p for p in self._owned() if p.effects.alarms_due_ms is not None and p.effects.alarms_due_ms <= now_ms]
        late_ms = now_ms - min((p.effects.alarms_due_ms or now_ms for p in owned), default=now_ms)  # 0: not known
        times = min(ALARM_WORK_TIMES_MAX, 1 + late_ms // ALARM_LATE_MS)
        count, room = 0, times * self._alarm_work_min + self._record_work
        self._record_work = self._alarms_waited = 0
        if owned:  # each in its turn comes first: what one partition has to do keeps no other one waiting for long
            self._alarm_turns += 1
            first = self._alarm_turns % len(owned)
            owned = owned[first:] + owned[:first]
        self.crowded = False
        for partition in owned:
            if room <= 0:
                self.crowded = True
                break
            rung, left = self._ring(partition, now_ms, room)
            if rung:
                touched[partition.plan.name, partition.partition] = partition
            count += rung
            room -= partition.work
            self.crowded = self.crowded or left
        self._commit(touched, {}, now_ms)
        self.shared.count("alarms", by=count)
        return count

    def _ring(self, partition: Partition, now_ms: int, room: int) -> tuple[int, bool]:
        """Ring what is due in a partition until it has written `room`; returns how many rang, and whether some are left."""
        due: list[DueAlarm] = []
        after: int | None = None
        most = room // WORK_PER_ALARM_MIN + 1
        for key, _ in self.runtime.scan(partition.plan.name, partition.partition, DUE, limit=most + 1):
            alarm = due_alarm(key)
            if alarm.due_ms > now_ms or len(due) == most:
                after = alarm.due_ms
                break
            due.append(alarm)
        partition.effects.alarms_due_ms = after
        for rung, alarm in enumerate(due):
            if partition.work >= room:
                partition.effects.alarms_due_ms = min(alarm.due_ms, partition.effects.alarms_due_ms or alarm.due_ms)
                return rung, True
            partition.ring(alarm, now_ms)
        return len(due), after is not None and after <= now_ms

    def _keep_up(self) -> int:
        """A part of what is done between turns, in commits of its own."""

        def commit(touched: Sequence[Partition], now_ms: int) -> None:
            self._commit({(p.plan.name, p.partition): p for p in touched}, {}, now_ms)

        return sum(upkeep.work(self._owned, commit, self.clock()) for upkeep in self.upkeep)

    def _commit(self, touched: dict[tuple[str, int], Partition], positions: dict[tuple[str, str, int], int], now_ms: int) -> None:
        if not touched:
            return
        writes = {at: w for at, p in touched.items() if (w := p.writes())}
        outputs = [o for p in touched.values() for o in p.outputs]
        self.runtime.commit(Commit(outputs, writes, positions, now_ms))
        for partition in touched.values():
            partition.committed()

    def _partition(self, task: str, number: int) -> Partition:
        partition = self._partitions.get((task, number))
        if partition is None:
            plan = next(t for t in self.tasks if t.name == task)
            partition = self._partitions[task, number] = Partition(self.shared, self.runtime, plan, number)
        return partition

    def _owned(self) -> list[Partition]:
        return [self._partition(task.name, n) for task in self.tasks for n in self.runtime.owned(task.name)]

    def _read_settings(self) -> None:
        while records := self.runtime.read(CONTROLLERS, 0, self._controllers_read, SETTINGS_PER_READ_MAX):
            for record in records:
                self._controllers_read = record.offset + 1
                take_settings(self.shared.settings, record)
