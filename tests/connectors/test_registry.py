"""A schema registry: framed events become ours, what cannot be known now waits, and our schemas are registered.

The registry here is a small HTTP server that speaks the documented API; no real one was tried.
"""

import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from confluent_kafka import KafkaException, Producer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from connectors.cli.app import app
from connectors.cli.settings import FRESHNESS_SECS
from connectors.registry import ANSWER_SECS_MAX, Registry, RegistryImpossible
from engine.clock import system_clock
from engine.kafka.clients import ConfluentClients
from engine.kafka.connection import Connection
from engine.kafka.group_lag import group_lag
from engine.kafka.names import Names
from engine.kafka.plan import apply_plan
from engine.kafka.worker import Worker
from engine.loop import PAUSE_MS
from engine.outside import ASKING_EVERY_SECS, ASKING_SECS_MAX, Registered, RegistryAway
from engine.runtime import Output
from engine.topology import default_topology
from schemas import codec
from schemas.codec import Malformed, SchemaUnknown
from schemas.compiled import Unencodable
from schemas.decode import Invalid
from schemas.events import CallEnded, ConsentChanged
from schemas.foreign import DEPTH_MAX, conversion
from schemas.generate import compact, schema_of
from tests.harness import CUSTOMER, Deployment, call, party
from tests.parts.kafka import Kafka

SAID = {"identifiers": [{"kind": "tel", "value": CUSTOMER}], "purposes": ["marketing"], "method": "web", "evidence": {}}
CONSENT = msgspec.convert(SAID, ConsentChanged)
OURS = compact(schema_of(ConsentChanged))
DATUM = codec.encode(CONSENT)[10:]


class FakeRegistry:
    """Schemas by id and by subject. `status`: answers everything so; `slow_secs`: takes its time before it answers."""

    def __init__(self) -> None:
        self.ids: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, list[str]] = {}
        self.refused: set[str] = set()  # subjects that are not compatible with anything new
        self.asked: list[str] = []
        self.status, self.slow_secs, self.body = 0, 0.0, b""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def _answer(self, document: dict[str, Any]) -> None:
                fake.asked.append(f"{self.command} {self.path}")
                status, answer = fake.answer(self.command, self.path, document)
                time.sleep(fake.slow_secs)
                body = fake.body or json.dumps(answer).encode()
                self.send_response(fake.status or status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass  # who asked has gone

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, verb: str, path: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        match verb, path.strip("/").split("/"):
            case "GET", ["schemas", "ids", id_]:
                found = self.ids.get(int(id_))
                return (200, found) if found else (404, {"error_code": 40403, "message": "Schema not found"})
            case "POST", ["compatibility", "subjects", subject, "versions", "latest"]:
                if subject not in self.subjects:
                    return 404, {"error_code": 40401, "message": "Subject not found"}
                return 200, {"is_compatible": subject not in self.refused}
            case "POST", ["subjects", subject]:
                if subject not in self.subjects:
                    return 404, {"error_code": 40401, "message": "Subject not found"}
                if document["schema"] not in self.subjects[subject]:
                    return 404, {"error_code": 40403, "message": "Schema not found"}
                return 200, {"subject": subject, "id": 1, "version": 1, "schema": document["schema"]}
            case "POST", ["subjects", subject, "versions"]:
                if subject in self.refused:
                    return 409, {"error_code": 409, "message": "Schema being registered is incompatible"}
                self.subjects.setdefault(subject, []).append(document["schema"])
                return 200, {"id": 1}
        raise AssertionError((verb, path))

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    made = FakeRegistry()
    yield made
    made.close()


@pytest.fixture
def registry(fake: FakeRegistry) -> Iterator[Registry]:
    made = Registry(fake.url)
    yield made
    made.close()


def framed(id_: int, datum: bytes = DATUM) -> bytes:
    return b"\0" + id_.to_bytes(4, "big") + datum


# Schemas of others ------------------------------------------------------------------------------------------------------------


def theirs(change: Any = None) -> dict[str, Any]:
    """Our schema as a publisher may have it: a copy, changed."""
    schema: dict[str, Any] = json.loads(OURS)
    if change is not None:
        change(schema)
    return schema


def field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return next(f for f in schema["fields"] if f["name"] == name)


def without(schema: dict[str, Any], *names: str) -> None:
    schema["fields"] = [f for f in schema["fields"] if f["name"] not in names]


def java(schema: Any) -> Any:
    """Every string with the property that Java's generator gives it."""
    if isinstance(schema, dict):
        return {k: v if k in ("name", "doc", "namespace") else java(v) for k, v in schema.items() if k != "allowed"}
    if isinstance(schema, list):
        return [java(item) for item in schema]
    return {"type": "string", "avro.java.string": "String"} if schema == "string" else schema


def renamed(schema: Any) -> Any:
    text = json.dumps(schema)
    return json.loads(text.replace("consentinel.v1", "com.example.acd"))


PLAIN: dict[str, Any] = msgspec.to_builtins(CONSENT)
MORE = {"name": "more", "type": {"type": "map", "values": {"type": "array", "items": "int"}}, "default": {}}
READABLE = {
    "another namespace": renamed(theirs()),
    "Java's strings": java(theirs()),
    "another order": theirs(lambda s: s["fields"].reverse()),
    "a field more": theirs(lambda s: s["fields"].insert(1, MORE)),
    "no optional fields": theirs(lambda s: without(s, "brand", "jurisdiction", "guardian", "valid_until")),
}


@pytest.mark.parametrize("schema", READABLE.values(), ids=READABLE)
def test_a_datum_of_a_schema_that_differs_in_what_does_not_matter_is_ours(schema: dict[str, Any]) -> None:
    names = {f["name"] for f in schema["fields"]}
    datum = {name: value for name, value in (PLAIN | {"more": {"a": [1, -2], "b": []}}).items() if name in names}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), datum)
    made = codec.decode_as(ConsentChanged, conversion(ConsentChanged, json.dumps(schema))(out.getvalue()), validate=True)
    assert made == CONSENT


def test_a_datum_of_our_own_schema_only_changes_its_header() -> None:
    assert conversion(ConsentChanged, OURS)(DATUM) == codec.encode(CONSENT)
    assert conversion(ConsentChanged, OURS)(b"anything") == codec.encode(CONSENT)[:10] + b"anything"


def nested(depth: int) -> Any:
    return "long" if not depth else {"type": "array", "items": nested(depth - 1)}


def added(*types: Any) -> dict[str, Any]:
    return theirs(lambda s: s["fields"].extend({"name": f"more{n}", "type": type_} for n, type_ in enumerate(types)))


def record(name: str, *types: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{n}", "type": type_} for n, type_ in enumerate(types)]}


RECURSIVE = {"type": "record", "name": "Chain", "fields": [{"name": "next", "type": ["null", "Chain"]}]}
UNREADABLE = {
    "no JSON": "{", "a number": 7, "a list": [], "a primitive": "string", "nothing": {},
    "deep JSON": "[" * 100_000,
    "another record": schema_of(CallEnded),
    "a required field is missing": theirs(lambda s: without(s, "method")),
    "a field of another type": theirs(lambda s: field(s, "method").update(type="long")),
    "an optional one that is not": theirs(lambda s: field(s, "jurisdiction").update(type="string")),
    "a float": added("float"), "an enum": added({"type": "enum", "name": "E", "symbols": ["A"]}),
    "null by itself": added("null"), "another union": added(["string", "null"]),
    "a field twice": theirs(lambda s: s["fields"].append(field(s, "method"))),
    "a record twice": theirs(lambda s: s["fields"].append(field(s, "identifiers"))),
    "a name that is code": theirs(lambda s: s["fields"].append({"name": "a\n  import os", "type": "long"})),
    "a type nobody named": added("Nowhere"),
    "a record in itself": added(RECURSIVE),
    "a record without fields": added({"type": "array", "items": record("Void")}),
    "a thousand million values": added(*(record(f"R{n}", *[f"R{n - 1}" if n else "long"] * 10) for n in range(9))),
    "two thousand values": added(record("Wide", *["long"] * 2_000)),
    "too deep": added(nested(DEPTH_MAX)),
    "too long": OURS + " " * 300_000,
}  # fmt: skip


@pytest.mark.parametrize("schema", UNREADABLE.values(), ids=UNREADABLE)
def test_a_schema_that_cannot_be_ours_is_unknown_and_does_no_harm(schema: Any) -> None:
    began = time.monotonic()
    with pytest.raises(SchemaUnknown) as fault:
        conversion(ConsentChanged, schema if isinstance(schema, str) and schema != "string" else json.dumps(schema))
    assert str(fault.value) == "not resolved into ConsentChanged" and fault.value.__context__ is None
    assert time.monotonic() - began < 5


def test_the_deepest_schema_that_is_taken_compiles() -> None:
    schema = added(nested(DEPTH_MAX - 1))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), PLAIN | {"more0": []})
    assert conversion(ConsentChanged, json.dumps(schema))(out.getvalue()) == codec.encode(CONSENT)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_hostile_bytes_are_malformed_and_nothing_else(data: bytes) -> None:
    convert = conversion(ConsentChanged, json.dumps(READABLE["a field more"]))
    try:
        codec.decode_as(ConsentChanged, convert(data))
    except (Malformed, Unencodable):
        pass


# The registry's answers -------------------------------------------------------------------------------------------------------


def test_a_schema_is_found_by_its_id_and_what_is_not_avro_by_itself_is_none(fake: FakeRegistry, registry: Registry) -> None:
    fake.ids = {1: {"schema": OURS}, 2: {"schema": "message A {}", "schemaType": "PROTOBUF"},
                3: {"schema": OURS, "references": [{"name": "B", "subject": "b", "version": 1}]}}  # fmt: skip
    assert registry.schema(1) == OURS
    assert [registry.schema(id_) for id_ in (2, 3, 4)] == [None, None, None]


AWAY = {
    "refused": (401, b"{}"), "away": (503, b"{}"), "a proxy's 404": (404, b"<html>not here</html>"),
    "another 404": (404, b'{"error_code": 404}'), "something else": (200, b"<html>hello</html>"),
    "too much": (200, b"x" * (3 << 20)), "elsewhere": (302, b"{}"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body"), AWAY.values(), ids=AWAY)
def test_an_answer_that_says_nothing_of_the_schema_means_that_nobody_knows(
    fake: FakeRegistry, registry: Registry, status: int, body: bytes
) -> None:  # fmt: skip
    fake.ids, fake.status, fake.body = {1: {"schema": OURS}}, status, body
    with pytest.raises(RegistryAway):
        registry.schema(1)


def test_a_registry_that_does_not_answer_is_waited_for_only_so_long(fake: FakeRegistry) -> None:
    fake.slow_secs = ANSWER_SECS_MAX + 1
    registry, began = Registry(fake.url), time.monotonic()
    with pytest.raises(RegistryAway, match="ReadTimeout"):
        registry.schema(1)
    assert time.monotonic() - began < ANSWER_SECS_MAX + 1
    registry.close()


@pytest.mark.parametrize("url", ["registry:8081", "ftp://registry.example", "http://", "http://[::"])
def test_a_url_that_is_none_is_refused_by_the_settings_name(url: str) -> None:
    with pytest.raises(RegistryImpossible, match=r"^kafka\.registry_url: "):
        Registry(url)


def test_a_password_in_the_url_is_sent_and_never_shown(fake: FakeRegistry) -> None:
    registry = Registry(fake.url.replace("//", "//us:hush@"))
    fake.status = 500
    with pytest.raises(RegistryAway) as fault:
        registry.schema(1)
    assert "hush" not in f"{fault.value!r} {registry!r}"
    registry.close()


def test_a_slow_registry_does_not_take_all_of_the_loops_time() -> None:
    now, asked = [0.0], []

    def slow(id_: int) -> None:
        asked.append(id_)
        now[0] += 1.5

    registered = Registered(slow, lambda: now[0])

    def told(id_: int) -> str:
        try:
            registered.unframed("consent.given", framed(id_))
        except (Invalid, RegistryAway) as fault:
            return type(fault).__name__
        raise AssertionError("there is no such schema")

    answers = [told(id_) for id_ in range(1_000)]
    learnt = answers.index("RegistryAway")
    assert now[0] <= ASKING_SECS_MAX + 1.5 and set(answers[learnt:]) == {"RegistryAway"}
    assert (told(0), len(asked)) == ("Invalid", learnt), "what was learnt is not asked again"
    now[0] += ASKING_EVERY_SECS
    assert (told(999), len(asked)) == ("Invalid", learnt + 1), "and later the rest is"


# In the engine ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def deployment(tmp_path: Path, registry: Registry) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    made.shared.registered = Registered(registry.schema)
    yield made
    made.close()


def headers(id_: str, type_: str = "consent.given") -> tuple[tuple[str, bytes], ...]:
    said = {"ce_id": id_, "ce_source": "acd", "ce_specversion": "1.0", "ce_type": type_, "ce_controller": "acme"}
    return tuple((name, text.encode()) for name, text in {**said, "content-type": "application/avro"}.items())


def write(deployment: Deployment, id_: str, value: bytes) -> None:
    deployment.runtime.append([Output("consents", b"k", value, headers(id_))], deployment.now_ms)


def quarantined(deployment: Deployment) -> list[str]:
    return [entry.code for _, entry in deployment.rows("quarantine")]  # type: ignore[union-attr]


def test_framed_events_are_folded_and_each_schema_is_asked_for_once(deployment: Deployment, fake: FakeRegistry) -> None:
    fake.ids = {7: {"schema": OURS}, 9: {"schema": json.dumps(READABLE["another namespace"])}}
    for n, id_ in enumerate((7, 9, 7, 9, 7)):
        write(deployment, f"e{n}", framed(id_))
    write(deployment, "plain", codec.encode(CONSENT))
    deployment.settle()
    assert quarantined(deployment) == [] and len(deployment.latest("consent.state")) == 1
    assert fake.asked == ["GET /schemas/ids/7", "GET /schemas/ids/9"]


def test_what_can_never_be_read_goes_to_quarantine_with_its_code(deployment: Deployment, fake: FakeRegistry) -> None:
    other, more = compact(schema_of(CallEnded)), json.dumps(READABLE["a field more"])
    fake.ids = {7: {"schema": OURS}, 8: {"schema": other}, 9: {"schema": more}}
    for n, value in enumerate((framed(404), framed(8), framed(7, DATUM[:-1]), framed(9, b"\xff"), b"\0\0")):
        write(deployment, f"e{n}", value)
    deployment.settle()
    assert quarantined(deployment) == ["unknown-schema", "unknown-schema", "not-avro", "not-avro", "not-avro"]


def test_without_a_registry_a_frame_is_no_avro_and_nobody_is_asked(deployment: Deployment, fake: FakeRegistry) -> None:
    deployment.shared.registered = None
    write(deployment, "e1", framed(7))
    deployment.settle()
    assert quarantined(deployment) == ["not-avro"] and fake.asked == []


def read_by(deployment: Deployment, task: str, topic: str) -> int:
    """How many records of a topic a task has folded."""
    return sum(deployment.runtime.position(task, topic, n) for n in range(deployment.topology.topics[topic].partitions))


def test_while_the_registry_is_away_nothing_is_lost_and_the_other_tasks_go_on(deployment: Deployment, fake: FakeRegistry) -> None:
    deployment.publish("call.started", call("c1", party("p1", "customer", ("tel", CUSTOMER))), settle=False)
    deployment.loop.turn()
    before_ms = deployment.loop.beat_ms
    fake.ids, fake.status = {7: {"schema": OURS}}, 503
    write(deployment, "e1", framed(7))
    write(deployment, "e2", codec.encode(CONSENT))  # behind it: order is kept
    deployment.now_ms += 1
    for _ in range(6):
        assert deployment.loop.turn(), "something is left to do"
    assert deployment.shared.counts["registry_away",] == len(fake.asked) == 1, "it is asked once, and then there is a pause"
    assert read_by(deployment, "case", "case.events") == read_by(deployment, "subject", "subject.events") == 1
    assert read_by(deployment, "intake", "consents") == 0 and quarantined(deployment) == []

    deployment.now_ms += PAUSE_MS
    for _ in range(6):
        deployment.loop.turn()
    assert deployment.shared.counts["registry_away",] == len(fake.asked) == 2
    assert deployment.loop.beat_ms == before_ms, "nobody may think that all has been folded"

    fake.status = 0
    deployment.settle(PAUSE_MS)
    assert quarantined(deployment) == [] and read_by(deployment, "intake", "consents") == 2
    assert len(deployment.latest("consent.state")) == 1


# Our schemas in a registry ----------------------------------------------------------------------------------------------------


def cli(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Any]:
    monkeypatch.setenv("CONSENTINEL_KAFKA__REGISTRY_URL", fake.url)
    done = CliRunner().invoke(app, ["topology", *words, "--registry", "--output", "json"])
    return done.exit_code, json.loads(done.stdout) if done.stdout.startswith("{") else done.output


def test_schemas_are_planned_registered_once_and_compared(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    code, planned = cli(fake, monkeypatch, "plan")
    standing = {row["subject"]: row["standing"] for row in planned["subjects"]}
    assert code == 2 and set(standing.values()) == {"missing"} and fake.subjects == {}
    assert {"consentinel.v1.ConsentChanged", "consentinel.v1.ConsentState", "consentinel.v1.CallStarted"} <= standing.keys()
    assert not {"consentinel.v1.Envelope", "consentinel.v1.WrappedKey", "consentinel.v1.ItemErase"} & standing.keys()
    assert cli(fake, monkeypatch, "apply")[0] == 0
    assert fake.subjects["consentinel.v1.ConsentChanged"] == [OURS] and fake.subjects.keys() == standing.keys()
    fake.asked.clear()
    code, planned = cli(fake, monkeypatch, "plan")
    assert code == 0 and {row["standing"] for row in planned["subjects"]} == {"registered"}
    assert not [one for one in fake.asked if one.endswith("/versions")]


def test_nothing_is_registered_when_anything_is_not_compatible(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.subjects, fake.refused = {"consentinel.v1.Decision": ['"string"']}, {"consentinel.v1.Decision"}
    code, found = cli(fake, monkeypatch, "plan")
    assert code == 2 and {"subject": "consentinel.v1.Decision", "standing": "incompatible"} in found["subjects"]
    assert cli(fake, monkeypatch, "apply")[0] == 1
    assert fake.subjects == {"consentinel.v1.Decision": ['"string"']}


def test_a_registry_that_is_away_or_not_named_ends_the_command(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.status = 503
    assert cli(fake, monkeypatch, "apply")[0] == 2
    monkeypatch.delenv("CONSENTINEL_KAFKA__REGISTRY_URL")
    assert CliRunner().invoke(app, ["topology", "plan", "--registry"]).exit_code == 2


# On a cluster -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_waits_for_the_registry_and_then_folds_what_it_left(
    kafka: Kafka, fresh_prefix: str, tmp_path: Path, fake: FakeRegistry, registry: Registry
) -> None:  # fmt: skip
    connection, topology = Connection(bootstrap=kafka.bootstrap, prefix=fresh_prefix), default_topology()
    apply_plan(connection, topology)
    until(lambda: led(connection))
    fake.ids, fake.status = {7: {"schema": OURS}}, 503
    worker = Worker.open(connection, tmp_path / "w", name="w", look_up=registry.schema)
    names = Names(fresh_prefix, topology.task_specs())
    clients = ConfluentClients(connection, names)

    def ages() -> list[float]:
        """How old the state of each partition of dossiers is, as everybody can see it."""
        found = group_lag(clients, names, topology.task_specs(), system_clock())
        return [1e9 if one.secs is None else one.secs for one in found if one.task == "subject"]

    worker.start()
    try:
        until(lambda: max(ages()) < FRESHNESS_SECS)
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for n, value in enumerate((framed(7), codec.encode(CONSENT))):
            producer.produce(f"{fresh_prefix}consents", value, b"k", headers=list(headers(f"e{n}")))
        assert producer.flush(10) == 0
        until(lambda: worker.shared.counts.get(("registry_away",), 0) >= 2)

        def rows(topic: str) -> int:
            return sum(worker.runtime.edge.end(topic, n) for n in range(topology.topics[topic].partitions))

        assert worker.failed is None and rows("consent.state") == rows("quarantine") == 0
        until(lambda: min(ages()) > FRESHNESS_SECS)  # decisions deny: what was not read may be a withdrawal
        fake.status = 0
        until(lambda: rows("consent.state") >= 1)
        until(lambda: max(ages()) < FRESHNESS_SECS)
        assert rows("quarantine") == 0
    finally:
        worker.stop()


def led(connection: Connection) -> bool:
    """Whether every partition has a leader that knows of it: a topic is there a moment before that."""
    topology = default_topology()
    names = Names(connection.prefix, topology.task_specs())
    try:
        ConfluentClients(connection, names).ends(
            [(names.topic(topic.name), n) for topic in topology.topics.values() for n in range(topic.partitions)], committed=True
        )
    except KafkaException:
        return False
    return True


def until(true: Any, secs: float = 60.0) -> None:
    give_up = time.monotonic() + secs
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.1)
