"""How to reach Redis: short time-outs, no silent retries, and word of every time when it may have forgotten something.

Redis that restarts, or whose replica takes over, may have lost what it had confirmed: notes on the board, the last seconds of
state. Every server process has a run id, which each new connection asks for. Whoever reads trusts what it finds only once a beat
is later than the time at which a new run id was met. A server that may evict keys is refused: it would lose one of a person's two
identifiers and keep the other.
"""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.clock import Clock
from engine.deployment import Unreachable

READ_SECS_MAX: Final = 0.5  # a caller who waits for a decision is better denied than kept waiting
WRITE_SECS_MAX: Final = 5.0  # a batch of some thousand records on a busy server
CONNECTIONS_MAX: Final = 64  # more than a door has threads
PASSWORD_BYTES_MAX: Final = 65_536
NO_EVICTION: Final = "noeviction"


class RedisImpossible(Exception):
    """Settings of which no connection can be made; the text names the setting, never its value."""


class RedisConnection(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is. `url`: `redis://user:password@host:port/0`, `rediss://` for TLS (`?ssl_ca_certs=FILE` names its authority).

    The password may come from a file instead, which is read for every new client.
    """

    url: str
    password_file: Path | None = None
    prefix: str = ""

    def client(self, timeout_secs: float, met: Callable[[Any], None]) -> "redis.Redis":
        """A client that calls `met` with each new connection. Raises `RedisImpossible`."""
        given: dict[str, Any] = {}
        if self.password_file is not None:
            given["password"] = self._password(self.password_file)
        try:
            pool: Any = redis.BlockingConnectionPool.from_url(
                self.url, max_connections=CONNECTIONS_MAX, timeout=timeout_secs, socket_timeout=timeout_secs,
                socket_connect_timeout=timeout_secs, retry=Retry(NoBackoff(), 0), retry_on_error=[], protocol=2,
                redis_connect_func=met, **given,
            )  # fmt: skip
        except (ValueError, TypeError):
            raise RedisImpossible("redis.url: is redis://host:port, rediss://host:port or unix://path") from None
        return redis.Redis(connection_pool=pool)

    @staticmethod
    def _password(file: Path) -> str:
        try:
            data = file.read_bytes()
        except OSError:
            data = b""
        if not data.strip() or len(data) > PASSWORD_BYTES_MAX:
            raise RedisImpossible("redis.password_file: the file cannot be read, or holds no password")
        return data.decode("utf-8", "surrogateescape").rstrip("\r\n")

    def __repr__(self) -> str:
        return f"RedisConnection(prefix={self.prefix!r})"  # the URL may hold a password


class RedisLife:
    """One client, and since when the server behind it is the same. Thread-safe; connects at first use."""

    def __init__(self, connection: RedisConnection, clock: Clock, timeout_secs: float = READ_SECS_MAX) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._run_id = b""
        self.met_ms = 0  # when a server process was met that was another one than before (epoch ms)
        self.client = connection.client(timeout_secs, self._meet)

    def _meet(self, link: Any) -> None:
        """Greet as the library does, then ask who it is."""
        link.on_connect()
        link.send_command("INFO")
        info = dict(line.split(b":", 1) for line in link.read_response().splitlines() if b":" in line)
        if info.get(b"maxmemory_policy", NO_EVICTION.encode()) != NO_EVICTION.encode() and info.get(b"maxmemory", b"0") != b"0":
            raise redis.ConnectionError("the server may evict keys: set maxmemory-policy noeviction")
        with self._lock:
            if info.get(b"run_id", b"") != self._run_id:
                self.met_ms = self._clock()
                self._run_id = info.get(b"run_id", b"")

    def close(self) -> None:
        """Let go of every connection."""
        self.client.connection_pool.disconnect()


@contextmanager
def translated() -> Iterator[None]:
    """What Redis cannot do now is `Unreachable`, and says why without a value."""
    try:
        yield
    except (redis.RedisError, OSError, ssl.SSLError) as fault:
        raise Unreachable(f"Redis: {reason_of(fault)}") from None


def reason_of(fault: Exception) -> str:
    """What kind of fault it is: the texts of servers quote commands, and commands hold values."""
    return "may evict keys: set maxmemory-policy noeviction" if "noeviction" in str(fault) else type(fault).__name__
