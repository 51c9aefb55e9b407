"""The host on a real broker, with a stub of an engine: what operators see of a worker's life."""

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.connectors.faust_child import Child, until
from tests.connectors.test_faust_delivery import publish
from tests.parts.kafka import Broker, Kafka
from tests.parts.topics import make_topics

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
DIES_SECS_MAX = 30.0  # half of what Faust waits for a thread that does not end


def get(url: str, path: str) -> tuple[int, str]:
    try:
        with OPENER.open(url + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


@pytest.fixture
def prefix(kafka: Kafka, fresh_prefix: str) -> str:
    make_topics(kafka.bootstrap, {fresh_prefix + "breach.alerts": 2, fresh_prefix + "erasure.notices": 2})
    return fresh_prefix


@pytest.mark.slow
def test_pages_answer_and_a_signal_is_a_clean_end(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Child(kafka.bootstrap, prefix, tmp_path / str(number)) as child:
            url = child.wait_for("ready ")
            for page, says in (("/healthz", "ok"), ("/readyz", "ready")):
                status, text = get(url, page)
                assert (status, json.loads(text)) == (200, {"status": says})
            status, text = get(url, "/metrics")
            assert status == 200 and "consentinel_transactions_total 9.0" in text
            lag = json.loads(get(url, "/v1/lag")[1])
            assert lag["lag"][0] == {"task": "intake", "topic": "calls", "partition": 0, "records": 7, "secs": 1.5}
            assert lag["restoring"] == [{"task": "subject", "partition": 1, "records": 5}]
            for hidden in ("/tables", "/graph", "/stats", "/router", "/v1/events"):
                assert get(url, hidden)[0] == 404
            assert child.end(number) == 0
            assert child.printed().splitlines() == ["engine started", f"ready {url}", "engine stopped"]


@pytest.mark.slow
def test_the_worker_is_ready_only_once_its_engine_is(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    with Child(kafka.bootstrap, prefix, tmp_path / "w", mode="late") as child:
        child.wait_for("engine started")
        assert "ready" not in child.printed()
        url = child.wait_for("ready ")
        assert get(url, "/readyz")[0] == 200
        assert child.printed().count("ready ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("dies", "ended: the engine stopped: PositionLost: a topic no longer has what is to be read"),
        ("dies-amid-a-rebalance", "ended: the engine stopped: PositionLost: a topic no longer has what is to be read"),
        ("feed-dies", "ended: the read model's writer stopped: KeyError"),
    ],
)
def test_what_is_hosted_and_dies_ends_the_worker_with_its_reason(
    kafka: Kafka, prefix: str, tmp_path: Path, mode: str, why: str
) -> None:  # fmt: skip
    with Child(kafka.bootstrap, prefix, tmp_path / "w", mode=mode) as child:
        child.wait_for("ready ")
        began = time.monotonic()
        assert child.end(0) == 1
        assert time.monotonic() - began < DIES_SECS_MAX
        assert why in child.err.read_text()
        assert "engine stopped" in child.printed(), "it left its units to nobody"


@pytest.mark.slow
def test_a_broker_that_is_killed_and_comes_back_does_not_end_the_worker(kafka_jars: None, tmp_path: Path) -> None:
    with Broker() as own:
        make_topics(own.bootstrap, {"x.breach.alerts": 2, "x.erasure.notices": 2})
        with Child(own.bootstrap, "x.", tmp_path / "w") as child:
            url = child.wait_for("ready ")
            for first in (0, 2, 4):
                publish(own, "x.", first, 2)
                until(lambda first=first: f'"inc-{first}"' in child.err.read_text())
                if first < 4:
                    own.restart(kill=True)
            assert get(url, "/healthz")[0] == 200
            assert child.end(signal.SIGTERM) == 0
