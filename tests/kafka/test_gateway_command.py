"""The command `gateway`: it says when it serves, stops when told to, and names what keeps it from serving within seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.doors.http.conftest import STRUCTURED, cloud_event, consent
from tests.parts.kafka import Kafka
from tests.parts.redis import RedisServer

from .gateway_site import WAIT_SECS_MAX

pytestmark = pytest.mark.slow
NUMBER = "+493090182200"


@pytest.fixture
def redis_() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_the_command_serves_until_it_is_told_to_stop(
    kafka: Kafka, redis_: RedisServer, fresh_prefix: str, tmp_path: Path
) -> None:
    environment = {
        **os.environ, "CONSENTINEL_KAFKA__BOOTSTRAP": kafka.bootstrap, "CONSENTINEL_KAFKA__PREFIX": fresh_prefix,
        "CONSENTINEL_REDIS__URL": redis_.url, "CONSENTINEL_KEYS__RING": str(tmp_path / "ring"),
    }  # fmt: skip
    program = [sys.executable, "-m", "connectors.cli"]
    serve = [*program, "gateway", "--data", str(tmp_path / "data"), "--port", "0", "--token-file", str(tmp_path / "token")]
    early = subprocess.run(serve, env=environment, capture_output=True, timeout=WAIT_SECS_MAX, check=False)
    assert early.returncode == 2 and b"TopicsMissing" in early.stderr and not (tmp_path / "ring").exists()
    made = subprocess.run([*program, "topology", "apply"], env=environment, capture_output=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, url = process.stdout.readline().split()
            assert word == "ready"
            headers = {"authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
            with httpx.Client(base_url=url, headers=headers, timeout=WAIT_SECS_MAX) as client:
                body = json.dumps(cloud_event("consent.given", consent(NUMBER)))
                assert client.post("/v1/events", content=body, headers=STRUCTURED).status_code == 202
                ask = {"controller": "acme", "use": "dial", "channel": "voice", "identifiers": [{"kind": "tel", "value": NUMBER}]}
                assert set(client.post("/v1/decisions", json=ask).json()["reasons"]) >= {"stale"}  # nobody feeds the read model
                assert client.get("/readyz").json() == {"status": "not-ready", "reason": "stale"}
                assert client.get("/healthz").status_code == 200
        finally:
            process.terminate()
        assert process.wait(WAIT_SECS_MAX) == 0
    (tmp_path / "ring").rename(tmp_path / "elsewhere")
    again = subprocess.run(serve, env=environment, capture_output=True, timeout=WAIT_SECS_MAX, check=False)
    assert again.returncode == 2 and b"RingMissing" in again.stderr  # a new ring would open nothing of what is there


@pytest.mark.parametrize(("changed", "word"), [
    ({"CONSENTINEL_KAFKA__BOOTSTRAP": "127.0.0.1:1"}, b"BrokerUnreachable"),
    ({"CONSENTINEL_REDIS__URL": ""}, b"CONSENTINEL_REDIS__URL"),
    ({"CONSENTINEL_REDIS__URL": "nonsense-Sentinel"}, b"redis.url"),
])  # fmt: skip
def test_a_setting_that_cannot_work_is_named_within_ten_seconds(tmp_path: Path, changed: dict[str, str], word: bytes) -> None:
    given = {"CONSENTINEL_KAFKA__BOOTSTRAP": "127.0.0.1:1", "CONSENTINEL_REDIS__URL": "redis://127.0.0.1:1", **changed}
    serve = [sys.executable, "-m", "connectors.cli", "gateway", "--data", str(tmp_path / "data"), "--port", "0"]
    found = subprocess.run(serve, env={**os.environ, **given}, capture_output=True, timeout=20, check=False)
    assert found.returncode == 2 and word in found.stderr and b"Sentinel" not in found.stderr
    assert not (tmp_path / "data").exists()
