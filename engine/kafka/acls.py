"""Who may do what on the cluster: one principal per role, each with the operations that its work needs and no other.

worker      the core, its edges and the read-model writer it hosts: reads every topic, writes what tasks and edges write, runs
            the groups and its transactions, ends raw data (`DeleteRecords` asks for Delete), signs checkpoints; and `lag --kafka`
gateway     writes what doors accept and the checkpoints they sign, reads what doors show, looks at the worker's group for lag
readmodel   a read-model writer that runs by itself: every changelog (that of intake has its beats), and settings
publisher   writes `calls` and `consents`
consumer    a warehouse or a tool: reads what others may read, in groups of its own

Rights follow from the topology: what processors write, what tasks take in, and the `writers` and `readers` of topics. Kafka adds
Describe to whoever may read or write; since 3.0 an idempotent producer needs no right on the cluster beside its topics'.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from engine.declarations import Role, Topology
from engine.kafka.admin import Admin
from engine.kafka.connection import Connection
from engine.kafka.faults import AuthorizerOff, NotAuthorised, SettingImpossible
from engine.kafka.names import Names
from engine.kafka.plan import PLAN_SECS_MAX, SETTLED_SECS
from engine.kafka.topics import names_of

Resource = Literal["topic", "group", "transactional-id"]
Operation = Literal["read", "write", "describe", "describe-configs", "delete"]
Principals = Mapping[str, str]  # role → principal as Kafka names it: `User:cw`
ROLES: Final[tuple[Role, ...]] = get_args(Role)
PRINCIPAL_CHARS_MAX: Final = 512
ANY_HOST: Final = "*"
CONSUMERS: Final = "consumer-"  # groups of those who read from outside begin so

_RESOURCES: Final[Mapping[str, ResourceType]] = {
    "topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional-id": ResourceType.TRANSACTIONAL_ID,
}  # fmt: skip
OPERATIONS: Final[Mapping[str, AclOperation]] = {
    "read": AclOperation.READ, "write": AclOperation.WRITE, "describe": AclOperation.DESCRIBE,
    "describe-configs": AclOperation.DESCRIBE_CONFIGS, "delete": AclOperation.DELETE,
}  # fmt: skip


class Right(msgspec.Struct, frozen=True, order=True):
    """A role may do `operation` on a resource of this name, or (`prefixed`) on all whose names begin so."""

    role: Role
    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False


class AclStep(msgspec.Struct, frozen=True, kw_only=True):
    """One difference in rights. `excess`: a right under our names that the role does not need; revoked only when told so."""

    action: Literal["grant", "revoke", "excess"]
    principal: str
    role: str
    resource: str
    name: str
    pattern: str
    operation: str


def rights(topology: Topology, names: Names, role: Role) -> list[Right]:
    """Everything that a role may do, sorted."""
    found = set(_of_topics(topology, names, role))
    match role:
        case "worker":
            found.add(Right(role, "group", names.group, "read", prefixed=True))
            identity = names.transactional_id("")
            found.update(Right(role, "transactional-id", identity, op, prefixed=True) for op in ("write", "describe"))
        case "gateway":
            found.add(Right(role, "group", names.group, "describe", prefixed=True))
        case "readmodel":
            found.add(Right(role, "group", names.read_model, "read", prefixed=True))
        case "consumer":
            found.add(Right(role, "group", names.prefix + CONSUMERS, "read", prefixed=True))
    return sorted(found)


def _of_topics(topology: Topology, names: Names, role: Role) -> Iterable[Right]:
    written = {topic for task in topology.tasks for topic in topology.writes_of(task)}
    for topic in topology.topics.values():
        name = names.topic(topic.name)
        if role in topic.readers or role == "worker":
            yield Right(role, "topic", name, "read")
        if role in topic.writers or (role == "worker" and topic.name in written):
            yield Right(role, "topic", name, "write")
        if role in ("worker", "gateway") and (role == "worker" or {"gateway"} & {*topic.readers, *topic.writers}):
            yield Right(role, "topic", name, "describe-configs")
        if role == "worker" and topic.retention == "raw":
            yield Right(role, "topic", name, "delete")
        if role == "gateway":
            yield Right(role, "topic", name, "describe")
        if role == "readmodel" and any(topic.name in task.global_tables for task in topology.tasks.values()):
            yield Right(role, "topic", name, "read")
    for task in topology.tasks:
        if role == "worker":
            yield from (Right(role, "topic", names.changelog(task), op) for op in ("read", "write", "describe-configs"))
        if role == "readmodel":
            yield Right(role, "topic", names.changelog(task), "read")
    if role == "worker":
        yield from (Right(role, "topic", names.shards, op) for op in ("read", "describe-configs"))


def checked(principals: Principals) -> dict[Role, str]:
    """The principals by role. Raises `SettingImpossible`."""
    found: dict[Role, str] = {}
    for role, principal in principals.items():
        kind, colon, name = principal.partition(":")
        if role not in ROLES:
            raise SettingImpossible("principals", f"there is no such role; there are {', '.join(ROLES)}")
        if not (kind.isalpha() and colon and name) or len(principal) > PRINCIPAL_CHARS_MAX:
            raise SettingImpossible("principals", f"that of {role} is not as Kafka names it: User:NAME")
        found[role] = principal
    if not found:
        raise SettingImpossible("principals", "names no role: nobody's rights can be planned")
    return found


def plan_acls(
    connection: Connection, topology: Topology, principals: Principals, *, revoke: bool = False,
    timeout_secs: float = PLAN_SECS_MAX,
) -> list[AclStep]:  # fmt: skip
    """Compare the rights of these principals with what their roles need; changes nothing. Raises `KafkaFault`.

    Two roles may share a principal. `revoke`: excess rights are to go; only rights under this deployment's names are looked at.
    """
    mine = checked(principals)
    return _planned(Admin.opened(connection, timeout_secs), connection, topology, mine, revoke)[0]


def apply_acls(
    connection: Connection, topology: Topology, principals: Principals, *, revoke: bool = False,
    timeout_secs: float = PLAN_SECS_MAX,
) -> list[AclStep]:  # fmt: skip
    """Plan and do it; returns what was done, when the broker that answers acts by it. Raises `KafkaFault`.

    Grants come first, so that nobody who works is stopped between.
    """
    mine = checked(principals)
    admin = Admin.opened(connection, timeout_secs)
    steps, grants, revokes = _planned(admin, connection, topology, mine, revoke)
    if grants:
        _answers(admin, admin.client.create_acls(grants, request_timeout=admin.left_secs()), "granting")
    if revokes:
        filters = [_filter_of(binding) for binding in revokes]
        _answers(admin, admin.client.delete_acls(filters, request_timeout=admin.left_secs()), "revoking")
    while any(_planned(admin, connection, topology, mine, revoke)[1:]):
        admin.wait(SETTLED_SECS)
    return steps


def _planned(
    admin: Admin, connection: Connection, topology: Topology, principals: Mapping[Role, str], revoke: bool
) -> tuple[list[AclStep], list[AclBinding], list[AclBinding]]:  # fmt: skip
    _require_authorizer(admin)
    names = names_of(topology, connection)
    needed: dict[AclBinding, str] = {}
    for role, principal in principals.items():
        needed |= {_binding(right, principal): role for right in rights(topology, names, role)}
    here: set[AclBinding] = set()
    for principal in dict.fromkeys(principals.values()):
        future = admin.client.describe_acls(_all_of(principal), request_timeout=admin.left_secs())
        here.update(admin.result(future, "reading ACLs"))
    roles = {principal: role for role, principal in principals.items()}
    grants = [binding for binding in needed if binding not in here]
    ours = {names.topic(name) for name in topology.topics} | {binding.name for binding in needed}
    excess = sorted((binding for binding in here - needed.keys() if _is_ours(binding, names, ours)), key=_order)
    steps = [_step("grant", binding, needed[binding]) for binding in grants]
    steps += [_step("revoke" if revoke else "excess", binding, roles[binding.principal]) for binding in excess]
    return steps, grants, excess if revoke else []


def _require_authorizer(admin: Admin) -> None:
    """Raise `AuthorizerOff` where nobody's rights are checked: asked for ACLs, such a cluster says only that there are none."""
    broker = ConfigResource(ConfigResource.Type.BROKER, str(min(admin.metadata().brokers)))
    try:
        asked = admin.client.describe_configs([broker], request_timeout=admin.left_secs())
        settings = admin.result(asked[broker], "reading a broker's settings")
    except NotAuthorised:
        return  # somebody checked
    authorizer = settings.get("authorizer.class.name")
    if authorizer is not None and not authorizer.value:
        raise AuthorizerOff("no authorizer is on, so ACLs would mean nothing: set authorizer.class.name on every broker")


def _is_ours(binding: AclBinding, names: Names, ours: set[str]) -> bool:
    allowed = binding.permission_type == AclPermissionType.ALLOW
    return allowed and (binding.name in ours or bool(names.prefix and binding.name.startswith(names.prefix)))


def _binding(right: Right, principal: str) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL
    operation = OPERATIONS[right.operation]
    return AclBinding(
        _RESOURCES[right.resource], right.name, pattern, principal, ANY_HOST, operation, AclPermissionType.ALLOW
    )  # fmt: skip


def _all_of(principal: str) -> AclBindingFilter:
    any_name: Any = None  # the client's own types leave it out
    return AclBindingFilter(
        ResourceType.ANY, any_name, ResourcePatternType.ANY, principal, any_name, AclOperation.ANY, AclPermissionType.ANY
    )  # fmt: skip


def _filter_of(b: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(b.restype, b.name, b.resource_pattern_type, b.principal, b.host, b.operation, b.permission_type)


def _step(action: Literal["grant", "revoke", "excess"], b: AclBinding, role: str) -> AclStep:
    return AclStep(
        action=action, principal=b.principal, role=role, resource=_word(b.restype), name=b.name,
        pattern=_word(b.resource_pattern_type), operation=_word(b.operation),
    )  # fmt: skip


def _order(b: AclBinding) -> tuple[str, ...]:
    return b.principal, _word(b.restype), b.name, _word(b.operation)


def _word(value: Any) -> str:
    return str(value.name).lower().replace("_", "-")


def _answers(admin: Admin, futures: Mapping[Any, Any], what: str) -> None:
    admin.results({f"{number + 1} of {len(futures)}": future for number, future in enumerate(futures.values())}, what)
