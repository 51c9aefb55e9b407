"""The parts that other tests stand on: a broker that keeps transactions, and one of a test's own that survives its death."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.parts.kafka import Broker, Kafka
from tests.parts.process import Child
from tests.parts.redis import Redis, RedisServer
from tests.parts.topics import drop_topics, make_topics, new_prefix

ROOT = Path(__file__).resolve().parents[2]
READ_SECS_MAX = 30.0


def write(bootstrap: str, name: str, topic: str, values: list[bytes], *, commit: bool) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name})
    producer.init_transactions(READ_SECS_MAX)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(READ_SECS_MAX) == 0
    if commit:
        producer.commit_transaction(READ_SECS_MAX)
    else:
        producer.abort_transaction(READ_SECS_MAX)


def read_committed(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """The first `count` committed values of partition 0."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": new_prefix(), "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    deadline = time.monotonic() + READ_SECS_MAX
    while len(found) < count and time.monotonic() < deadline:
        for message in consumer.consume(count - len(found), 0.2):
            assert message.error() is None, message.error()
            found.append(message.value() or b"")
    consumer.close()
    return found


def test_the_broker_keeps_what_was_committed_and_hides_what_was_aborted(kafka: Kafka, fresh_prefix: str) -> None:
    topic = f"{fresh_prefix}events"
    make_topics(kafka.bootstrap, {topic: 1})
    write(kafka.bootstrap, f"{fresh_prefix}a", topic, [b"never"], commit=False)
    write(kafka.bootstrap, f"{fresh_prefix}b", topic, [b"one", b"two"], commit=True)
    assert read_committed(kafka.bootstrap, topic, 2) == [b"one", b"two"]


def test_topics_under_a_prefix_go_and_others_stay(kafka: Kafka, fresh_prefix: str) -> None:
    make_topics(kafka.bootstrap, {f"{fresh_prefix}mine": 3, f"{fresh_prefix}x.other": 1}, cleanup_policy="compact")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert len(admin.list_topics(timeout=READ_SECS_MAX).topics[f"{fresh_prefix}mine"].partitions) == 3
    drop_topics(kafka.bootstrap, f"{fresh_prefix}x.")
    left = {name for name in admin.list_topics(timeout=READ_SECS_MAX).topics if name.startswith(fresh_prefix)}
    assert left == {f"{fresh_prefix}mine"}


@pytest.mark.slow
@pytest.mark.usefixtures("kafka_jars")
def test_a_broker_that_is_killed_comes_back_on_its_port_with_its_data() -> None:
    with Broker() as broker:
        first, address = broker.pid, broker.bootstrap
        make_topics(broker.bootstrap, {"events": 1})
        write(broker.bootstrap, "a", "events", [b"one"], commit=True)
        broker.restart(kill=True)
        assert broker.pid != first
        assert broker.bootstrap == address
        write(broker.bootstrap, "a", "events", [b"two"], commit=True)
        broker.restart()
        assert read_committed(broker.bootstrap, "events", 2) == [b"one", b"two"]

        broker.pause()
        stuck = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "b"})
        with pytest.raises(KafkaException):
            stuck.init_transactions(2.0)
        broker.resume()
        stuck.init_transactions(READ_SECS_MAX)
        folder, pid = broker.folder, broker.pid
    assert folder is not None
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("kafka_jars")
def test_a_broker_with_passwords_lets_in_whom_it_knows() -> None:
    jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    with Broker(
        listeners={"SASL": "SASL_PLAINTEXT"},
        scram={"alice": "alice-secret"},
        properties={"listener.name.sasl.scram-sha-256.sasl.jaas.config": jaas, "sasl.enabled.mechanisms": "SCRAM-SHA-256"},
        super_users="User:ANONYMOUS",
    ) as broker:
        make_topics(broker.bootstrap, {"events": 1})
        known = {
            "bootstrap.servers": broker.address("SASL"),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": "alice",
        }
        with_password = Producer({**known, "sasl.password": "alice-secret"})
        assert "events" in with_password.list_topics(timeout=READ_SECS_MAX).topics
        without = Producer({**known, "sasl.password": "wrong", "log_level": 0})
        with pytest.raises(KafkaException):
            without.list_topics(timeout=3.0)


LEAVES_A_SERVER_BEHIND = """
import time
from tests.parts.redis import RedisServer
server = RedisServer().start()
server.pause()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("redis_program")
def test_a_server_ends_with_the_tests_even_when_they_are_killed() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    tests = subprocess.Popen([sys.executable, "-c", LEAVES_A_SERVER_BEHIND], cwd=ROOT, env=environ, stdout=subprocess.PIPE)
    with tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().decode().split()
        assert Path(folder).is_dir()
        tests.send_signal(signal.SIGKILL)
        tests.wait(10)
    deadline = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()
    assert is_gone(pid), "it outlived the tests"


LEAVES_A_CHILD_BEHIND = """
import sys, time
from pathlib import Path
from tests.parts.process import Child
folder = Path(sys.argv[1])
print(Child(["sleep", "600"], folder, folder / "log").pid, flush=True)
time.sleep(600)
"""


def is_gone(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_a_child_ends_with_the_tests_and_the_folder_that_it_worked_in_stays(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LEAVES_A_CHILD_BEHIND, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pid = tests.stdout.readline().decode().strip()
        tests.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(pid)
    time.sleep(0.5)  # what comes after the kill would come at once
    assert (tmp_path / "log").exists()


def test_no_folder_is_removed_but_a_servers_own_temporary_one(tmp_path: Path) -> None:
    for folder in (ROOT, Path.home(), Path("/"), tmp_path, tmp_path / "other"):
        with pytest.raises(AssertionError, match="scratch"):
            Child(["sleep", "600"], folder, tmp_path / "log", scratch=True)


@pytest.mark.usefixtures("redis_program")
def test_redis_comes_back_on_its_port_and_empty_unless_it_was_to_remember(redis_server: Redis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.ping()
    for persistent in (False, True):
        with RedisServer(persistent=persistent, requirepass="secret") as own, redis.Redis.from_url(own.url) as client:
            client.set("key", "value")
            own.restart(kill=False)
            assert client.get("key") == (b"value" if persistent else None)
