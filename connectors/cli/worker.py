"""The command `worker`: one worker of a cluster, and what it hosts; it says `ready URL` once it is assigned and restored.

Everything that can be wrong is looked at before anything is begun: settings, the web's port, the cluster, the folder, the ring.
"""

import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from connectors.cli.faults import BadUsage, CliFault, Unanswered
from connectors.cli.session import DATA, Session, command
from connectors.cli.stopping import LOG_FORMAT, Stopper

if TYPE_CHECKING:
    from connectors.faust import Sink
    from connectors.faust.metrics import Feed
    from engine.kafka.connection import Connection

PORT = 6066  # of the pages; `up` and `gateway` have theirs, and often stand on the same host


class WorkerEnded(CliFault):
    """What the worker was there for stopped by itself. Part of `CliFault`'s tree."""

    exit_code = 1


def add_worker(app: typer.Typer) -> None:
    """Add `worker`."""
    command(app, "worker")(worker)


def worker(
    session: Session,
    data: Annotated[Path, typer.Option("--data", help="Folder of this worker's stores; begun when it is not there.")] = DATA,
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="The cluster; else CONSENTINEL_KAFKA__BOOTSTRAP.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Of its pages; 0 picks a free one.")] = PORT,
    host: Annotated[str | None, typer.Option("--host", help="Address of its pages.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Its name, which a restart must keep; else one is made.")] = None,
    standby: Annotated[bool, typer.Option("--standby", help="Also keep copies of what other workers own.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Once: go on from what is left where topics no longer have what is to be read.")
    ] = False,
) -> None:  # fmt: skip
    """Work on a cluster until SIGTERM or SIGINT. Exit code 1: it stopped by itself, and says why."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=LOG_FORMAT)
    stopper = Stopper()
    connection = session.settings.kafka.connection(kafka)
    if name is not None:
        connection = msgspec.structs.replace(connection, worker=name)
    if standby:
        connection = msgspec.structs.replace(connection, standby=True)
    sock = _bound(host or session.settings.http.host, port)
    try:
        _run(session, data, connection, sock, stopper, accept_loss=accept_loss)
    finally:
        sock.close()


def _run(
    session: Session, data: Path, connection: "Connection", sock: socket.socket, stopper: Stopper, *, accept_loss: bool
) -> None:  # fmt: skip
    from connectors.cli.media import shelves_of, sink_of  # noqa: PLC0415 -- as for Faust, below
    from connectors.faust import HostedFailed, Place, host  # noqa: PLC0415 -- no other command needs Faust, nor Kafka's clients
    from engine.kafka.names import Names  # noqa: PLC0415
    from engine.kafka.preflight import check  # noqa: PLC0415
    from engine.kafka.worker import Worker  # noqa: PLC0415
    from engine.topology import default_topology  # noqa: PLC0415

    topology = default_topology()
    names = Names(connection.prefix, topology.task_specs())
    named = connection.worker_name(data)
    sink, settings = _sink(session), session.settings
    shelves = shelves_of(settings.media, [data, settings.keys.ring or data.with_name(data.name + ".ring")])
    registry = session.registry()
    feed = _feed(session, connection, names, named)
    check(connection, names, topology)
    engine = Worker.open(
        connection, data, ring=session.ring(data), name=named, topology=topology, limits=session.limits(),
        accept_loss=accept_loss, look_up=None if registry is None else registry.schema,
        library=session.library(),
    )  # fmt: skip
    place = Place(connection, named, data, sock)
    source = f"consentinel/{engine.ring.deployment()}"
    media = None if shelves is None else sink_of(shelves, settings.media, engine)
    try:
        host(place, engine, feed, sink, source, lambda url: print(f"ready {url}", flush=True), lambda: stopper.told, media)
    except HostedFailed as ended:
        raise WorkerEnded(str(ended)) from None


def _bound(address: str, port: int) -> socket.socket:
    from connectors.faust.pages import bound  # noqa: PLC0415 -- as above

    try:
        return bound(address, port)
    except OSError:
        raise Unanswered("it cannot listen there: the port is taken, or the address is not this machine's") from None


def _sink(session: Session) -> "Sink":
    """Where alerts and notices go. Raises `BadUsage`."""
    from connectors.faust import LogSink  # noqa: PLC0415 -- as above
    from connectors.webhook import Webhook, WebhookImpossible  # noqa: PLC0415

    settings = session.settings.webhook
    if settings.url is None:
        return LogSink()
    try:
        return Webhook(settings.url.get_secret_value(), settings.signing_secret(), ca_file=settings.ca_file)
    except WebhookImpossible as wrong:
        raise BadUsage(str(wrong)) from None


def _feed(session: Session, connection: "Connection", names: Any, named: str) -> "Feed | None":
    """The read model's writer, where there is a Redis. Raises `BadUsage`."""
    settings = session.settings.redis
    if settings.url is None:
        return None
    from connectors.redis import Feed, RedisConnection, RedisLife, RedisWriter  # noqa: PLC0415 -- as above
    from connectors.redis.connection import WRITE_SECS_MAX, RedisImpossible  # noqa: PLC0415
    from engine.clock import system_clock  # noqa: PLC0415
    from engine.kafka.changelog_reader import ChangelogReader  # noqa: PLC0415
    from engine.kafka.clients import ConfluentClients  # noqa: PLC0415

    reach = RedisConnection(url=settings.needed_url(), password_file=settings.password_file, prefix=connection.prefix)
    try:
        writer = RedisWriter(RedisLife(reach, system_clock, WRITE_SECS_MAX), connection.prefix)
    except RedisImpossible as wrong:
        raise BadUsage(str(wrong)) from None
    clients, tasks = ConfluentClients(connection, names), tuple(dict.fromkeys(unit.task for unit in names.units))
    return Feed(lambda: ChangelogReader(connection, clients, names, tasks, f"{named}-readmodel"), writer, system_clock)

