"""What a topology can say: one frozen struct per kind of entry of `topology.yaml`, and the faults that it can have.

`engine/topology.py` reads and judges them; `engine/flow.py` follows labels and cycles through them.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.runtime import TaskSpec, TopicSpec
from schemas.base import Name

PARTITIONS_MAX = 1_024  # of one topic: far beyond one deployment's need, far below what a broker refuses
FREE = ("free",)  # the publisher's own key, which says nothing
DOOR = "door"  # runs pure deciders and is no task: it has no inputs and no state
RECORDINGS = "media"  # the target that stands for a request's recordings (`processors/order_media.py`): no consumer's name
EVERYTHING = "*"  # in `declassifies`: no label of what was read is in what is written

FaultCode = Literal[
    "file-unreadable", "yaml-broken", "unknown-key", "wrong-type", "unknown-topic", "unknown-schema", "unknown-task",
    "unknown-processor", "unknown-field", "processor-misplaced", "two-writers", "table-not-compacted",
    "not-co-partitioned", "stateful-on-free-keys", "retention-conflict", "personal-undeclared", "identifying-key",
    "personal-without-retention", "personal-without-erase-rule", "erase-rule-impossible", "ref-without-erase-rule",
    "label-into-impersonal", "label-lost", "label-unsealed", "declassifies-nothing", "cycle-without-guard",
    "guard-without-cycle", "consumer-name-taken", "consumer-may-not-read",
]  # fmt: skip
EraseRule = Literal["tombstone", "shred", "raw_retention", "expiry", "drop_ref", "none"]
Role = Literal["worker", "gateway", "readmodel", "publisher", "consumer"]
Word = Annotated[str, Meta(min_length=1, max_length=128)]
Words = tuple[Word, ...]
Some = Annotated[Words, Meta(min_length=1)]
Roles = tuple[Role, ...]
Count = Annotated[int, Meta(ge=1, le=PARTITIONS_MAX)]
Reason = Annotated[str, Meta(min_length=8, max_length=512)]


class TopologyFault(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong: a code of the closed list, where (`topics.calls.key`), and what is the matter."""

    code: FaultCode
    where: str
    message: str


class TopologyInvalid(Exception):
    """The topology was refused; `faults` are all that were found."""

    def __init__(self, faults: Iterable[TopologyFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.where}: {fault.message} [{fault.code}]" for fault in self.faults))


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every entry has."""

    name: str = ""  # its key in the section
    doc: str = ""


class Defaults(Entry, frozen=True, kw_only=True):
    """What holds where nothing else is said: every task may append to `writes`, and none of its labels to `declassifies`."""

    partitions: Count = 4
    writes: Words = ()
    declassifies: Words = ()


class KeyField(Entry, frozen=True, kw_only=True):
    """A field that may stand in a key but not in the value; `category` is its fideslang category if it is personal."""

    category: str = ""


class Topic(Entry, frozen=True, kw_only=True):
    """A topic. `erase`: how erasure reaches it; `envelope`: values are `Envelope`s, sealed under the hour's raw key.

    `writers` and `readers` are roles that use it beside the tasks, which say so themselves: ACLs follow from both.
    """

    schema: Some
    key: Some
    partitions: Count
    cleanup: Literal["compact", "delete", "keep"]
    personal: bool
    erase: EraseRule
    envelope: bool = False
    retention: Literal["raw"] | None = None
    retention_hours: Annotated[int, Meta(ge=1)] | None = None
    retention_days: Annotated[int, Meta(ge=1)] | None = None
    writers: Roles = ()
    readers: Roles = ()

    def retention_secs(self, raw_retention_secs: int) -> int | None:
        """How long a record may rest, given the deployment's raw retention; None: not bounded by time."""
        secs = raw_retention_secs if self.retention == "raw" else 0
        return secs + (self.retention_days or 0) * 86_400 + (self.retention_hours or 0) * 3_600 or None


class Task(Entry, frozen=True, kw_only=True):
    """A sub-topology: its inputs go through its processors in this order; its data keys travel on `keys_topic`.

    `awaits`: the tasks whose beats say how complete its inputs are; not those to which it only answers.
    """

    partitioned_by: Some
    inputs: Some
    processors: Some
    partitions: Count
    awaits: Words = ()
    global_tables: Words = ()
    keys_topic: Word | None = None


class ProcessorSpec(Entry, frozen=True, kw_only=True):
    """A processor: records it reads, topics it writes, kinds of its state.

    `declassifies`: per topic the categories of labels that what it writes there does not hold any more. `guards`: per topic
    that leads back to it, what ends the cycle.
    """

    task: Word
    reads: Words = ()
    writes: Words = ()
    state: Words = ()
    declassifies: dict[Word, Some] = {}
    guards: dict[Word, Reason] = {}


class Consumer(Entry, frozen=True, kw_only=True):
    """Somebody outside who copies `topics`: a target of every controller's erasures, which acts within `deadline_days`."""

    name: Name
    topics: Some
    deadline_days: Annotated[int, Meta(ge=0, le=400)]


class Topology(msgspec.Struct, frozen=True):
    """A topology that passed every check; do not change its maps."""

    defaults: Defaults
    keys: dict[str, KeyField]
    topics: dict[str, Topic]
    tasks: dict[str, Task]
    processors: dict[str, ProcessorSpec]
    consumers: tuple[Consumer, ...]
    promises: tuple[str, ...]

    def topic_specs(self) -> list[TopicSpec]:
        """Tell a runtime what it must know of the topics."""
        return [TopicSpec(topic.name, topic.partitions, topic.cleanup == "compact") for topic in self.topics.values()]

    def task_specs(self) -> list[TaskSpec]:
        """Tell a runtime what it must know of the tasks."""
        return [TaskSpec(task.name, task.inputs, task.partitions, task.awaits) for task in self.tasks.values()]

    def writes_of(self, task: str) -> set[str]:
        """Topics that `task` (or the door) writes: its processors', its keys topic, and those that every task may."""
        found = {topic for spec in self.processors.values() if spec.task == task for topic in spec.writes}
        if task in self.tasks:
            found |= {*self.defaults.writes, *filter(None, [self.tasks[task].keys_topic])}
        return found
