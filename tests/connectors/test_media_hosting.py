"""The connector where it is hosted: an order is carried out and answered, though the process is killed between the two."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connectors.cli.faults import BadUsage
from connectors.cli.media import shelves_of
from connectors.cli.settings import MediaSettings
from connectors.media.clerk import TOPIC
from engine.clock import system_clock
from engine.filering import FileRing
from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.edge import Edge
from engine.kafka.names import Names
from engine.secrets import Secrets
from engine.service import Service
from engine.topology import default_topology
from schemas.codec import decode_as, encode
from schemas.events import ErasureAcknowledged
from schemas.routed import Envelope
from schemas.topics import MediaOrder
from tests.connectors.faust_child import until
from tests.parts.kafka import Kafka
from tests.parts.topics import make_topics

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGY = default_topology()
WAIT_SECS = 60.0
STORE = {"s3_endpoint": "https://store.example"}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    made = tmp_path / "recordings"
    made.mkdir()
    for n in range(2):
        (made / f"call-{n}.wav").write_bytes(b"RIFF")
    return made


def order(secrets: Secrets, recordings: Path, number: int) -> bytes:
    uri = secrets.seal_raw(TOPIC, f"file://{recordings}/call-{number}.wav".encode(), system_clock())
    return encode(MediaOrder(
        order_id=f"med_{number}.0", controller="acme", conversation_id="call-1", recording_id=f"rec-{number}", cause="request",
        acknowledge_by_ms=system_clock(), uri=uri,
    ))  # fmt: skip


class Child:
    """One life of `media_child`."""

    def __init__(self, what: str, dies: str, *args: object, **settings: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CONSENTINEL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.connectors.media_child", what, dies, *map(str, args)], cwd=ROOT,
            env={**kept, **settings}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self, number: int = 0) -> tuple[int, str]:
        """Send a signal (0: none) and wait for the end; its code, and what it wrote to standard error."""
        if number:
            self.process.send_signal(number)
        try:
            said = self.process.communicate(timeout=WAIT_SECS)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.process.communicate()[1][-3000:]) from None
        return self.process.returncode, said


def told(secrets: Secrets, values: Iterator[bytes | None]) -> list[tuple[str, str, str]]:
    """(event id, order, code) of every answer on `controls`."""
    found = []
    for value in values:
        event = decode_as(Envelope, secrets.open_raw("controls", value or b"") or b"")
        if event.type == "erasure.acknowledged":
            answer = decode_as(ErasureAcknowledged, event.data)
            assert "call-" not in (answer.evidence or ""), "evidence tells the address"
            found.append((event.id, answer.order_id, json.loads(answer.evidence or "")["code"]))
    return found


@pytest.mark.slow
def test_embedded_an_order_is_carried_out_and_answered_once_though_killed_in_between(tmp_path: Path, recordings: Path) -> None:
    data, settings = tmp_path / "data", {"CONSENTINEL_MEDIA__ROOTS": json.dumps([str(recordings)])}

    def answers() -> list[tuple[str, str, str]]:
        service = Service.open(data)
        try:
            return told(service.secrets, (record.value for _, record in service.topic("controls")))
        finally:
            service.stop()

    service = Service.open(data)
    service.append(TOPIC, "rec-0", order(service.secrets, recordings, 0))
    service.stop()
    code, said = Child("up", "dies", data, **settings).end()
    assert code == -signal.SIGKILL, said
    assert not (recordings / "call-0.wav").exists() and answers() == []

    for _ in range(2):
        again = Child("up", "lives", data, **settings)
        assert again.process.stdout is not None and again.process.stdout.readline().startswith("ready ")
        until(lambda: (data / "media.json").is_file() and "1" in (data / "media.json").read_text().split("positions")[1])
        code, said = again.end(signal.SIGTERM)
        assert code == 0, said
        assert [(order_id, code) for _, order_id, code in answers()] == [("med_0.0", "missing")]
        assert str(recordings) not in said


@pytest.mark.slow
def test_on_a_cluster_no_order_is_acknowledged_before_it_is_answered(
    kafka: Kafka, fresh_prefix: str, recordings: Path, tmp_path: Path
) -> None:
    data = tmp_path / "w1"
    data.mkdir()
    ring = FileRing(data / "test.ring", create=True)
    secrets = Secrets(ring, os.urandom)
    partitions = {name: TOPOLOGY.topics[name].partitions for name in ("breach.alerts", "erasure.notices", TOPIC, "controls")}
    make_topics(kafka.bootstrap, {fresh_prefix + name: count for name, count in partitions.items()})
    names = Names(fresh_prefix, TOPOLOGY.task_specs())
    edge = Edge(ConfluentClients(Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix), names), names, partitions)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for n in range(2):
        producer.produce(fresh_prefix + TOPIC, order(secrets, recordings, n), b"rec-%d" % n, 0)
    producer.flush(WAIT_SECS)

    def answers() -> list[tuple[str, str, str]]:
        return told(secrets, (r.value for n in range(partitions["controls"]) for r in edge.read("controls", n, 0, 100)))

    args: tuple[Any, ...] = (data, kafka.bootstrap, fresh_prefix, recordings)
    code, said = Child("worker", "dies", *args).end()
    assert code == -signal.SIGKILL, said
    assert sorted(p.name for p in recordings.iterdir()) == ["call-1.wav"] and answers() == []
    alive = Child("worker", "lives", *args)
    until(lambda: len(answers()) >= 2)
    code, said = alive.end(signal.SIGTERM)
    assert code == 0, said
    assert [(order_id, code) for _, order_id, code in sorted(answers(), key=lambda a: a[1])] == [
        ("med_0.0", "missing"), ("med_1.0", "deleted")]  # fmt: skip
    assert not list(recordings.iterdir())
    edge.close()
    ring.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"roots": ["{tmp}"]}, "media.roots"), ({"roots": ["{tmp}/none"]}, "media.roots"),
        ({"s3_buckets": ["recordings"]}, "media.s3_endpoint"), (STORE, "media.s3_access_key"),
        ({**STORE, "s3_access_key": "a"}, "media.s3_secret_key"),
        ({**STORE, "s3_access_key": "a", "s3_secret_key_file": "{tmp}/none"}, "media.s3_secret_key_file"),
        ({**STORE, "s3_access_key": "a", "s3_secret_key": "b"}, "media.s3_buckets"),
    ],
)  # fmt: skip
def test_settings_that_could_not_work_are_told_by_name(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    given = json.loads(json.dumps(settings).replace("{tmp}", str(tmp_path)))
    with pytest.raises(BadUsage, match=named) as refused:
        shelves_of(MediaSettings.model_validate(given), [tmp_path / "data"])
    assert str(tmp_path) not in str(refused.value)


def test_without_a_place_nothing_is_hosted(tmp_path: Path) -> None:
    assert shelves_of(MediaSettings(), [tmp_path]) is None
