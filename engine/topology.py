"""The topology as a value: `topology.yaml` is read whole, or refused with every fault it has.

So before anything runs: one writing task per compacted topic, co-partitioned inputs, no personal topic without an end.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta

from engine.runtime import TaskSpec, TopicSpec
from schemas.labels import SchemaInfo, key_categories, known_schemas

TEXT_CHARS_MAX = 262_144  # the shipped file has some 15,000
PARTITIONS_MAX = 1_024  # of one topic: far beyond one deployment's need, far below what a broker refuses
FREE = ("free",)  # the publisher's own key, which says nothing
DOOR = "door"  # runs pure deciders and is no task: it has no inputs and no state
PSEUDONYMOUS = "user.unique_id.pseudonymous"  # the only labelled category that may stand in a key
SHIPPED = Path(__file__).resolve().parent.parent / "topology.yaml"

FaultCode = Literal[
    "file-unreadable", "yaml-broken", "unknown-key", "wrong-type", "unknown-topic", "unknown-schema", "unknown-task",
    "unknown-processor", "unknown-field", "processor-misplaced", "two-writers", "table-not-compacted",
    "not-co-partitioned", "stateful-on-free-keys", "retention-conflict", "personal-undeclared", "identifying-key",
    "personal-without-retention", "personal-without-erase-rule", "erase-rule-impossible", "ref-without-erase-rule",
]  # fmt: skip
EraseRule = Literal["tombstone", "shred", "raw_retention", "expiry", "drop_ref", "none"]
Word = Annotated[str, Meta(min_length=1, max_length=128)]
Words = tuple[Word, ...]
Some = Annotated[Words, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1, le=PARTITIONS_MAX)]
E = TypeVar("E", bound="_Entry")
Schemas = Mapping[str, SchemaInfo]


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


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = ""  # its key in the section
    doc: str = ""


class Defaults(_Entry, frozen=True, kw_only=True):
    """What holds where nothing else is said; `writes` are topics that every task may append to."""

    partitions: Count = 4
    writes: Words = ()


class KeyField(_Entry, frozen=True, kw_only=True):
    """A field that may stand in a key but not in the value; `category` is its fideslang category if it is personal."""

    category: str = ""


class Topic(_Entry, frozen=True, kw_only=True):
    """A topic. `erase`: how erasure reaches it; `envelope`: values are `Envelope`s, sealed under the hour's raw key."""

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

    def retention_secs(self, raw_retention_secs: int) -> int | None:
        """How long a record may rest, given the deployment's raw retention; None: not bounded by time."""
        secs = raw_retention_secs if self.retention == "raw" else 0
        return secs + (self.retention_days or 0) * 86_400 + (self.retention_hours or 0) * 3_600 or None


class Task(_Entry, frozen=True, kw_only=True):
    """A sub-topology: its inputs go through its processors in this order; its data keys travel on `keys_topic`."""

    partitioned_by: Some
    inputs: Some
    processors: Some
    partitions: Count
    global_tables: Words = ()
    keys_topic: Word | None = None


class ProcessorSpec(_Entry, frozen=True, kw_only=True):
    """A processor: records it reads, topics it writes, kinds of its state, topics it writes impersonal facts to."""

    task: Word
    reads: Words = ()
    writes: Words = ()
    state: Words = ()
    declassifies: Words = ()


class Consumer(_Entry, frozen=True, kw_only=True):
    """A registered target outside, which acts on erasure notices within `deadline_days`."""

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
        return [TaskSpec(task.name, task.inputs, task.partitions) for task in self.tasks.values()]

    def writes_of(self, task: str) -> set[str]:
        """Topics that `task` (or the door) writes: its processors', its keys topic, and those that every task may."""
        found = {topic for spec in self.processors.values() if spec.task == task for topic in spec.writes}
        if task in self.tasks:
            found |= {*self.defaults.writes, *filter(None, [self.tasks[task].keys_topic])}
        return found


def load_topology(source: Path | str, schemas: Schemas, processors: Collection[str] | None = None) -> Topology:
    """Read a topology from a file (`Path`) or from its text. Raises `TopologyInvalid` with all its faults.

    `schemas`: the known records; `processors`: the registered names, None: not compared. While an entry has the wrong
    form, faults of meaning are not looked for: most would only follow from it.
    """
    topology, faults = _read(_tree(source))
    if not any(fault.code == "wrong-type" for fault in faults):
        faults += [*_names(topology, schemas, processors), *_flow(topology), *_persons(topology, schemas)]
    if faults:
        raise TopologyInvalid(sorted(set(faults)))
    return topology


def default_topology(processors: Collection[str] | None = None) -> Topology:
    """Load the shipped topology, the `topology.yaml` beside the engine, with the records of `schemas`."""
    return load_topology(SHIPPED, known_schemas(), processors)


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can swell without bound, and without double keys, where the last would win unseen."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.MarkedYAMLError(problem="a key stands here twice", problem_mark=node.start_mark)
        return mapping


def _tree(source: Path | str) -> Any:
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        if len(text) > TEXT_CHARS_MAX:
            raise yaml.YAMLError
        return _Loader(text).get_single_data()
    except (OSError, UnicodeDecodeError):
        raise TopologyInvalid([TopologyFault("file-unreadable", "", "cannot be read as UTF-8 text")]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as broken:  # ValueError: a date or a number that is none
        line = "" if (mark := getattr(broken, "problem_mark", None)) is None else f"line {mark.line + 1}"
        problem = getattr(broken, "problem", None) or "too long, too deep, or a value that cannot be read"
        raise TopologyInvalid([TopologyFault("yaml-broken", line, problem)]) from None


class _Root(_Entry, frozen=True, kw_only=True):
    defaults: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    topics: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    processors: dict[str, Any] = {}
    consumers: tuple[Consumer, ...] = ()
    promises: tuple[str, ...] = ()


def _read(tree: Any) -> tuple[Topology, list[TopologyFault]]:
    faults: list[TopologyFault] = []

    def entry(cls: type[E], where: str, value: Any, given: dict[str, Any]) -> Iterator[E]:
        known = {field.encode_name for field in msgspec.structs.fields(cls)} - {"name"}
        try:
            items = msgspec.convert(value, dict[str, Any])
            faults.extend(TopologyFault("unknown-key", where, f"{key!r} is no setting") for key in items.keys() - known)
            yield msgspec.convert({**given, **{key: items[key] for key in items.keys() & known}}, cls)
        except msgspec.ValidationError as wrong:
            faults.append(TopologyFault("wrong-type", where, str(wrong)))

    def section(cls: type[E], title: str, **given: Any) -> dict[str, E]:
        rows = getattr(root, title).items()
        return {name: row for name, item in rows for row in entry(cls, f"{title}.{name}", item, given | {"name": name})}

    root = next(entry(_Root, "", tree, {}), _Root())
    defaults = next(entry(Defaults, "defaults", root.defaults, {}), Defaults())
    topics = section(Topic, "topics", partitions=defaults.partitions)
    tasks = section(Task, "tasks", partitions=defaults.partitions)
    keys, processors = section(KeyField, "keys"), section(ProcessorSpec, "processors")
    return Topology(defaults, keys, topics, tasks, processors, root.consumers, root.promises), faults


def _names(t: Topology, schemas: Schemas, registered: Collection[str] | None) -> Iterator[TopologyFault]:
    """Every name that is used must be declared, and a processor must stand in the task that lists it."""

    def unknown(code: FaultCode, where: str, names: Iterable[str], known: Collection[str]) -> Iterator[TopologyFault]:
        return (TopologyFault(code, where, f"{code.replace('-', ' ')} {name!r}") for name in names if name not in known)

    compacted = [topic.name for topic in t.topics.values() if topic.cleanup == "compact"]
    yield from unknown("unknown-topic", "defaults.writes", t.defaults.writes, t.topics)
    for name, topic in t.topics.items():
        yield from unknown("unknown-schema", f"topics.{name}.schema", topic.schema, schemas)
        records = [schemas[schema].fields for schema in topic.schema if schema in schemas]
        known = t.keys.keys() | (frozenset.intersection(*records) if records else frozenset())
        yield from unknown("unknown-field", f"topics.{name}.key", topic.key, FREE if topic.key == FREE else known)
    for name, task in t.tasks.items():
        tables = {*task.global_tables, *filter(None, [task.keys_topic])}
        yield from unknown("unknown-topic", f"tasks.{name}", {*task.inputs, *tables}, t.topics)
        yield from unknown("unknown-processor", f"tasks.{name}", task.processors, t.processors)
        yield from unknown("table-not-compacted", f"tasks.{name}", tables & t.topics.keys(), compacted)
    for name, spec in t.processors.items():
        where = f"processors.{name}"
        yield from unknown("unknown-task", where, [spec.task], {*t.tasks, DOOR})
        yield from unknown("unknown-topic", where, {*spec.writes, *spec.declassifies}, t.topics)
        yield from unknown("unknown-schema", where, spec.reads, schemas)
        yield from unknown("unknown-processor", where, [name], [name] if registered is None else registered)
        listed = [task.name for task in t.tasks.values() if name in task.processors] or [DOOR]
        if listed != [spec.task]:
            yield TopologyFault("processor-misplaced", where, f"says {spec.task!r}, listed by {', '.join(listed)}")
    for consumer in t.consumers:
        yield from unknown("unknown-topic", f"consumers.{consumer.name}", consumer.topics, t.topics)


def _flow(t: Topology) -> Iterator[TopologyFault]:
    """One writing task per compacted topic; the inputs of a task have its key and its partitions."""
    for name, topic in t.topics.items():
        writers = [task for task in (*t.tasks, DOOR) if name in t.writes_of(task)]
        if topic.cleanup == "compact" and len(writers) > 1:
            yield TopologyFault("two-writers", f"topics.{name}", f"compacted, but written by {' and '.join(writers)}")
    for task in t.tasks.values():
        keeps = [task.keys_topic, *(spec.state for spec in t.processors.values() if spec.task == task.name)]
        for topic in (t.topics[name] for name in task.inputs if name in t.topics):
            if topic.key == FREE and any(keeps):
                yield TopologyFault("stateful-on-free-keys", f"tasks.{task.name}", f"{topic.name!r} feeds a state")
            elif (topic.partitions, topic.key) != (task.partitions, task.partitioned_by):
                yield TopologyFault("not-co-partitioned", f"tasks.{task.name}", f"{topic.name!r} is cut in another way")


def _persons(t: Topology, schemas: Schemas) -> Iterator[TopologyFault]:
    """Personal data ends by time or by tombstones, erasure reaches it, and no key names anyone."""
    for topic in t.topics.values():
        where = f"topics.{topic.name}"
        periods = sum(period is not None for period in (topic.retention, topic.retention_hours, topic.retention_days))
        compacted, deleted = topic.cleanup == "compact", topic.cleanup == "delete" and periods == 1
        if periods != (topic.cleanup == "delete"):
            yield TopologyFault("retention-conflict", where, "a topic that deletes has one retention, others none")
        if topic.personal and not (compacted or deleted):
            yield TopologyFault("personal-without-retention", where, "personal, but nothing bounds how long it rests")
        if topic.personal and topic.erase == "none":
            yield TopologyFault("personal-without-erase-rule", where, "personal, but erasure does not reach it")
        works = {"tombstone": compacted, "drop_ref": compacted, "shred": compacted or deleted, "expiry": deleted}
        if not works.get(topic.erase, topic.erase == "none" or topic.retention == "raw"):
            yield TopologyFault("erase-rule-impossible", where, f"{topic.erase!r} cannot work with this cleanup")
        infos = [schemas[name] for name in topic.schema if name in schemas]
        in_key = {category for field in topic.key for category in key_categories(field, infos, schemas.values())}
        in_key |= {t.keys[field].category for field in topic.key if field in t.keys} - {""}
        if in_key - {PSEUDONYMOUS}:
            yield TopologyFault("identifying-key", f"{where}.key", f"holds {sorted(in_key - {PSEUDONYMOUS})}")
        if PSEUDONYMOUS in in_key and topic.erase == "none":
            yield TopologyFault("ref-without-erase-rule", f"{where}.key", "a subject_ref in a key needs an erase rule")
        if not topic.personal and (topic.envelope or in_key or any(info.labels for info in infos)):
            yield TopologyFault("personal-undeclared", where, "its key or records are personal: say `personal: true`")
