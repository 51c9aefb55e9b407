"""Every kind of client on every kind of listener, and each role with its own rights and no other, on a real broker."""

import uuid
from pathlib import Path
from time import monotonic, sleep

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from engine.declarations import Role
from engine.kafka.acls import AclStep, apply_acls, plan_acls, rights
from engine.kafka.connection import Connection, Security
from engine.kafka.faults import AuthorizerOff, KafkaFault, NotAuthorised, SettingImpossible
from engine.kafka.plan import apply_plan
from engine.kafka.preflight import check
from engine.kafka.topics import names_of
from engine.topology import Topology, default_topology
from tests.kafka.secured import KEY_WORD, USERS, Authority, SecuredBroker
from tests.parts.kafka import Kafka

SECS_MAX = 20.0
PRINCIPALS = {"worker": "User:cw", "gateway": "User:cg", "readmodel": "User:cr", "publisher": "User:cp", "consumer": "User:cc"}
REFUSALS = (  # who may write nowhere is not even given a producer's id
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)  # fmt: skip
TOPOLOGY: Topology = default_topology()


def send(connection: Connection, topic: str, value: bytes = b"x") -> None:
    """Write one record and see it acknowledged. Raises `KafkaException`."""
    outcome: list[KafkaError | None] = []
    producer = Producer({**connection.config("t"), "enable.idempotence": True, "message.timeout.ms": 8_000})
    producer.produce(topic, value, b"key", on_delivery=lambda error, _message: outcome.append(error))
    producer.flush(SECS_MAX)
    assert outcome, "neither acknowledged nor refused"
    if outcome[0] is not None:
        raise KafkaException(outcome[0])


def read(connection: Connection, topic: str, group: str) -> bytes:
    """Read the first record as a member of a group. Raises `KafkaException`."""
    consumer = Consumer({**connection.config("t"), "group.id": group, "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        while True:
            message = consumer.poll(SECS_MAX)
            assert message is not None, "nothing came"
            if message.error():
                raise KafkaException(message.error())
            return bytes(message.value() or b"")
    finally:
        consumer.close()


def transact(connection: Connection, name: str, source: str, target: str, group: str) -> None:
    """One turn as the engine's: read, write and commit offsets in one transaction, with the group's metadata."""
    consumer = Consumer({
        **connection.config("t"), "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "partition.assignment.strategy": "cooperative-sticky",
    })  # fmt: skip
    producer = Producer({**connection.config("t"), "transactional.id": name, "transaction.timeout.ms": 10_000})
    try:
        producer.init_transactions(SECS_MAX)
        consumer.subscribe([source])
        message = consumer.poll(SECS_MAX)
        assert message is not None and message.error() is None, message and message.error()
        producer.begin_transaction()
        producer.produce(target, message.value(), b"key")
        place = TopicPartition(source, message.partition(), message.offset() + 1)
        producer.send_offsets_to_transaction([place], consumer.consumer_group_metadata(), SECS_MAX)
        producer.commit_transaction(SECS_MAX)
        assert consumer.committed([place], SECS_MAX)[0].offset == message.offset() + 1
    finally:
        consumer.close()


def open_to_all(broker: SecuredBroker, prefix: str, principal: str) -> None:
    """Let one principal do everything under a prefix; returns when the broker acts by it."""
    admin = AdminClient(broker.as_admin().config("t"))
    kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
    rules = [
        AclBinding(kind, prefix, ResourcePatternType.PREFIXED, principal, "*", AclOperation.ALL, AclPermissionType.ALLOW)
        for kind in kinds
    ]
    for done in admin.create_acls(rules).values():
        done.result(SECS_MAX)
    deadline = monotonic() + SECS_MAX
    for rule in rules:
        while not admin.describe_acls(as_filter(rule)).result(SECS_MAX):
            assert monotonic() < deadline
            sleep(0.1)


def as_filter(b: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(b.restype, b.name, b.resource_pattern_type, b.principal, b.host, b.operation, b.permission_type)


def ways(broker: SecuredBroker, prefix: str, folder: Path) -> dict[str, tuple[str, Connection]]:
    """A connection of each kind, and whose it is."""
    word = folder / "word"
    word.write_text(USERS["cw"] + "\n")
    certificate, key = broker.client
    key_word = folder / "key-word"
    key_word.write_text(KEY_WORD + "\n")
    return {
        "SASL_SSL SCRAM-SHA-512": ("User:cw", broker.as_user("cw", prefix)),
        "SASL_SSL SCRAM-SHA-256": ("User:cw", broker.as_user("cw", prefix, mechanism="SCRAM-SHA-256")),
        "SASL_SSL PLAIN": ("User:cw", broker.as_user("cw", prefix, mechanism="PLAIN")),
        "SASL_PLAINTEXT, password from a file": ("User:cw", Connection(
            bootstrap=broker.broker.address("OPEN"), prefix=prefix, security=Security(
                security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-512", username="cw", password_file=word))),
        "SSL, client certificate": ("User:client", broker.as_client(prefix)),
        "SSL, key's password from a file": ("User:client", Connection(
            bootstrap=broker.broker.address("MTLS"), prefix=prefix, security=Security(
                security_protocol="SSL", ca_file=broker.authority.certificate, cert_file=certificate, key_file=key,
                key_password_file=key_word))),
    }  # fmt: skip


WAYS = (
    "SASL_SSL SCRAM-SHA-512", "SASL_SSL SCRAM-SHA-256", "SASL_SSL PLAIN", "SASL_PLAINTEXT, password from a file",
    "SSL, client certificate", "SSL, key's password from a file",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_client_works_on_every_secured_listener(secured: SecuredBroker, tmp_path: Path, way: str) -> None:
    prefix = f"w{uuid.uuid4().hex[:8]}."
    principal, connection = ways(secured, prefix, tmp_path)[way]
    open_to_all(secured, prefix, principal)
    assert apply_plan(connection, TOPOLOGY).drift, "an administrator's client made the topics"
    send(connection, f"{prefix}calls", b"heard")
    transact(connection, f"{prefix}consentinel-1", f"{prefix}calls", f"{prefix}quarantine", f"{prefix}consentinel")
    assert read(connection, f"{prefix}quarantine", f"{prefix}consentinel-2") == b"heard"
    check(connection, names_of(TOPOLOGY, connection), TOPOLOGY)


class Deployment:
    """Topics and rights of a deployment that the tests of roles share."""

    def __init__(self, broker: SecuredBroker) -> None:
        self.broker, self.prefix = broker, f"r{uuid.uuid4().hex[:8]}."
        admin = broker.as_admin(self.prefix)
        apply_plan(admin, TOPOLOGY)
        self.granted = apply_acls(admin, TOPOLOGY, PRINCIPALS)
        for topic in ("calls", "consent.state", "keys.wrapped", "changelog.subject", "controllers", "quarantine"):
            send(admin, self.prefix + topic, topic.encode())

    def who(self, name: str) -> Connection:
        return self.broker.as_user(name, self.prefix)

    def topic(self, name: str) -> str:
        return self.prefix + name


@pytest.fixture(scope="module")
def deployment(secured: SecuredBroker) -> Deployment:
    return Deployment(secured)


def refused(error: KafkaException) -> bool:
    return error.args[0].code() in REFUSALS


@pytest.mark.slow
def test_a_worker_runs_its_whole_job_with_its_own_rights(deployment: Deployment) -> None:
    me, group = deployment.who("cw"), f"{deployment.prefix}consentinel"
    name = f"{deployment.prefix}consentinel-one"
    transact(me, name, deployment.topic("calls"), deployment.topic("subject.events"), group)
    for written in ("changelog.subject", "case.events", "consent.state", "keys.wrapped", "audit.entries", "audit.checkpoints"):
        send(me, deployment.topic(written))
    assert read(me, deployment.topic("changelog.subject"), f"{group}-restore") == b"changelog.subject"
    admin = AdminClient(me.config("t"))
    gone = admin.delete_records([TopicPartition(deployment.topic("calls"), 0, 0)])
    assert [future.result(SECS_MAX).low_watermark for future in gone.values()] == [0]
    check(me, names_of(TOPOLOGY, me), TOPOLOGY)


@pytest.mark.slow
def test_a_worker_may_not_write_what_only_the_gateway_does(deployment: Deployment) -> None:
    for topic in ("requests", "decisions", "calls"):
        with pytest.raises(KafkaException) as fault:
            send(deployment.who("cw"), deployment.topic(topic))
        assert refused(fault.value)


@pytest.mark.slow
def test_a_publisher_writes_calls_and_consents_and_nothing_else(deployment: Deployment) -> None:
    me = deployment.who("cp")
    for topic in ("calls", "consents"):
        send(me, deployment.topic(topic))
    for topic in ("controls", "requests", "subject.events", "keys.wrapped", "consent.state", "changelog.subject", "shards"):
        with pytest.raises(KafkaException) as fault:
            send(me, deployment.topic(topic))
        assert refused(fault.value), topic
    for topic in ("keys.wrapped", "calls", "consent.state"):
        with pytest.raises(KafkaException) as fault:
            read(me, deployment.topic(topic), f"{deployment.prefix}consumer-x")
        assert refused(fault.value), topic


@pytest.mark.slow
def test_a_consumer_reads_what_is_public_and_no_key(deployment: Deployment) -> None:
    me = deployment.who("cc")
    assert read(me, deployment.topic("consent.state"), f"{deployment.prefix}consumer-warehouse") == b"consent.state"
    for topic, group in (("keys.wrapped", "consumer-w"), ("quarantine", "consumer-w"), ("consent.state", "consentinel")):
        with pytest.raises(KafkaException) as fault:
            read(me, deployment.topic(topic), deployment.prefix + group)
        assert refused(fault.value), topic
    with pytest.raises(KafkaException):
        send(me, deployment.topic("consent.state"))


@pytest.mark.slow
def test_gateway_and_read_model_have_what_they_need_and_no_more(deployment: Deployment) -> None:
    door, model = deployment.who("cg"), deployment.who("cr")
    for topic in ("calls", "consents", "requests", "controls", "decisions", "audit.checkpoints"):
        send(door, deployment.topic(topic))
    check(door, names_of(TOPOLOGY, door), TOPOLOGY, role="gateway")
    check(model, names_of(TOPOLOGY, model), TOPOLOGY, role="readmodel")
    assert read(model, deployment.topic("changelog.subject"), f"{deployment.prefix}consentinel-readmodel") == b"changelog.subject"
    for me, topic in ((door, "consent.state"), (door, "changelog.subject"), (model, "changelog.case")):
        with pytest.raises(KafkaException) as fault:
            send(me, deployment.topic(topic))
        assert refused(fault.value), topic
    with pytest.raises(KafkaException):
        read(model, deployment.topic("keys.wrapped"), f"{deployment.prefix}consentinel-readmodel")


@pytest.mark.slow
@pytest.mark.parametrize(("user", "role"), [("cp", "worker"), ("cg", "worker"), ("cc", "gateway"), ("cw", "gateway")])
def test_preflight_names_what_a_principal_lacks(deployment: Deployment, user: str, role: Role) -> None:
    me = deployment.who(user)
    with pytest.raises(NotAuthorised) as fault:
        check(me, names_of(TOPOLOGY, me), TOPOLOGY, role=role)
    assert "topology plan --acls" in str(fault.value)


@pytest.mark.slow
def test_one_missing_right_is_found_by_its_name(deployment: Deployment) -> None:
    lacking = {"topic": (ResourceType.TOPIC, "keys.wrapped", "write"), "group": (ResourceType.GROUP, "consentinel", "read")}
    admin = deployment.broker.as_admin(deployment.prefix)
    client = AdminClient(admin.config("t"))
    for kind, name, operation in lacking.values():
        pattern = ResourcePatternType.PREFIXED if kind is ResourceType.GROUP else ResourcePatternType.LITERAL
        deny = AclBinding(
            kind, deployment.topic(name), pattern, "User:cw", "*", AclOperation[operation.upper()], AclPermissionType.DENY
        )
        for done in client.create_acls([deny]).values():
            done.result(SECS_MAX)
        while not client.describe_acls(as_filter(deny)).result(SECS_MAX):
            sleep(0.1)
        try:
            me = deployment.who("cw")
            with pytest.raises(NotAuthorised) as fault:
                check(me, names_of(TOPOLOGY, me), TOPOLOGY)
            assert f"{operation} on {kind.name.lower()} {deployment.topic(name)}" in str(fault.value)
        finally:
            for gone in client.delete_acls([as_filter(deny)]).values():
                gone.result(SECS_MAX)


def kinds(steps: list[AclStep]) -> set[str]:
    return {step.action for step in steps}


@pytest.mark.slow
def test_rights_are_planned_granted_once_and_revoked_only_when_told(secured: SecuredBroker) -> None:
    admin = secured.as_admin(f"p{uuid.uuid4().hex[:8]}.")
    mine = {"publisher": "User:somebody"}
    planned = plan_acls(admin, TOPOLOGY, mine)
    assert {(step.name, step.operation) for step in planned} == {(f"{admin.prefix}{t}", "write") for t in ("calls", "consents")}
    assert plan_acls(admin, TOPOLOGY, mine) == planned, "a plan changes nothing"
    assert apply_acls(admin, TOPOLOGY, mine) == planned
    assert plan_acls(admin, TOPOLOGY, mine) == []
    open_to_all(secured, admin.prefix, "User:somebody")
    open_to_all(secured, "elsewhere.", "User:somebody")
    assert kinds(plan_acls(admin, TOPOLOGY, mine)) == {"excess"}
    assert kinds(apply_acls(admin, TOPOLOGY, mine)) == {"excess"}, "nothing is revoked without a word"
    gone = apply_acls(admin, TOPOLOGY, mine, revoke=True)
    assert kinds(gone) == {"revoke"} and {step.name for step in gone} == {admin.prefix}, "what is elsewhere is not ours"
    assert plan_acls(admin, TOPOLOGY, mine) == []


@pytest.mark.slow
def test_a_cluster_that_checks_nobody_says_so(kafka: Kafka, fresh_prefix: str) -> None:
    with pytest.raises(AuthorizerOff, match="no authorizer is on"):
        plan_acls(Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix), TOPOLOGY, PRINCIPALS)


@pytest.mark.parametrize("given", [{}, {"king": "User:x"}, {"worker": "cw"}, {"worker": "User:"}, {"worker": ":cw"}])
def test_principals_that_are_none_are_refused_before_anything_is_asked(given: dict[str, str]) -> None:
    with pytest.raises(SettingImpossible, match=r"kafka\.principals"):
        plan_acls(Connection(bootstrap="127.0.0.1:1"), TOPOLOGY, given)


def test_no_role_may_do_what_another_role_is_for() -> None:
    names = names_of(TOPOLOGY, Connection(bootstrap="127.0.0.1:1", prefix="x."))
    writes = {role: {r.name for r in rights(TOPOLOGY, names, role) if r.operation == "write"} for role in PRINCIPALS}  # type: ignore[arg-type]
    assert writes["publisher"] == {"x.calls", "x.consents"}
    assert writes["gateway"] == {"x.calls", "x.consents", "x.requests", "x.controls", "x.decisions", "x.audit.checkpoints"}
    assert not writes["readmodel"] and not writes["consumer"]
    reads = {role: {r.name for r in rights(TOPOLOGY, names, role) if r.operation == "read"} for role in PRINCIPALS}  # type: ignore[arg-type]
    assert not reads["publisher"] and reads["readmodel"] == {
        "x.changelog.subject", "x.changelog.case", "x.changelog.intake", "x.controllers", "x.consentinel-readmodel",
    }  # fmt: skip
    assert [role for role in PRINCIPALS if "x.keys.wrapped" in reads[role]] == ["worker"]
    shared = {"x.audit.checkpoints", "x.controls"}  # a worker that deletes recordings says so as every target does
    assert writes["worker"] & writes["gateway"] == shared, "what enters by a door is written by no task"
    everything = {r.name for role in PRINCIPALS for r in rights(TOPOLOGY, names, role)}  # type: ignore[arg-type]
    assert all(name.startswith("x.") for name in everything)


IMPOSSIBLE = [
    ("sasl_mechanism", {"security_protocol": "SASL_SSL", "username": "u", "password": "p"}),
    ("username", {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "password": "p"}),
    ("password", {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "username": "u"}),
    ("password", {"security_protocol": "SSL", "password": "p"}),
    ("username", {"username": "u"}),
    ("ca_file", {"ca_file": Path("ca")}),
    ("cert_file", {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "username": "u", "password": "p",
                   "cert_file": Path("c"), "key_file": Path("k")}),
    ("key_file", {"security_protocol": "SSL", "cert_file": Path("c")}),
    ("cert_file", {"security_protocol": "SSL", "key_file": Path("k")}),
    ("key_file", {"security_protocol": "SSL", "key_password": "p"}),
    ("password", {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u", "password": "p",
                  "password_file": Path("f")}),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "given"), IMPOSSIBLE, ids=[f"{n}-{row[0]}" for n, row in enumerate(IMPOSSIBLE)])
def test_settings_that_exclude_each_other_are_refused_by_name(setting: str, given: dict[str, object]) -> None:
    with pytest.raises(SettingImpossible) as fault:
        Security(**given)  # type: ignore[arg-type]
    assert fault.value.setting == setting and str(fault.value).startswith(f"kafka.{setting}: ")


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        ("bootstrap", {"bootstrap": "nowhere"}), ("bootstrap", {"bootstrap": "h:0"}), ("bootstrap", {"bootstrap": "h:1,"}),
        ("bootstrap", {"bootstrap": "SSL://h:1"}), ("prefix", {"prefix": "__a"}), ("prefix", {"prefix": "a b"}),
        ("worker", {"worker": "a/b"}), ("replication_factor", {"replication_factor": 0}),
        ("min_insync_replicas", {"replication_factor": 2, "min_insync_replicas": 3}),
        ("commit_interval_ms", {"commit_interval_ms": 20_000}), ("session_timeout_ms", {"session_timeout_ms": 1}),
    ],
)  # fmt: skip
def test_a_connection_that_cannot_work_is_refused_by_name(setting: str, given: dict[str, object]) -> None:
    with pytest.raises(SettingImpossible) as fault:
        Connection(**{"bootstrap": "h:1", **given})  # type: ignore[arg-type]
    assert fault.value.setting == setting


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    security = Security(security_protocol="SASL_SSL", sasl_mechanism="PLAIN", username="u", password="hush", key_password=None)
    connection = Connection(bootstrap="h:1", security=security, properties={"ssl.keystore.password": "hush"})
    assert "hush" not in f"{security!r} {connection!r} {security} {[connection]}"
    empty, missing = tmp_path / "empty", tmp_path / "missing"
    empty.write_text("\n")
    for file in (empty, missing, tmp_path):
        from_file = Security(security_protocol="SASL_SSL", sasl_mechanism="PLAIN", username="u", password_file=file)
        with pytest.raises(SettingImpossible, match=r"kafka\.password_file: the file"):
            from_file.config()


def test_a_password_is_read_again_for_every_client(tmp_path: Path) -> None:
    file = tmp_path / "word"
    security = Security(security_protocol="SASL_SSL", sasl_mechanism="PLAIN", username="u", password_file=file)
    for word in ("first", "second"):
        file.write_text(word + "\n")
        assert security.config()["sasl.password"] == word


def test_a_key_whose_password_is_wrong_is_refused_by_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("me", password="right")
    wrong = Security(
        security_protocol="SSL", ca_file=authority.certificate, cert_file=certificate, key_file=key, key_password="wrong"
    )
    with pytest.raises(KafkaFault, match=r"kafka\.key_file: is no PEM file"):
        wrong.context()


def test_two_workers_on_one_host_have_two_names_and_a_restart_keeps_them(tmp_path: Path) -> None:
    connection = Connection(bootstrap="h:1")
    one, two = connection.worker_name(tmp_path / "one"), connection.worker_name(tmp_path / "two")
    assert one != two and one == connection.worker_name(tmp_path / "one")
    assert Connection(bootstrap="h:1", worker="w1").worker_name(tmp_path) == "w1"
