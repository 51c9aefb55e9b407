"""Follows personal labels and cycles through a topology: no label leaves a processor unseen, no message travels for ever.

**Labels.** What a processor may know is labelled in the records it reads, in the keys and envelopes they come in, and in the
records whose state its task keeps: processors of a task share their owner's state. What it writes to a topic must carry each of
these labels: a field of its records has that category or a more general one, plain or sealed, or its key or envelope has. A
label that is not carried was either left out on purpose, and then the processor says `declassifies`, or it hides in an
unlabelled field. A label that was sealed where it was read does not become plain without the same word.

The analysis knows records and topics, not code: it cannot see that a declared omission is true. It forces every new label to be
looked at by a person, at every place that it can reach.

**Cycles.** A processor leads back when a topic it writes feeds, over any number of tasks, its own task again. Each such
(processor, topic) names in `guards` what ends the cycle; a guard that guards nothing is refused too: it is a stale promise.
"""

from collections.abc import Collection, Iterator, Mapping

from engine.declarations import DOOR, EVERYTHING, FaultCode, ProcessorSpec, Topic, Topology, TopologyFault
from schemas.labels import SchemaInfo, key_categories

PSEUDONYMOUS = "user.unique_id.pseudonymous"  # the only labelled category that may stand in a key
ENVELOPE = "Envelope"
Schemas = Mapping[str, SchemaInfo]
Labels = dict[str, bool]  # category → whether it is sealed wherever it stands


def flow_faults(t: Topology, schemas: Schemas) -> list[TopologyFault]:
    """All faults of labels and cycles; names that are not declared are passed over, others tell of them."""
    return [*_labels(t, schemas), *_cycles(t)]


def labels_into(t: Topology, spec: ProcessorSpec, schemas: Schemas) -> Labels:
    """Labels that a processor may know. The door looks at every task's state."""
    tasks = set(t.tasks) if spec.task == DOOR else {spec.task} & t.tasks.keys()
    keepers = [other for other in t.processors.values() if other.task in tasks and other.state]
    names = {name for other in [spec, *keepers] for name in other.reads}
    found = _merged([_of_records(names, schemas)])
    for task in tasks:
        for topic in t.tasks[task].inputs:
            if topic in t.topics:
                _add(found, _around(t, t.topics[topic], schemas))
    return found


def labels_out(t: Topology, topic: Topic, schemas: Schemas) -> Labels:
    """Labels that the records, the key and the envelope of a topic carry."""
    return _merged([_of_records(topic.schema, schemas), _around(t, topic, schemas)])


def lost(known: Labels, carried: Labels) -> set[str]:
    """Categories that are known and not carried: neither they nor a more general one."""
    return {category for category in known if not any(_within(category, other) for other in carried)}


def unsealed(known: Labels, carried: Labels) -> set[str]:
    """Categories that were sealed wherever they were read, and that are written in plain."""
    return {
        category for category, was_sealed in known.items()
        if was_sealed and any(_within(category, other) and not sealed for other, sealed in carried.items())
    }  # fmt: skip


def leading_back(t: Topology) -> list[tuple[str, str]]:
    """(processor, topic) of every write that feeds, over any number of tasks, the writer's own task."""
    feeds = {name: [task.name for task in t.tasks.values() if name in task.inputs] for name in t.topics}
    steps: dict[str, set[str]] = {name: set() for name in t.tasks}
    for spec in t.processors.values():
        if spec.task in steps:
            steps[spec.task].update(task for topic in spec.writes for task in feeds.get(topic, ()))
    reach = {name: _reach(steps, name) for name in steps}
    return [
        (spec.name, topic) for spec in t.processors.values() for topic in spec.writes
        if any(task == spec.task or spec.task in reach[task] for task in feeds.get(topic, ()))
    ]  # fmt: skip


def _labels(t: Topology, schemas: Schemas) -> Iterator[TopologyFault]:
    for spec in t.processors.values():
        where, known = f"processors.{spec.name}", labels_into(t, spec, schemas)
        for name in dict.fromkeys(spec.writes):
            if name in t.topics:
                yield from _judged(t, t.topics[name], known, spec.declassifies.get(name, ()), schemas, where)
        for name in spec.declassifies.keys() - set(spec.writes):
            yield TopologyFault("declassifies-nothing", where, f"it does not write {name!r}")
    everything = _merged([labels_into(t, spec, schemas) for spec in t.processors.values()])
    for name in t.defaults.writes:
        if name in t.topics:
            said = (EVERYTHING,) if name in t.defaults.declassifies else ()
            yield from _judged(t, t.topics[name], everything, said, schemas, "defaults")
    for name in set(t.defaults.declassifies) - set(t.defaults.writes):
        yield TopologyFault("declassifies-nothing", "defaults", f"not every task writes {name!r}")


def _judged(
    t: Topology, topic: Topic, known: Labels, declassified: Collection[str], schemas: Schemas, where: str
) -> Iterator[TopologyFault]:  # fmt: skip
    """What is wrong with one way from what is known into one topic."""
    carried = labels_out(t, topic, schemas)
    gone, opened = lost(known, carried), unsealed(known, carried)
    if EVERYTHING in declassified:
        if not gone | opened:
            yield TopologyFault("declassifies-nothing", where, f"{topic.name!r} carries every label that is known here")
        return
    said = set(declassified)
    if gone - said:
        code: FaultCode = "label-lost" if topic.personal else "label-into-impersonal"
        yield TopologyFault(code, where, f"{topic.name!r} does not carry {_listed(gone - said)}, and nothing declassifies it")
    if opened - said:
        yield TopologyFault("label-unsealed", where, f"{topic.name!r} has plain what was read sealed: {_listed(opened - said)}")
    if idle := said - gone - opened:
        yield TopologyFault("declassifies-nothing", where, f"{topic.name!r} needs no word on {_listed(idle)}")


def _cycles(t: Topology) -> Iterator[TopologyFault]:
    back = leading_back(t)
    for name, topic in back:
        if topic not in t.processors[name].guards:
            yield TopologyFault("cycle-without-guard", f"processors.{name}", f"{topic!r} leads back to it: say what ends it")
    for spec in t.processors.values():
        for topic in spec.guards:
            if (spec.name, topic) not in back:
                yield TopologyFault("guard-without-cycle", f"processors.{spec.name}", f"{topic!r} does not lead back to its task")


def _of_records(names: Collection[str], schemas: Schemas) -> Labels:
    found: Labels = {}
    for name in names:
        if name in schemas:
            for label in schemas[name].labels.values():
                found[label.category] = found.get(label.category, True) and label.sealed
    return found


def _around(t: Topology, topic: Topic, schemas: Schemas) -> Labels:
    """Labels of a topic's key and of the envelope that its values come in."""
    infos = [schemas[name] for name in topic.schema if name in schemas]
    key = {category for field in topic.key for category in key_categories(field, infos, schemas.values())}
    key |= {t.keys[field].category for field in topic.key if field in t.keys} - {""}
    found = dict.fromkeys(key, False)
    if topic.envelope:
        _add(found, _of_records([ENVELOPE], schemas))
    return found


def _merged(several: Collection[Labels]) -> Labels:
    found: Labels = {}
    for labels in several:
        _add(found, labels)
    return found


def _add(found: Labels, more: Labels) -> None:
    for category, sealed in more.items():
        found[category] = found.get(category, True) and sealed


def _within(category: str, other: str) -> bool:
    """Whether `other` is `category` or more general: in fideslang `user.contact` holds `user.contact.email`."""
    return category == other or category.startswith(other + ".")


def _reach(steps: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(steps[start])
    while ahead:
        task = ahead.pop()
        if task not in found:
            found.add(task)
            ahead.extend(steps[task])
    return found


def _listed(categories: Collection[str]) -> str:
    return ", ".join(sorted(categories))
