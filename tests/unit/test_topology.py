"""The topology is refused whole, with a code of its own for every rule that it breaks."""

from pathlib import Path
from typing import Annotated

import pytest

from engine.runtime import TaskSpec, TopicSpec
from engine.topology import SHIPPED, Topology, TopologyInvalid, default_topology, load_topology
from schemas.base import Label, Record, personal, sealed
from schemas.events import CallStarted, ConsentChanged, RequestOpened
from schemas.labels import SchemaInfo, key_categories, known_schemas, labels_of, schema_info
from schemas.routed import Envelope
from schemas.topics import ProtectedConversation

SCHEMAS = {
    "Plain": SchemaInfo("Plain", frozenset({"id", "text"}), {}),
    "Person": SchemaInfo(
        "Person",
        frozenset({"id", "subject_ref", "phone", "name", "parts"}),
        {
            "subject_ref": Label("user.unique_id.pseudonymous"),
            "phone": Label("user.contact.phone_number"),
            "name": Label("user.name"),
            "parts.value": Label("user.contact"),
        },
    ),
}
PROCESSORS = {"read_in", "keep_it", "show_it"}
GOOD = """
defaults: {partitions: 2, writes: [log], declassifies: [log]}
keys:
  subject_ref: {category: user.unique_id.pseudonymous}
  origin: {}
topics:
  in: {schema: [Plain], key: [free], envelope: true, cleanup: delete, retention: raw, personal: true, erase: expiry}
  in2: {schema: [Plain], key: [free], cleanup: delete, retention: raw, personal: true, erase: raw_retention}
  mid: {schema: [Person], key: [subject_ref], cleanup: delete, retention_hours: 24, personal: true, erase: expiry}
  state: {schema: [Person], key: [subject_ref], cleanup: compact, personal: true, erase: tombstone, readers: [consumer]}
  table: {schema: [Plain], key: [id], partitions: 1, cleanup: compact, personal: false, erase: none}
  log: {schema: [Plain], key: [origin], cleanup: keep, personal: false, erase: none}
tasks:
  intake: {partitioned_by: [free], inputs: [in, in2], processors: [read_in], global_tables: [table]}
  keep: {partitioned_by: [subject_ref], inputs: [mid], processors: [keep_it], keys_topic: state}
processors:
  read_in: {task: intake, reads: [Plain], writes: [mid]}
  keep_it: {task: keep, reads: [Person], writes: [state], state: [thing]}
  show_it: {task: door, writes: [log], declassifies: {log: ["*"]}}
consumers:
  - {name: warehouse, topics: [state], deadline_days: 30}
promises: [Nothing is lost.]
"""


def load(text: str) -> Topology:
    return load_topology(text, SCHEMAS, PROCESSORS)


def codes(text: str) -> set[str]:
    with pytest.raises(TopologyInvalid) as refused:
        load(text)
    assert all(fault.code in str(refused.value) for fault in refused.value.faults)
    return {fault.code for fault in refused.value.faults}


def changed(old: str, new: str) -> str:
    assert old in GOOD, old
    return GOOD.replace(old, new, 1)


def test_a_good_topology_becomes_a_value_with_defaults_filled_in() -> None:
    topology = load(GOOD)
    assert topology.topic_specs()[-2:] == [TopicSpec("table", 1, True), TopicSpec("log", 2, False)]
    assert topology.task_specs() == [TaskSpec("intake", ("in", "in2"), 2), TaskSpec("keep", ("mid",), 2)]
    assert topology.writes_of("intake") == {"mid", "log"}
    assert topology.writes_of("keep") == {"state", "log"}
    assert topology.writes_of("door") == {"log"}
    assert topology.consumers[0].deadline_days == 30
    assert topology.promises == ("Nothing is lost.",)
    secs = {name: topic.retention_secs(60) for name, topic in topology.topics.items()}
    assert (secs["in"], secs["mid"], secs["state"]) == (60, 86_400, None)


IN2 = "in2: {schema: [Plain], key: [free], cleanup: delete"
BROKEN = [
    ("unknown-topic", "inputs: [mid]", "inputs: [mid, nowhere]"),
    ("unknown-topic", "global_tables: [table]", "global_tables: [nowhere]"),
    ("unknown-topic", "keys_topic: state", "keys_topic: nowhere"),
    ("unknown-topic", "writes: [state]", "writes: [state, nowhere]"),
    ("unknown-topic", 'declassifies: {log: ["*"]}', 'declassifies: {nowhere: ["*"]}'),
    ("unknown-topic", "state: [thing]", "state: [thing], guards: {nowhere: It ends by itself.}"),
    ("unknown-topic", "partitions: 2, writes: [log]", "partitions: 2, writes: [nowhere]"),
    ("unknown-topic", "writes: [log], declassifies: [log]", "writes: [log], declassifies: [nowhere]"),
    ("unknown-topic", "topics: [state]", "topics: [nowhere]"),
    ("unknown-schema", "schema: [Plain], key: [id]", "schema: [Plain, Nothing], key: [id]"),
    ("unknown-schema", "reads: [Person]", "reads: [Nothing]"),
    ("unknown-processor", "processors: [read_in]", "processors: [read_in, nobody]"),
    ("unknown-task", "task: door", "task: cellar"),
    ("unknown-field", "key: [id]", "key: [id, nothing]"),
    ("unknown-field", "key: [id]", "key: [free, id]"),
    ("unknown-field", "schema: [Plain], key: [id]", "schema: [Plain, Person], key: [text]"),
    ("processor-misplaced", "processors: [read_in]", "processors: [read_in, keep_it]"),
    ("processor-misplaced", "processors: [keep_it]", "processors: [read_in]"),
    ("processor-misplaced", "show_it: {task: door", "show_it: {task: keep"),
    ("unknown-key", "defaults:", "fancy: 1\ndefaults:"),
    ("unknown-key", "personal: true, erase: tombstone", "personal: true, erase: tombstone, colour: red"),
    ("unknown-key", "keep: {", "keep: {retries: 3, "),
    ("unknown-key", "table: {", "table: {name: other, "),
    ("two-writers", "writes: [mid]", "writes: [mid, state]"),
    ("two-writers", "show_it: {task: door, writes: [log]", "show_it: {task: door, writes: [state]"),
    ("two-writers", "intake: {", "intake: {keys_topic: state, "),
    ("not-co-partitioned", IN2, IN2 + ", partitions: 3"),
    ("not-co-partitioned", "inputs: [mid]", "inputs: [mid, table]"),
    ("not-co-partitioned", "partitioned_by: [subject_ref]", "partitioned_by: [id]"),
    ("stateful-on-free-keys", "read_in: {", "read_in: {state: [seen], "),
    ("stateful-on-free-keys", "inputs: [mid]", "inputs: [mid, in]"),
    ("table-not-compacted", "global_tables: [table]", "global_tables: [log]"),
    ("table-not-compacted", "keys_topic: state", "keys_topic: log"),
    ("retention-conflict", "retention_hours: 24", "retention_hours: 24, retention_days: 1"),
    ("retention-conflict", "cleanup: keep", "cleanup: keep, retention_days: 1"),
    ("retention-conflict", "cleanup: keep", "cleanup: delete"),
    ("personal-without-retention", "cleanup: delete, retention_hours: 24", "cleanup: delete"),
    ("personal-without-retention", "cleanup: delete, retention_hours: 24", "cleanup: keep"),
    ("personal-without-erase-rule", "personal: true, erase: tombstone", "personal: true, erase: none"),
    ("erase-rule-impossible", "erase: expiry", "erase: tombstone"),
    ("erase-rule-impossible", "24, personal: true, erase: expiry", "24, personal: true, erase: raw_retention"),
    ("erase-rule-impossible", "erase: tombstone", "erase: expiry"),
    ("identifying-key", "key: [subject_ref], cleanup: compact", "key: [phone], cleanup: compact"),
    ("identifying-key", "key: [subject_ref], cleanup: compact", "key: [subject_ref, name], cleanup: compact"),
    ("identifying-key", "key: [subject_ref], cleanup: compact", "key: [parts], cleanup: compact"),
    ("identifying-key", "origin: {}", "origin: {category: user.contact.email}"),
    ("ref-without-erase-rule", "personal: true, erase: tombstone", "personal: true, erase: none"),
    ("personal-undeclared", "personal: true, erase: tombstone", "personal: false, erase: tombstone"),
    ("personal-undeclared", "personal: true, erase: expiry", "personal: false, erase: expiry"),
    ("personal-undeclared", "key: [id]", "key: [subject_ref]"),
    ("consumer-name-taken", "consumers:", "consumers:\n  - {name: warehouse, topics: [state], deadline_days: 3}"),
    ("consumer-name-taken", "name: warehouse", "name: media"),
    ("consumer-may-not-read", "topics: [state]", "topics: [state, mid]"),
    ("wrong-type", "name: warehouse, ", ""),
    ("wrong-type", "name: warehouse", 'name: " warehouse"'),
    ("wrong-type", "partitions: 1", "partitions: many"),
    ("wrong-type", "partitions: 1", "partitions: 0"),
    ("wrong-type", "partitions: 1", "partitions: 100000"),
    ("wrong-type", "cleanup: keep", "cleanup: burn"),
    ("wrong-type", "cleanup: keep", "cleanup: keep, writers: [anybody]"),
    ("wrong-type", 'declassifies: {log: ["*"]}', "declassifies: {log: []}"),
    ("wrong-type", "state: [thing]", "state: [thing], guards: {mid: no}"),
    ("wrong-type", "key: [id]", "key: []"),
    ("wrong-type", "key: [id]", "key: id"),
    ("wrong-type", "key: [id], ", ""),
    ("wrong-type", "erase: tombstone", "erase: magic"),
    ("wrong-type", "promises: [Nothing is lost.]", "promises: 3"),
    ("wrong-type", "deadline_days: 30", "deadline_days: 30, colour: red"),
    ("wrong-type", "  origin: {}", "  origin: {}\n  7: {}"),
    ("wrong-type", "  origin: {}", "  origin:"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "old", "new"), BROKEN, ids=[f"{n}-{row[0]}" for n, row in enumerate(BROKEN)])
def test_each_broken_rule_has_its_own_code(code: str, old: str, new: str) -> None:
    assert code in codes(changed(old, new))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("wrong-type", ""),
        ("wrong-type", "topics: 3"),
        ("yaml-broken", "topics: {"),
        ("yaml-broken", "topics: {}\ntopics: {}"),
        ("yaml-broken", "topics:\n  a: {x: 1, x: 2}"),
        ("yaml-broken", "a: &a [x, x]\nb: [*a, *a]"),
        ("yaml-broken", "a: &a {x: 1}\nb: {<<: *a}"),
        ("yaml-broken", "a: {} \n---\nb: {}"),
        ("yaml-broken", "a: !!python/object/apply:os.getcwd []"),
        ("yaml-broken", "a: 2026-99-99"),
        ("yaml-broken", "a: " + "9" * 5_000),
        ("yaml-broken", "? {a: b}\n: \x00"),
        ("yaml-broken", "a: " + "[" * 100_000),
        ("yaml-broken", "#" * 300_000),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else value,
)
def test_text_that_is_no_topology_is_a_fault_not_a_crash(code: str, text: str) -> None:
    assert codes(text) == {code}


def test_every_fault_is_found_at_once_and_says_where() -> None:
    text = (
        changed("inputs: [mid]", "inputs: [mid, nowhere]")
        .replace("erase: tombstone", "erase: none")
        .replace("promises:", "vows:")
    )
    with pytest.raises(TopologyInvalid) as refused:
        load(text)
    found = {(fault.code, fault.where) for fault in refused.value.faults}
    assert found == {
        ("unknown-key", ""),
        ("unknown-topic", "tasks.keep"),
        ("personal-without-erase-rule", "topics.state"),
        ("ref-without-erase-rule", "topics.state.key"),
    }


def test_a_key_only_field_is_judged_by_every_record_that_labels_its_name() -> None:
    text = changed("  origin: {}", "  origin: {}\n  phone: {}").replace("key: [id]", "key: [phone]")
    assert "identifying-key" in codes(text)


def test_an_unregistered_processor_is_refused_only_when_names_are_compared() -> None:
    with pytest.raises(TopologyInvalid, match="unknown-processor"):
        load_topology(GOOD, SCHEMAS, {"read_in", "keep_it"})
    assert load_topology(GOOD, SCHEMAS).processors


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"doc: \xff")
    for path in (tmp_path / "none.yaml", tmp_path, latin):
        with pytest.raises(TopologyInvalid, match="file-unreadable"):
            load_topology(path, SCHEMAS)


def test_the_shipped_topology_passes_and_has_the_topics_of_the_contract() -> None:
    topology = default_topology()
    compacted = {spec.name for spec in topology.topic_specs() if spec.compact}
    assert compacted == {
        "controllers", "consent.state", "suppression.state", "conversations.protected", "keys.wrapped",
        "requests.state", "audit.checkpoints",
    }  # fmt: skip
    assert {topic.name for topic in topology.topics.values() if topic.partitions == 1} == {
        "controllers",
        "audit.checkpoints",
    }
    assert topology.topics["erasure.notices"].retention_secs(1) == 400 * 86_400
    assert list(topology.tasks) == ["intake", "subject", "case"]
    assert topology.processors["decide_use"].task == "door"


def test_the_shipped_topology_declares_every_schema_that_rests_somewhere() -> None:
    declared = {name for topic in default_topology().topics.values() for name in topic.schema}
    assert declared == known_schemas().keys() - {"Envelope"}


def test_every_record_a_shipped_processor_reads_comes_in_by_an_input_of_its_task() -> None:
    topology = default_topology()
    for spec in topology.processors.values():
        inputs = topology.tasks[spec.task].inputs if spec.task in topology.tasks else ()
        assert set(spec.reads) <= {name for topic in inputs for name in topology.topics[topic].schema}, spec.name


def test_the_shipped_topology_refuses_two_writers_of_the_consent_topic() -> None:
    text = SHIPPED.read_text(encoding="utf-8").replace("writes: [breach.alerts]", "writes: [breach.alerts, consent.state]")
    with pytest.raises(TopologyInvalid, match=r"consent\.state.*two-writers"):
        load_topology(text, known_schemas())


def test_labels_are_found_through_optionals_lists_maps_and_nested_records() -> None:
    assert labels_of(CallStarted) == {
        "parties.party_id": Label("user.unique_id"),
        "parties.identifiers.value": Label("user.contact"),
        "parties.name": Label("user.name"),
        "metadata": Label("user.behavior"),
    }
    assert labels_of(ConsentChanged)["evidence.agent"].category == "user.authorizing"
    assert labels_of(RequestOpened)["agent.name"].category == "user.name"
    assert labels_of(Envelope) == {"refs": Label("user.unique_id.pseudonymous")}
    assert labels_of(ProtectedConversation)["lines.text"] == Label("user.content.private", sealed=True)


class Leaf(Record, frozen=True, kw_only=True):
    word: Annotated[str, sealed("user.content")] | None = None


class Tree(Record, frozen=True, kw_only=True, rename={"since": "from"}):
    by_name: dict[str, Leaf] | None = None
    pair: tuple[Leaf, int] | None = None
    since: Annotated[str, personal("user.name")] = ""
    plain: int = 0


class Clash(Record, frozen=True, kw_only=True):
    names: Annotated[tuple[Annotated[str, personal("user.name")], ...], personal("user.contact")] = ()


class Loop(Record, frozen=True, kw_only=True):
    inner: "Loop | None" = None


def test_labels_carry_the_names_of_the_wire() -> None:
    word = Label("user.content", sealed=True)
    assert labels_of(Tree) == {"by_name.word": word, "pair.word": word, "from": Label("user.name")}
    assert schema_info(Tree).fields == {"by_name", "pair", "from", "plain"}


def test_a_record_with_unclear_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="two different labels"):
        labels_of(Clash)
    with pytest.raises(RecursionError):
        labels_of(Loop)


def test_key_categories_come_from_the_field_and_all_that_is_inside_it() -> None:
    person = [SCHEMAS["Person"]]
    assert key_categories("parts", person, []) == {"user.contact"}
    assert key_categories("id", person, SCHEMAS.values()) == set()
    assert key_categories("value", [SCHEMAS["Plain"]], person) == {"user.contact"}


def test_the_shipped_tasks_await_those_whose_records_they_fold() -> None:
    awaited = {spec.name: spec.awaits for spec in default_topology().task_specs()}
    assert awaited == {"intake": (), "case": ("intake",), "subject": ("intake", "case")}
