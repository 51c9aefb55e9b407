"""A real Redis for tests: the one that is given by `$REDIS_URL`, else a `redis-server` as a child process.

    with RedisServer() as server:
        server.url                   # "redis://127.0.0.1:26379/0"
        server.restart(kill=True)    # the same port; empty, unless persistent=True
"""

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Protocol, Self

from tests.parts.process import SCRATCH, Child, PartMissing, free_ports

START_SECS_MAX = 20


class Redis(Protocol):
    """What every kind of server has. `kind`: given, testcontainers or binary."""

    @property
    def url(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def stop(self) -> None: ...


class GivenRedis:
    """A server that somebody else runs."""

    kind = "given"

    def __init__(self, url: str) -> None:
        self.url = url

    def stop(self) -> None:
        """It is not ours to stop."""


def program() -> str:
    """The command of redis-server; raises PartMissing when there is none."""
    found = shutil.which("redis-server")
    if found is None:
        raise PartMissing("redis-server was not found")
    return found


class RedisServer:
    """One server on a free port of the loopback. `options` are redis-server's: `RedisServer(requirepass="secret")`."""

    kind = "binary"

    def __init__(self, *, persistent: bool = False, **options: object) -> None:
        self.persistent = persistent
        self.options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        self.port = 0
        self.folder: Path | None = None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._child is not None, "the server is not running"
        return self._child.pid

    def start(self) -> Self:
        """Start it; after `stop(keep=True)` on the port it had."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}redis-"))
            (self.port,) = free_ports(1)
        command = [program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes" if self.persistent else "no"]
        for name, value in self.options.items():
            command += [f"--{name}", value]
        child = Child(command, self.folder, self.folder / "redis.log", scratch=True)
        child.wait_until(self._answers, START_SECS_MAX)
        self._child = child
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))  # -LOADING: it reads its file and will answer later
        except OSError:
            return False

    def restart(self, *, kill: bool = False) -> None:
        """SIGTERM (or SIGKILL) and up again on the same port."""
        self.stop(kill=kill, keep=True)
        self.start()

    def pause(self) -> None:
        """Freeze it: its connections stay open and nothing answers."""
        assert self._child is not None, "the server is not running"
        self._child.pause()

    def resume(self) -> None:
        assert self._child is not None, "the server is not running"
        self._child.resume()

    def stop(self, *, kill: bool = False, keep: bool = False) -> None:
        """End it. `keep`: leave port and files for another `start`."""
        if self._child is not None:
            self._child.stop(kill=kill)
            self._child = None
        if not keep and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop(kill=True)
