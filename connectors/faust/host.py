"""A worker as one process: Faust starts it, watches it, serves its pages and ends it; the engine is ready long before Faust is.

The engine and the read model's writer have threads and groups of their own. They start when Faust first starts, before its
consumer joins its group: a rebalance of the edges delays nothing that is hot. When one of them dies the worker ends with its
reason, at once: a process that answers and does nothing would be the worst of both.

What is relied on in Faust stands in `tests/contracts/test_faust.py`.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import faust
import msgspec
from faust.app.base import BootStrategy
from faust.types.auth import CredentialsT

from connectors.faust.edges import KINDS, MEDIA, Edge, Sink
from connectors.faust.metrics import Engine, Feed, Metrics
from connectors.faust.pages import SocketWeb, add_pages, url_of
from connectors.faust.transport import CommittedTransport
from engine.kafka.connection import Connection

log = logging.getLogger("consentinel.host")

EDGES: Final = "consentinel-edges"  # Faust's group: its name begins as the engine's does, so one right on groups is for both
SESSION_SECS: Final = 6.0  # the least that brokers allow by default: how long a killed worker's edges wait for another
HEARTBEAT_SECS: Final = 1.0
# How long one event may be tried before Kafka takes us for dead: a receiver may be away for days.
POLL_SECS_MAX: Final = 7 * 86_400.0
BUFFER_EVENTS_MAX: Final = 256  # of each topic, fetched ahead of the one at hand
WATCH_SECS: Final = 0.1


class HostedFailed(Exception):
    """What the worker was there for has died; the text is the line that says why."""


class Place(msgspec.Struct, frozen=True):
    """Where a worker runs: how to reach Kafka, its name in the group, its folder, and the socket of its pages."""

    connection: Connection
    name: str
    folder: Path
    sock: socket.socket


class _Boot(BootStrategy):
    """Faust writes nothing: no producer."""

    enable_kafka_producer = False


class _App(faust.App):
    """Faust's app with our parts in it."""

    BootStrategy = _Boot

    def begin(self, place: Place, engine: Engine, feed: Feed | None, sink: Sink, ready: Callable[[str], None]) -> None:
        """Say what is hosted; before the worker starts."""
        self._place, self._engine, self._feed, self._sink, self._tell_ready = place, engine, feed, sink, ready
        self.web = SocketWeb(self, place.sock)

    def healthy(self) -> bool:
        """Whether nothing that is hosted has died."""
        return self._engine.failed is None and (self._feed is None or self._feed.failed is None)

    def _new_transport(self) -> Any:
        return CommittedTransport(self.conf.broker_consumer, self)

    async def on_first_start(self) -> None:
        """Start what is hosted, before Faust's own consumer."""
        await super().on_first_start()
        self._engine.start()
        if self._feed is not None:
            self._feed.start()
        self.add_future(self._watch())

    async def _watch(self) -> None:
        told = False
        while not self.should_stop:
            if self._engine.failed is not None:
                why = f": {self._engine.reason}" if self._engine.reason else ""
                raise HostedFailed(f"the engine stopped: {self._engine.failed}{why}")
            if self._feed is not None and self._feed.failed is not None:
                raise HostedFailed(f"the read model's writer stopped: {self._feed.failed}")
            if not told and self._engine.ready:
                told = True
                self._tell_ready(url_of(self._place.sock))
            await self.sleep(WATCH_SECS)

    async def on_stop(self) -> None:
        """Stop what is hosted first: its units find another worker the sooner."""
        running = asyncio.get_running_loop()
        for hosted in (self._engine, self._feed):
            if hosted is not None:
                await running.run_in_executor(None, hosted.stop)
        await super().on_stop()

    async def on_shutdown(self) -> None:
        """Let go of the sink, now that no agent uses it any more."""
        await super().on_shutdown()
        await self._sink.close()


class _Worker(faust.Worker):
    """Faust's worker, told to stop before it began if need be."""

    told: Callable[[], bool] = staticmethod(lambda: False)

    async def on_first_start(self) -> None:
        """Take over the signals; one that came just before counts as well."""
        await super().on_first_start()
        if self.told():
            await self.stop()


def host(
    place: Place, engine: Engine, feed: Feed | None, sink: Sink, source: str, ready: Callable[[str], None],
    told: Callable[[], bool] = lambda: False, media: Sink | None = None,
) -> None:  # fmt: skip
    """Run until SIGTERM or SIGINT; calls `ready` with the URL once the engine is. Raises `HostedFailed`.

    `told`: whether a signal came before. `media` takes the orders to delete recordings; without it they stay on their
    topic. Stops engine, feed and sink in any case.
    """
    running = asyncio.new_event_loop()
    asyncio.set_event_loop(running)
    edges = [Edge(kind, sink, source) for kind in KINDS] + ([Edge(MEDIA, media, source)] if media is not None else [])
    app = _app(place, running)
    app.begin(place, engine, feed, sink, ready)
    add_pages(app, engine, Metrics(engine, feed, edges), app.healthy)
    _add_agents(app, place.connection, edges)

    worker = _Worker(
        app, loop=running, quiet=True, redirect_stdouts=False, override_logging=False, workdir=Path.cwd(), loglevel="info",
    )  # fmt: skip
    worker.told, worker.spinner = told, None  # its spinner writes to standard output
    try:
        worker.execute_from_commandline()
    except SystemExit as done:
        if done.code:
            reason = app.crash_reason or worker.crash_reason
            if isinstance(reason, HostedFailed):
                raise reason from None
            raise HostedFailed(f"the host stopped: {type(reason).__name__ if reason else 'unknown'}") from None
    finally:
        for hosted in (engine, feed):
            if hosted is not None:
                hosted.stop()
        place.sock.close()
        with suppress(Exception):
            asyncio.set_event_loop(None)


def _app(place: Place, running: asyncio.AbstractEventLoop) -> _App:
    connection = place.connection
    return _App(
        connection.prefix + EDGES, loop=running, env_prefix="CONSENTINEL_FAUST", autodiscover=False,
        datadir=str(place.folder / "faust"), broker=[f"kafka://{_bracketed(h)}:{p}" for h, p in connection.addresses()],
        broker_credentials=credentials_of(connection), broker_client_id=f"{place.name}-edges",
        broker_session_timeout=SESSION_SECS, broker_rebalance_timeout=SESSION_SECS, broker_heartbeat_interval=HEARTBEAT_SECS,
        broker_max_poll_interval=POLL_SECS_MAX, stream_processing_timeout=POLL_SECS_MAX,
        broker_commit_livelock_soft_timeout=POLL_SECS_MAX, broker_commit_interval=1.0, stream_buffer_maxsize=BUFFER_EVENTS_MAX,
        consumer_auto_offset_reset="earliest", consumer_group_instance_id=place.name if connection.group_instance else None,
        stream_wait_empty=False, table_standby_replicas=0, topic_allow_declare=False, topic_disable_leader=True,
        reply_create_topic=False, web_in_thread=False, web_tables_enabled=False, web_stats_enabled=False,
        web_graph_enabled=False, web_router_enabled=False, web_metrics_enabled=False, worker_redirect_stdouts=False,
        key_serializer="raw", value_serializer="raw",
    )  # fmt: skip


def _add_agents(app: _App, connection: Connection, edges: Sequence[Edge]) -> None:
    for edge in edges:
        topic = app.topic(connection.prefix + edge.kind.topic, key_type=bytes, value_type=bytes, internal=False)
        run: Any = edge.run
        app.agent(topic, name=f"edge-{edge.kind.topic}")(run)


def credentials_of(connection: Connection) -> CredentialsT | None:
    """The connection's name, password and trust as Faust takes them. Raises `SettingImpossible`."""
    security = connection.security
    trust = security.context() if security.tls else None
    if security.sasl:
        said = security.config()
        return faust.SASLCredentials(
            username=said["sasl.username"], password=said["sasl.password"], mechanism=said["sasl.mechanism"], ssl_context=trust
        )
    return faust.SSLCredentials(trust) if trust is not None else None


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
