"""The worker's web: is it alive, is it ready, how far behind is it. It asks for no token, for nothing here names anybody."""

import socket
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp.web import SockSite
from faust.web.drivers.aiohttp import Web

from connectors.faust.metrics import CONTENT_TYPE, Engine, Metrics, settled

BACKLOG = 128


def bound(address: str, port: int) -> socket.socket:
    """A socket that is ours from now on; port 0 picks a free one. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
    except BaseException:
        found.close()
        raise
    return found


def url_of(sock: socket.socket) -> str:
    """Where a socket that is bound to an address is reached."""
    address, port = sock.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class SocketWeb(Web):
    """Faust's web on a socket that was bound beforehand: a port that is taken is seen before anything else is begun."""

    def __init__(self, app: Any, sock: socket.socket) -> None:
        super().__init__(app)
        self._sock = sock

    async def start_server(self) -> None:
        """Begin to serve."""
        await self._runner.setup()
        await SockSite(self._runner, self._sock, backlog=BACKLOG).start()


def add_pages(app: Any, engine: Engine, metrics: Metrics, healthy: Callable[[], bool]) -> None:
    """Add `/healthz`, `/readyz`, `/metrics` and `/v1/lag` to Faust's web."""

    @app.page("/healthz")  # type: ignore[untyped-decorator]
    async def healthz(view: Any, _request: Any) -> Any:
        alive = healthy()
        return view.json({"status": "ok" if alive else "failed"}, status=200 if alive else 503)

    @app.page("/readyz")  # type: ignore[untyped-decorator]
    async def readyz(view: Any, _request: Any) -> Any:
        ready = healthy() and engine.ready
        return view.json({"status": "ready" if ready else "not-ready"}, status=200 if ready else 503)

    @app.page("/metrics")  # type: ignore[untyped-decorator]
    async def exposition(view: Any, _request: Any) -> Any:
        return view.bytes(metrics.text(), headers={"content-type": CONTENT_TYPE})

    @app.page("/v1/lag")  # type: ignore[untyped-decorator]
    async def lag(view: Any, _request: Any) -> Any:
        restoring = settled(engine.figures).restoring
        return view.json({
            "ready": engine.ready, "lag": [msgspec.to_builtins(one) for one in settled(engine.lag)],
            "restoring": [{"task": u.task, "partition": u.partition, "records": n} for u, n in sorted(restoring.items())],
        })  # fmt: skip
