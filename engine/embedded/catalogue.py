"""What is declared and what is stored agree: names have the ids they always had, partitions the number they always had."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.embedded.layout import PARTITIONS_MAX, TOPICS_MAX, first_id, pack_tp
from engine.embedded.store import Store
from engine.runtime import StoreDamaged, TaskSpec, TopicSpec


@dataclass(slots=True)
class Topic:
    """A topic of the store. `base` is the tp of its partition 0."""

    name: str
    base: int
    partitions: int
    compact: bool

    def place(self, partition: int) -> int:
        """The tp of one of its partitions."""
        if not 0 <= partition < self.partitions:
            raise ValueError(f"{self.name} has no such partition")
        return self.base | partition

    def places(self) -> range:
        """The tps of all of its partitions."""
        return range(self.base, self.base + self.partitions)


@dataclass(slots=True)
class Reader:
    """A task as a reader: how far it has committed (`positions`), and how far it was handed out (`cursors`), as record ids.

    `ready` holds the input partitions that may have something unread. Committers and appenders put in, `poll` takes out; the
    operations of an OrderedDict are one step each for other threads.
    """

    name: str
    id: int
    partitions: int
    inputs: dict[int, tuple[str, int]]
    positions: dict[int, int] = field(default_factory=dict)
    cursors: dict[int, int] = field(default_factory=dict)
    ready: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def place(self, partition: int) -> int:
        """The tp of one of its stores in `state`."""
        if not 0 <= partition < self.partitions:
            raise ValueError(f"{self.name} has no such partition")
        return pack_tp(self.id, partition)


class Catalogue:
    """Topics and tasks by name, with their ids in the store. `topics` also has stored topics that nobody declares any more."""

    def __init__(self, store: Store, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec]) -> None:
        declared = {topic.name: topic for topic in topics}
        _check(declared, tasks)
        with store.transaction() as writer:
            stored_topics = writer.execute("SELECT name, partitions, compact FROM topics")
            known = {name: (count, bool(flag)) for name, count, flag in stored_topics}
            for topic in topics:
                count, compact = known.get(topic.name, (topic.partitions, topic.compact))
                if count != topic.partitions:
                    raise StoreDamaged(f"topic {topic.name} has another number of partitions in the store than declared")
                if topic.name not in known:
                    values = (topic.name, topic.partitions, topic.compact)
                    writer.execute("INSERT INTO topics (name, partitions, compact) VALUES (?,?,?)", values)
                elif compact != topic.compact:
                    writer.execute("UPDATE topics SET compact = ? WHERE name = ?", (topic.compact, topic.name))
            counts = dict(writer.execute("SELECT name, partitions FROM tasks"))
            for task in tasks:
                if counts.setdefault(task.name, task.partitions) != task.partitions:
                    raise StoreDamaged(f"task {task.name} has another number of partitions in the store than declared")
                writer.execute("INSERT OR IGNORE INTO tasks (name, partitions) VALUES (?,?)", (task.name, task.partitions))
            self.topics = {
                name: Topic(name, pack_tp(number, 0), partitions, bool(compact))
                for number, name, partitions, compact in writer.execute("SELECT id, name, partitions, compact FROM topics")
            }
            for topic_ in self.topics.values():
                if not topic_.compact:
                    # A topic that stopped being compacted keeps no second copy of its keys.
                    tps = topic_.places()
                    writer.execute("DELETE FROM latest WHERE tp BETWEEN ? AND ?", (tps[0], tps[-1]))
                    writer.execute("DELETE FROM cleaned WHERE tp BETWEEN ? AND ?", (tps[0], tps[-1]))
                    writer.execute("DELETE FROM graves WHERE id >= ? AND id < ?", (first_id(tps[0]), first_id(tps[-1] + 1)))
            ids: dict[str, int] = dict(writer.execute("SELECT name, id FROM tasks"))
            if max((*ids.values(), len(self.topics))) > TOPICS_MAX:
                raise ValueError("more topics or tasks than ids")
            stored = writer.execute("SELECT task, tp, next FROM positions").fetchall()
        self.readers: dict[str, Reader] = {}
        self.readers_of: dict[int, list[Reader]] = {}
        for task in tasks:
            inputs = {self.topics[name].place(p): (name, p) for p in range(task.partitions) for name in task.inputs}
            reader = Reader(task.name, ids[task.name], task.partitions, inputs)
            reader.positions = {tp: position for number, tp, position in stored if number == reader.id}
            self.readers[task.name] = reader
            for tp in inputs:
                self.readers_of.setdefault(tp, []).append(reader)


def _check(topics: dict[str, TopicSpec], tasks: Sequence[TaskSpec]) -> None:
    for topic in topics.values():
        if not 1 <= topic.partitions <= PARTITIONS_MAX:
            raise ValueError(f"topic {topic.name} must have 1 to {PARTITIONS_MAX} partitions")
    for task in tasks:
        if not 1 <= task.partitions <= PARTITIONS_MAX:
            raise ValueError(f"task {task.name} must have 1 to {PARTITIONS_MAX} partitions")
        for name in task.inputs:
            if name not in topics:
                raise ValueError(f"task {task.name} reads {name}, which nobody declares")
            if topics[name].partitions != task.partitions:
                raise ValueError(f"task {task.name} and its input {name} differ in partitions")
