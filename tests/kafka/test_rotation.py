"""A rotation of keys on a real cluster: begun in the shared ring, done by two workers, one of which dies at it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.clock import system_clock
from engine.filering import FileRing
from engine.kafka.connection import Connection
from engine.kafka.door import KafkaDoor
from engine.kafka.worker import Worker
from engine.rotation import Rotations, RotationStatus, keepers
from engine.runtime import Output
from engine.sealing import Sealer, place_of
from engine.service import Limits
from schemas.codec import decode_as, encode
from schemas.routed import Envelope
from schemas.topics import WrappedKey
from tests.harness import call, party
from tests.parts.kafka import Kafka
from tests.parts.topics import committed

from .test_worker import TOPOLOGY, Site, until

pytestmark = pytest.mark.slow


class NoModel:
    """For a door that is asked about keys only: those stand in the ring."""

    def close(self) -> None:
        pass


class Keys(Site):
    """A site whose workers run in this process, each with a ring of its own on the same file."""

    def __init__(self, kafka: Kafka, prefix: str, folder: Path) -> None:
        super().__init__(kafka, prefix, folder)
        self.rotations = Rotations(self.ring, keepers(TOPOLOGY))
        self.threads: list[Worker] = []

    def start(self, name: str, before: Any = lambda step: None) -> Worker:
        connection = Connection(bootstrap=self.bootstrap, prefix=self.prefix)
        worker = Worker.open(connection, self.folder / name, ring=self.folder / "ring", name=name, limits=Limits())
        worker.rotation._behind_ms, worker.rotation.step = 0, before
        self.threads.append(worker)
        worker.start()
        return worker

    def door(self) -> KafkaDoor:
        return KafkaDoor(
            self.clients, self.names, TOPOLOGY, FileRing(self.folder / "ring", create=False), NoModel(), system_clock, os.urandom
        )  # fmt: skip

    def calls(self, numbers: range) -> None:
        now_ms, outputs = int(time.time() * 1_000), []
        for n in numbers:
            started = call(f"c{n}", party("p", "customer", ("crm", f"customer-{n}"), name="Ada Example"))
            envelope = Envelope(
                id=f"c{n}", source="test", type="call.started", controller="acme", time_ms=now_ms, receipt_ms=now_ms,
                content_type="application/json", data=msgspec.json.encode(started),
            )  # fmt: skip
            outputs.append(Output("calls", f"c{n}".encode(), self.secrets.seal_raw("calls", encode(envelope), now_ms)))
        self.edge.append(outputs, now_ms)

    def wrapped(self) -> dict[tuple[str, str], WrappedKey]:
        """The newest committed record of each key of `keys.wrapped`."""
        return {
            msgspec.json.decode(message.key(), type=tuple[str, str]): decode_as(WrappedKey, message.value())
            for message in committed(self.bootstrap, f"{self.prefix}keys.wrapped")
        }

    def opened(self, wrapped: dict[tuple[str, str], WrappedKey]) -> dict[tuple[str, str], bytes | None]:
        self.ring.refresh()
        found: dict[tuple[str, str], bytes | None] = {}
        for (owner, scope), key in wrapped.items():
            kek = self.ring.kek_at("acme", key.shard, key.epoch)
            found[owner, scope] = None if kek is None else Sealer(kek).unwrap(key.wrapped, place_of("acme", owner, scope))
        return found

    def seen(self) -> RotationStatus:
        found = self.rotations.status("acme")[0].rotation
        assert found is not None
        return found

    def close(self) -> None:
        for worker in self.threads:
            worker.stop()
        super().close()


@pytest.fixture
def keys(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> Iterator[Keys]:
    made = Keys(kafka, fresh_prefix, tmp_path)
    yield made
    made.close()


def test_two_workers_rotate_keys_while_calls_come_in_and_one_of_them_dies(keys: Keys) -> None:
    keys.apply()
    died: list[int] = []

    def die(step: int) -> None:
        if step == 6:
            died.append(step)
            raise ZeroDivisionError

    first, second = keys.start("w1"), keys.start("w2", die)
    until(lambda: first.ready and second.ready and min(len(w.runtime.owned("subject")) for w in (first, second)) > 0)
    keys.calls(range(200))
    until(lambda: len(keys.wrapped()) == 200)
    before = keys.wrapped()
    data_keys = keys.opened(before)

    door = keys.door()
    door.rotate_keys("acme", "an administrator")  # it does no work itself
    assert [(status.controller, status.rotation and status.rotation.phase) for status in door.keys()] == [("acme", "stopping")]
    door.stop()
    keys.calls(range(200, 300))
    until(lambda: second.failed is not None)
    second.stop()
    assert died and keys.seen().epochs_destroyed == 0
    keys.calls(range(300, 400))
    until(lambda: keys.seen().phase == "ended")
    assert (keys.seen().owners_acknowledged, keys.seen().epochs_destroyed, keys.seen().keys_broken) == (8, 4096, 0)
    until(lambda: len(keys.wrapped()) == 400)
    after = keys.wrapped()
    assert {key.epoch for key in after.values()} == {2}
    found = keys.opened(after)
    assert {at: found[at] for at in data_keys} == data_keys and None not in found.values()
    assert set(keys.opened(before).values()) == {None}
    assert first.failed is None
