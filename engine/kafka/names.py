"""What stands where in Kafka: topic names behind the deployment's prefix, changelogs, the group and its units."""

from collections.abc import Sequence
from typing import Final

import msgspec

from engine.runtime import TaskSpec

SHARDS: Final = "shards"  # nobody writes to it: its partitions are the units that the group hands out
CHANGELOG: Final = "changelog."
RESERVED: Final = b"\xff\xffconsentinel\xff"  # begins the runtime's own keys: in stores, changelogs and internal topics
BEAT_KEY: Final = RESERVED + b"b"  # changelog key: up to when all inputs have been folded (8 octets, big-endian epoch ms)
POSITION: Final = RESERVED + b"p"  # changelog key prefix: `p` + input topic, value the next offset (8 octets, big-endian)

DEPLOYMENT: Final = RESERVED + b"d"  # changelog key: the id of the ring that the state was made with


class Unit(msgspec.Struct, frozen=True, order=True):
    """One task partition: what a worker owns, restores, folds and loses as a whole."""

    task: str
    partition: int


class Names:
    """Names of one deployment's topics and groups; every one begins with `prefix`."""

    def __init__(self, prefix: str, tasks: Sequence[TaskSpec]) -> None:
        self.prefix = prefix
        self.units = [Unit(task.name, n) for task in tasks for n in range(task.partitions)]
        self.index = {unit: n for n, unit in enumerate(self.units)}
        self.shards = prefix + SHARDS
        self.group = f"{prefix}consentinel"
        self.read_model = f"{self.group}-readmodel"  # begins as the group does: one right is for both

    def topic(self, name: str) -> str:
        """Kafka's name of a topic of the topology."""
        return self.prefix + name

    def changelog(self, task: str) -> str:
        """Kafka's name of a task's changelog; as many partitions as the task."""
        return f"{self.prefix}{CHANGELOG}{task}"

    def transactional_id(self, worker: str) -> str:
        """The name under which the broker fences a worker's earlier lives."""
        return f"{self.prefix}consentinel-{worker}"
