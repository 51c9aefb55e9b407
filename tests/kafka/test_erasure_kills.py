"""Kill -9 of workers amid an erasure on a real cluster: who is left or comes again finishes it, and each thing is done once."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.layout import data_key
from engine.runtime import LogRecord, Output
from schemas.codec import encode
from schemas.topics import WrappedKey
from tests.endtoend.erasure_child import ITEMS, REQUEST, SHARED, Outside, before, key_of, said
from tests.endtoend.test_erasure_kills import done_once
from tests.endtoend.world import Told, envelope, latest, records, request_states, topic_of, views
from tests.parts.kafka import Kafka

from .test_worker import TOPOLOGY, Site, until

pytestmark = pytest.mark.slow

KILLS = 3
INTERVAL_MS = 400  # of commits: an erasure takes some twenty of them, one after the other, and so lasts longer than a kill
WAIT_SECS_MAX = 180.0
QUIET_SECS = 3.0  # a doubled effect would have come by then
SEED = random.SystemRandom().randrange(1 << 32)


class Story(Site):
    """A site that the story is told to, and that can be looked at like a runtime: what is committed, by the newest keys."""

    topology = TOPOLOGY

    def __init__(self, kafka: Kafka, prefix: str, folder: Path) -> None:
        super().__init__(kafka, prefix, folder)
        self.runtime = self
        self._keys: dict[bytes, WrappedKey] = {}

    def tell(self, told: Told) -> None:
        now_ms = time.time_ns() // 1_000_000
        sealed = self.secrets.seal_raw(topic_of(told.type), encode(envelope(told, now_ms)), now_ms)
        self.edge.append([Output(topic_of(told.type), key_of(told).encode(), sealed)], now_ms)

    def values(self, topic: str) -> Iterator[bytes]:
        return (record.value for _, record in records(self, topic) if record.value is not None)

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> list[LogRecord]:
        return self.edge.read(topic, partition, offset, records_max)

    def get(self, _task: str, _partition: int, key: bytes) -> bytes | None:
        """A data key, as `keys.wrapped` has it now."""
        found = self._keys.get(key)
        return None if found is None else encode(found)

    def views(self) -> dict[tuple[str, str], dict[str, Any]]:
        found = {tuple(msgspec.json.decode(at)): key for at, key in latest(self, "keys.wrapped").items()}
        self._keys = {data_key(owner, scope): key for (owner, scope), key in found.items()}
        return views(self)

    def entries(self) -> int:
        """How many audit entries name the request."""
        return sum(REQUEST.encode() in entry for entry in self.values("audit.entries"))

    def spoken(self) -> dict[str, list[str]]:
        """What customers' views show, by conversation."""
        found: dict[str, list[str]] = {}
        for (_, name), view in self.views().items():
            if view["role"] == "customer":
                found.setdefault(name, []).extend(sorted(str(line[3]) for line in view["lines"]))
        return found


@pytest.fixture
def site(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> Iterator[Story]:
    made = Story(kafka, fresh_prefix, tmp_path)
    yield made
    made.close()


def test_kill_9_of_workers_amid_an_erasure_and_it_finishes_once(site: Story) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    site.apply()
    site.environ["CONSENTINEL_KAFKA__COMMIT_INTERVAL_MS"] = str(INTERVAL_MS)
    workers = {name: site.worker(name) for name in ("w1", "w2")}
    for worker in workers.values():
        worker.wait_ready()
    for told in before(time.time_ns() // 1_000_000 - 86_400_000):
        site.tell(told)
    everything = {name: sorted(said(name, who) for who in "abg") * 2 for name in SHARED}
    everything |= {name: sorted(said(name, who) for who in "ag") for name in ITEMS - {*SHARED}}
    until(lambda: site.spoken() == everything and len(latest(site, "consent.state")) == 2, WAIT_SECS_MAX)

    outside = Outside(site.tell, site.values, lambda: time.time_ns() // 1_000_000)
    assert outside.speak() and outside.speak(), "it is asked for, and verified"
    began = time.monotonic()
    for n in range(KILLS):
        time.sleep(chance.uniform(0.1, 1.5))
        done = site.entries()
        victims = chance.sample(sorted(workers), chance.randint(1, len(workers)))
        for name in victims:
            workers[name].end(signal.SIGKILL)
        print(f"{time.monotonic() - began:5.1f} s: {victims} killed, {done} entries of the request were there")
        workers |= {name: site.worker(name) for name in victims}
        if n < KILLS - 1:
            until(lambda seen=done: outside.speak() or site.entries() > seen)

    def finished() -> bool:
        while outside.speak():
            pass
        return request_states(site) == {REQUEST: "fulfilled"} and site.spoken() == {name: [said(name, "b")] for name in SHARED}

    until(finished, WAIT_SECS_MAX)
    print(f"{time.monotonic() - began:5.1f} s: fulfilled")
    time.sleep(QUIET_SECS)
    site.views()
    done_once(site)
    assert 1 <= site.ring.ledger_mark() <= 1 + KILLS
