"""When settings or law change, those whose alarms rest on them are looked at again, a bounded part at a time, and nobody else.

A due time is set when something happens to its owner, and looked at when it rings. Later times need no more. For one that is
earlier now, each partition goes once through its owners who have alarms of such a processor (`processors.kernel.Reviewer`), in
the order of their names, and wakes it for those whose controller's basis is another one. By steps:

1. At most `LOOK_MS` after the tables of settings, a pack or a date change, the bases are another text than the partition's mark.
2. A part: up to `OWNERS_PER_STEP` owners are woken (`OWNERS_BESIDE_ALARMS` while alarms of the partition are due), up to
   `LOOKS_PER_STEP` alarms are passed by. What they write commits with the mark and how far it is.
3. At the end the mark is the new basis. Where the basis changed meanwhile, it begins again.

So an earlier time is noticed within `LOOK_MS`, and then as many turns as the partition has owners of alarms for each
`OWNERS_PER_STEP`. Without a change nothing is read but the mark: the cost of an idle hour does not know how much is stored.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from engine.context import Moment, Shared
from engine.effects import ALARM, ALARM_VALUE
from engine.layout import ALARM as ALARMS
from engine.layout import REVIEWED
from engine.partition import Partition
from engine.runtime import Runtime
from law.reading import PackRefused
from processors.kernel import Reviewer
from schemas.routed import Envelope

LOOK_MS: Final = 5_000  # between two looks at what settings and law say
OWNERS_PER_STEP: Final = 50  # of a partition in one commit: each is read, and few of them change
OWNERS_BESIDE_ALARMS: Final = 5
LOOKS_PER_STEP: Final = 2_000  # alarms that are passed by: an owner may have thousands, and other processors have theirs
WORK_PER_STEP: Final = 200  # keys and records written, as in a step of an alarm; the last owner's come on top
OTHERS: Final = ""  # stands for every controller that was never configured
UNKNOWN: Final = "?"  # a basis that cannot be told: nobody is woken for it, and everybody once it can be


class Reviewed(msgspec.Struct, frozen=True, array_like=True):
    """A partition's mark. `done`: the basis of each controller that all owners have been seen under; `under`: that of the walk.

    `after` is the last alarm that the walk has passed; None: no walk is under way.
    """

    done: dict[str, str] = {}
    under: dict[str, str] = {}
    after: bytes | None = None


class Reviews:
    """See the module. The loop's thread calls everything but `look_now`."""

    def __init__(self, runtime: Runtime, shared: Shared) -> None:
        self._runtime, self._shared = runtime, shared
        self.seen_ms = 0  # all owners that this process has were last known to have been seen then
        self._looked_ms = 0
        self._bases: dict[str, dict[str, str]] = {}  # by processor: by controller
        self._walking = True  # whether some partition may not have been seen under the bases of the last look
        self._marks: dict[tuple[str, int, str], Reviewed] = {}
        self._of_task: dict[str, list[Reviewer]] = {}

    def adopted(self) -> None:
        """Partitions have come or gone: know their marks anew."""
        self._marks.clear()
        self._walking, self.seen_ms = True, 0

    def look_now(self) -> None:
        """Let the next call of `work` look at settings and law. Any thread."""
        self._looked_ms = 0

    def work(self, owned: Callable[[], list[Partition]], commit: Callable[[Sequence[Partition], int], None], now_ms: int) -> int:
        """Do a part of what there is to do; returns how many owners and parts that was. Raises `CommitLost`."""
        due = abs(now_ms - self._looked_ms) >= LOOK_MS
        if not due and not self._walking:
            return 0
        partitions = owned()
        if due or not self._bases:
            self._look(partitions, now_ms)
        self._walking = False
        touched: list[Partition] = []
        marks: dict[tuple[str, int, str], Reviewed] = {}
        done = 0
        for partition in partitions:
            for processor in self._reviewers(partition):
                moved = self._advance(partition, processor, now_ms)
                if moved is not None:
                    done += moved[0] + 1
                    marks[partition.plan.name, partition.partition, processor.name] = moved[1]
                    touched.append(partition)
        if touched:
            for at in marks:
                self._marks.pop(at, None)  # a commit that is lost leaves what the store has
            commit(touched, now_ms)
            self._marks |= marks
        if not self._walking:
            self.seen_ms = self._looked_ms
        return done

    def _look(self, partitions: Sequence[Partition], now_ms: int) -> None:
        """What each reviewing processor says of each controller now."""
        self._looked_ms = now_ms
        reviewers = {reviewer.name: reviewer for partition in partitions for reviewer in self._reviewers(partition)}
        found = {name: self._basis_of(reviewer, now_ms) for name, reviewer in reviewers.items()}
        if found != self._bases:
            self._bases, self._walking = found, True

    def _reviewers(self, partition: Partition) -> Sequence[Reviewer]:
        plan = partition.plan
        if plan.name not in self._of_task:
            self._of_task[plan.name] = [processor for processor in plan.processors.values() if isinstance(processor, Reviewer)]
        return self._of_task[plan.name]

    def _basis_of(self, reviewer: Reviewer, now_ms: int) -> dict[str, str]:
        shared = self._shared

        def basis(controller: str) -> str:
            try:
                return reviewer.basis(shared.settings_of(controller), at, now_ms)
            except PackRefused:  # this process lacks a version that the controller activated; another one may have it
                return UNKNOWN

        envelope = Envelope(id="", source="consentinel", type=ALARM, controller="", time_ms=now_ms, receipt_ms=now_ms)
        at = Moment(shared, "", envelope, ("", 0, 0), now_ms)
        others, own = basis(OTHERS), {name: basis(name) for name in shared.settings}
        return {OTHERS: others} | {name: basis for name, basis in own.items() if basis != others}

    def _advance(self, partition: Partition, processor: Reviewer, now_ms: int) -> tuple[int, Reviewed] | None:
        """Put the next part of a walk into the partition's turn: how many owners were woken, and its mark; None: all is seen."""
        at, bases = (partition.plan.name, partition.partition, processor.name), self._bases.get(processor.name, {})
        known = self._marks.get(at) or self._read(partition, processor.name)
        mark = known or Reviewed()
        if mark.after is None:
            if mark.done == bases:
                return None
            mark = Reviewed(mark.done, bases, b"")
        self._walking = True
        passed, after = self._walk(partition, processor, mark, now_ms)
        mark = Reviewed(mark.under) if after is None else Reviewed(mark.done, mark.under, after)
        if known is None and not passed and after is None:  # nobody is there yet: nothing is written for that
            self._marks[at] = mark
            return None
        partition.overlay.set(REVIEWED + processor.name.encode(), msgspec.msgpack.encode(mark))
        self._shared.count("reviewed", processor.name, by=passed)
        return passed, mark

    def _walk(self, partition: Partition, processor: Reviewer, mark: Reviewed, now_ms: int) -> tuple[int, bytes | None]:
        """Wake the next owners; returns how many, and the last alarm that was passed (None: there are no more)."""
        assert mark.after is not None, "a walk is under way"
        plan, due_ms = partition.plan, partition.effects.alarms_due_ms
        most = OWNERS_BESIDE_ALARMS if due_ms is not None and due_ms <= now_ms else OWNERS_PER_STEP
        passed, after = 0, mark.after
        seen = after[1:].split(b"\0")[0] if after.split(b"\0")[1:2] == [processor.name.encode()] else b""
        pairs = list(self._runtime.scan(plan.name, partition.partition, ALARMS, after=after, limit=LOOKS_PER_STEP))
        for key, value in pairs:
            owner, name, _ = key[1:].split(b"\0", 2)
            if name == processor.name.encode() and owner != seen:
                controller = ALARM_VALUE.decode(value)[1]
                if _of(mark.under, controller) not in (_of(mark.done, controller), UNKNOWN):
                    if passed == most or partition.work >= WORK_PER_STEP:
                        return passed, after
                    partition.review(owner.decode(), controller, processor, processor.REVIEW, now_ms)
                    passed += 1
                seen = owner
            after = key
        return passed, after if len(pairs) == LOOKS_PER_STEP else None

    def _read(self, partition: Partition, name: str) -> Reviewed | None:
        data = self._runtime.get(partition.plan.name, partition.partition, REVIEWED + name.encode())
        return None if data is None else msgspec.msgpack.decode(data, type=Reviewed)


def _of(bases: Mapping[str, str], controller: str) -> str | None:
    return bases.get(controller, bases.get(OTHERS))
