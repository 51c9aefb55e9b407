"""A server as a child process of the tests: it ends with them, however they end, and can be killed, frozen and started again."""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Below the range that Linux takes outgoing ports from: a client that dials while the server is down can then never be given
# the server's own port, which would keep the server from coming back on it.
PORTS = range(20_000, 32_000)
PORT_TRIES_MAX = 200
STOP_SECS_MAX = 20.0
TAIL_CHARS = 3_000
SCRATCH = "consentinel-"  # how the names of folders begin that a server's end may remove

# Waits for the end of a pipe that only the parent holds, so it acts even when the parent was killed with -9.
WATCH = 'read -r _; kill -9 "$1"'
WATCH_SCRATCH = WATCH + '; rm -rf -- "$2"'


class PartFailed(RuntimeError):
    """A server that the tests need did not come up; the text ends with what it printed last."""


def free_ports(count: int) -> list[int]:
    """`count` different ports on the loopback that nobody listens on at this moment."""
    found: list[int] = []
    for port in random.sample(PORTS, PORT_TRIES_MAX):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise PartFailed(f"no {count} free ports among {PORT_TRIES_MAX} tried")


class PartMissing(PartFailed):
    """What the server is made of cannot be had on this machine: tests that need it are skipped, where skipping is allowed."""


class Child:
    """One server process in its own session and in `folder`, its output in `log`.

    `scratch`: the folder holds nothing but this server's files, and goes with it when the tests are killed.
    """

    def __init__(self, command: Sequence[str], folder: Path, log: Path, *, scratch: bool = False) -> None:
        if scratch:  # nobody's work may ever be handed in here by mistake
            temporary = Path(tempfile.gettempdir()).resolve()
            assert temporary in folder.resolve().parents and folder.name.startswith(SCRATCH), "not a server's scratch folder"
        self.log = log
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True
            )
        self._watch = subprocess.Popen(
            ["sh", "-c", WATCH_SCRATCH if scratch else WATCH, "watch", str(self.process.pid), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def printed(self) -> str:
        """What this process has printed so far (not what an earlier one wrote into the same file)."""
        with self.log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def wait_until(self, ready: Callable[[], bool], timeout_secs: float) -> None:
        """Until `ready` says so; raises PartFailed when the process ends or the time is over, and leaves no process behind."""
        deadline = time.monotonic() + timeout_secs
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(kill=True)
                raise PartFailed(f"{self.process.args!r:.200} did not come up:\n{self.printed()[-TAIL_CHARS:]}")
            time.sleep(0.05)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, *, kill: bool = False) -> None:
        """End it with SIGTERM, or with SIGKILL when `kill` or when it does not end in time."""
        self._watch.kill()
        self._watch.wait()
        if self._watch.stdin is not None:
            self._watch.stdin.close()
        if self.process.poll() is None:
            self.resume()  # a frozen process would take no SIGTERM
            if not kill:
                self.process.terminate()
                try:
                    self.process.wait(STOP_SECS_MAX)
                    return
                except subprocess.TimeoutExpired:
                    pass
            self.process.kill()
        self.process.wait(STOP_SECS_MAX)


def is_required() -> bool:
    """Whether a part that is missing is an error: in CI, and where CONSENTINEL_REQUIRE_KAFKA says so."""
    return os.environ.get("CI", "").lower() in {"1", "true"} or os.environ.get("CONSENTINEL_REQUIRE_KAFKA") == "1"
