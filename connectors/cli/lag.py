"""The command `lag`: how far behind each task is, in records and in seconds; of a service, of workers, or of a whole cluster."""

from typing import Annotated, Any

import httpx
import typer

from connectors.cli.client import Door
from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.output import rows_of, rows_table
from connectors.cli.session import Session, command

ANSWER_SECS_MAX = 10.0
URLS_MAX = 64


def add_lag(app: typer.Typer) -> None:
    """Add `lag`."""
    command(app, "lag")(lag)


def lag(
    session: Session,
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="The cluster; else CONSENTINEL_KAFKA__BOOTSTRAP.")
    ] = None,
    max_secs: Annotated[
        float | None, typer.Option("--max-secs", min=0, help="Exit code 1 when any task is further behind, or nobody knows.")
    ] = None,
) -> None:  # fmt: skip
    """Show how far behind each task is. --url may name several workers with commas between them: each tells of its own."""
    url = session.settings.url
    if kafka is not None or (url is None and session.settings.kafka.bootstrap is not None):
        document = _of_cluster(session, kafka)
    elif url is not None and "," in url:
        document = _of_workers(url)
    else:
        document = (_of_worker(url) if url is not None else None) or session.door().get("/v1/lag")
    rows = rows_of(document, "lag", "tasks", "partitions")
    restoring = rows_of(document, "restoring")
    session.show(document, *([rows_table(rows)] if rows else []), *([rows_table(restoring)] if restoring else []))
    if max_secs is not None and not all(age is not None and age <= max_secs for age in _ages(document, rows)):
        raise Refused(f"further behind than {max_secs:g} s, or nobody knows")


def _ages(document: Any, rows: list[dict[str, Any]]) -> list[float | None]:
    """How old each state is that decisions look at: a service has one age, a cluster one a task partition."""
    if isinstance(document, dict) and "age_secs" in document:
        return [document["age_secs"]]
    return [row.get("secs") for row in rows]


def _of_cluster(session: Session, kafka: str | None) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    from engine.clock import system_clock  # noqa: PLC0415 -- no other command needs a client of Kafka
    from engine.kafka.clients import ConfluentClients  # noqa: PLC0415
    from engine.kafka.group_lag import group_lag  # noqa: PLC0415
    from engine.kafka.names import Names  # noqa: PLC0415
    from engine.kafka.preflight import check  # noqa: PLC0415
    from engine.topology import default_topology  # noqa: PLC0415

    connection = session.settings.kafka.connection(kafka)
    topology = default_topology()
    tasks = topology.task_specs()
    names = Names(connection.prefix, tasks)
    check(connection, names, topology)  # it reads inputs and changelogs, as a worker may and a gateway may not
    found = group_lag(ConfluentClients(connection, names), names, tasks, system_clock())
    return {"lag": [msgspec.to_builtins(one) for one in found]}


def _of_workers(urls: str) -> dict[str, Any]:
    """What several workers tell of their own units. Raises `Unanswered` when one of them does not."""
    wanted = [url for part in urls.split(",") if (url := part.strip())]
    if len(wanted) > URLS_MAX:
        raise BadUsage(f"--url names at most {URLS_MAX} workers")
    whole: dict[str, Any] = {"lag": [], "restoring": []}
    for url in wanted:
        found = _of_worker(url)
        if found is None:
            raise Unanswered("one of the URLs is no worker's")
        for name in whole:
            whole[name] += found[name]
    return whole


def _of_worker(url: str) -> dict[str, Any] | None:
    """What a worker tells; None when it is a service that answers there, which wants a token. Raises `Unanswered`."""
    try:
        with httpx.Client(base_url=url, timeout=ANSWER_SECS_MAX, trust_env=False) as client:
            answer = client.get("/v1/lag")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise Unanswered("the service does not answer at its URL") from None
    if answer.status_code in (401, 403):
        return None
    document = Door.answer(answer)
    return document if isinstance(document, dict) and "restoring" in document else None
