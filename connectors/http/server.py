"""Serves the door until SIGTERM or SIGINT, then lets calls finish and stops the service: nothing accepted is lost either way."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from connectors.http.app import create_app
from connectors.http.door import Options
from connectors.http.tokens import TokenStore
from engine.deployment import Board, Deployment

GRACE_SECS = 10  # for calls under way at a stop; each is bounded far below
KEEP_ALIVE_SECS = 30
BACKLOG = 1_024


class _Server(uvicorn.Server):
    """Uvicorn that tells when it serves, and that comes back after a signal instead of raising it again."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Begin to serve, then tell where: with port 0 the system has chosen it."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT. Uvicorn would raise them again afterwards, and the service would never be stopped."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    service: Deployment, tokens: TokenStore, host: str = "127.0.0.1", port: int = 0,
    ready: Callable[[str], None] = lambda url: None, options: Options | None = None, board: Board | None = None,
) -> bool:  # fmt: skip
    """Serve a started service until a signal, calling `ready` with the URL once it does; stops the service in any case.

    `board` is what several doors share. Returns False when it could not begin (the port is taken).
    """
    try:
        server = _server(service, tokens, host, port, ready, options, board)
        try:
            server.run()
        except SystemExit:  # uvicorn's way to say that it cannot bind
            return False
        return server.started
    finally:
        service.stop()


def _server(
    service: Deployment, tokens: TokenStore, host: str, port: int, ready: Callable[[str], None], options: Options | None,
    board: Board | None = None,
) -> _Server:  # fmt: skip
    config = uvicorn.Config(
        create_app(service, tokens, options, board), host=host, port=port, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=GRACE_SECS, timeout_keep_alive=KEEP_ALIVE_SECS, backlog=BACKLOG, ws="none", proxy_headers=False,
    )  # fmt: skip
    return _Server(config, ready)
