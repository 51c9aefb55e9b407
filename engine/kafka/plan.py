"""What would change on the cluster, step by step, and doing it: nothing is changed that was not shown, and nothing half.

A plan owns what its prefix begins. Without a prefix it owns the topology's own names and never proposes to delete anything.
Steps that would lose something are not proposed but **blocked**, with the reason; a plan with a blocked step is not applied at
all. `allow_delete` lets go of topics under the prefix that the topology does not know, and cuts a topic anew when it is empty.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    TopicMetadata,
)

from engine.declarations import Topology
from engine.kafka.admin import Admin
from engine.kafka.connection import Connection
from engine.kafka.faults import ClusterRefused, told
from engine.kafka.names import SHARDS
from engine.kafka.topics import Wanted, by_name, names_of, wanted_topics

PLAN_SECS_MAX: Final = 30.0
SETTLED_SECS: Final = 0.2  # between two looks whether every broker knows what was done
TOPICS_PER_CALL: Final = 100

Action = Literal["create", "alter", "add-partitions", "recreate", "replicas", "delete", "unknown"]
Blocked = Literal["", "repartition", "shrink", "holds-records", "replication"]
_WHY: Final[Mapping[str, str]] = {
    "repartition": "more partitions would give its keys to other units than the ones that hold their state: migrate instead",
    "shrink": "partitions cannot be taken away: --allow-delete makes the topic anew if it is empty",
    "holds-records": "it holds records, so it is not made anew: read it elsewhere and delete it yourself",
    "replication": "the number of replicas is changed by reassigning partitions, which Kafka's own tool does",
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `setting` is what would change from `old` to `new`; `blocked` says why it is not done."""

    action: Action
    topic: str
    setting: str = ""
    old: str = ""
    new: str = ""
    blocked: Blocked = ""

    @property
    def why(self) -> str:
        """The reason of a blocked step as a sentence."""
        return _WHY.get(self.blocked, "")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All differences between the topology and the cluster, in the order in which they are done."""

    prefix: str
    brokers: int
    steps: tuple[Step, ...]

    @property
    def drift(self) -> bool:
        """Whether something differs; what is only unknown to the topology does not."""
        return any(step.action != "unknown" for step in self.steps)

    @property
    def blocked(self) -> tuple[Step, ...]:
        """Steps that are not done."""
        return tuple(step for step in self.steps if step.blocked)

    def topics(self, *actions: Action) -> list[str]:
        """Topics that one of these is done to, each once: a new topic has a step for every setting."""
        return list(dict.fromkeys(step.topic for step in self.steps if step.action in actions))


def make_plan(
    connection: Connection, topology: Topology, *, allow_delete: bool = False, timeout_secs: float = PLAN_SECS_MAX
) -> Plan:  # fmt: skip
    """Compare the cluster with the topology; changes nothing. Raises `KafkaFault`."""
    return _planned(Admin.opened(connection, timeout_secs), connection, topology, allow_delete)[0]


def apply_plan(
    connection: Connection, topology: Topology, *, allow_delete: bool = False, timeout_secs: float = PLAN_SECS_MAX
) -> Plan:  # fmt: skip
    """Plan and do it; returns what was done when every broker knows of it. Raises `KafkaFault`.

    1. Plan. With a blocked step: return the plan and do nothing.
    2. Ask the cluster whether it would take every new topic and every setting.
    3. Delete, make, set, add partitions; wait until the cluster shows it.
    """
    admin = Admin.opened(connection, timeout_secs)
    plan, wanted = _planned(admin, connection, topology, allow_delete)
    if plan.blocked or not plan.drift:
        return plan
    topics = by_name(wanted)
    made, fresh = [topics[name] for name in plan.topics("create", "recreate")], [topics[name] for name in plan.topics("create")]
    settings = _settings(plan)
    grown = {step.topic: int(step.new) for step in plan.steps if step.action == "add-partitions"}
    gone = plan.topics("delete", "recreate")
    _create(admin, fresh, only_ask=True)
    _alter(admin, settings, only_ask=True)
    if gone:
        admin.results(admin.client.delete_topics(gone, request_timeout=admin.left_secs()), "deleting")
        _settled(admin, lambda seen: not seen.topics.keys() & set(gone))
    _create(admin, made, only_ask=False)
    _alter(admin, settings, only_ask=False)
    if grown:
        more = [NewPartitions(name, to) for name, to in grown.items()]
        admin.results(admin.client.create_partitions(more, request_timeout=admin.left_secs()), "adding partitions to")
    parts = {topic.name: topic.partitions for topic in made} | grown
    _settled(admin, lambda seen: all(_is_served(seen.topics.get(name), count) for name, count in parts.items()))
    return plan


def _planned(admin: Admin, connection: Connection, topology: Topology, allow_delete: bool) -> tuple[Plan, list[Wanted]]:
    seen = admin.metadata()
    wanted = wanted_topics(topology, names_of(topology, connection), connection, len(seen.brokers))
    here = [topic for topic in wanted if topic.name in seen.topics]
    settings = settings_of(admin, [topic.name for topic in here])
    steps: list[Step] = []
    for topic in wanted:
        if topic.name not in seen.topics:
            facts = {"partitions": str(topic.partitions), "replicas": str(topic.replication_factor), **topic.config}
            steps.extend(Step(action="create", topic=topic.name, setting=name, new=value) for name, value in facts.items())
            continue
        found = seen.topics[topic.name]
        cut = list(_cut(admin, topic, found, allow_delete))
        steps.extend(cut)
        if not any(step.action == "recreate" and not step.blocked for step in cut):  # one that is made anew gets its settings so
            steps.extend(_differences(topic, settings[topic.name]))
    others = _unknown(connection.prefix, seen.topics.keys(), {topic.name for topic in wanted})
    steps.extend(Step(action="delete" if allow_delete else "unknown", topic=name) for name in others)
    return Plan(prefix=connection.prefix, brokers=len(seen.brokers), steps=tuple(steps)), wanted


def settings_of(admin: Admin, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Every setting in force of topics that exist, by name. Raises `KafkaFault`."""
    found: dict[str, dict[str, str]] = {}
    for at in range(0, len(names), TOPICS_PER_CALL):
        asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names[at : at + TOPICS_PER_CALL]]
        answers = admin.client.describe_configs(asked, request_timeout=admin.left_secs())
        futures = {resource.name: future for resource, future in answers.items()}
        for name, entries in admin.results(futures, "reading the settings of").items():
            found[name] = {key: entry.value or "" for key, entry in entries.items()}
    return found


def _cut(admin: Admin, topic: Wanted, found: TopicMetadata, allow_delete: bool) -> Iterator[Step]:
    """What is wrong with a topic's partitions and replicas."""
    here, replicas = len(found.partitions), min((len(part.replicas) for part in found.partitions.values()), default=0)
    old, new = str(here), str(topic.partitions)
    if here < topic.partitions and not topic.keyed:
        yield Step(action="add-partitions", topic=topic.name, setting="partitions", old=old, new=new)
    elif here != topic.partitions:
        blocked: Blocked = "repartition" if here < topic.partitions else "shrink"
        if allow_delete:
            blocked = "" if _is_empty(admin, topic.name, here) else "holds-records"
        yield Step(action="recreate", topic=topic.name, setting="partitions", old=old, new=new, blocked=blocked)
        if not blocked:
            return
    if replicas != topic.replication_factor:
        to = str(topic.replication_factor)
        yield Step(action="replicas", topic=topic.name, setting="replicas", old=str(replicas), new=to, blocked="replication")


def _is_empty(admin: Admin, name: str, partitions: int) -> bool:
    places = [TopicPartition(name, number) for number in range(partitions)]
    ends = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):  # type: ignore[no-untyped-call]
        futures = admin.client.list_offsets(dict.fromkeys(places, spec), request_timeout=admin.left_secs())
        ends.append([admin.result(future, f"looking into {name}").offset for future in futures.values()])
    return ends[0] == ends[1]


def _differences(topic: Wanted, found: Mapping[str, str]) -> Iterator[Step]:
    for setting, value in topic.config.items():
        if found.get(setting) != value:
            yield Step(action="alter", topic=topic.name, setting=setting, old=found.get(setting, ""), new=value)


def _unknown(prefix: str, names: Iterable[str], known: set[str]) -> list[str]:
    """Topics under the prefix that the topology does not know.

    A prefix may begin another one: what stands under a longer prefix that has its own `shards` is another deployment's.
    """
    if not prefix:
        return []
    found = [name for name in names if name.startswith(prefix) and name not in known]
    others = tuple(name.removesuffix(SHARDS) for name in found if name.endswith(SHARDS))
    return sorted(name for name in found if not name.startswith(others))


def _settings(plan: Plan) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for step in plan.steps:
        if step.action == "alter":
            found.setdefault(step.topic, {})[step.setting] = step.new
    return found


def _create(admin: Admin, topics: Sequence[Wanted], *, only_ask: bool) -> None:
    if topics:
        new = [NewTopic(topic.name, topic.partitions, topic.replication_factor, config=topic.config) for topic in topics]
        futures = admin.client.create_topics(new, validate_only=only_ask, request_timeout=admin.left_secs())
        admin.results(futures, "making")


def _alter(admin: Admin, settings: Mapping[str, Mapping[str, str]], *, only_ask: bool) -> None:
    if not settings:
        return
    resources = []
    for name, values in settings.items():
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in values.items()]
        resources.append(ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries))
    futures = admin.client.incremental_alter_configs(resources, validate_only=only_ask, request_timeout=admin.left_secs())
    admin.results({resource.name: future for resource, future in futures.items()}, "setting")


def _is_served(found: TopicMetadata | None, partitions: int) -> bool:
    return found is not None and len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values())


def _settled(admin: Admin, done: Callable[[ClusterMetadata], bool]) -> None:
    while not done(admin.metadata()):
        admin.wait(SETTLED_SECS)


def refusal(plan: Plan) -> ClusterRefused:
    """What an applied plan with blocked steps is: nothing was done."""
    return ClusterRefused(f"nothing was changed; blocked: {told({step.topic for step in plan.blocked})}")
