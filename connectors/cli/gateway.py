"""The command `gateway`: the doors of a cluster, as many as are wanted, each on its own. The engine runs in workers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from connectors.cli.faults import BadUsage, Unanswered
from connectors.cli.session import DATA, Session, command

if TYPE_CHECKING:
    from connectors.cli.serving import Served

SETTINGS_SECS_MAX = 30.0  # to read every controller's settings
PRIVATE = 0o700


def add_gateway(app: typer.Typer) -> None:
    """Add `gateway`."""
    command(app, "gateway")(gateway)


def gateway(
    session: Session,
    data: Annotated[Path, typer.Option("--data", help="Folder of this gateway's tokens; begun when it is not there.")] = DATA,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="0 picks a free one.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="The cluster; else CONSENTINEL_KAFKA__BOOTSTRAP.")
    ] = None,
) -> None:
    """Serve the doors of a cluster. Here --token-file names the file that gets an administrator's token (mode 0600)."""
    from connectors.cli.serving import serve_until_told  # noqa: PLC0415 -- as for `up`

    http = session.settings.http
    given_port = http.port if port is None else port
    serve_until_told(session, data, host or http.host, given_port, lambda: _opened(session, data, kafka))


def _opened(session: Session, data: Path, kafka: str | None) -> "Served":
    """The gateway's deployment, once the cluster has been looked at. Raises `CliFault`s, `KafkaFault`s and `RingFault`s."""
    from connectors.cli.serving import Served  # noqa: PLC0415 -- as for `up`
    from connectors.redis import RedisBoard, RedisConnection, RedisLife, RedisReader  # noqa: PLC0415
    from connectors.redis.connection import RedisImpossible  # noqa: PLC0415
    from engine.clock import system_clock  # noqa: PLC0415
    from engine.kafka.clients import ConfluentClients  # noqa: PLC0415
    from engine.kafka.door import KafkaDoor, begun  # noqa: PLC0415
    from engine.kafka.names import Names  # noqa: PLC0415
    from engine.kafka.preflight import check  # noqa: PLC0415
    from engine.topology import default_topology  # noqa: PLC0415

    settings = session.settings
    connection = settings.kafka.connection(kafka)
    topology = default_topology()
    names = Names(connection.prefix, topology.task_specs())
    reach = RedisConnection(
        url=settings.redis.needed_url(), password_file=settings.redis.password_file, prefix=connection.prefix
    )  # fmt: skip
    try:
        life = RedisLife(reach, system_clock)
    except RedisImpossible as wrong:
        raise BadUsage(str(wrong)) from None
    check(connection, names, topology, role="gateway")
    clients = ConfluentClients(connection, names)
    data.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    ring = session.ring(data)(not begun(clients, names, topology))
    model = RedisReader(life, connection.prefix, names.units)
    door = KafkaDoor(clients, names, topology, ring, model, system_clock, os.urandom, session.library())

    def wait() -> None:
        if not door.wait_ready(SETTINGS_SECS_MAX):
            raise Unanswered("the controllers' settings cannot be read from the cluster")

    return Served(door, RedisBoard(life, connection.prefix), wait)

