"""`consentinel worker` as an operator runs it: a process on a real cluster, topics applied, events in, state out."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TopicPartition as TP

from engine.filering import FileRing
from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.edge import Edge
from engine.kafka.names import BEAT_KEY, Names
from engine.runtime import Output
from engine.secrets import Secrets
from engine.topology import default_topology
from schemas.codec import decode_as, encode
from schemas.routed import Envelope
from schemas.topics import ConsentState
from tests.parts.kafka import Kafka
from tests.parts.process import free_ports
from tests.parts.topics import committed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
WAIT_SECS_MAX = 90.0
FAULT_SECS_MAX = 20.0  # ten for the look at the cluster, and a busy machine's start of Python
TOPOLOGY = default_topology()
TASKS = TOPOLOGY.task_specs()


def until(true: Any, secs: float = WAIT_SECS_MAX) -> None:
    give_up = time.monotonic() + secs
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.05)


class WorkerProcess:
    """One `consentinel worker`."""

    def __init__(self, site: "Site", name: str, *flags: str) -> None:
        self.out, self.err = site.folder / f"{name}-{time.monotonic_ns()}.out", site.folder / f"{name}-{time.monotonic_ns()}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                site.command("worker", "--data", str(site.folder / name), "--name", name, "--port", "0", *flags),
                env=site.environ, cwd=site.folder, stdout=out, stderr=err,
            )  # fmt: skip

    def wait_ready(self) -> str:
        until(lambda: self.process.poll() is not None or "ready " in self.out.read_text())
        lines = self.out.read_text().splitlines()
        assert len(lines) == 1, self.err.read_text()
        found = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+)", lines[0])
        assert found
        self.url = found[1]
        return self.url

    def get(self, path: str) -> tuple[int, str]:
        try:
            with OPENER.open(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def units(self) -> set[tuple[str, int]]:
        """The task partitions that it works on."""
        return {(row["task"], row["partition"]) for row in json.loads(self.get("/v1/lag")[1])["lag"]}

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        assert found, name
        return float(found[1])

    def end(self, number: int = signal.SIGTERM) -> int:
        if number and self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_SECS_MAX)


class Site:
    """A deployment of its own on the shared broker: its topics, its ring, its workers."""

    def __init__(self, kafka: Kafka, prefix: str, folder: Path) -> None:
        self.folder, self.prefix, self.bootstrap = folder, prefix, kafka.bootstrap
        self.names = Names(prefix, TASKS)
        self.connect()
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CONSENTINEL_")},
            "PYTHONPATH": str(ROOT), "CONSENTINEL_KAFKA__BOOTSTRAP": kafka.bootstrap, "CONSENTINEL_KAFKA__PREFIX": prefix,
            "CONSENTINEL_KEYS__RING": str(folder / "ring"),
        }  # fmt: skip
        self.ring = FileRing(folder / "ring", create=True)
        self.secrets = Secrets(self.ring, os.urandom)
        self.workers: list[WorkerProcess] = []

    def connect(self) -> None:
        """Make clients; those from before a broker's restore would not believe that its leader epochs went back."""
        self.clients = ConfluentClients(Connection(bootstrap=self.bootstrap, prefix=self.prefix), self.names)
        self.edge = Edge(self.clients, self.names, {name: topic.partitions for name, topic in TOPOLOGY.topics.items()})

    @staticmethod
    def command(*args: str) -> list[str]:
        return [sys.executable, "-m", "connectors.cli", *args]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )

    def apply(self) -> None:
        done = self.run("topology", "apply")
        assert done.returncode == 0, done.stderr

    def worker(self, name: str, *flags: str) -> WorkerProcess:
        self.workers.append(WorkerProcess(self, name, *flags))
        return self.workers[-1]

    def publish(self, numbers: range) -> None:
        """A consent of one customer each, as a gateway appends it."""
        now_ms = int(time.time() * 1_000)
        outputs = []
        for n in numbers:
            data = {
                "identifiers": [{"kind": "crm", "value": f"customer-{n}"}], "purposes": ["marketing"], "channels": ["voice"],
                "method": "web", "evidence": {"notice_version": "1"},
            }  # fmt: skip
            envelope = Envelope(
                id=f"e{n}", source="test", type="consent.given", controller="acme", time_ms=now_ms, receipt_ms=now_ms,
                actor="test", content_type="application/json", data=msgspec.json.encode(data),
            )  # fmt: skip
            outputs.append(Output("consents", f"e{n}".encode(), self.secrets.seal_raw("consents", encode(envelope), now_ms)))
        self.edge.append(outputs, now_ms)

    def consents(self) -> list[ConsentState]:
        """`consent.state`, read committed, every record."""
        told = committed(self.bootstrap, f"{self.prefix}consent.state")
        return [decode_as(ConsentState, message.value()) for message in told if message.value() is not None]

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.end(signal.SIGKILL)
        self.edge.close()
        self.ring.close()


@pytest.fixture
def site(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(kafka, fresh_prefix, tmp_path)
    yield made
    made.close()


def test_what_is_published_becomes_state_and_a_signal_is_a_clean_end(site: Site) -> None:
    site.apply()
    site.publish(range(20))
    worker = site.worker("w1")
    worker.wait_ready()
    assert worker.get("/readyz")[0] == 200
    until(lambda: len(site.consents()) >= 20)
    assert len(site.consents()) == 20, "an event took effect twice"
    assert worker.units() == {(unit.task, unit.partition) for unit in site.names.units}
    until(lambda: worker.metric("consentinel_transactions_total") > 0)
    assert worker.metric('consentinel_records_folded_total{task="intake"}') == 20
    assert "customer-" not in worker.get("/metrics")[1] + worker.err.read_text()
    lag = site.run("lag", "--output", "json", "--max-secs", "60")
    assert lag.returncode == 0, lag.stderr
    rows = json.loads(lag.stdout)["lag"]
    assert {(row["task"], row["topic"], row["partition"]) for row in rows} == {
        (task.name, topic, n) for task in TASKS for topic in task.inputs for n in range(task.partitions)
    }
    assert all(row["records"] == 0 and row["secs"] is not None for row in rows)
    own = site.run("lag", "--url", worker.url, "--output", "json")
    assert {row["task"] for row in json.loads(own.stdout)["lag"]} == {task.name for task in TASKS}
    assert worker.end() == 0
    site.publish(range(20, 30))  # nobody works now
    site.edge.append([Output("subject.events", BEAT_KEY + b"intake/0", (1).to_bytes(8, "big"), partition=0)], 1)
    behind = site.run("lag", "--output", "json", "--max-secs", "0.001")
    assert behind.returncode == 1
    assert {row["topic"]: 0 for row in rows} | {"consents": 10} == {
        topic: sum(row["records"] for row in json.loads(behind.stdout)["lag"] if row["topic"] == topic)
        for topic in {row["topic"] for row in rows}
    }, "a beat is no record"
    again = site.worker("w1")
    again.wait_ready()
    until(lambda: len(site.consents()) >= 30)
    assert len(site.consents()) == 30
    assert again.end(signal.SIGINT) == 0


def test_workers_share_the_units_and_one_that_stays_takes_all(site: Site) -> None:
    site.apply()
    everything = {(unit.task, unit.partition) for unit in site.names.units}
    one = site.worker("w1")
    one.wait_ready()
    two = site.worker("w2")
    two.wait_ready()
    until(lambda: one.units() | two.units() == everything and one.units() and two.units() and not one.units() & two.units())
    site.publish(range(40))
    until(lambda: len(site.consents()) >= 40)
    whole = json.loads(site.run("lag", "--url", f"{one.url},{two.url}", "--output", "json").stdout)
    assert {(row["task"], row["partition"]) for row in whole["lag"]} == everything
    two.end(signal.SIGKILL)
    until(lambda: one.units() == everything)
    site.publish(range(40, 50))
    until(lambda: len(site.consents()) >= 50)
    assert len(site.consents()) == 50
    assert one.get("/readyz")[0] == 200
    assert one.end() == 0


def test_a_worker_whose_engine_stops_ends_with_the_reason(site: Site) -> None:
    site.apply()
    site.publish(range(5))
    worker = site.worker("w1")
    worker.wait_ready()
    until(lambda: len(site.consents()) >= 5)
    assert worker.end() == 0
    admin = site.clients._admin_client()
    topic = site.prefix + "consents"
    places = {TP(topic, n, -1): None for n in range(TOPOLOGY.topics["consents"].partitions)}
    site.publish(range(5, 30))  # unread, and gone before anybody reads them
    for done in admin.delete_records([TP(topic, n, offset) for (_, n), offset in site.clients.ends(
        [(topic, place.partition) for place in places], committed=False).items()]).values():  # fmt: skip
        done.result(30)
    lost = site.worker("w1")
    assert lost.end(0) == 1
    assert lost.out.read_text() == "", "it said that it was ready"
    last = lost.err.read_text().splitlines()[-1]
    assert last.startswith("consentinel: the engine stopped: PositionLost: ") and "--accept-loss" in last
    told = site.worker("w1", "--accept-loss")
    told.wait_ready()
    assert told.end() == 0


def test_a_standby_is_ready_and_owns_nothing_twice(site: Site) -> None:
    site.apply()
    one = site.worker("w1", "--standby")
    one.wait_ready()
    assert one.units() == {(unit.task, unit.partition) for unit in site.names.units}
    assert one.end() == 0


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--kafka", "127.0.0.1:1"], "BrokerUnreachable"),
        (["--kafka", "nonsense"], "kafka.bootstrap"),
        (["--name", "no name"], "kafka.worker"),
        ([], "TopicsMissing"),
    ],
)
def test_what_cannot_work_is_one_line_within_seconds_and_nothing_is_begun(site: Site, args: list[str], why: str) -> None:
    began = time.monotonic()
    done = site.run("worker", "--data", "w", "--port", "0", *args)
    assert done.returncode == 2
    assert time.monotonic() - began < FAULT_SECS_MAX
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("consentinel: ") and why in done.stderr
    assert not (site.folder / "w").exists()


def test_a_port_that_is_taken_is_said_before_anything_is_begun(site: Site) -> None:
    [port] = free_ports(1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        done = site.run("worker", "--data", "w", "--port", str(port))
    assert done.returncode == 2 and "the port is taken" in done.stderr
    assert not (site.folder / "w").exists()


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"WEBHOOK__URL": "https://receiver.example/"}, "webhook.secret"),
        ({"WEBHOOK__URL": "nonsense", "WEBHOOK__SECRET": "a secret of the tests"}, "webhook.url"),
        ({"WEBHOOK__URL": "https://receiver.example/", "WEBHOOK__SECRET_FILE": "missing"}, "webhook.secret_file"),
        ({"REDIS__URL": "nonsense"}, "redis.url"),
    ],
)
def test_settings_of_what_is_hosted_are_refused_by_name(site: Site, environ: dict[str, str], why: str) -> None:
    site.environ |= {f"CONSENTINEL_{name}": value for name, value in environ.items()}
    done = site.run("worker", "--data", "w", "--port", "0")
    assert done.returncode == 2
    assert why in done.stderr and "a secret" not in done.stderr
