"""What can be said of the container files without an engine: one port, nothing left to luck, and any builder will do."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("run", ".ci/run", ".ci/parts", "deploy/containers/engine", "deploy/containers/stand-ins", "deploy/docker/consentinel")
SCRIPT_SECS_MAX = 30
ONE_SHOT = "topology"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def test_one_port_is_published_and_to_this_machine_only(services: dict[str, Any]) -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "gateway": ["127.0.0.1:${CONSENTINEL_PORT:-8080}:8080"]
    }
    assert not any(service.get("privileged") or "network_mode" in service for service in services.values())


def test_every_service_waits_until_what_it_needs_is_ready(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed == ONE_SHOT else "service_healthy"
            assert how == {"condition": wanted}, f"{name} -> {needed}"
            assert needed == ONE_SHOT or services[needed]["healthcheck"]["test"][0] == "CMD"


def test_health_checks_survive_an_engine_that_splits_their_words(services: dict[str, Any]) -> None:
    for name, service in services.items():
        words = service["healthcheck"].get("test", [])
        assert not any(" " in word for word in words), name


def test_the_ring_is_shared_by_all_who_open_and_lies_in_no_data(services: dict[str, Any]) -> None:
    for name in ("worker-1", "worker-2", "gateway"):
        assert services[name]["volumes"] == [f"{name}:/data", "ring:/ring"]
        assert services[name]["environment"]["CONSENTINEL_KEYS__RING"] == "/ring/ring"


def test_the_image_builds_without_buildkit_from_what_the_builder_is_given() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^# *syntax=|<<|^\w+ --(mount|link|chmod|exclude|parents)", text, re.MULTILINE)
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(f"{source.rstrip('/')}/".startswith(f"{one}/") for one in given), source
    assert "--require-hashes" in text
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_read_by_their_shell(script: str) -> None:
    shell = (ROOT / script).read_text().splitlines()[0].removeprefix("#!").split()[-1].rpartition("/")[2]
    subprocess.run([shell, "-n", script], cwd=ROOT, check=True, timeout=SCRIPT_SECS_MAX)


@contextmanager
def answering(status: int) -> Iterator[str]:
    """An address that answers everything with this status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/readyz"
        server.shutdown()
        thread.join()


def health(url: str) -> int:
    command = [sys.executable, "-I", str(ROOT / "deploy/docker/healthy")]
    environ = {"READY_URL": url}
    return subprocess.run(command, env=environ, stderr=subprocess.DEVNULL, timeout=SCRIPT_SECS_MAX, check=False).returncode


def test_a_container_is_healthy_when_it_says_that_it_is_ready_and_not_before() -> None:
    with answering(200) as url:
        assert health(url) == 0
    assert health(url) == 1, "nobody is there any more"
    with answering(503) as url:
        assert health(url) == 1
