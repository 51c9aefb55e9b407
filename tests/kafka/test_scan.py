"""What is planted in a real broker, a real worker's store and a real Redis is found: on disk, and over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.names import Names
from engine.kafka.store import Store
from engine.layout import state_key
from engine.scan.look import Looked, look
from engine.scan.needles import Needle, Needles
from engine.scan.rdb import server
from engine.scan.report import standing_of
from engine.scan.sources import everything, folder
from engine.scan.tokens import Opener
from engine.scan.wire import cluster
from engine.topology import default_topology
from tests.parts.kafka import Broker
from tests.parts.redis import RedisServer

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
REF = "sub_abcdefghijklmnopqrstuvwx2y"
FILLER = b"the same words again and again, so that every codec has something to do; "


def words_of(codec: str) -> str:
    return f"the {codec} parrot of Ann Example"


NEEDLES = [Needle(n, "words", words_of(codec)) for n, codec in enumerate(CODECS, 1)]
ABORTED = Needle(11, "words", "aborted by Ann Example")
PIECES = b"another b/ y Ann E/ nn Example! other by A/ "  # after them LZF copies the needle piece by piece
OTHER = Needle(12, "words", "another by Ann Example")


def found(read: object, needles: list[Needle]) -> Looked:
    looked = look(Needles(needles), Opener([]), read)  # type: ignore[arg-type]
    assert not looked.unread
    return looked


def produce(bootstrap: str, topic: str, value: bytes, codec: str = "none", *, key: bytes = b"k") -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 50})
    for n in range(30):
        producer.produce(topic, FILLER * 20 + (value if n == 17 else b""), key, headers=[("audit", b"o#1")])
    assert producer.flush(20) == 0


@pytest.fixture(scope="module")
def kafka(kafka_jars: None) -> Iterator[Broker]:
    """A broker of ours: its files are here."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def planted(kafka: Broker, fresh_prefix: str) -> str:
    """The prefix of topics that hold a needle in a batch of each codec, and one in an aborted transaction."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    topics = [f"{fresh_prefix}{name}" for name in ("calls", "consents", "changelog.subject")]
    for future in admin.create_topics([NewTopic(name, 2, 1) for name in topics]).values():
        future.result(20)
    for codec in CODECS:
        produce(kafka.bootstrap, topics[0], words_of(codec).encode(), codec)
    writer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{fresh_prefix}t"})
    writer.init_transactions(20)
    writer.begin_transaction()
    writer.produce(topics[1], ABORTED.text.encode())
    assert writer.flush(20) == 0
    writer.abort_transaction(20)
    produce(kafka.bootstrap, topics[2], b"x", key=state_key(REF, "fence", ()))
    produce(kafka.bootstrap, topics[2], b"x", key=state_key(REF, "item", ("c1",)))
    return fresh_prefix


def test_every_codec_and_an_aborted_transaction_are_read_over_the_wire(kafka: Broker, planted: str) -> None:
    connection, topology = Connection(bootstrap=kafka.bootstrap, prefix=planted), default_topology()
    names = Names(planted, topology.task_specs())
    looked = found(lambda: cluster(ConfluentClients(connection, names), names, topology.topics), [*NEEDLES, ABORTED])
    assert {at.needle: at.place.name for at in looked.found} == {**dict.fromkeys(range(1, 6), "calls"), 11: "consents"}


def test_every_codec_and_an_aborted_transaction_are_read_from_the_brokers_disk(kafka: Broker, planted: str) -> None:
    assert kafka.folder is not None
    read = everything([folder(p, "kafka_log", planted) for p in sorted((kafka.folder / "data").glob(f"{planted}*"))])
    ref = Needle(20, "ref", REF)
    looked = found(read, [*NEEDLES, ABORTED, ref])
    logs = {at.needle: at.place.name for at in looked.found if at.place.kind == "log"}
    assert logs == {**dict.fromkeys(range(1, 6), "calls"), 11: "consents"}
    plain = {at.needle for at in looked.found if at.place.kind == "file" and at.needle < 20}
    assert plain == {1, 11}, "the others stand in no run of a file: their batches were unpacked"
    standing = {at.place.name: standing_of(ref, at.place) for at in looked.found if at.needle == 20}
    assert standing == {"subject fence": "kept", "fence": "kept", "subject item": "outside"}


def test_a_superseded_version_in_a_workers_store_is_found(tmp_path: Path) -> None:
    key = state_key(REF, "item", ("c1",))
    store = Store(tmp_path / "units" / "subject-0")
    store.begin("first", 1)
    for n, value in enumerate((OTHER.text.encode() + FILLER, b"nothing")):
        store.committed({key: value, **{b"s%05d" % k: FILLER * 3 for k in range(200)}}, n + 1, n + 1)
        store.flush()
    store.committed({key: None}, 3, 3)
    store.close()
    looked = found(everything([folder(tmp_path, "data")]), [OTHER])
    assert {(at.place.kind, at.place.name) for at in looked.found} >= {("state", "item")}


@pytest.fixture
def server_of_its_own(redis_program: None) -> Iterator[RedisServer]:
    with RedisServer(rdbcompression="yes") as started:
        yield started


VALUES = {
    "string": lambda c, k, v: c.set(k, v),
    "hash": lambda c, k, v: c.hset(k, mapping={b"f": v, b"other": b"x" * 100}),
    "packed hash": lambda c, k, v: c.hset(k, v[:40], b"x"),
    "set": lambda c, k, v: c.sadd(k, v, b"other" * 30),
    "sorted set": lambda c, k, v: c.zadd(k, {v: 1.5, b"other" * 30: 2}),
    "list": lambda c, k, v: c.rpush(k, b"x" * 200, v, b"y" * 200),
    "expiring": lambda c, k, v: c.set(k, v, ex=1_000),
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_type_of_redis_is_read_live_and_from_its_compressed_dump(server_of_its_own: RedisServer, kind: str) -> None:
    with closing(redis.Redis.from_url(server_of_its_own.url)) as client:
        text = OTHER.text.encode()
        VALUES[kind](
            client, b"acme.consentinel:unit:subject/0", text if kind == "packed hash" else PIECES + text + b" and so on" * 40
        )
        client.set(b"not.ours", b"y")
        looked = found(lambda: server(client, "acme."), [OTHER])
        assert {at.needle for at in looked.found} == {OTHER.number}
        assert found(lambda: server(client, "other."), [OTHER]).values == 0
        client.config_set("save", "")
        client.save()
    assert server_of_its_own.folder is not None
    dump = server_of_its_own.folder / "dump.rdb"
    looked = found(everything([folder(dump, "redis_dump")]), [OTHER])
    assert {at.needle for at in looked.found if at.place.kind in ("key", "state")} == {OTHER.number}
    if kind in ("string", "expiring"):
        assert not [at for at in looked.found if at.place.kind == "file"], "it is compressed: no run of the file holds it"


def test_a_copy_of_state_in_redis_is_told_by_its_kind(server_of_its_own: RedisServer) -> None:
    ref = Needle(1, "ref", REF)
    with closing(redis.Redis.from_url(server_of_its_own.url)) as client:
        for kind in ("fence", "item"):
            client.hset("consentinel:unit:subject/0", state_key(REF, kind, ()), b"x")
            client.zadd("consentinel:keys:subject/0", {state_key(REF, kind, ()): 0})
        client.hset(f"consentinel:board:{REF}", "1", "x")
        looked = found(lambda: server(client, ""), [ref])
    told = {(at.place.kind, at.place.name): standing_of(ref, at.place) for at in looked.found}
    assert told == {("state", "subject fence"): "kept", ("state", "subject item"): "outside", ("key", "board"): "outside"}
