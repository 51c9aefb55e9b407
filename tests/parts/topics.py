"""Topics for a test: made under a prefix of its own, since one broker serves the whole session, and gone after it."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, NewTopic  # type: ignore[attr-defined]

ADMIN_SECS_MAX = 30.0


def new_prefix() -> str:
    """A prefix for topics, groups and transactional ids that no other test has had."""
    return f"t{uuid.uuid4().hex[:10]}."


def make_topics(bootstrap: str, partitions: Mapping[str, int], **config: str) -> None:
    """Make topics (name: partitions), one replica each; `cleanup_policy` is `cleanup.policy`. Returns when clients find them."""
    settings = {name.replace("_", "."): value for name, value in config.items()}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [NewTopic(name, count, 1, config=settings) for name, count in partitions.items()]
    for made in admin.create_topics(wanted, operation_timeout=ADMIN_SECS_MAX).values():
        made.result(ADMIN_SECS_MAX)

    def are_there(cluster: ClusterMetadata) -> bool:
        found = {name: topic.partitions.values() for name, topic in cluster.topics.items()}
        return all(sum(one.leader >= 0 for one in found.get(name, ())) == count for name, count in partitions.items())

    _wait(admin, are_there)


def drop_topics(bootstrap: str, prefix: str) -> None:
    """Delete every topic under `prefix`. Returns when clients no longer find them."""
    assert prefix, "an empty prefix is every topic there is"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    names = [name for name in admin.list_topics(timeout=ADMIN_SECS_MAX).topics if name.startswith(prefix)]
    if names:
        for gone in admin.delete_topics(names, operation_timeout=ADMIN_SECS_MAX).values():
            gone.result(ADMIN_SECS_MAX)
        _wait(admin, lambda cluster: not any(name in cluster.topics for name in names))


def committed(bootstrap: str, topic: str) -> Iterator[Message]:
    """Every committed record of a topic, up to where it ends now; each partition's in order."""
    reader = Consumer({
        "bootstrap.servers": bootstrap, "group.id": f"{topic}.committed", "isolation.level": "read_committed",
        "enable.partition.eof": True, "auto.offset.reset": "earliest", "enable.auto.commit": False,
    })  # fmt: skip
    try:
        open_ = set(reader.list_topics(topic, timeout=ADMIN_SECS_MAX).topics[topic].partitions)
        reader.assign([TopicPartition(topic, n, 0) for n in open_])
        while open_:
            message = reader.poll(10)
            assert message is not None, "a topic did not come to its end"
            if message.error() is None:
                yield message
            else:
                open_.discard(message.partition())
    finally:
        reader.close()


def _wait(admin: AdminClient, until: Callable[[ClusterMetadata], bool]) -> None:
    """The controller has decided; what brokers tell clients follows a moment later."""
    deadline = time.monotonic() + ADMIN_SECS_MAX
    while not until(admin.list_topics(timeout=ADMIN_SECS_MAX)):
        assert time.monotonic() < deadline, "the brokers do not show what the controller has decided"
        time.sleep(0.02)
