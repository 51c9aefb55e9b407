"""A process that dies, and a network that loses answers: at no call does the key ring in Vault come to harm."""
# ruff: noqa: F401, F811 -- fixtures are imported by their names

import itertools
import random
from collections.abc import Callable, Iterator

import httpx
import pytest

import connectors.vault.client as client_module
from connectors.vault import VaultConnection, VaultRing
from tests.parts.openbao import OpenBao, Opens, connection, openbao, opened, prefix

NOW_MS = 1_800_000_000_000


class Died(BaseException):
    """A process that is killed asks nothing any more."""


class Dies(httpx.BaseTransport):
    """The network of a process that dies at its n-th call, before or right after the server has done what it was asked."""

    def __init__(self, at: int, done: bool) -> None:
        self._real, self._left, self._done = httpx.HTTPTransport(), at, done

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._done):
            raise Died
        answer = self._real.handle_request(request)
        if self._left == 0:
            answer.read()
            answer.close()
            raise Died
        return answer

    def close(self) -> None:
        self._real.close()


def deaths(connection: VaultConnection, work: Callable[[VaultRing], object]) -> Iterator[tuple[int, bool]]:
    """Let a process die at each of its calls in turn, and give when it did."""
    for at in itertools.count(1):
        for done in (False, True):
            network = Dies(at, done)
            try:
                work(VaultRing(connection, create=True, transport=network))
            except Died:
                yield at, done
            else:
                return
            finally:
                network.close()


@pytest.mark.slow
def test_wherever_a_process_dies_in_a_rotation_nobody_goes_on_with_old_keys(opened: Opens, connection: VaultConnection) -> None:
    other, shard, count = opened(), 0, 0

    def rotation(ring: VaultRing) -> None:
        ring.kek("acme", shard)
        with ring.together():
            ring.rotate_kek("acme", shard, after=1)
        with ring.together():
            ring.destroy_kek("acme", shard, 1)

    other.kek("acme", shard)
    for _ in deaths(connection, rotation):
        fresh = opened()
        other.refresh()
        assert other.kek("acme", shard) == fresh.kek("acme", shard)
        assert other.kek_at("acme", shard, 1) == fresh.kek_at("acme", shard, 1)
        told = {place[1]: place[2] for place in other.epochs("acme") if place[0] == shard}
        assert fresh.kek_at("acme", shard, 1) is None or 1 in told  # what is left to be destroyed is seen
        rotation(fresh)
        other.refresh()
        assert other.kek("acme", shard) == fresh.kek("acme", shard)
        assert other.kek_at("acme", shard, 1) is None
        assert [place for place in other.epochs("acme") if place[0] == shard] == [(shard, 2, True)]
        shard, count = shard + 1, count + 1
        other.kek("acme", shard)
    assert count > 30


@pytest.mark.slow
def test_wherever_a_process_dies_no_raw_key_ledger_entry_or_note_is_half_there(
    opened: Opens, connection: VaultConnection, openbao: OpenBao, prefix: str
) -> None:  # fmt: skip
    other, count, entries = opened(), 0, 0
    kept: list[int] = []

    def work(ring: VaultRing) -> None:
        number, _ = ring.raw_key("raw", NOW_MS)
        kept.append(ring.ledger_append(bytes([count]) * 9_000))
        ring.put_note("rotation/a", bytes([count]), ring.notes("rotation/a").get("rotation/a"))
        ring.close_raw("raw", NOW_MS)
        ring.destroy_raw([number])

    for _ in deaths(connection, work):
        other.refresh()
        assert len([closed_ms for *_, closed_ms in other.raw_keys() if closed_ms is None]) <= 1
        assert all(other.raw_key_by_id(number) is not None for number, *_ in other.raw_keys())
        entries = other.ledger_mark()
        assert [mark for mark, _ in other.ledger_since(0)] == list(range(1, entries + 1))
        count += 1
    other.close_raw("raw", NOW_MS)
    other.destroy_raw(number for number, *_ in other.raw_keys())
    opened().raw_key("raw", NOW_MS)
    names = openbao.call("GET", "transit/keys?list=true")["keys"]
    assert len([name for name in names if name.startswith(f"{prefix}-raw-")]) == 1
    assert len(set(kept)) == len(kept)
    assert dict(other.ledger_since(0)).keys() >= set(kept)
    assert count > 30


class Loses(httpx.BaseTransport):
    """A network that loses a third of all answers after the server has done what it was asked."""

    def __init__(self) -> None:
        self._real, self._chance, self.lost = httpx.HTTPTransport(), random.Random(7), 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._real.handle_request(request)
        if self._chance.random() < 1 / 3:
            answer.read()
            answer.close()
            self.lost += 1
            raise httpx.ReadError("lost", request=request)
        return answer

    def close(self) -> None:
        self._real.close()


@pytest.mark.slow
def test_answers_that_are_lost_change_nothing(connection: VaultConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_SECS_MAX", 0.001)
    network = Loses()
    ring = VaultRing(connection, create=True, transport=network)
    try:
        assert [ring.ledger_append(f"{n}".encode()) for n in range(35)] == list(range(1, 36))
        assert ring.ledger_append(bytes(600_000)) == 36
        assert [entry for _, entry in ring.ledger_since(0)] == [f"{n}".encode() for n in range(35)] + [bytes(600_000)]
        assert ring.put_note("rotation/a", b"0", None)
        assert all(ring.put_note("rotation/a", f"{n + 1}".encode(), f"{n}".encode()) for n in range(10))
        for epoch in range(1, 4):
            assert ring.rotate_kek("acme", 1, epoch) == epoch + 1
            ring.destroy_kek("acme", 1, epoch)
        assert ring.epochs("acme") == [(1, 4, True)]
        numbers = [ring.raw_key("raw", NOW_MS + n * 3_600_000)[0] for n in range(5)]
        assert numbers == [1, 2, 3, 4, 5]
        ring.destroy_raw(numbers[:4])
        assert [number for number, *_ in ring.raw_keys()] == [5]
        assert network.lost > 40
    finally:
        ring.close()
