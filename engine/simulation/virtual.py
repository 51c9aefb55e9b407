"""The engine's ties to the machine, cut: its clocks follow the cluster's time, its stores stand on simulated disks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from engine.kafka import edge, fetcher, store, tail, transactor
from engine.simulation.cluster import Cluster
from engine.simulation.disk import Batch, Database

ENGINE_LOGS = "consentinel"


class VirtualTime:
    """Stands in for the module `time`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def time(self) -> float:
        """Epoch seconds."""
        return self._cluster.now_ms / 1_000

    def monotonic(self) -> float:
        """The same."""
        return self._cluster.now_ms / 1_000

    def sleep(self, secs: float) -> None:
        """Let time pass."""
        self._cluster.advance(max(1, round(secs * 1_000)))


class Folder:
    """Stands in for a `Path` that nothing is ever created at."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def parent(self) -> Folder:
        """The folder above."""
        return Folder(self.name.rpartition("/")[0])

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.name}/{name}")

    def __str__(self) -> str:
        return self.name

    def mkdir(self, **_: Any) -> None:
        """There is nothing to make."""


class _Options:
    def __init__(self, **_: Any) -> None:
        pass

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _Lines(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell, self._thread = tell, get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:  # a process may run something real beside
            self._tell(record.getMessage())


@contextmanager
def virtual(
    cluster: Cluster, opened: Callable[[str], Database], wiped: Callable[[str], None], tell: Callable[[str], None] | None
) -> Iterator[None]:
    """While this lasts the engine lives in the cluster's time. `tell` gets its log lines; without it none are made."""
    time = VirtualTime(cluster)

    class Shutil:
        """Stands in for `shutil`."""

        @staticmethod
        def rmtree(path: Any, **_: Any) -> None:
            """Wipe a store."""
            wiped(str(path))

    stand_ins: list[tuple[Any, str, Any]] = [
        (fetcher, "time", time), (edge, "time", time), (transactor, "time", time), (tail, "time", time),
        (store, "monotonic", time.monotonic),
        (store, "Rdict", lambda path, **_: opened(path)), (store, "WriteBatch", Batch), (store, "Options", _Options),
        (store, "WriteOptions", _Options), (store, "shutil", Shutil),
    ]  # fmt: skip
    before = [getattr(module, name) for module, name, _ in stand_ins]
    logger = logging.getLogger(ENGINE_LOGS)
    level, propagate, disabled = logger.level, logger.propagate, logging.root.manager.disable
    handler = None if tell is None else _Lines(tell)
    try:
        for module, name, stand_in in stand_ins:
            setattr(module, name, stand_in)
        if handler is None:
            logging.disable(logging.CRITICAL)
        else:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        yield
    finally:
        for (module, name, _), was in zip(stand_ins, before, strict=True):
            setattr(module, name, was)
        logging.disable(disabled)
        if handler is not None:
            logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
