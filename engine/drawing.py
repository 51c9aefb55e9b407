"""Draws a topology as text for Mermaid or Graphviz: the same topology gives the same text, to the letter."""

from collections.abc import Iterator
from typing import Literal

from engine.declarations import DOOR, EVERYTHING, ProcessorSpec, Topic, Topology

Drawing = Literal["mermaid", "dot"]


def draw(topology: Topology, form: Drawing) -> str:
    """The topology's topics, tasks, processors, consumers and who reads and writes what.

    A thick (Graphviz: bold) topic holds personal data. A dashed way declassifies: what goes over it lost a label. A way marked
    with a ring leads back to its own task and has a guard. Topics that every task writes are drawn once, without their ways.
    """
    return "\n".join(_mermaid(topology) if form == "mermaid" else _dot(topology)) + "\n"


def _mermaid(t: Topology) -> Iterator[str]:
    yield "flowchart LR"
    for topic in t.topics.values():
        yield f"  {_id('t', topic.name)}[({topic.name})]{':::personal' if topic.personal else ''}"
    for task, members in _groups(t):
        yield f'  subgraph {_id("g", task)}["{task}"]'
        for spec in members:
            yield f"    {_id('p', spec.name)}[{spec.name}]"
        yield "  end"
    for task_name, topic_name in _inputs(t):
        yield f"  {_id('t', topic_name)} --> {_id('g', task_name)}"
    for spec, topic in _ways(t):
        arrow = "-.->" if spec.declassifies.get(topic.name) == (EVERYTHING,) else "-->"
        label = "|↺|" if topic.name in spec.guards else ""
        yield f"  {_id('p', spec.name)} {arrow}{label} {_id('t', topic.name)}"
    for consumer in t.consumers:
        yield f'  {_id("c", consumer.name)}[/"{_text(consumer.name)}"/]'
        yield from (f"  {_id('t', topic)} --> {_id('c', consumer.name)}" for topic in consumer.topics)
    yield "  classDef personal stroke-width:3px"


def _dot(t: Topology) -> Iterator[str]:
    yield "digraph topology {"
    yield "  rankdir=LR; compound=true; node [shape=box];"
    for topic in t.topics.values():
        yield f'  {_id("t", topic.name)} [shape=cylinder, label="{topic.name}"{", style=bold" if topic.personal else ""}];'
    for task, members in _groups(t):
        yield f"  subgraph cluster_{_id('g', task)} {{"
        yield f'    label="{task}";'
        for spec in members:
            yield f'    {_id("p", spec.name)} [label="{spec.name}"];'
        yield "  }"
    for task_name, topic_name in _inputs(t):
        first = _id("p", t.tasks[task_name].processors[0])
        yield f"  {_id('t', topic_name)} -> {first} [lhead=cluster_{_id('g', task_name)}];"
    for spec, topic in _ways(t):
        marks = ["style=dashed"] if spec.declassifies.get(topic.name) == (EVERYTHING,) else []
        marks += ['label="↺"'] if topic.name in spec.guards else []
        how = f" [{', '.join(marks)}]" if marks else ""
        yield f"  {_id('p', spec.name)} -> {_id('t', topic.name)}{how};"
    for consumer in t.consumers:
        yield f'  {_id("c", consumer.name)} [shape=house, label="{_text(consumer.name)}"];'
        yield from (f"  {_id('t', topic)} -> {_id('c', consumer.name)};" for topic in consumer.topics)
    yield "}"


def _groups(t: Topology) -> Iterator[tuple[str, list[ProcessorSpec]]]:
    for task in t.tasks.values():
        yield task.name, [t.processors[name] for name in task.processors]
    doors = [spec for spec in t.processors.values() if spec.task == DOOR]
    if doors:
        yield DOOR, doors


def _inputs(t: Topology) -> Iterator[tuple[str, str]]:
    for task in t.tasks.values():
        yield from ((task.name, topic) for topic in (*task.inputs, *task.global_tables))


def _ways(t: Topology) -> Iterator[tuple[ProcessorSpec, Topic]]:
    for spec in t.processors.values():
        yield from ((spec, t.topics[topic]) for topic in spec.writes)


def _text(name: str) -> str:
    """A consumer's name inside quotes: it may be any text."""
    return name.replace("\\", "/").replace('"', "'")


def _id(kind: str, name: str) -> str:
    """An identifier that both languages take, and that no two names share: every sign that is no letter is spelt out."""
    return f"{kind}_" + "".join(sign if sign.isascii() and sign.isalnum() else f"_{ord(sign):x}_" for sign in name)
