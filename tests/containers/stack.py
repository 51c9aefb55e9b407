"""The compose file as it stands, under a project name and a port of the test's own, so that it meets no other deployment."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from tests.parts.process import free_ports

ROOT = Path(__file__).resolve().parents[2]
UP_SECS_MAX = 420  # building the image included
DOWN_SECS_MAX = 120
CALL_SECS_MAX = 60
ANSWER_SECS_MAX = 10.0
LOG_LINES = "40"


class Stack:
    """`docker compose up` and `down -v` as a context. `url` is the gateway's."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.project = f"consentinel-test-{uuid.uuid4().hex[:8]}"

    def compose(self, *words: str, timeout_secs: float = CALL_SECS_MAX) -> str:
        """One call of Compose: what it printed. Fails with what it complained of, and with the services' last lines."""
        command = ["docker", "compose", "-p", self.project, "--ansi", "never", "--progress", "plain", *words]
        environ = {**os.environ, "CONSENTINEL_PORT": str(self.port)}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_secs,
            check=False,
        )  # fmt: skip
        if done.returncode and words[0] == "up":
            shown = self.compose("ps", "-a") + self.compose("logs", "--no-color", "--tail", LOG_LINES)
            raise AssertionError(f"{' '.join(words)}:\n{done.stderr[-3_000:]}\n{shown}")
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-3_000:]}"
        return done.stdout

    def __enter__(self) -> Self:
        try:
            self.compose("up", "--build", "--wait", "--wait-timeout", str(UP_SECS_MAX - 120), timeout_secs=UP_SECS_MAX)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.compose("down", "-v", "--timeout", "10", timeout_secs=DOWN_SECS_MAX)

    def administrator(self) -> "Caller":
        """The caller whose token the gateway wrote when it first started."""
        return Caller(self.url, self.compose("exec", "-T", "gateway", "cat", "/data/token").strip())


class Caller:
    """Someone with a token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._http = {"Authorization": f"Bearer {token}"}

    def post(self, path: str, body: Any, content_type: str = "application/json") -> Any:
        """The answer's document; anything but a success fails with the problem."""
        headers = {**self._http, "Content-Type": content_type}
        answer = httpx.post(self.url + path, json=body, headers=headers, timeout=ANSWER_SECS_MAX, trust_env=False)
        assert answer.is_success, f"POST {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def becomes(self, name: str, roles: list[str], controller: str) -> "Caller":
        """A new caller with these roles for one controller."""
        made = self.post("/v1/tokens", {"name": name, "roles": roles, "controllers": [controller]})
        return Caller(self.url, made["token"])

    def send(self, type_: str, controller: str, data: dict[str, Any]) -> None:
        """One CloudEvent, accepted."""
        event = {
            "specversion": "1.0", "id": uuid.uuid4().hex, "source": "tests", "type": type_, "controller": controller,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "data": data,
        }  # fmt: skip
        self.post("/v1/events", event, "application/cloudevents+json")


def until(found: Callable[[], Any], wanted: Callable[[Any], bool], timeout_secs: float) -> Any:
    """Ask again until the answer is the wanted one; fails with the last answer."""
    deadline = time.monotonic() + timeout_secs
    while not wanted(last := found()):
        assert time.monotonic() < deadline, f"not within {timeout_secs} s; the last answer was {last}"
        time.sleep(0.2)
    return last
