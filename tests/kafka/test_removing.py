"""On a real cluster, what an erasure deleted leaves the worker's files, and the audit log says so after that only."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.kafka.names import Unit
from engine.kafka.worker import Worker
from engine.layout import data_key
from engine.runtime import Output, partition_of
from schemas.codec import decode_as, encode
from schemas.topics import AuditEntry, WrappedKey
from tests.endtoend.world import Told, envelope, request, topic_of
from tests.harness import CUSTOMER, call, party
from tests.parts.kafka import Kafka
from tests.parts.topics import committed

from .test_rotation import Keys
from .test_worker import TOPOLOGY, until

pytestmark = pytest.mark.slow


@pytest.fixture
def keys(kafka: Kafka, fresh_prefix: str, tmp_path: Path) -> Iterator[Keys]:
    made = Keys(kafka, fresh_prefix, tmp_path)
    yield made
    made.close()


def tell(keys: Keys, *events: Told) -> None:
    now_ms = int(time.time() * 1_000)
    for told in events:
        topic = topic_of(told.type)
        sealed = keys.secrets.seal_raw(topic, encode(envelope(told, now_ms)), now_ms)
        keys.edge.append([Output(topic, told.id.encode(), sealed)], now_ms)


def audited(keys: Keys) -> list[AuditEntry]:
    found = (decode_as(AuditEntry, message.value()) for message in committed(keys.bootstrap, f"{keys.prefix}audit.entries"))
    return [entry for entry in found if entry.facts.get("request") == "r1"]


def files_with(worker: Worker, text: bytes) -> int:
    stores = (store.folder for store in worker.runtime._stores.values())
    return sum(text in path.read_bytes() for folder in stores for path in folder.iterdir() if path.is_file())


def test_an_erasure_leaves_the_workers_files_and_then_says_so(keys: Keys) -> None:
    keys.apply()
    worker = keys.start("w1")
    until(lambda: worker.ready)
    now_ms = int(time.time() * 1_000)
    tell(keys, Told("call.started", "s1", now_ms, call("c1", party("p", "customer", ("tel", CUSTOMER), name="Ada Example"))))
    ref = keys.secrets.ref("acme", "tel", CUSTOMER)
    home = Unit("subject", partition_of(ref.encode(), TOPOLOGY.tasks["subject"].partitions))
    until(lambda: worker.runtime.get("subject", home.partition, data_key(ref, "c1")) is not None)
    wrapped = decode_as(WrappedKey, worker.runtime.get("subject", home.partition, data_key(ref, "c1")) or b"").wrapped
    worker.runtime._stores[home].flush()
    assert files_with(worker, wrapped)
    tell(keys, *request("r1", now_ms + 1, ("tel", CUSTOMER)))
    until(lambda: any(entry.kind == "request.closed" for entry in audited(keys)))
    (bound,) = [entry for entry in audited(keys) if entry.kind == "removal.bound"]
    assert {"changelogs", "topics.raw", "topics.compacted.if_written", "erasure.notices"} <= bound.facts.keys()
    time.sleep(2.5)  # the loop looks once a second at what is owed
    assert files_with(worker, wrapped) and not any(entry.kind == "removal.done" for entry in audited(keys))
    worker.maintain()
    assert not files_with(worker, wrapped), "what was deleted is in no file"
    until(lambda: sum(entry.kind == "removal.done" for entry in audited(keys)) == 2)
    done = [entry for entry in audited(keys) if entry.kind == "removal.done"]
    assert {(entry.facts["place"], bool(entry.subject)) for entry in done} == {("store", True), ("store", False)}
    assert all(entry.at_ms >= bound.at_ms for entry in done) and ref not in str(msgspec.to_builtins(done))
    assert worker.failed is None
