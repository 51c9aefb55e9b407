"""What the engine asks of a key ring: the few keys that all others hang on, each of which can be destroyed alone.

A ring holds a pepper per controller, key-encryption keys per (controller, shard, epoch), raw-hour and quarantine-day
keys, the signing seed, the deployment's id, and the erasure ledger's mark and copy. Never a data key. It also keeps notes,
the few facts by which all processes of a deployment agree on a rotation of its keys (`engine/rotation.py`).
The file ring is `engine/filering.py`; further back-ends come behind the same protocol.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, Protocol

RawClass = Literal["raw", "quarantine"]
RAW_SPAN_MS: dict[RawClass, int] = {"raw": 3_600_000, "quarantine": 86_400_000}  # an hour; a day


class RingFault(Exception):
    """Base of what a key ring raises. No message holds a key or a name.

    RingFault
    ├── RingMissing        there is data but no ring: its keys are elsewhere, do not start over
    ├── RingExposed        others may read or write it, it is not ours, or it is no regular file
    ├── RingDamaged        broken, or not a ring of this version
    ├── RingUnavailable    busy, full or unreadable now; trying again may help
    └── KeyInUse           a key that is still minted under or sealed with is not destroyed
    """


class RingMissing(RingFault):
    """There is data but no ring: its keys are elsewhere, do not start over."""


class RingExposed(RingFault):
    """Others may read or write it, it is not ours, or it is no regular file."""


class RingDamaged(RingFault):
    """Broken, or not a ring of this version."""


class RingUnavailable(RingFault):
    """Busy, full or unreadable now; trying again may help."""


class KeyInUse(RingFault):
    """A key that is still minted under or sealed with is not destroyed."""


class Keys(Protocol):
    """What the task loop asks for: keys, and the erasure ledger. Keys are 32 octets, times epoch milliseconds. Thread-safe."""

    def pepper(self, controller: str) -> bytes:
        """Give the controller's pepper, drawn at first use."""

    def kek(self, controller: str, shard: int) -> tuple[int, bytes]:
        """Give (epoch, key) that the shard mints under now."""

    def kek_at(self, controller: str, shard: int, epoch: int) -> bytes | None:
        """Give the key of an epoch, None when it was destroyed or never was."""

    def raw_key(self, class_: RawClass, now_ms: int) -> tuple[int, bytes]:
        """Give (number, key) to seal with now; a new one when the last has been open for its span."""

    def raw_key_by_id(self, number: int) -> bytes | None:
        """Give the raw or quarantine key of a number, None when it was destroyed or never was."""

    def deployment(self) -> str:
        """Give this deployment's id: 128 random bits in hexadecimal, as old as the ring."""

    def ledger_append(self, entry: bytes) -> int:
        """Keep a sealed entry of the erasure ledger for ever; give its mark."""

    def ledger_mark(self) -> int:
        """Give the mark of the last entry, 0 when there is none. It never falls."""

    def ledger_since(self, mark: int) -> list[tuple[int, bytes]]:
        """List at most 1,000 (mark, entry) after `mark`, in order."""


class KeyRing(Keys, Protocol):
    """Who keeps the keys and ends them, and the signing seed: a file, or a service."""

    def refresh(self) -> None:
        """See what other processes changed. Happens by itself once a second."""

    def together(self) -> AbstractContextManager[object]:
        """Make the changes of a `with` block durable at once and all or none, where the ring can; else one by one, in order.

        It is there for speed: whoever uses it must be right when a crash leaves only the first few of them.
        """

    def controllers(self) -> list[str]:
        """List the controllers that have key-encryption keys, living or destroyed, in order."""

    def epochs(self, controller: str) -> list[tuple[int, int, bool]]:
        """List the controller's living epochs as (shard, epoch, whether it is minted under), in order; as the ring is now.

        A shard has at most one epoch that is minted under, its highest.
        """

    def rotate_kek(self, controller: str, shard: int, after: int) -> int:
        """Mint under a new epoch if the shard still mints under `after`; give the epoch it mints under."""

    def destroy_kek(self, controller: str, shard: int, epoch: int) -> None:
        """Destroy an epoch that nothing is minted under any more, else `KeyInUse`."""

    def notes(self, prefix: str) -> dict[str, bytes]:
        """Give all notes whose names begin with `prefix`, as the ring is now: what another process wrote before is seen."""

    def put_note(self, name: str, value: bytes, expected: bytes | None) -> bool:
        """Write a note durably if it is still `expected` (None: there is none); returns whether it was. Atomic.

        Names are made of letters, digits, `.`, `_`, `-`, `~`, `%` and `/`, at most 1,000 characters; values have at most
        4,096 octets. Neither holds a key or anything personal.
        """

    def raw_keys(self) -> list[tuple[int, RawClass, int, int | None]]:
        """List the living ones as (number, class, opened_ms, closed_ms), oldest first."""

    def close_raw(self, class_: RawClass, now_ms: int) -> None:
        """Seal no more under the open key of the class: the next use opens another."""

    def destroy_raw(self, numbers: Iterable[int]) -> None:
        """Destroy closed raw or quarantine keys, all or (`KeyInUse`) none."""

    def all_keys_alive(self) -> Iterator[tuple[str, bytes]]:
        """Walk all living keys as (what it is, key): for the scan that looks for what must be gone."""

    def signing_seed(self) -> bytes:
        """Give the Ed25519 seed that checkpoints and receipts are signed with."""

    def close(self) -> None:
        """Forget every key and let go of what holds them."""


OpenRing = Callable[[bool], KeyRing]  # whether the ring may be begun → the ring; raises `RingFault`
