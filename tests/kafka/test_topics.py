"""Topics on a real cluster become what the topology says, and nothing is lost on the way that was not let go by name."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from connectors.cli import app
from engine.declarations import Topology
from engine.kafka.admin import NotYet
from engine.kafka.connection import RECORD_BYTES_MAX, Connection
from engine.kafka.faults import ClusterRefused, SettingImpossible
from engine.kafka.plan import Plan, Step, apply_plan, make_plan
from engine.kafka.topics import (
    DAY_MS,
    HOUR_MS,
    SUPERSEDED_GONE_MS,
    Wanted,
    by_name,
    names_of,
    wanted_topics,
)
from engine.topology import default_topology
from tests.parts.kafka import Kafka
from tests.parts.topics import drop_topics, make_topics

SECS_MAX = 20.0
TOPOLOGY: Topology = default_topology()


def wanted(brokers: int = 1, **given: Any) -> dict[str, Wanted]:
    connection = Connection(bootstrap="127.0.0.1:1", **given)
    return by_name(wanted_topics(TOPOLOGY, names_of(TOPOLOGY, connection), connection, brokers))


def test_every_topic_of_the_topology_each_changelog_and_the_shards_are_wanted() -> None:
    found = wanted(prefix="x.")
    extra = {"shards", *(f"changelog.{task}" for task in TOPOLOGY.tasks)}
    assert set(found) == {f"x.{name}" for name in {*TOPOLOGY.topics, *extra}}
    assert found["x.shards"].partitions == sum(task.partitions for task in TOPOLOGY.tasks.values())
    assert found["x.changelog.subject"].partitions == TOPOLOGY.tasks["subject"].partitions
    assert {name for name, topic in found.items() if not topic.keyed} == {
        "x.calls", "x.consents", "x.requests", "x.controls", "x.changelog.intake", "x.shards",
    }  # fmt: skip


def test_replicas_follow_the_number_of_brokers_unless_they_are_set() -> None:
    def copies(topic: Wanted) -> tuple[int, str]:
        return topic.replication_factor, topic.config["min.insync.replicas"]

    assert {copies(topic) for topic in wanted(1).values()} == {(1, "1")}
    assert {copies(topic) for topic in wanted(2).values()} == {(2, "1")}
    assert {copies(topic) for topic in wanted(7).values()} == {(3, "2")}
    assert {copies(topic) for topic in wanted(7, replication_factor=5, min_insync_replicas=3).values()} == {(5, "3")}
    with pytest.raises(SettingImpossible, match=r"kafka\.min_insync_replicas: is more than the 1 replicas"):
        wanted(1, min_insync_replicas=2)


def test_every_compacted_topic_keeps_the_bound_of_an_erased_value() -> None:
    compacted = [topic.config for topic in wanted().values() if topic.compact]
    assert len(compacted) == 7 + 3
    for config in compacted:
        rolled = min(int(config["segment.ms"]), int(config["max.compaction.lag.ms"]))
        assert int(config["max.compaction.lag.ms"]) + rolled < SUPERSEDED_GONE_MS < 8 * HOUR_MS
        assert int(config["delete.retention.ms"]) == DAY_MS, "a tombstone outlives the value that it covers"
        assert float(config["min.cleanable.dirty.ratio"]) <= 0.1


def test_what_is_raw_or_bounded_ends_and_audit_never_does() -> None:
    config = {name: topic.config for name, topic in wanted().items()}
    for name in ("calls", "consents", "requests", "controls", "subject.events", "case.events"):
        assert (config[name]["cleanup.policy"], config[name]["retention.ms"]) == ("delete", str(7 * DAY_MS))
        assert config[name]["segment.ms"] == str(HOUR_MS)
    assert config["quarantine"]["retention.ms"] == str(30 * DAY_MS)
    assert config["erasure.notices"]["retention.ms"] == str(400 * DAY_MS)
    assert config["audit.entries"]["retention.ms"] == "-1"
    assert all(topic.get("retention.bytes", "-1") == "-1" for topic in config.values()), "no size ends what nobody has read"
    stamped = {name for name, topic in config.items() if topic.get("message.timestamp.type") == "LogAppendTime"}
    assert stamped == {"calls", "consents"}, "where publishers write, receipt is the broker's word"
    assert int(config["calls"]["max.message.bytes"]) > 1 << 20, "an event of the size that the contract allows fits with its seal"
    assert int(config["conversations.protected"]["max.message.bytes"]) == RECORD_BYTES_MAX
    assert Connection(bootstrap="h:1").config("x")["message.max.bytes"] == str(RECORD_BYTES_MAX)


@pytest.fixture
def empty(kafka: Kafka, fresh_prefix: str) -> Connection:
    """A prefix with nothing under it."""
    return Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix)


@pytest.fixture
def ready(empty: Connection) -> Connection:
    """A prefix with every topic."""
    apply_plan(empty, TOPOLOGY)
    return empty


def names_under(connection: Connection) -> set[str]:
    topics = AdminClient(connection.config("t")).list_topics(timeout=SECS_MAX).topics
    return {name.removeprefix(connection.prefix) for name in topics if name.startswith(connection.prefix)}


def settled(connection: Connection, steps: set[tuple[str, str]], **given: bool) -> Plan:
    """The plan, once the cluster shows exactly these (action, topic): what was changed from outside takes a moment."""
    deadline = time.monotonic() + SECS_MAX
    while True:
        try:
            plan = make_plan(connection, TOPOLOGY, **given)
        except NotYet:  # a topic that was made anew has no leader yet
            assert time.monotonic() < deadline
            continue
        found = {(step.action, step.topic.removeprefix(connection.prefix)) for step in plan.steps}
        if found == steps:
            return plan
        assert time.monotonic() < deadline, found


def configure(connection: Connection, topic: str, values: Mapping[str, str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, connection.prefix + topic, incremental_configs=entries)
    admin = AdminClient(connection.config("t"))
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(SECS_MAX)


def write(connection: Connection, topic: str, **given: Any) -> None:
    """Write one record and see it acknowledged; a topic that was made a moment ago may not be known yet."""
    producer = Producer({**connection.config("t"), "message.timeout.ms": 5_000})
    deadline = time.monotonic() + SECS_MAX
    faults: list[Any] = [True]
    while faults[-1] is not None:
        assert time.monotonic() < deadline, faults
        producer.produce(connection.prefix + topic, b"value", b"key", on_delivery=lambda e, _m: faults.append(e), **given)
        producer.flush(SECS_MAX)


def remake(connection: Connection, topic: str, partitions: int, **config: str) -> None:
    """Make a topic anew from outside, with other partitions; returns when the broker serves the new one."""
    admin = AdminClient(connection.config("t"))
    name = connection.prefix + topic
    deadline = time.monotonic() + SECS_MAX

    def incarnation() -> str:
        future = admin.describe_topics(TopicCollection([name]))[name]
        try:
            return str(future.result(SECS_MAX).topic_id)
        except KafkaException:
            return ""

    old = incarnation()
    for done in admin.delete_topics([name]).values():
        done.result(SECS_MAX)
    while True:
        made = admin.create_topics([NewTopic(name, partitions, 1, config=config)])
        try:
            made[name].result(SECS_MAX)
            break
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    while incarnation() in ("", old):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_new_cluster_gets_everything_and_then_nothing_differs(empty: Connection) -> None:
    plan = make_plan(empty, TOPOLOGY)
    assert plan.drift and not plan.blocked and {step.action for step in plan.steps} == {"create"}
    assert names_under(empty) == set(), "a plan makes nothing"
    done = apply_plan(empty, TOPOLOGY)
    assert done == plan, "what is done is what was shown"
    assert {empty.prefix + name for name in names_under(empty)} == set(wanted(prefix=empty.prefix))
    assert make_plan(empty, TOPOLOGY).steps == ()
    assert apply_plan(empty, TOPOLOGY).steps == ()


def test_each_setting_that_differs_is_shown_and_mended(ready: Connection) -> None:
    configure(ready, "keys.wrapped", {"delete.retention.ms": "5", "retention.ms": "7"})
    configure(ready, "calls", {"retention.ms": "1000000"})
    plan = settled(ready, {("alter", "calls"), ("alter", "keys.wrapped")})
    assert set(plan.steps) == {
        Step(action="alter", topic=f"{ready.prefix}calls", setting="retention.ms", old="1000000", new=str(7 * DAY_MS)),
        Step(action="alter", topic=f"{ready.prefix}keys.wrapped", setting="delete.retention.ms", old="5", new=str(DAY_MS)),
    }, "a setting that is not ours (retention of a compacted topic) stays the operator's"
    apply_plan(ready, TOPOLOGY)
    settled(ready, set())


def test_partitions_are_added_only_where_they_own_no_key(ready: Connection) -> None:
    remake(ready, "shards", 2, **{"retention.ms": str(HOUR_MS)})
    remake(ready, "consent.state", 2, **{"cleanup.policy": "compact"})
    configure(ready, "calls", {"retention.ms": "1000000"})
    write(ready, "consent.state")
    actions = {
        ("add-partitions", "shards"), ("alter", "shards"), ("recreate", "consent.state"), ("alter", "consent.state"),
        ("alter", "calls"),
    }  # fmt: skip
    plan = settled(ready, actions)
    (blocked,) = plan.blocked
    assert (blocked.topic, blocked.blocked, blocked.old, blocked.new) == (f"{ready.prefix}consent.state", "repartition", "2", "4")
    assert "other units" in blocked.why
    assert apply_plan(ready, TOPOLOGY).blocked
    assert apply_plan(ready, TOPOLOGY, allow_delete=True).blocked[0].blocked == "holds-records"
    settled(ready, actions)  # nothing was done of the rest either
    remake(ready, "consent.state", 4, **wanted()["consent.state"].config)
    settled(ready, {("add-partitions", "shards"), ("alter", "shards"), ("alter", "calls")})
    apply_plan(ready, TOPOLOGY)
    settled(ready, set())


def test_partitions_are_taken_away_only_from_an_empty_topic_and_when_told(ready: Connection) -> None:
    remake(ready, "decisions", 9, **wanted()["decisions"].config)
    assert settled(ready, {("recreate", "decisions")}).blocked[0].blocked == "shrink"
    write(ready, "decisions")
    assert settled(ready, {("recreate", "decisions")}, allow_delete=True).blocked[0].blocked == "holds-records"
    remake(ready, "decisions", 9, **wanted()["decisions"].config)
    deadline = time.monotonic() + SECS_MAX
    while settled(ready, {("recreate", "decisions")}, allow_delete=True).blocked:
        assert time.monotonic() < deadline, "the new topic is empty"
    assert not apply_plan(ready, TOPOLOGY, allow_delete=True).blocked
    assert settled(ready, set()).steps == ()


def test_only_topics_under_the_own_prefix_go_and_only_when_told(ready: Connection) -> None:
    prefix = ready.prefix
    make_topics(ready.bootstrap, {f"{prefix}old": 1, f"{prefix}b.shards": 1, f"{prefix}b.calls": 1, f"other{prefix}old": 1})
    try:
        assert not settled(ready, {("unknown", "old")}).drift, "what is only unknown does not differ"
        apply_plan(ready, TOPOLOGY)
        assert "old" in names_under(ready)
        settled(ready, {("delete", "old")}, allow_delete=True)
        apply_plan(ready, TOPOLOGY, allow_delete=True)
        left = names_under(ready)
        assert "old" not in left and {"b.shards", "b.calls"} <= left, "another deployment's prefix begins as ours does"
        assert f"other{prefix}old" in names_under(msgspec.structs.replace(ready, prefix=""))
    finally:
        drop_topics(ready.bootstrap, f"other{prefix}")


def test_without_a_prefix_nothing_is_ever_deleted(ready: Connection) -> None:
    make_topics(ready.bootstrap, {f"{ready.prefix}old": 1})
    plan = make_plan(msgspec.structs.replace(ready, prefix=""), TOPOLOGY, allow_delete=True)
    assert {step.action for step in plan.steps} == {"create"}


def test_what_the_cluster_refuses_leaves_nothing_half_done(empty: Connection) -> None:
    apply_plan(empty, TOPOLOGY)
    remake(empty, "decisions", 4, **wanted()["decisions"].config)
    admin = AdminClient(empty.config("t"))
    for done in admin.delete_topics([f"{empty.prefix}{name}" for name in ("calls", "quarantine")]).values():
        done.result(SECS_MAX)
    settled(empty, {("create", "calls"), ("create", "quarantine")})
    three = msgspec.structs.replace(empty, replication_factor=3)
    assert {step.blocked for step in make_plan(three, TOPOLOGY).blocked} == {"replication"}
    drop_topics(empty.bootstrap, empty.prefix)
    deadline = time.monotonic() + SECS_MAX
    while names_under(empty):
        assert time.monotonic() < deadline
    with pytest.raises(ClusterRefused, match="INVALID_REPLICATION_FACTOR"):
        apply_plan(three, TOPOLOGY)
    assert names_under(empty) == set()


def test_receipt_of_what_publishers_write_is_the_brokers_time(ready: Connection) -> None:
    before = int(time.time() * 1000)
    write(ready, "calls", timestamp=1_000_000, partition=0)
    consumer = Consumer({**ready.config("t"), "group.id": f"{ready.prefix}g", "enable.auto.commit": False})
    consumer.assign([TopicPartition(f"{ready.prefix}calls", 0, 0)])
    message = consumer.poll(SECS_MAX)
    consumer.close()
    assert message is not None and message.timestamp()[1] >= before - 1_000


def test_a_record_of_the_largest_size_goes_through(ready: Connection) -> None:
    producer = Producer(ready.config("t"))
    faults: list[Any] = []
    largest = b"x" * (RECORD_BYTES_MAX - 4_096)
    producer.produce(f"{ready.prefix}conversations.protected", largest, b"k", on_delivery=lambda e, _m: faults.append(e))
    assert producer.flush(SECS_MAX) == 0 and faults == [None]


def test_the_commands_say_what_differs_and_exit_as_they_should(
    empty: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONSENTINEL_KAFKA__PREFIX", empty.prefix)
    plan = ["topology", "plan", "--kafka", empty.bootstrap]
    apply = ["topology", "apply", "--kafka", empty.bootstrap]

    def document(args: list[str], code: int) -> dict[str, Any]:
        assert app.run([*args, "--output", "json"]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert document(plan, 2)["drift"]
    assert app.run(apply) == 0
    assert f"{empty.prefix}calls" in capsys.readouterr().out
    assert document(plan, 0) == {"prefix": empty.prefix, "brokers": 1, "drift": False, "applied": False, "steps": []}
    configure(empty, "calls", {"retention.ms": "1000000"})
    settled(empty, {("alter", "calls")})
    assert document(plan, 2)["steps"] == [{
        "action": "alter", "topic": f"{empty.prefix}calls", "setting": "retention.ms", "old": "1000000",
        "new": str(7 * DAY_MS), "blocked": "", "why": "",
    }]  # fmt: skip
    assert document(apply, 0)["applied"] is True
    remake(empty, "decisions", 9, **wanted()["decisions"].config)
    settled(empty, {("recreate", "decisions")})
    assert document(plan, 2)["steps"][0]["blocked"] == "shrink"
    assert document(apply, 1)["applied"] is False
    assert app.run([*plan, "--acls", "--principal", "worker=User:cw"]) == 2
    assert "AuthorizerOff" in capsys.readouterr().err
    assert app.run([*plan, "--acls"]) == 2
    assert "kafka.principals: names no role" in capsys.readouterr().err
