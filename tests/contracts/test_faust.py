"""What `connectors/faust` relies on in Faust, each point on its own: when one of these fails, Faust has changed under us.

Several tests show what stock Faust does that would lose or invent events; they are the reason for what stands beside them. An
agent that has raised once also keeps Faust from ever stopping (such runs are killed here): `edges.py` lets nothing out.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as TP
from confluent_kafka.admin import AdminClient

from connectors.faust.host import EDGES, Place, _app, credentials_of
from connectors.faust.pages import bound
from engine.kafka.connection import Connection, Security
from tests.connectors.faust_child import ROOT, Child, until
from tests.parts.kafka import Kafka
from tests.parts.topics import make_topics

SECS_MAX = 60.0
TOPIC, GROUP = "events", "contract"

# A stock app, or one with our transport and streams. It prints what happens, in order.
APP = """
import asyncio, sys
import faust
from mode import Service
from connectors.faust.transport import CommittedTransport

bootstrap, prefix, folder, mode = sys.argv[1:5]
ours = mode == "ours"

def say(*words):
    print(*words, flush=True)

class App(faust.App):
    def _new_transport(self):
        return CommittedTransport(self.conf.broker_consumer, self) if ours else super()._new_transport()

    async def on_first_start(self):
        await super().on_first_start()
        say("first-start")
        if mode == "crash":
            self.add_future(self.doom())

    async def doom(self):
        await self.sleep(0.5)
        raise RuntimeError("the engine stopped")

app = App(
    prefix + "contract", broker=f"kafka://{bootstrap}", datadir=folder, web_enabled=False, table_standby_replicas=0,
    topic_allow_declare=False, topic_disable_leader=True, consumer_auto_offset_reset="earliest", broker_session_timeout=6.0,
    broker_rebalance_timeout=6.0, broker_heartbeat_interval=1.0, broker_commit_interval=0.2, key_serializer="raw",
    value_serializer="raw", worker_redirect_stdouts=False, env_prefix="NONE", stream_wait_empty=False,
)

@app.on_partitions_assigned.connect
async def assigned(app, assigned, **_):
    if assigned:
        say("assigned")

@app.service
class Hosted(Service):
    async def on_start(self):
        say("service-start")

@app.agent(app.topic(prefix + "events", key_type=bytes, value_type=bytes), name="edge")
async def edge(stream):
    if ours:
        async for event in stream.noack().events():
            await handle(event.value.decode())
            event.ack()
    else:
        async for value in stream:
            await handle(value.decode())

async def handle(text):
    say("event", text)
    if text == "raises":
        raise ValueError("not taken")
    if text == "hangs":
        await asyncio.sleep(3600)

running = asyncio.new_event_loop()
asyncio.set_event_loop(running)
worker = faust.Worker(app, loop=running, quiet=True, redirect_stdouts=False, override_logging=False, loglevel="info")
worker.spinner = None
try:
    worker.execute_from_commandline()
finally:
    say("crash-reason", app.crash_reason)
"""


class Run(Child):
    """One run of `APP`."""

    def __init__(self, kafka: Kafka, prefix: str, folder: Path, mode: str) -> None:
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", APP, kafka.bootstrap, prefix, str(folder / "faust"), mode],
                stdout=out, stderr=err, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip


def fill(kafka: Kafka, prefix: str, *texts: str, aborted: str = "") -> None:
    make_topics(kafka.bootstrap, {prefix + TOPIC: 1})
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": prefix + "t"})
    producer.init_transactions(SECS_MAX)
    if aborted:
        producer.begin_transaction()
        producer.produce(prefix + TOPIC, aborted.encode(), partition=0)
        producer.flush(SECS_MAX)
        producer.abort_transaction(SECS_MAX)
    for text in texts:
        producer.begin_transaction()
        producer.produce(prefix + TOPIC, text.encode(), partition=0)
        producer.commit_transaction(SECS_MAX)


def committed(kafka: Kafka, prefix: str) -> int:
    """What the group has committed; below 0: nothing."""
    reader = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": prefix + GROUP})
    try:
        return int(reader.committed([TP(prefix + TOPIC, 0)], timeout=SECS_MAX)[0].offset)
    finally:
        reader.close()


@pytest.mark.slow
def test_what_is_started_first_runs_before_faust_joins_its_group_and_services_only_after(
    kafka: Kafka, fresh_prefix: str, tmp_path: Path
) -> None:
    fill(kafka, fresh_prefix, "one")
    before = set(AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=SECS_MAX).topics)
    with Run(kafka, fresh_prefix, tmp_path, "stock") as run:
        run.wait_for("service-start")
        run.wait_for("event one")
        assert run.end(signal.SIGTERM) == 0
        said = run.printed().split("\n")
    assert said.index("first-start") < said.index("assigned") < said.index("service-start")
    after = set(AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=SECS_MAX).topics)
    assert {name for name in after - before if name.startswith(fresh_prefix)} == set(), "Faust made topics"


@pytest.mark.slow
def test_a_task_that_raises_ends_the_worker_with_exit_code_1(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> None:
    fill(kafka, fresh_prefix, "one")
    with Run(kafka, fresh_prefix, tmp_path, "crash") as run:
        assert run.end(0) == 1
        assert run.wait_for("crash-reason") == "the engine stopped"


@pytest.mark.slow
def test_stock_faust_shows_aborted_records_and_acknowledges_what_its_agent_failed_at(
    kafka: Kafka, fresh_prefix: str, tmp_path: Path
) -> None:
    fill(kafka, fresh_prefix, "raises", "one", "hangs", aborted="aborted")
    with Run(kafka, fresh_prefix, tmp_path, "stock") as run:
        run.wait_for("event aborted")
        run.wait_for("event hangs")
        assert run.printed().count("event raises") == 1
        until(lambda: committed(kafka, fresh_prefix) > 3)  # what raised stands at 2


@pytest.mark.slow
def test_our_consumer_sees_no_aborted_record_and_acknowledges_nothing_by_itself(
    kafka: Kafka, fresh_prefix: str, tmp_path: Path
) -> None:
    fill(kafka, fresh_prefix, "one", "hangs", aborted="aborted")
    with Run(kafka, fresh_prefix, tmp_path, "ours") as run:
        run.wait_for("event hangs")
        assert "aborted" not in run.printed()
        assert run.end(signal.SIGTERM) == 0
    # The aborted record is at 0, its mark at 1, `one` at 2: what hangs begins at 4, behind the mark of `one`.
    assert committed(kafka, fresh_prefix) in (3, 4)


@pytest.mark.slow
def test_an_event_at_which_our_agent_raised_is_not_acknowledged(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> None:
    fill(kafka, fresh_prefix, "one", "raises", "hangs")
    with Run(kafka, fresh_prefix, tmp_path, "ours") as run:
        run.wait_for("event hangs")
        until(lambda: committed(kafka, fresh_prefix) > 0)
        time.sleep(1.0)  # five times the interval of commits
        assert committed(kafka, fresh_prefix) <= 2, "`raises` stands at 2"


def made(folder: Path, **given: object) -> object:
    running = asyncio.new_event_loop()
    sock = bound("127.0.0.1", 0)
    try:
        return _app(Place(Connection(bootstrap="127.0.0.1:1,[::1]:2", prefix="p.", **given), "w1", folder, sock), running).conf  # type: ignore[arg-type]
    finally:
        running.close()
        sock.close()


def test_every_setting_is_one_that_faust_takes(tmp_path: Path) -> None:
    conf: object = made(tmp_path)
    wanted = {
        "id": f"p.{EDGES}", "broker_session_timeout": 6.0, "broker_rebalance_timeout": 6.0, "broker_heartbeat_interval": 1.0,
        "table_standby_replicas": 0, "topic_allow_declare": False, "topic_disable_leader": True, "web_tables_enabled": False,
        "web_stats_enabled": False, "web_in_thread": False, "stream_wait_empty": False, "consumer_auto_offset_reset": "earliest",
    }  # fmt: skip
    assert {name: getattr(conf, name) for name in wanted} == wanted
    assert [str(url) for url in conf.broker_consumer] == ["kafka://127.0.0.1:1", "kafka://[::1]:2"]  # type: ignore[attr-defined]


def test_no_variable_of_the_environment_changes_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "BROKER_CREDENTIALS", "WEB_PORT", "CONSUMER_AUTO_OFFSET_RESET", "PROCESSING_GUARANTEE"):
        monkeypatch.setenv(name, "nonsense")
    conf: object = made(tmp_path)
    assert conf.processing_guarantee.value == "at_least_once"  # type: ignore[attr-defined]


def test_names_passwords_and_trust_reach_faust_as_they_reach_the_engine(tmp_path: Path) -> None:
    def with_(**given: str) -> object:
        return credentials_of(Connection(bootstrap="h:1", security=Security(**given)))  # type: ignore[arg-type]

    assert with_() is None
    known = {"sasl_mechanism": "SCRAM-SHA-512", "username": "alice", "password": "secret"}
    plain: object = with_(security_protocol="SASL_PLAINTEXT", **known)
    assert (plain.username, plain.password) == ("alice", "secret")  # type: ignore[attr-defined]
    assert (plain.mechanism.value, plain.protocol.value) == ("SCRAM-SHA-512", "SASL_PLAINTEXT")  # type: ignore[attr-defined]
    secure: object = with_(security_protocol="SASL_SSL", **known)
    assert secure.protocol.value == "SASL_SSL" and secure.ssl_context is not None  # type: ignore[attr-defined]
    tls: object = with_(security_protocol="SSL")
    assert tls.protocol.value == "SSL" and tls.context is not None  # type: ignore[attr-defined]
    assert "secret" not in repr(plain)
