"""Key-encryption keys in Vault: one transit key per (controller, shard), drawn at the shard's first use; its versions are epochs.

The epoch that a shard mints under is its key's `min_encryption_version`. The newest version would not do: Vault rotates whenever
it is asked, so two processes that rotate at once make two versions, and an administrator may make one too. Such a spare version
becomes the next epoch when its turn comes. Vault itself refuses to trim the version that is minted under.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from connectors.vault.documents import Documents, many
from connectors.vault.transit import Transit, Versions
from engine.keyring import KeyInUse, RingDamaged, RingUnavailable

NAME: Final = re.compile(r"kek-([0-9a-f]{24})-(\d{4})", re.ASCII)
ATTEMPTS_MAX: Final = 10  # at a key that others rotate meanwhile

NEW: Final = (1, 1)

Span = tuple[int, int]  # the oldest living epoch of a shard, and the one that it mints under


class Shard(msgspec.Struct, frozen=True):
    """The living epochs of a shard, and which of them it mints under."""

    minting: int
    keys: dict[int, bytes]


class Keks:
    """Calls that concern one shard, or all of a controller; keeps nothing. A controller is its slug. Raises `RingFault`."""

    def __init__(self, transit: Transit, documents: Documents) -> None:
        self._transit, self._documents = transit, documents

    def draw(self, slug: str, shard: int) -> None:
        """Draw the first epoch of a shard that has none."""
        self._transit.create(_name(slug, shard))

    def read(self, slug: str, shard: int) -> Shard | None:
        """Give the shard with its keys: one call, and one more while it has several. None: it was never used."""
        name = _name(slug, shard)
        for _ in range(ATTEMPTS_MAX):
            keys = self._transit.keys(name)
            if keys is None:
                return None
            if len(keys) == 1:
                return Shard(min(keys), keys)
            versions = self._transit.versions(name)
            if versions is not None and versions.minting in keys:
                return Shard(versions.minting, {epoch: key for epoch, key in keys.items() if epoch in versions.living})
        raise RingUnavailable("a shard is rotated faster than this process can read it")

    def rotate(self, slug: str, shard: int, after: int) -> Span | None:
        """Mint under the next epoch if the shard still mints under `after`; give what there is then, None: nothing."""
        name = _name(slug, shard)
        versions = self._transit.versions(name)
        if versions is None or versions.minting != after:
            return _span(versions)
        if versions.latest_version == after:
            self._transit.rotate(name)
        self._transit.mint_under(name, after + 1)
        span = _span(self._transit.versions(name))
        if span is None or span[1] == after:
            raise RingDamaged("Vault does not let a shard mint under a new epoch")
        return span

    def destroy(self, slug: str, shard: int, epoch: int) -> Span | None:
        """Destroy an epoch, which must be the oldest; give what there is then, None: nothing. Raises `KeyInUse`."""
        span = _span(self._transit.versions(_name(slug, shard)))
        if span is None or not span[0] <= epoch <= span[1]:
            return span
        oldest, minting = span
        if epoch == minting:
            raise KeyInUse("the epoch is still minted under")
        if epoch > oldest:
            raise KeyInUse("there is an older epoch: Vault destroys the versions of a key from the oldest on")
        self._transit.destroy_below(_name(slug, shard), epoch + 1)
        return epoch + 1, minting

    def tell(self, slug: str, spans: dict[int, Span]) -> None:
        """Write down what epochs shards have, after they were changed: to look at 4,096 keys takes seconds."""
        for _ in range(ATTEMPTS_MAX):
            seen, told = self._told(slug)
            # Both ends only ever go up, so whoever writes later, with what he saw earlier, takes nothing back.
            new = told | {shard: tuple(map(max, span, told.get(shard, span))) for shard, span in spans.items()}
            if new == told or self._documents.write(f"epochs/{slug}", new, seen):
                return
        raise RingUnavailable("others rotate the keys of a controller faster than this process can tell of it")

    def epochs(self, slug: str) -> list[tuple[int, int, bool]]:
        """The living epochs of a controller as (shard, epoch, whether it is minted under). Two calls.

        Where a process died between a change and its `tell`, the change is not seen; whoever makes it again tells it.
        """
        _, told = self._told(slug)
        spans = ((shard, told.get(shard, NEW)) for known, shard in self.shards() if known == slug)
        return [(shard, n, n == minting) for shard, (oldest, minting) in spans for n in range(oldest, minting + 1)]

    def shards(self) -> Iterator[tuple[str, int]]:
        """All (controller, shard) that were ever used, in order."""
        for name in sorted(self._transit.names()):
            if found := NAME.fullmatch(name):
                yield found[1], int(found[2])

    def alive(self) -> Iterator[tuple[str, int, int, bytes]]:
        """All that Vault would give out, spare versions too, as (controller, shard, epoch, key)."""
        shards = list(self.shards())
        for (slug, shard), keys in zip(shards, many(lambda one: self._transit.keys(_name(*one)), shards), strict=True):
            yield from ((slug, shard, epoch, key) for epoch, key in sorted((keys or {}).items()))

    def _told(self, slug: str) -> tuple[int, dict[int, Span]]:
        return self._documents.read(f"epochs/{slug}", dict[int, Span]) or (0, {})


def _span(versions: Versions | None) -> Span | None:
    return None if versions is None else (versions.living.start, versions.minting)


def _name(slug: str, shard: int) -> str:
    return f"kek-{slug}-{shard:04}"
