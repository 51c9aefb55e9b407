"""The sources of one scan, put together: folders and files, a cluster, a Redis; each is read twice, from its beginning."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from engine.runtime import FolderInUse
from engine.scan.chunks import Found
from engine.scan.files import Walk

LOCKS: Final = ("lock", "worker.lock")  # of a service's data folder, of a worker's


class Source(NamedTuple):
    """One source: its name in the report, and how to read it."""

    name: str
    read: Callable[[], Iterator[Found]]


def folder(path: Path, name: str, prefix: str = "") -> Source:
    """A folder, or a file."""
    return Source(name, Walk(path, name, prefix).found)


def everything(sources: list[Source]) -> Callable[[], Iterator[Found]]:
    """All sources, one after another."""

    def read() -> Iterator[Found]:
        for source in sources:
            yield from source.read()

    return read


@contextmanager
def held(folders: list[Path]) -> Iterator[None]:
    """Keep services and workers out of their data folders while they are read. Raises `FolderInUse`."""
    with ExitStack() as stack:
        for path in folders:
            for name in LOCKS:
                try:
                    lock = stack.enter_context((path / name).open("rb"))
                except FileNotFoundError:
                    continue  # a copy, or a folder of something else
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise FolderInUse("a running process owns the data folder") from None
        yield
