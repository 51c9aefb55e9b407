"""The one document that every process of a deployment looks at once a second: raw keys, and whose keys have changed.

A change of key-encryption keys is made in Vault's transit engine and told here, and no transaction spans the two. So it is told
twice: before it, its block of shards is noted as changing, and whoever looks keeps nothing of that block beyond the next look;
after it, the block's generation goes up and the note goes away. A process that dies in between leaves the note, so nobody
can go on for longer than a second with keys that were replaced or destroyed. Only time removes it then.
"""

from collections.abc import Callable
from time import time
from typing import Final

import msgspec

from connectors.vault.documents import Documents
from engine.keyring import RawClass, RingDamaged, RingMissing, RingUnavailable
from engine.sealing import SHARDS

FORMAT: Final = 1
NAME: Final = "ring"
ATTEMPTS_MAX: Final = 50  # at a document that others write too: each failure means that one of them got further
CHANGING_SECS_MAX: Final = 3_600  # no change takes that long; who noted it is dead
BLOCK_SHARDS: Final = 64  # what others forget together: few enough to be read again, and one controller's blocks take 150 octets

_NONE: Final = (0,) * (SHARDS // BLOCK_SHARDS)

Block = tuple[str, int]  # (controller's slug, shard // BLOCK_SHARDS)


class RawEntry(msgspec.Struct, frozen=True, array_like=True):
    """A living raw or quarantine key. Its octets are the transit key `raw-NUMBER`."""

    number: int
    class_: RawClass
    opened_ms: int
    closed_ms: int | None


class Page(msgspec.Struct, frozen=True):
    """The document. `dying` raw keys are given to nobody any more and are being deleted."""

    format: int
    deployment: str
    next_raw: int = 1
    raw: tuple[RawEntry, ...] = ()
    dying: tuple[int, ...] = ()
    generations: dict[str, tuple[int, ...]] = {}  # slug → a number for each block
    changing: dict[str, tuple[str, int, float]] = {}  # change → (block, since when: epoch seconds)

    def entry(self, number: int) -> RawEntry | None:
        """The living raw key of a number."""
        return next((entry for entry in self.raw if entry.number == number), None)

    def open_raw(self, class_: RawClass) -> RawEntry | None:
        """The raw key that the class seals under."""
        return next((entry for entry in self.raw if entry.class_ == class_ and entry.closed_ms is None), None)

    def closed(self, class_: RawClass, now_ms: int) -> "Page":
        """The same with no open raw key of the class."""
        raw = tuple(
            msgspec.structs.replace(entry, closed_ms=now_ms) if entry.class_ == class_ and entry.closed_ms is None else entry
            for entry in self.raw
        )  # fmt: skip
        return msgspec.structs.replace(self, raw=raw)

    def blocks_changing(self) -> set[Block]:
        """The blocks of which nothing is to be kept."""
        return {(slug, block) for slug, block, _ in self.changing.values()}

    def blocks_changed(self, since: "Page") -> set[Block]:
        """The blocks whose generation is another one than on an earlier page."""
        before = {slug: since.generations.get(slug, _NONE) for slug in self.generations}
        return {
            (slug, block) for slug, numbers in self.generations.items() if numbers != before[slug]
            for block, number in enumerate(numbers) if number != before[slug][block]
        }  # fmt: skip

    def begun(self, change: str, block: Block) -> "Page":
        """The same with a change noted."""
        return msgspec.structs.replace(self, changing={**self.changing, f"{change}/{block[0]}/{block[1]}": (*block, time())})

    def ended(self, change: str, blocks: set[Block]) -> "Page":
        """The same with a change told, and with those whose process is long dead."""
        old = time() - CHANGING_SECS_MAX
        dead = {name: (slug, block) for name, (slug, block, since) in self.changing.items() if since < old}
        left = {
            name: what for name, what in self.changing.items() if name not in dead and not name.startswith(f"{change}/")
        }  # fmt: skip
        generations = {slug: list(numbers) for slug, numbers in self.generations.items()}
        for slug, block in blocks | set(dead.values()):
            generations.setdefault(slug, list(_NONE))[block] += 1
        told = {slug: tuple(numbers) for slug, numbers in generations.items()}
        return msgspec.structs.replace(self, generations=told, changing=left)


class Book:
    """Reads and changes the page. Everything raises `RingFault`."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def begin(self, deployment: str) -> None:
        """Write the first page, unless there is one."""
        self._documents.write(NAME, Page(FORMAT, deployment), 0)

    def read(self) -> tuple[int, Page]:
        """Give (version, page). Raises `RingMissing` when there is none."""
        found = self._documents.read(NAME, Page)
        if found is None:
            raise RingMissing("there is no key ring under keys.vault_prefix in Vault")
        if found[1].format != FORMAT:
            raise RingDamaged("not a key ring of this version")
        return found

    def change(self, change: Callable[[Page], Page]) -> tuple[int, Page]:
        """Write what `change` makes of the page, which it may be asked for again; give what stands there then."""
        for _ in range(ATTEMPTS_MAX):
            seen, page = self.read()
            new = change(page)
            if new == page:
                return seen, page
            if self._documents.write(NAME, new, seen):
                return seen + 1, new
        raise RingUnavailable("others change the key ring faster than this process can")
