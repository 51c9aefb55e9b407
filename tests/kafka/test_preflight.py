"""What is wrong with a cluster is told by name, within ten seconds, and nothing is written: on real brokers and on impostors."""

import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    OffsetSpec,
)

from connectors.cli import app
from engine.kafka.connection import Connection, Security
from engine.kafka.faults import (
    BrokerTooOld,
    BrokerUnreachable,
    KafkaFault,
    NotAuthenticated,
    NotKafka,
    PartitionsWrong,
    PolicyWrong,
    TlsFailed,
    TopicsMissing,
)
from engine.kafka.plan import apply_plan
from engine.kafka.preflight import check
from engine.kafka.probe import probe
from engine.kafka.topics import names_of
from engine.topology import default_topology
from tests.kafka.secured import Authority, SecuredBroker
from tests.parts.kafka import Kafka

SECS_MAX = 10.0
TOPOLOGY = default_topology()
# What Apache Kafka 3.9.1 answers: (API, lowest, highest version) of its first APIs and of the groups of KIP-848.
OLD_APIS = ((0, 0, 11), (1, 0, 17), (2, 0, 9), (3, 0, 12), (8, 0, 9), (11, 0, 9), (18, 0, 4), (19, 0, 7), (68, 0, 0))


def refusal(connection: Connection) -> KafkaFault:
    """The fault of a check, which must come in time."""
    began = monotonic()
    with pytest.raises(KafkaFault) as fault:
        check(connection, names_of(TOPOLOGY, connection), TOPOLOGY)
    assert monotonic() - began < SECS_MAX
    return fault.value


def refusal_soon(connection: Connection) -> KafkaFault:
    """The fault of a check, a moment after something was changed: brokers learn of it one after the other."""
    deadline = monotonic() + SECS_MAX
    while True:
        try:
            check(connection, names_of(TOPOLOGY, connection), TOPOLOGY)
        except KafkaFault as fault:
            return fault
        assert monotonic() < deadline, "nothing was refused"


@contextmanager
def impostor(behave: Callable[[socket.socket], None]) -> Iterator[Connection]:
    """Something that listens where a broker should: each connection is given to `behave` and then closed."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = False

    def serve() -> None:
        while not over:
            try:
                connected, _ = listening.accept()
            except OSError:
                return
            with connected:
                try:
                    behave(connected)
                except OSError:
                    pass  # the client left first

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Connection(bootstrap=f"127.0.0.1:{listening.getsockname()[1]}")
    finally:
        over = True
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(SECS_MAX)


def answering(body: bytes) -> Callable[[socket.socket], None]:
    def behave(connected: socket.socket) -> None:
        connected.recv(1_024)
        connected.sendall(body)
        connected.recv(1)

    return behave


def versions(apis: tuple[tuple[int, int, int], ...]) -> bytes:
    answer = struct.pack(">ihi", 4711, 0, len(apis)) + b"".join(struct.pack(">hhh", *api) for api in apis)
    return struct.pack(">i", len(answer)) + answer


def test_an_old_broker_is_refused_by_what_it_still_answers() -> None:
    with impostor(answering(versions(OLD_APIS))) as connection:
        fault = refusal(connection)
    assert isinstance(fault, BrokerTooOld) and "4.0" in str(fault)
    newer = tuple((api, 4 if api == 1 else lowest, highest) for api, lowest, highest in OLD_APIS)
    with impostor(answering(versions(newer))) as connection:
        assert probe(connection, 3.0)[1] == (4, 17)


@pytest.mark.parametrize(
    ("kind", "text", "behave"),
    [
        (NotKafka, "is not Kafka", answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        (NotKafka, "is not Kafka", answering(struct.pack(">i", 20) + b"x" * 20)),
        (NotKafka, "is not Kafka", answering(struct.pack(">iihi", 11, 4711, 0, 1) + b"x")),
        (NotKafka, "closed without an answer", lambda connected: connected.recv(1) and None),
        (NotKafka, "speaks TLS", answering(b"\x15\x03\x03\x00\x02\x02\x28")),
        (BrokerUnreachable, "does not answer in time", lambda connected: sleep(5)),
        (BrokerUnreachable, "does not answer in time", answering(struct.pack(">i", 500) + b"half")),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_broker_is_told_apart(
    kind: type[KafkaFault], text: str, behave: Callable[[socket.socket], None]
) -> None:  # fmt: skip
    with impostor(behave) as connection:
        fault = refusal(connection)
    assert type(fault) is kind and text in str(fault)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "nobody.invalid"])
def test_a_bad_address_is_told_in_time(host: str) -> None:
    assert isinstance(refusal(Connection(bootstrap=f"{host}:{closed_port()}")), BrokerUnreachable)


def test_one_address_of_several_that_answers_is_enough_and_the_worst_is_told_otherwise() -> None:
    with impostor(answering(versions(((1, 4, 17),)))) as good:
        both = Connection(bootstrap=f"127.0.0.1:{closed_port()},{good.bootstrap}")
        assert probe(both, 3.0) == {1: (4, 17)}
    with impostor(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as web:
        both = Connection(bootstrap=f"127.0.0.1:{closed_port()},{web.bootstrap}")
        with pytest.raises(NotKafka):
            probe(both, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "word", "mechanism"), [("cw", "hush", "SCRAM-SHA-512"), ("nobody", "hush", "PLAIN"), ("cw", "hush", "SCRAM-SHA-256")]
)
def test_a_wrong_password_is_told_in_time(secured: SecuredBroker, user: str, word: str, mechanism: str) -> None:
    fault = refusal(secured.as_user(user, word=word, mechanism=mechanism))
    assert isinstance(fault, NotAuthenticated) and word not in str(fault)


@pytest.mark.slow
def test_tls_that_does_not_come_about_is_told_with_its_reason(secured: SecuredBroker, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    certificate, key = stranger.issue("guest")
    sasl, mtls, plain = (secured.broker.address(name) for name in ("SASL", "MTLS", "PLAINTEXT"))
    trusted = secured.authority.certificate
    cases = [
        (TlsFailed, "is not trusted", sasl, Security(security_protocol="SSL", ca_file=stranger.certificate)),
        (TlsFailed, "our certificate", mtls, Security(security_protocol="SSL", ca_file=trusted)),
        (TlsFailed, "our certificate", mtls, Security(
            security_protocol="SSL", ca_file=trusted, cert_file=certificate, key_file=key)),
        (TlsFailed, "does not speak TLS", plain, Security(security_protocol="SSL", ca_file=trusted)),
        (NotKafka, "see kafka.security_protocol", sasl, Security()),
    ]  # fmt: skip
    for kind, text, address, security in cases:
        fault = refusal(Connection(bootstrap=address, security=security))
        assert type(fault) is kind and text in str(fault), (kind, text, str(fault))


@pytest.mark.slow
def test_a_certificate_of_another_host_is_not_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("broker")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def behave(connected: socket.socket) -> None:
        with context.wrap_socket(connected, server_side=True):
            pass

    with impostor(behave) as connection:
        host = connection.bootstrap.replace("127.0.0.1", "127.1")  # the same place by a name that the certificate lacks
        fault = refusal(Connection(bootstrap=host, security=Security(security_protocol="SSL", ca_file=authority.certificate)))
    assert isinstance(fault, TlsFailed) and "is not trusted" in str(fault)


@pytest.fixture
def ready(kafka: Kafka, fresh_prefix: str) -> Connection:
    """A cluster on which a worker can start."""
    connection = Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix)
    apply_plan(connection, TOPOLOGY)
    check(connection, names_of(TOPOLOGY, connection), TOPOLOGY)
    return connection


def state(connection: Connection) -> tuple[set[str], int]:
    """Topics on the cluster, and records under the prefix."""
    admin = AdminClient(connection.config("t"))
    topics = admin.list_topics(timeout=SECS_MAX).topics
    places = [TopicPartition(n, p) for n, t in topics.items() if n.startswith(connection.prefix) for p in t.partitions]
    ends = admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()))
    return set(topics), sum(future.result(SECS_MAX).offset for future in ends.values())


def test_a_check_writes_nothing(kafka: Kafka, fresh_prefix: str) -> None:
    connection = Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix)
    before = state(connection)
    fault = refusal(connection)
    assert isinstance(fault, TopicsMissing)
    assert "and 18 more" in str(fault) and "topology apply" in str(fault)
    after = state(connection)
    assert after[0] - before[0] <= {"__consumer_offsets"} and after[1] == before[1] == 0


def test_one_missing_topic_is_named(ready: Connection) -> None:
    for gone in ("shards", "changelog.case", "keys.wrapped"):
        admin = AdminClient(ready.config("t"))
        for done in admin.delete_topics([ready.prefix + gone]).values():
            done.result(SECS_MAX)
        fault = refusal_soon(ready)
        assert isinstance(fault, TopicsMissing) and f"{ready.prefix}{gone}" in str(fault)
        assert "," not in str(fault).partition(";")[0], "no other topic is"
        apply_plan(ready, TOPOLOGY)


def test_a_topic_that_is_cut_otherwise_is_named(ready: Connection) -> None:
    admin = AdminClient(ready.config("t"))
    for done in admin.create_partitions([NewPartitions(f"{ready.prefix}changelog.subject", 7)]).values():
        done.result(SECS_MAX)
    fault = refusal_soon(ready)
    assert isinstance(fault, PartitionsWrong) and f"{ready.prefix}changelog.subject" in str(fault)


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        ("keys.wrapped", "cleanup.policy", "delete"),
        ("changelog.subject", "cleanup.policy", "compact,delete"),
        ("decisions", "cleanup.policy", "compact"),
        ("audit.entries", "retention.ms", "86400000"),
        ("calls", "retention.ms", "-1"),
    ],
)
def test_a_topic_that_would_lose_or_never_drop_what_it_holds_is_named(
    ready: Connection, topic: str, setting: str, value: str
) -> None:  # fmt: skip
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, ready.prefix + topic, incremental_configs=[entry])
    admin = AdminClient(ready.config("t"))
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(SECS_MAX)
    fault = refusal_soon(ready)
    assert isinstance(fault, PolicyWrong) and f"{ready.prefix}{topic}" in str(fault)


def test_the_command_line_tells_a_fault_in_one_line_and_exits_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    began = monotonic()
    assert app.run(["topology", "plan", "--kafka", f"127.0.0.1:{closed_port()}"]) == 2
    assert monotonic() - began < SECS_MAX
    said = capsys.readouterr()
    assert said.out == "" and said.err == "consentinel: BrokerUnreachable: kafka.bootstrap: nothing listens there\n"
    monkeypatch.setenv("CONSENTINEL_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("CONSENTINEL_KAFKA__PASSWORD", "hush")
    assert app.run(["topology", "plan"]) == 2
    said = capsys.readouterr()
    assert said.err == "consentinel: SettingImpossible: kafka.password: means nothing with security_protocol PLAINTEXT\n"
    monkeypatch.setenv("CONSENTINEL_KAFKA__SECURITY_PROTOCOL", "hush")
    assert app.run(["topology", "plan"]) == 2
    assert "hush" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_wrong_password_from_a_file_ends_the_command(
    secured: SecuredBroker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "word").write_text("hush\n")
    settings = {
        "BOOTSTRAP": secured.broker.address("SASL"), "SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "SCRAM-SHA-512",
        "USERNAME": "cw", "PASSWORD_FILE": str(tmp_path / "word"), "CA_FILE": str(secured.authority.certificate),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"CONSENTINEL_KAFKA__{name}", value)
    assert app.run(["topology", "plan", "--output", "json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("consentinel: NotAuthenticated: ") and "hush" not in said.err
    (tmp_path / "word").write_text("worker-word\n")
    assert app.run(["topology", "plan", "--output", "json"]) == 2, "nothing is there yet, so it differs"
    assert json.loads(capsys.readouterr().out)["drift"] is True
