"""The erasure ledger: every order to forget somebody, kept with the key ring and so outside of the data that it is about.

An entry is written before the turn that gives its orders is committed, and each task partition keeps the mark of its last entry
with its state, in that commit. A data folder, a store or topics that come back from a backup know a mark that is behind the
ring's: then the orders in between are given again, as they were, before anything else is folded there (design, section 6.7).
A turn that was lost after its entry was written gives its orders again by itself; the ledger has them twice, which changes
nothing: an identifier carries out each request's order once.

Entries hold messages between tasks: references, no names. They rest sealed under a key that hangs on the controller's pepper, and
when that is destroyed nobody's reference means anything any more.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec

from engine.keyring import RingDamaged
from engine.runtime import Output
from engine.sealing import Sealer, raw_place_of
from engine.secrets import Secrets

KEY_NUMBER = 0  # the ledger's key is no numbered one


class LedgerOrder(msgspec.Struct, frozen=True, array_like=True):
    """One order as it was sent: topic, key, and the envelope's octets."""

    topic: str
    key: bytes
    envelope: bytes
    controller: str


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    origin: str
    controller: str
    token: bytes


class Ledger:
    """The ledger as the engine uses it. Everything may raise `RingFault`."""

    def __init__(self, secrets: Secrets) -> None:
        self._ring, self._secrets = secrets.ring, secrets

    def append(self, origin: str, orders: Iterable[LedgerOrder]) -> int:
        """Keep the orders of one task partition's turn; returns the mark of the last entry."""
        mark = 0
        for controller, some in groupby(orders, key=lambda order: order.controller):
            token = self._sealer(controller).seal_raw(
                msgspec.msgpack.encode(list(some)), raw_place_of("ledger", origin), KEY_NUMBER, self._secrets.nonce12()
            )  # fmt: skip
            mark = self._ring.ledger_append(msgspec.msgpack.encode(_Entry(origin, controller, token)))
        return mark

    def since(self, origin: str, mark: int, now_ms: int) -> tuple[int, list[Output]]:
        """The orders of a task partition after `mark`, to be sent again, and the mark of the last.

        Raises `RingDamaged` when the ring's ledger is behind `mark`: an older ring was put beside newer data.
        """
        if self._ring.ledger_mark() < mark:
            raise RingDamaged("the key ring is older than the data: its erasure ledger ends before theirs")
        outputs: list[Output] = []
        last = mark
        for at, entry in self._entries(mark):
            if entry.origin == origin:
                last = at
                outputs += [self._again(order, now_ms) for order in self._opened(entry)]
        return last, outputs

    def _entries(self, mark: int) -> Iterator[tuple[int, _Entry]]:
        while found := self._ring.ledger_since(mark):
            for at, data in found:
                yield at, msgspec.msgpack.decode(data, type=_Entry)
            mark = found[-1][0]

    def _opened(self, entry: _Entry) -> Sequence[LedgerOrder]:
        orders = self._sealer(entry.controller).open_raw(entry.token, raw_place_of("ledger", entry.origin))
        return msgspec.msgpack.decode(orders, type=list[LedgerOrder])

    def _again(self, order: LedgerOrder, now_ms: int) -> Output:
        return Output(order.topic, order.key, self._secrets.seal_raw(order.topic, order.envelope, now_ms))

    def _sealer(self, controller: str) -> Sealer:
        return Sealer(hmac.digest(self._ring.pepper(controller), b"consentinel/1/ledger", "sha256"))
