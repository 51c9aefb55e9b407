"""A key ring (`engine/keyring.py`) in HashiCorp Vault or OpenBao: keys in transit, what is known of them in a key-value engine.

    transit   PREFIX-signing, PREFIX-pepper-SLUG, PREFIX-kek-SLUG-SHARD, PREFIX-raw-NUMBER      (SLUG: hash of a controller)
    kv        PREFIX/ring, PREFIX/controllers/SLUG, PREFIX/ledger/.., PREFIX/long/.., PREFIX/notes/..

Vault draws the keys and hands them out, sealing and opening are done here. What is destroyed is trimmed or deleted in Vault.
Keys that were read are kept in memory, and trusted for a second: then one call tells what others have changed (`book.py`). When
Vault cannot be reached for longer nothing is sealed or opened here any more; peppers, which never change, go on.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import msgspec

from connectors.vault.book import Block, Book
from connectors.vault.client import Vault
from connectors.vault.connection import VaultConnection
from connectors.vault.documents import Documents
from connectors.vault.keks import Keks, Shard, Span
from connectors.vault.ledger import VaultLedger
from connectors.vault.memory import Memory, block_of, keep, slug_of
from connectors.vault.notes import VaultNotes
from connectors.vault.rawkeys import VaultRawKeys, name_of
from connectors.vault.transit import Transit
from engine.keyring import RawClass, RingDamaged, RingUnavailable
from engine.sealing import SHARDS

CONTROLLERS_MAX: Final = 4_096  # more is somebody inventing controllers


class Controller(msgspec.Struct, frozen=True):
    """A controller that has a pepper: the document `controllers/SLUG`."""

    name: str


class VaultRing:
    """A `KeyRing` in Vault. Thread-safe; not to be carried across a fork.

    `create` when the data is new; otherwise a missing ring is refused. `random` gives the deployment's id.
    """

    def __init__(
        self, connection: VaultConnection, create: bool, random: Callable[[int], bytes] = os.urandom,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._random = random
        self._names: dict[str, str] = {}  # slug → controller
        self._change: _Change | None = None  # of the `together` under way
        self._vault = Vault(connection, transport)
        self._transit = Transit(self._vault, connection.transit_mount, connection.prefix)
        self._documents = Documents(self._vault, connection.kv_mount, connection.prefix)
        self._book, self._keks = Book(self._documents), Keks(self._transit, self._documents)
        self._ledger, self._notes = VaultLedger(self._documents), VaultNotes(self._documents)
        try:
            if create:
                self._transit.create("signing")  # before the ring can be seen: no ring is without it
                self._book.begin(random(16).hex())
            self._memory = Memory(self._book)
            self._raw = VaultRawKeys(self._memory, self._transit)
        except BaseException:
            self._vault.close()
            raise

    def refresh(self) -> None:
        """See what other processes changed: rotations, closed and destroyed keys."""
        self._memory.refresh()

    def close(self) -> None:
        """Forget every key and let go of Vault."""
        self._memory.forget()
        self._vault.close()

    def pepper(self, controller: str) -> bytes:
        """Give the controller's pepper, drawn at first use."""
        if found := self._memory.peppers.get(controller):
            return found
        with self._memory.lock:
            name = f"pepper-{slug_of(controller)}"
            self._register(controller, name)
            return keep(self._memory.peppers, controller, self._transit.only(name))

    def signing_seed(self) -> bytes:
        """Give the Ed25519 seed."""
        self._memory.seed = self._memory.seed or self._transit.only("signing")
        return self._memory.seed

    def deployment(self) -> str:
        """Give this deployment's id."""
        return self._memory.page.deployment

    def kek(self, controller: str, shard: int) -> tuple[int, bytes]:
        """Give (epoch, key) that the shard mints under now: one call at its first use here, three at its very first."""
        self._memory.catch_up()
        found = self._memory.shards.get((controller, shard))
        if found is None:
            if not 0 <= shard < SHARDS:
                raise ValueError("no such shard")
            found = self._drawn(controller, shard)
        return found.minting, found.keys[found.minting]

    def kek_at(self, controller: str, shard: int, epoch: int) -> bytes | None:
        """Give the key of an epoch, None when it was destroyed or never was."""
        self._memory.catch_up()
        found = self._memory.shards.get((controller, shard))
        if found is not None and (epoch in found.keys or epoch < min(found.keys)):  # a destroyed epoch never comes back
            return found.keys.get(epoch)
        if not 0 <= shard < SHARDS:
            return None
        found = self._read(controller, shard)
        return None if found is None else found.keys.get(epoch)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the changes of a `with` block to other processes once, at its end; they are made one by one."""
        with self._memory.lock:
            if self._change is not None:
                yield
                return
            self._change = change = _Change(self._random(8).hex())
            try:
                yield
            finally:
                self._change = None
                for slug, spans in change.spans.items():
                    self._keks.tell(slug, spans)
                if change.blocks:
                    self._memory.change(lambda page: page.ended(change.name, change.blocks))

    def controllers(self) -> list[str]:
        """List the controllers that have key-encryption keys, in order."""
        return sorted(self._controller(slug) for slug in {slug for slug, _ in self._keks.shards()})

    def epochs(self, controller: str) -> list[tuple[int, int, bool]]:
        """List the controller's living epochs as (shard, epoch, whether it is minted under), in order."""
        return self._keks.epochs(slug_of(controller))

    def rotate_kek(self, controller: str, shard: int, after: int) -> int:
        """Mint under a new epoch if the shard still mints under `after`; give the epoch it mints under."""
        with self._changing(controller, shard) as spans:
            span = self._keks.rotate(slug_of(controller), shard, after)
            if span is None:
                self._drawn(controller, shard)
                span = self._keks.rotate(slug_of(controller), shard, after)
            if span is None:
                raise RingDamaged("a shard's key was deleted from Vault")
            spans[shard] = span
            return span[1]

    def destroy_kek(self, controller: str, shard: int, epoch: int) -> None:
        """Destroy the oldest epoch, which nothing is minted under any more, else `KeyInUse`. Once or again: the same."""
        with self._changing(controller, shard) as spans:
            span = self._keks.destroy(slug_of(controller), shard, epoch)
            if span is not None:
                spans[shard] = span

    def notes(self, prefix: str) -> dict[str, bytes]:
        """Give all notes whose names begin with `prefix`, as they are in Vault now."""
        return self._notes.notes(prefix)

    def put_note(self, name: str, value: bytes, expected: bytes | None) -> bool:
        """Write a note durably if it is still `expected` (None: there is none); returns whether it was."""
        return self._notes.put(name, value, expected)

    def raw_key(self, class_: RawClass, now_ms: int) -> tuple[int, bytes]:
        """Give (number, key) to seal with now; a new one when the last has been open for its span."""
        return self._raw.key(class_, now_ms)

    def raw_key_by_id(self, number: int) -> bytes | None:
        """Give the raw or quarantine key of a number, None when it was destroyed or never was."""
        return self._raw.by_id(number)

    def raw_keys(self) -> list[tuple[int, RawClass, int, int | None]]:
        """List the living ones as (number, class, opened_ms, closed_ms), oldest first."""
        return [(entry.number, entry.class_, entry.opened_ms, entry.closed_ms) for entry in self._book.read()[1].raw]

    def close_raw(self, class_: RawClass, now_ms: int) -> None:
        """Seal no more under the open key of the class: the next use opens another."""
        self._raw.close(class_, now_ms)

    def destroy_raw(self, numbers: Iterable[int]) -> None:
        """Destroy closed raw or quarantine keys, all or (`KeyInUse`) none. Once or again: the same."""
        self._raw.destroy(numbers)

    def all_keys_alive(self) -> Iterator[tuple[str, bytes]]:
        """Walk all living keys as (what it is, key), as Vault gives them now: a call for each, and a few more."""
        yield "signing/", self._transit.only("signing")
        for slug in self._documents.names("controllers"):
            yield f"pepper/{self._controller(slug)}", self._transit.only(f"pepper-{slug}")
        for slug, shard, epoch, key in self._keks.alive():
            yield f"kek/{self._controller(slug)}/{shard}/{epoch}", key
        for entry in self._book.read()[1].raw:
            yield f"{entry.class_}/{entry.number}", self._transit.only(name_of(entry.number))

    def ledger_append(self, entry: bytes) -> int:
        """Keep a sealed entry of the erasure ledger for ever; give its mark."""
        return self._ledger.append(entry)

    def ledger_mark(self) -> int:
        """Give the mark of the last entry, 0 when there is none. It never falls."""
        return self._ledger.mark()

    def ledger_since(self, mark: int) -> list[tuple[int, bytes]]:
        """List at most 1,000 (mark, entry) after `mark`, in order."""
        return self._ledger.since(mark)

    @contextmanager
    def _changing(self, controller: str, shard: int) -> Iterator[dict[int, Span]]:
        """Around a change: tell the others of it, then forget the shard; gives where to write what epochs it has."""
        with self.together():
            assert self._change is not None  # `together` made it
            slug, name = slug_of(controller), self._change.name
            block = block_of(slug, shard)
            if block not in self._change.blocks:
                self._memory.change(lambda page: page.begun(name, block))
                self._change.blocks.add(block)
            try:
                yield self._change.spans.setdefault(slug, {})
            finally:
                self._memory.drop(controller, shard)

    def _drawn(self, controller: str, shard: int) -> Shard:
        found = self._read(controller, shard)
        if found is None:
            self.pepper(controller)  # counts controllers
            self._keks.draw(slug_of(controller), shard)
            found = self._read(controller, shard)
        if found is None:
            raise RingDamaged("a shard's key was deleted from Vault")
        return found

    def _read(self, controller: str, shard: int) -> Shard | None:
        # Without the lock, so that callers do not wait for one another's calls. What changed meanwhile is not kept.
        before = self._memory.changes
        found = self._keks.read(slug_of(controller), shard)
        with self._memory.lock:
            if found is not None and before == self._memory.changes:
                keep(self._memory.shards, (controller, shard), found)
        return found

    def _register(self, controller: str, pepper: str) -> None:
        """Note the controller, and draw its pepper before that: a controller that is noted has one."""
        path = f"controllers/{slug_of(controller)}"
        if self._documents.read(path, Controller) is None:
            if len(self._documents.names("controllers")) >= CONTROLLERS_MAX:
                raise RingUnavailable("the key ring is full: too many controllers")
            self._transit.create(pepper)
            self._documents.write(path, Controller(controller), 0)

    def _controller(self, slug: str) -> str:
        if slug not in self._names:
            found = self._documents.read(f"controllers/{slug}", Controller)
            if found is None:
                raise RingDamaged("keys in Vault are of a controller that the ring does not know")
            self._names[slug] = found[1].name
        return self._names[slug]


class _Change:
    """The changes of one `together`: a name for them, the blocks they are in, and what epochs those shards have now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks: set[Block] = set()
        self.spans: dict[str, dict[int, Span]] = {}  # slug → shard → span
