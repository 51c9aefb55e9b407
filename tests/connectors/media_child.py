"""A process that hosts the media connector, to be killed between a deletion and its answer.

    python -m tests.connectors.media_child up DIES DATA                             `consentinel up`
    python -m tests.connectors.media_child worker DIES DATA BOOTSTRAP PREFIX ROOT   edge agents, with an engine that does nothing

DIES: `dies` (the process kills itself once the recording is deleted) or `lives`.
"""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from connectors.cli.media import shelves_of, sink_of
from connectors.cli.settings import MediaSettings
from connectors.faust import LogSink, Place, host
from connectors.faust.pages import bound
from connectors.media import Clerk
from engine.clock import system_clock
from engine.filering import FileRing
from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.edge import Edge
from engine.kafka.names import Names
from engine.topology import default_topology
from tests.connectors.faust_child import StubEngine


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def worker(data: Path, bootstrap: str, prefix: str, root: str) -> None:
    topology, connection = default_topology(), Connection(bootstrap=bootstrap, prefix=prefix)
    names, settings = Names(prefix, topology.task_specs()), MediaSettings(roots=[Path(root)])
    edge = Edge(ConfluentClients(connection, names), names, {name: t.partitions for name, t in topology.topics.items()})
    engine: Any = SimpleNamespace(
        ring=FileRing(data / "test.ring", create=False), clock=system_clock, runtime=SimpleNamespace(edge=edge)
    )  # fmt: skip
    shelves = shelves_of(settings, [data])
    assert shelves is not None
    host(
        Place(connection, "w1", data, bound("127.0.0.1", 0)), StubEngine(), None, LogSink(), "consentinel/tests",
        lambda url: print(f"ready {url}", flush=True), media=sink_of(shelves, settings, engine),
    )  # fmt: skip


def main(what: str, dies: str, data: str, *rest: str) -> None:
    if dies == "dies":
        Clerk._answer = die  # type: ignore[method-assign]
    if what == "worker":
        worker(Path(data), *rest)
    else:
        from connectors.cli.app import app  # noqa: PLC0415

        app(["up", "--data", data, "--port", "0", "--token-file", f"{data}.token"])


if __name__ == "__main__":
    main(*sys.argv[1:])
