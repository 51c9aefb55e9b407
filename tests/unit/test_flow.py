"""Labels are followed from what a processor may know to what it writes, and every way back names what ends it."""

import ast
from pathlib import Path

import pytest

from engine.flow import labels_into, labels_out, leading_back, lost, unsealed
from engine.topology import SHIPPED, Topology, TopologyInvalid, default_topology, load_topology
from schemas.base import Label
from schemas.labels import SchemaInfo, known_schemas

ROOT = Path(__file__).resolve().parents[2]
REF, TEL, NAME = "user.unique_id.pseudonymous", "user.contact.phone_number", "user.name"


def info(name: str, *labels: Label) -> SchemaInfo:
    fields = {f"f{n}": label for n, label in enumerate(labels)}
    return SchemaInfo(name, frozenset({"id", *fields}), fields)


SCHEMAS = {
    record.name: record
    for record in (
        info("Plain"),
        info("Said", Label(TEL), Label(NAME)),
        info("Kept", Label("user.contact", sealed=True), Label(NAME, sealed=True)),
        info("Wide", Label("user", sealed=True)),
        info("Shown", Label(TEL), Label(NAME)),
        info("Envelope", Label(REF)),
    )
}
GOOD = """
keys: {ref: {category: user.unique_id.pseudonymous}}
topics:
  in: {schema: [Said], key: [free], envelope: true, cleanup: delete, retention: raw, personal: true, erase: raw_retention}
  mid: {schema: [Said, Plain], key: [ref], envelope: true, cleanup: delete, retention: raw, personal: true, erase: expiry}
  kept: {schema: [Kept], key: [ref], cleanup: compact, personal: true, erase: tombstone}
  wide: {schema: [Wide], key: [ref], cleanup: compact, personal: true, erase: tombstone}
  counts: {schema: [Plain], key: [id], cleanup: compact, personal: false, erase: none}
tasks:
  intake: {partitioned_by: [free], inputs: [in], processors: [split]}
  keep: {partitioned_by: [ref], inputs: [mid], processors: [keep_it, count_it]}
processors:
  split: {task: intake, reads: [Said], writes: [mid]}
  keep_it: {task: keep, reads: [Said], writes: [kept, wide], state: [thing]}
  count_it: {task: keep, reads: [Plain], writes: [counts], declassifies: {counts: ["*"]}}
"""


def load(text: str) -> Topology:
    return load_topology(text, SCHEMAS)


def faults(old: str, new: str) -> set[tuple[str, str]]:
    assert old in GOOD, old
    with pytest.raises(TopologyInvalid) as refused:
        load(GOOD.replace(old, new, 1))
    return {(fault.code, fault.where) for fault in refused.value.faults}


def test_sealed_and_more_general_labels_carry_what_was_read() -> None:
    topology = load(GOOD)
    known = labels_into(topology, topology.processors["keep_it"], SCHEMAS)
    assert known == {TEL: False, NAME: False, REF: False}
    assert labels_out(topology, topology.topics["kept"], SCHEMAS) == {"user.contact": True, NAME: True, REF: False}
    assert lost(known, {"user": True}) == set()
    assert lost(known, {TEL + ".mobile": False}) == {TEL, NAME, REF}, "a narrower label does not carry a wider one"
    assert lost({"user.names": False}, {"user.name": False}) == {"user.names"}, "a category is no prefix of letters"


def test_a_processor_knows_what_its_task_keeps_even_if_it_does_not_read_it() -> None:
    topology = load(GOOD)
    assert NAME in labels_into(topology, topology.processors["count_it"], SCHEMAS)
    stateless = load(
        GOOD.replace(", state: [thing]", "").replace('declassifies: {counts: ["*"]}', f"declassifies: {{counts: [{REF}]}}")
    )
    assert set(labels_into(stateless, stateless.processors["count_it"], SCHEMAS)) == {REF}


@pytest.mark.parametrize(
    ("fault", "old", "new"),
    [
        (("label-into-impersonal", "processors.count_it"), ', declassifies: {counts: ["*"]}', ""),
        (("label-into-impersonal", "processors.count_it"), 'counts: ["*"]', f"counts: [{TEL}, {NAME}]"),
        (("label-into-impersonal", "processors.keep_it"), "writes: [kept, wide]", "writes: [kept, wide, counts]"),
        (("label-into-impersonal", "defaults"), "keys:", "defaults: {writes: [counts]}\nkeys:"),
        (("label-lost", "processors.keep_it"), "wide: {schema: [Wide]", "wide: {schema: [Plain]"),
        (("label-lost", "processors.split"), "mid: {schema: [Said, Plain]", "mid: {schema: [Plain]"),
        (("declassifies-nothing", "processors.split"), "writes: [mid]", 'writes: [mid], declassifies: {mid: ["*"]}'),
        (("declassifies-nothing", "processors.split"), "writes: [mid]", "writes: [mid], declassifies: {mid: [user.name]}"),
        (("declassifies-nothing", "processors.split"), "writes: [mid]", 'writes: [mid], declassifies: {kept: ["*"]}'),
        (("declassifies-nothing", "defaults"), "keys:", "defaults: {declassifies: [counts]}\nkeys:"),
    ],
)
def test_a_label_leaves_only_where_it_is_carried_or_declassified(fault: tuple[str, str], old: str, new: str) -> None:
    assert fault in faults(old, new)


def test_a_declassified_category_frees_no_other_one() -> None:
    text = GOOD.replace("wide: {schema: [Wide]", "wide: {schema: [Plain]")
    half = text.replace("writes: [kept, wide]", f"writes: [kept, wide], declassifies: {{wide: [{TEL}]}}")
    with pytest.raises(TopologyInvalid, match=r"does not carry user\.name, .*label-lost"):
        load(half)
    load(text.replace("writes: [kept, wide]", f"writes: [kept, wide], declassifies: {{wide: [{TEL}, {NAME}]}}"))


OPENING = GOOD.replace("mid: {schema: [Said, Plain]", "mid: {schema: [Kept, Plain]").replace(
    "keep_it: {task: keep, reads: [Said], writes: [kept, wide]", "keep_it: {task: keep, reads: [Kept], writes: [shown]"
).replace("kept: {schema: [Kept]", "shown: {schema: [Shown]")  # fmt: skip


def test_what_was_read_sealed_does_not_become_plain_without_a_word() -> None:
    with pytest.raises(TopologyInvalid) as refused:
        load(OPENING)
    assert ("label-unsealed", "processors.keep_it") in {(fault.code, fault.where) for fault in refused.value.faults}
    load(OPENING.replace("writes: [shown]", "writes: [shown], declassifies: {shown: [user.contact, user.name]}"))
    assert unsealed({NAME: True}, {NAME: True}) == set()
    assert unsealed({NAME: False}, {NAME: False}) == set()
    assert unsealed({NAME: True, TEL: True}, {"user": False}) == {NAME, TEL}


BACK = {
    "to itself": ("writes: [kept, wide]", "writes: [kept, wide, mid]", "keep_it"),
    "over another task": ("writes: [kept, wide]", "writes: [kept, wide, in]", "keep_it"),
}


@pytest.mark.parametrize("way", BACK)
def test_a_way_back_names_what_ends_it(way: str) -> None:
    old, new, name = BACK[way]
    assert ("cycle-without-guard", f"processors.{name}") in faults(old, new)


def test_every_processor_on_a_cycle_needs_its_own_guard() -> None:
    text = GOOD.replace("writes: [kept, wide]", "writes: [kept, wide, in]")
    assert leading_back(load_with(text, split="mid", keep_it="in")) == [("split", "mid"), ("keep_it", "in")]
    with pytest.raises(TopologyInvalid, match=r"processors\.split.*cycle-without-guard"):
        load_with(text, keep_it="in")


def load_with(text: str, **guards: str) -> Topology:
    for name, topic in guards.items():
        text = text.replace(f"  {name}: {{", f"  {name}: {{guards: {{{topic}: A counter ends it.}}, ")
    return load(text)


def test_a_guard_without_a_cycle_is_a_stale_promise() -> None:
    with pytest.raises(TopologyInvalid, match=r"processors\.split.*guard-without-cycle"):
        load_with(GOOD, split="mid")


def test_the_shipped_topology_guards_subject_and_case() -> None:
    topology = default_topology()
    back = leading_back(topology)
    assert {name for name, _ in back} == {
        "link_identity", "protect_item", "enforce_retention", "erase_subject", "mask_item", "keep_roster", "order_media",
        "run_request", "keep_hold", "hold_media", "heed_objection",
    }  # fmt: skip
    assert all(topic in ("subject.events", "case.events") for _, topic in back)


def test_a_new_label_in_the_shipped_records_is_found_wherever_it_can_reach() -> None:
    schemas = known_schemas()
    started = schemas["CallStarted"]
    schemas["CallStarted"] = SchemaInfo(started.name, started.fields, started.labels | {"queue": Label("user.location")})
    with pytest.raises(TopologyInvalid) as refused:
        load_topology(SHIPPED, schemas)
    assert ("label-lost", "processors.keep_roster") in {(fault.code, fault.where) for fault in refused.value.faults}


def emitted(path: Path) -> set[str]:
    """Topics that a module names in an `Emit` or a `Forward`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {
        str(node.args[0].value) for node in calls
        if getattr(node.func, "id", "") in ("Emit", "Forward") and isinstance(node.args[0], ast.Constant)
    }  # fmt: skip


def test_the_shipped_processors_write_what_the_topology_says_they_write() -> None:
    """The topology's word on `writes` is what labels, cycles and ACLs are computed from: code must not say more."""
    for spec in default_topology().processors.values():
        assert emitted(ROOT / "processors" / f"{spec.name}.py") <= set(spec.writes), spec.name
    shared = emitted(ROOT / "processors" / "item_end.py") | emitted(ROOT / "processors" / "parking.py")
    assert shared == {"conversations.protected", "case.events", "subject.events"}
