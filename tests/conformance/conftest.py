"""The runtimes under test, each behind the same small face: open, break a commit, and, where it can, open again."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from engine.embedded import EmbeddedRuntime
from engine.memory import MemoryRuntime
from engine.runtime import Runtime, TaskSpec, TopicSpec


class RuntimeFactory(Protocol):
    """What a runtime must bring to be tested. A new runtime adds one of these and changes no test."""

    durable: bool  # `open` after `close` finds everything again
    reassigns: bool  # `take_away` is there

    def open(self, topics: Sequence[TopicSpec], tasks: Sequence[TaskSpec]) -> Runtime: ...

    def break_next_commit(self, runtime: Runtime) -> None:
        """Let the next commit fail as late as the runtime can fail."""

    def take_away(self, runtime: Runtime, task: str, partition: int) -> None: ...

    def shut(self) -> None: ...


class MemoryFactory:
    durable = False
    reassigns = True

    def open(self, topics, tasks):
        return MemoryRuntime(topics, tasks)

    def break_next_commit(self, runtime):
        runtime.fail_next_commit()

    def take_away(self, runtime, task, partition):
        runtime.own(task, [other for other in runtime.owned(task) if other != partition])

    def shut(self):
        pass


class EmbeddedFactory:
    durable = True
    reassigns = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[EmbeddedRuntime] = []

    def open(self, topics, tasks):
        runtime = EmbeddedRuntime(self.folder, topics, tasks)
        self.opened.append(runtime)
        return runtime

    def break_next_commit(self, runtime):
        # Positions are written last: by then outputs, ends and state stand in the transaction. The trigger goes with the failure.
        writer = runtime.store._writer
        writer.execute("CREATE TEMP TRIGGER broken BEFORE INSERT ON positions BEGIN SELECT RAISE(ABORT, 'broken'); END")
        verdict = runtime.store._verdict

        def mended(fault: sqlite3.Error, *rest):
            writer.execute("DROP TRIGGER IF EXISTS broken")
            return verdict(fault, *rest)

        runtime.store._verdict = mended

    def take_away(self, runtime, task, partition):
        raise AssertionError("it owns everything for as long as it is open: see `reassigns`")

    def shut(self):
        for runtime in self.opened:
            runtime.close()


@pytest.fixture(params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def runtime_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RuntimeFactory]:
    if request.param == "kafka":
        from tests.conformance.on_kafka import KafkaFactory  # noqa: PLC0415 -- the others run where there is no Kafka client

        factory: RuntimeFactory = KafkaFactory(tmp_path / "data", request.getfixturevalue("kafka").bootstrap)
    else:
        factory = MemoryFactory() if request.param == "memory" else EmbeddedFactory(tmp_path / "data")
    yield factory
    factory.shut()


@pytest.fixture
def specs() -> tuple[list[TopicSpec], list[TaskSpec]]:
    """Two inputs for `fold`; `fold` feeds `answers`, which `tell` reads; `table` is read by nobody."""
    topics = [TopicSpec(name, partitions, compact=False) for name, partitions in (("asked", 4), ("told", 4), ("answers", 2))]
    tasks = [TaskSpec("fold", ("asked", "told"), 4), TaskSpec("tell", ("answers",), 2)]
    return [*topics, TopicSpec("table", 3, compact=True)], tasks


@pytest.fixture
def runtime(runtime_factory: RuntimeFactory, specs: tuple[list[TopicSpec], list[TaskSpec]]) -> Runtime:
    return runtime_factory.open(*specs)
