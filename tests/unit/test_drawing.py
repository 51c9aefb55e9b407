"""A drawing says what the topology says, the same each time, in names that no two things share."""

import re

import pytest

from engine.drawing import Drawing, draw
from engine.topology import SHIPPED, default_topology, load_topology
from schemas.labels import known_schemas

FORMS: tuple[Drawing, ...] = ("mermaid", "dot")


@pytest.mark.parametrize("form", FORMS)
def test_the_same_topology_is_drawn_the_same_to_the_letter(form: Drawing) -> None:
    again = load_topology(SHIPPED.read_text(encoding="utf-8"), known_schemas())
    assert draw(default_topology(), form) == draw(again, form)


@pytest.mark.parametrize("form", FORMS)
def test_everything_is_drawn_and_every_way_ends_at_something_drawn(form: Drawing) -> None:
    topology, text = default_topology(), draw(default_topology(), form)
    for name in (*topology.topics, *topology.tasks, *topology.processors):
        assert re.search(rf'[\["(]{re.escape(name)}[\]")]', text), name
    drawn = set(re.findall(r"\b([tpg]_\w+)(?=\[| \[(?:shape|label)=)", text))
    ways = re.findall(r"^  ([tp]_\w+) (?:-->|-\.->|->)(?:\|↺\|)? ?([tpg]_\w+)", text, re.MULTILINE)
    written = sum(len(spec.writes) for spec in topology.processors.values())
    read = sum(len(task.inputs) + len(task.global_tables) for task in topology.tasks.values())
    assert len(ways) == written + read
    assert {end for way in ways for end in way} <= drawn


@pytest.mark.parametrize(("form", "ways"), [
    ("mermaid", ['  c_data_20_team[/"data team"/]', "  t_consent_2e_state --> c_data_20_team"]),
    ("dot", ['  c_data_20_team [shape=house, label="data team"];', "  t_consent_2e_state -> c_data_20_team;"]),
])  # fmt: skip
def test_consumers_are_drawn_behind_what_they_read(form: Drawing, ways: list[str]) -> None:
    consumer = "consumers:\n  - {name: data team, topics: [consent.state], deadline_days: 30}\n"
    text = SHIPPED.read_text(encoding="utf-8").replace("consumers: []\n", consumer)
    assert [line for line in draw(load_topology(text, known_schemas()), form).splitlines() if "c_data" in line] == ways


def test_personal_topics_declassified_ways_and_guards_are_marked() -> None:
    text = draw(default_topology(), "mermaid")
    assert "t_calls[(calls)]:::personal" in text and "t_decisions[(decisions)]\n" in text
    assert "p_decide_5f_use -.-> t_decisions" in text
    assert "p_erase_5f_subject -->|↺| t_case_2e_events" in text
    dot = draw(default_topology(), "dot")
    assert dot.startswith("digraph topology {") and dot.count("{") == dot.count("}")
    assert "p_decide_5f_use -> t_decisions [style=dashed];" in dot
