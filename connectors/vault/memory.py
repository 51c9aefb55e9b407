"""What a process keeps in memory of a ring in Vault, and for how long it trusts it: a second, then it looks at the page."""

import threading
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Final, TypeVar

from connectors.vault.book import BLOCK_SHARDS, Block, Book, Page
from connectors.vault.keks import Shard
from engine.keyring import RAW_SPAN_MS, RawClass

K = TypeVar("K")
V = TypeVar("V")

STALE_SECS_MAX: Final = 1.0
CACHED_MAX: Final = 65_536  # shards in memory: of 16 controllers, some 20 MB


class Memory:
    """Keys that were read, and the page that they were read by.

    Whoever reads and keeps holds `lock` over both, or sees with `lock` that `changes` is what it was before it read: else a key
    that was destroyed between the two would stay.
    """

    def __init__(self, book: Book) -> None:
        self.lock = threading.RLock()
        self.shards: dict[tuple[str, int], Shard] = {}  # (controller, shard)
        self.raw: dict[int, bytes] = {}
        self.raw_now: dict[RawClass, tuple[int, int, bytes]] = {}  # (number, opened_ms, key)
        self.peppers: dict[str, bytes] = {}
        self.seed = b""
        self.changes = 0
        self._book = book
        self.fresh_until = 0.0
        _, self.page = book.read()

    def catch_up(self) -> None:
        """See what others changed, if that was not seen within the last second."""
        if monotonic() >= self.fresh_until:
            with self.lock:
                if monotonic() >= self.fresh_until:
                    self.refresh()

    def refresh(self) -> None:
        """See what others changed."""
        with self.lock:
            began = monotonic()  # what changes while the answer is on its way is seen within a second as well
            self._turn_to(self._book.read()[1])
            self.fresh_until = began + STALE_SECS_MAX

    def change(self, change: Callable[[Page], Page]) -> Page:
        """Change the page and see what others changed."""
        with self.lock:
            self._turn_to(self._book.change(change)[1])
            return self.page

    def forget(self) -> None:
        """Forget every key."""
        with self.lock:
            for kept in (self.shards, self.raw, self.raw_now, self.peppers):
                kept.clear()
            self.seed, self.fresh_until = b"", 0.0
            self.changes += 1

    def drop(self, controller: str, shard: int) -> None:
        """Forget a shard."""
        with self.lock:
            self.shards.pop((controller, shard), None)
            self.changes += 1

    def _turn_to(self, page: Page) -> None:
        """Forget what the page says may have changed."""
        before, self.page = self.page, page
        if page == before and not page.changing:
            return
        self.changes += 1
        self.raw_now.clear()
        alive = {entry.number for entry in page.raw}
        for number in [number for number in self.raw if number not in alive]:
            del self.raw[number]
        for class_ in RAW_SPAN_MS:
            if (entry := page.open_raw(class_)) and (key := self.raw.get(entry.number)):
                self.raw_now[class_] = (entry.number, entry.opened_ms, key)
        changed = page.blocks_changed(before) | page.blocks_changing()
        slugs = {name: slug_of(name) for name in {name for name, _ in self.shards}} if changed else {}
        for name, shard in [place for place in self.shards if changed and block_of(slugs[place[0]], place[1]) in changed]:
            del self.shards[name, shard]


def slug_of(controller: str) -> str:
    """The controller in names of keys and documents: its own name may hold what those may not."""
    return sha256(controller.encode()).hexdigest()[:24]


def block_of(slug: str, shard: int) -> Block:
    """The shards that are forgotten with this one."""
    return slug, shard // BLOCK_SHARDS


def keep(kept: dict[K, V], name: K, value: V) -> V:
    """Keep a value, and let go of the oldest where there are too many."""
    if len(kept) >= CACHED_MAX:
        kept.pop(next(iter(kept)))
    kept[name] = value
    return value
