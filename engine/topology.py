"""The topology as a value: `topology.yaml` is read whole, or refused with every fault it has.

So before anything runs: one writing task per compacted topic, co-partitioned inputs, no personal topic without an end, no
label that is lost unseen, no cycle that nothing ends.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from engine.declarations import (
    DOOR,
    FREE,
    RECORDINGS,
    Consumer,
    Defaults,
    Entry,
    FaultCode,
    KeyField,
    ProcessorSpec,
    Task,
    Topic,
    Topology,
    TopologyFault,
    TopologyInvalid,
)
from engine.flow import PSEUDONYMOUS, Schemas, flow_faults
from schemas.labels import key_categories, known_schemas

__all__ = ["SHIPPED", "Topology", "TopologyFault", "TopologyInvalid", "default_topology", "load_topology"]

TEXT_CHARS_MAX = 262_144  # the shipped file has some 20,000
SHIPPED = Path(__file__).resolve().parent.parent / "topology.yaml"
E = TypeVar("E", bound=Entry)


def load_topology(source: Path | str, schemas: Schemas, processors: Collection[str] | None = None) -> Topology:
    """Read a topology from a file (`Path`) or from its text. Raises `TopologyInvalid` with all its faults.

    `schemas`: the known records; `processors`: the registered names, None: not compared. While an entry has the wrong
    form, faults of meaning are not looked for: most would only follow from it.
    """
    topology, faults = _read(_tree(source))
    if not any(fault.code == "wrong-type" for fault in faults):
        faults += [*_names(topology, schemas, processors), *_partitions(topology), *_persons(topology, schemas)]
        faults += flow_faults(topology, schemas)
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


class _Root(Entry, frozen=True, kw_only=True):
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
    yield from unknown("unknown-topic", "defaults", {*t.defaults.writes, *t.defaults.declassifies}, t.topics)
    for name, topic in t.topics.items():
        yield from unknown("unknown-schema", f"topics.{name}.schema", topic.schema, schemas)
        records = [schemas[schema].fields for schema in topic.schema if schema in schemas]
        known = t.keys.keys() | (frozenset.intersection(*records) if records else frozenset())
        yield from unknown("unknown-field", f"topics.{name}.key", topic.key, FREE if topic.key == FREE else known)
    for name, task in t.tasks.items():
        tables = {*task.global_tables, *filter(None, [task.keys_topic])}
        yield from unknown("unknown-topic", f"tasks.{name}", {*task.inputs, *tables}, t.topics)
        yield from unknown("unknown-processor", f"tasks.{name}", task.processors, t.processors)
        yield from unknown("unknown-task", f"tasks.{name}.awaits", task.awaits, t.tasks)
        yield from unknown("table-not-compacted", f"tasks.{name}", tables & t.topics.keys(), compacted)
    for name, spec in t.processors.items():
        where = f"processors.{name}"
        yield from unknown("unknown-task", where, [spec.task], {*t.tasks, DOOR})
        yield from unknown("unknown-topic", where, {*spec.writes, *spec.declassifies, *spec.guards}, t.topics)
        yield from unknown("unknown-schema", where, spec.reads, schemas)
        yield from unknown("unknown-processor", where, [name], [name] if registered is None else registered)
        listed = [task.name for task in t.tasks.values() if name in task.processors] or [DOOR]
        if listed != [spec.task]:
            yield TopologyFault("processor-misplaced", where, f"says {spec.task!r}, listed by {', '.join(listed)}")
    taken = {RECORDINGS}
    for consumer in t.consumers:
        where = f"consumers.{consumer.name}"
        yield from unknown("unknown-topic", where, consumer.topics, t.topics)
        if consumer.name in taken:
            yield TopologyFault("consumer-name-taken", where, "another consumer has it, or it stands for recordings")
        taken.add(consumer.name)
        shut = sorted(name for name in consumer.topics if name in t.topics and "consumer" not in t.topics[name].readers)
        if shut:
            yield TopologyFault("consumer-may-not-read", where, f"consumers may not read {', '.join(shut)}")


def _partitions(t: Topology) -> Iterator[TopologyFault]:
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
