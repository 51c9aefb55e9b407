"""The program as people use it: real processes, a real port, a folder that is killed and opened again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECS = 60.0
CONTROLLER = "acme"
TEL = "+12025550123"
NUMBER = f"tel:{TEL}"


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CONSENTINEL_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "CONSENTINEL_TOKEN_FILE": str(folder / "token"), **more}


class Program:
    """`consentinel` in a folder of its own; `up` runs beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.token = folder, folder / "data", folder / "token"
        self.url = ""
        self.up: subprocess.Popen[str] | None = None

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "connectors.cli", *args]

    def start(self) -> None:
        self.up = subprocess.Popen(
            self.command("up", "--data", str(self.data), "--port", "0", "--token-file", str(self.token)),
            cwd=self.folder, env=environment(self.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.up.stdout is not None
        line = self.up.stdout.readline()
        if not line.startswith("ready http://"):
            self.up.kill()
            raise AssertionError(f"not ready: {line!r} {self.up.communicate()[1][-2000:]}")
        self.url = line.split()[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.up is not None
        self.up.send_signal(number)
        self.up.communicate(timeout=WAIT_SECS)
        code = self.up.returncode
        self.up = None
        return code

    def run(self, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), cwd=self.folder, env=environment(self.folder, CONSENTINEL_URL=self.url, **more),
            capture_output=True, text=True, timeout=WAIT_SECS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def json(self, *args: str, code: int = 0, **more: str) -> Any:
        done = self.run(*args, "--output", "json", **more)
        assert done.returncode == code, (args[:2], done.returncode, done.stderr)
        return json.loads(done.stdout)  # one document, and nothing else


def until(check: Any) -> Any:
    give_up = time.monotonic() + WAIT_SECS
    while True:
        found = check()
        if found or time.monotonic() > give_up:
            return found
        time.sleep(0.1)


def event(type_: str, data: dict[str, Any], id_: str) -> dict[str, Any]:
    return {"specversion": "1.0", "id": id_, "source": "test", "type": type_, "controller": CONTROLLER,
            "time": datetime.now(UTC).isoformat(), "data": data}  # fmt: skip


def conversation(name: str) -> list[dict[str, Any]]:
    parties = [
        {"party_id": TEL, "role": "customer", "name": "Ada Example", "identifiers": [{"kind": "tel", "value": TEL}]},
        {"party_id": "a1", "role": "agent", "identifiers": [{"kind": "employee", "value": "a1"}]},
    ]
    started = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": parties}
    lines = {"conversation_id": name, "segments": [{"party_id": TEL, "text": "I would like to order a green bicycle."}]}
    return [
        event("call.started", started, f"{name}-1"), event("call.transcribed", lines, f"{name}-2"),
        event("call.ended", {"conversation_id": name}, f"{name}-3"),
    ]  # fmt: skip
