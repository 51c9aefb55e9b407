"""The product's scan (`engine/scan/`) as tests use it: texts in, and for each text the places where it stands out.

What it finds is held by tests that plant things themselves: `tests/unit/test_scan*.py`, `tests/endtoend/test_scan.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engine.scan.chunks import Chunk, Found, Place, state_place
from engine.scan.files import Walk
from engine.scan.look import look as look_everywhere
from engine.scan.needles import Needle
from engine.scan.needles import Needles as Numbered
from engine.scan.segments import Record, record_chunks
from engine.scan.tokens import Opener


class Report(NamedTuple):
    """`found`: needle to where it stands. `opened`: tokens opened, by form. Keys are named by their commitment.

    `keys`: data keys that live. `sealed_under`: keys that some token is sealed under, whether or not it can be opened.
    `unread`: what could not be read.
    """

    found: dict[str, list[str]]
    opened: dict[int, int]
    keys: frozenset[bytes]
    sealed_under: frozenset[bytes]
    octets: int
    unread: int


class Needles:
    """Texts to look for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.needles = sorted(set(texts))
        self.numbered = Numbered([Needle(n, "words", text) for n, text in enumerate(self.needles)])


def spellings(text: str) -> set[bytes]:
    """Every form that a text is looked for in."""
    return Numbered([Needle(1, "words", text)]).spellings()


def chunks_of_runtime(world: Any) -> Iterator[Chunk]:
    """Everything a deployment's runtime gives back: keys, values and headers of the log, keys and values of the state."""
    for topic, spec in world.topology.topics.items():
        for partition in range(spec.partitions):
            offset = 0
            while records := world.runtime.read(topic, partition, offset, 1_000):
                for record in records:
                    headers = b"".join(name.encode() + value for name, value in record.headers)
                    yield from record_chunks("log", topic, Record(record.key, record.value, headers))
                offset = records[-1].offset + 1
    for task, plan in world.topology.tasks.items():
        for partition in range(plan.partitions):
            for key, value in world.runtime.scan(task, partition, b""):
                yield from (Chunk(state_place("state", task, key), part) for part in (key, value) if part)


def chunks_of_folder(folder: Path) -> Iterator[Found]:
    """Every cell of every SQLite database, and the raw bytes of every file."""
    return Walk(folder, "folder").found()


def scan(needles: Iterable[str], ring: Any, folder: Path | None = None, world: Any = None) -> Report:
    """Look for `needles` in a data folder, in a deployment, or in both, with all keys that live in `ring`."""

    def everything() -> Iterator[Found]:
        if world is not None:
            yield from chunks_of_runtime(world)
        if folder is not None:
            yield from chunks_of_folder(folder)

    return _look(Needles(needles), dict(ring.all_keys_alive()), everything)


def look(needles: Needles, alive: dict[str, bytes], chunks: list[Found]) -> Report:
    """Look for `needles` in `chunks` and in whatever can be opened of them."""
    return _look(needles, alive, lambda: iter(chunks))


def _look(needles: Needles, alive: dict[str, bytes], sources: Any) -> Report:
    met: set[bytes] = set()
    opener = Opener(alive.items(), met.add)
    looked = look_everywhere(needles.numbered, opener, sources)
    found: dict[str, set[str]] = {}
    for at in looked.found:
        place = " ".join((at.place.kind, at.place.name, *at.how))
        found.setdefault(needles.needles[at.needle], set()).add(place)
    opened = {form: opener.opened[form] for form in (1, 2, 3)}
    return Report(
        {needle: sorted(places) for needle, places in sorted(found.items())}, opened, frozenset(opener.data_keys), frozenset(met),
        sum(looked.octets.values()), sum(looked.unread.values()),
    )  # fmt: skip


__all__ = ["Chunk", "Needles", "Place", "Report", "chunks_of_folder", "chunks_of_runtime", "look", "scan", "spellings"]
