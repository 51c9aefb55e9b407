"""Looks at a cluster before anything is started on it: every fault has a name and a text, within seconds, and nothing is written.

In this order, since a later fault often only follows from an earlier one:

1. An address answers as Kafka does, on this kind of listener, with TLS that both sides trust, and is not older than 4.0.
2. The cluster takes our name and password.
3. Every topic of the role is there and our principal has the rights of the role on it and on the group.
4. Every topic is cut as the topology says.
5. No topic would lose, or never drop, what it holds.

What cannot be known without writing is whether the principal may use its transactional id: its first transaction says so. On a
new cluster, whose first group makes its coordinator, the right on the group is not known either: joining says so.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from confluent_kafka import TopicCollection
from confluent_kafka.admin import TopicDescription  # type: ignore[attr-defined]

from engine.declarations import Role, Topology
from engine.kafka.acls import OPERATIONS, Right, rights
from engine.kafka.admin import Admin, NotYet
from engine.kafka.connection import Connection
from engine.kafka.faults import BrokerUnreachable, NotAuthorised, PartitionsWrong, PolicyWrong, TopicsMissing, told
from engine.kafka.names import Names
from engine.kafka.plan import settings_of
from engine.kafka.topics import by_name, wanted_topics, wrong_policy

CHECK_SECS_MAX: Final = 8.0
MEND: Final = "`consentinel topology plan` shows what differs, `topology apply` mends it"
GROUP_SECS_MAX: Final = 2.0
RIGHTS: Final = "`consentinel topology plan --acls` shows what is missing"


def check(
    connection: Connection, names: Names, topology: Topology, *, role: Role = "worker", timeout_secs: float = CHECK_SECS_MAX
) -> None:  # fmt: skip
    """Return when a worker (or another role) can start. Raises a `KafkaFault` that says why not, within `timeout_secs`."""
    admin = Admin.opened(connection, timeout_secs)
    brokers = len(admin.metadata().brokers)
    needed = rights(topology, names, role)
    wanted = by_name(wanted_topics(topology, names, connection, brokers))
    described = _described(admin, sorted({right.name for right in needed if right.resource == "topic"}))
    _check_rights(admin, needed, described)
    wrong = [name for name, topic in described.items() if len(topic.partitions) != wanted[name].partitions]
    if wrong:
        raise PartitionsWrong(f"other partitions than the topology says: {told(wrong)}; {MEND}")
    readable = [right.name for right in needed if right.resource == "topic" and right.operation == "describe-configs"]
    for name, settings in settings_of(admin, readable).items():
        why = wrong_policy(wanted[name], settings)
        if why:
            raise PolicyWrong(f"{name} {why}; {MEND}")


def _described(admin: Admin, names: list[str]) -> dict[str, TopicDescription]:
    """The topics with what we may do to them. Raises `NotAuthorised` and `TopicsMissing` with their names."""
    secs = admin.left_secs()
    futures = admin.client.describe_topics(TopicCollection(names), include_authorized_operations=True, request_timeout=secs)
    found: dict[str, TopicDescription] = {}
    missing: list[str] = []
    hidden: list[str] = []
    for name, future in futures.items():
        try:
            found[name] = admin.result(future, name)
        except TopicsMissing:
            missing.append(name)
        except NotAuthorised:
            hidden.append(name)
    if hidden:
        raise NotAuthorised(f"no right to see these topics: {told(hidden)}; {RIGHTS}")
    if missing:
        raise TopicsMissing(f"these topics are not there: {told(missing)}; {MEND}")
    return found


def _check_rights(admin: Admin, needed: list[Right], described: Mapping[str, TopicDescription]) -> None:
    lacking = [
        f"{right.operation} on topic {right.name}" for right in needed
        if right.resource == "topic" and not _may(right, described[right.name].authorized_operations)
    ]  # fmt: skip
    for right in needed:
        if right.resource == "group":
            if not _may(right, _on_group(admin, right.name)):
                lacking.append(f"{right.operation} on group {right.name}")
    if lacking:
        raise NotAuthorised(f"the principal lacks: {told(lacking)}; {RIGHTS}")


def _on_group(admin: Admin, name: str) -> Sequence[Enum] | None:
    """What we may do to a group; None: it cannot be known yet, since a new cluster has no coordinator before its first group."""
    secs = min(GROUP_SECS_MAX, admin.left_secs())
    futures = admin.client.describe_consumer_groups([name], include_authorized_operations=True, request_timeout=secs)
    try:
        found: Sequence[Enum] | None = admin.result(futures[name], "looking at the group").authorized_operations
        return found
    except NotAuthorised:
        return ()
    except (NotYet, BrokerUnreachable):
        return None


def _may(right: Right, allowed: Sequence[Enum] | None) -> bool:
    """Whether an operation is among those that the broker says we may do; None: it says nothing."""
    return allowed is None or OPERATIONS[right.operation] in allowed
