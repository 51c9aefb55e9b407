"""What was deleted leaves the files as well, and only then the audit log says so.

A processor that has deleted what it had to yields `Remove`. By steps; a crash between any two of them leaves the note of step 1:

1. The effect leaves a note in the partition's state, committed with the deletion. Where a request ends, the entry `removal.bound`
   says until when configuration lets copies on the log rest: a bound, not an observation.
2. Between turns, when no alarm of the partition is due (what is deleted in steps wakes itself for now), the loop asks for the
   partition's files to be cleaned of all that was deleted until then, and remembers which notes stood there.
3. Housekeeping takes what was asked, overwrites or rewrites the files, and answers.
4. The loop writes the entry `removal.done` for each of these notes, and deletes them, in one commit.

An answer counts only for what was asked before the cleaning began, and for the ownership of then: a store that was
restored meanwhile is another store.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from engine.effects import Owed
from engine.layout import REMOVAL
from engine.partition import Partition
from engine.runtime import Runtime

LOOK_MS: Final = 1_000  # between two looks at what is owed
NOTES_MAX: Final = 500  # of one partition in one commit; the others go with the next cleaning
STORE: Final = "store"
DONE: Final = "removal.done"

Owner = tuple[str, int]  # a task partition
Asked = Mapping[Owner, int]  # partitions whose files are to be cleaned → the number of the asking


class Removals:
    """See the module. `take` and `done` are housekeeping's, any thread's; everything else is the loop's."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._number = 0
        self._asked: dict[Owner, tuple[int, list[bytes]]] = {}  # with the notes that stood there when it was asked
        self._clean: set[Owner] = set()  # answered
        self._looked_ms = 0

    def take(self) -> Asked:
        """What is asked now. What was deleted before this call must be gone from these files before `done`."""
        with self._lock:
            return {owner: number for owner, (number, _) in self._asked.items() if owner not in self._clean}

    def done(self, asked: Asked, owners: Iterable[Owner] | None = None) -> None:
        """The files of these partitions (of all that were taken) hold nothing of it any more."""
        cleaned = asked.keys() if owners is None else asked.keys() & {*owners}
        with self._lock:
            self._clean |= {owner for owner in cleaned if owner in self._asked and self._asked[owner][0] == asked[owner]}

    def adopted(self) -> None:
        """Partitions have come or gone: ask again."""
        with self._lock:
            self._asked.clear()
            self._clean.clear()

    def work(self, owned: Callable[[], list[Partition]], commit: Callable[[Sequence[Partition], int], None], now_ms: int) -> int:
        """Write what has become true, and ask for more; returns how many entries were written. Raises `CommitLost`."""
        if not self._clean and abs(now_ms - self._looked_ms) < LOOK_MS:
            return 0
        self._looked_ms = now_ms
        touched: list[Partition] = []
        entries = 0
        for partition in owned():
            owner = (partition.plan.name, partition.partition)
            with self._lock:
                answered = self._asked.pop(owner) if owner in self._clean else None
                self._clean.discard(owner)
            if answered is not None:
                entries += sum(self._write(partition, key, now_ms) for key in answered[1])
                touched.append(partition)
            elif owner not in self._asked:
                self._ask(partition, owner, now_ms)
        if touched:
            commit(touched, now_ms)
        return entries

    def _ask(self, partition: Partition, owner: Owner, now_ms: int) -> None:
        due_ms = partition.effects.alarms_due_ms
        if not partition.effects.owes or (due_ms is not None and due_ms <= now_ms):
            return
        notes = [key for key, _ in self._runtime.scan(*owner, REMOVAL, limit=NOTES_MAX)]
        partition.effects.owes = bool(notes)
        if notes:
            with self._lock:
                self._number += 1
                self._asked[owner] = self._number, notes

    def _write(self, partition: Partition, key: bytes, now_ms: int) -> int:
        data = self._runtime.get(partition.plan.name, partition.partition, key)
        if data is None:
            return 0
        owed = msgspec.msgpack.decode(data, type=Owed)
        partition.effects.enter(DONE, owed.controller, owed.subject, {**owed.facts, "place": STORE}, now_ms)
        partition.overlay.set(key, None)
        return 1
