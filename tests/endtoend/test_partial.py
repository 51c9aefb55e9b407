"""Partial erasure on an embedded deployment: what was chosen is gone from every copy, and the rest opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.evidence import receipt_of
from schemas.codec import decode
from tests.endtoend.house import House
from tests.endtoend.world import Told, latest, opened, records, request, request_states, views
from tests.harness import START_MS

ANN, BEN, MAIL = "+12025550101", "+12025550102", "ann@example.com"
MARKER = "[anonconversationcontent]"


def party(name: str, role: str, *identifiers: tuple[str, str]) -> dict[str, Any]:
    named = [{"kind": kind, "value": value} for kind, value in identifiers]
    return {"party_id": name, "role": role, "identifiers": named, "name": name.title()}


def call(id_: str) -> list[Told]:
    parties = [
        party("ann", "customer", ("tel", ANN), ("email", MAIL)), party("ben", "customer", ("tel", BEN)),
        party("gus", "agent", ("employee", "g1")),
    ]  # fmt: skip
    metadata = {"crm": "c-77"}
    started = {"conversation_id": id_, "channel": "voice", "direction": "inbound", "parties": parties, "metadata": metadata}
    said = {"ann": "my cat is ill", "ben": "mine is well", "gus": "so your cat is ill"}
    spoken = {"conversation_id": id_, "segments": [{"party_id": who, "text": text} for who, text in said.items()]}
    return [
        Told("call.started", f"{id_}/1", START_MS - 1_000, started), Told("call.transcribed", f"{id_}/2", START_MS - 900, spoken),
        Told("call.ended", f"{id_}/3", START_MS - 800, {"conversation_id": id_}),
    ]  # fmt: skip


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = House(tmp_path / "data")
    yield made
    made.service.stop()


def partial(house: House, request_id: str, identifier: tuple[str, str], **scope: Any) -> None:
    asked, verified = request(request_id, house.now_ms, identifier)
    house.tell(asked._replace(data=asked.data | {"scope": scope}), verified)
    assert request_states(house.service)[request_id] == "fulfilled"


def shown(house: House, conversation_id: str) -> dict[int, dict[str, Any]]:
    """The conversation as each party's view has it, by the party's index; employees have no content."""
    return {view["party"]: view for (_, c), view in views(house.service).items() if c == conversation_id}


def every_copy(house: House, conversation_id: str) -> set[str]:
    """All lines that open in any copy of the conversation that was ever published."""
    rows = [decode(record.value) for _, record in records(house.service, "conversations.protected") if record.value]
    copies = [opened(house.service, row) for row in rows if row.conversation_id == conversation_id]
    return {line[3] for view in copies for line in view["lines"] if line[3] is not None}


def test_numbers_and_addresses_go_where_nobody_chose_and_the_rest_stays(house: House) -> None:
    house.tell(*call("c1"), *call("c2"))
    partial(house, "r1", ("email", MAIL), conversation_ids=["c1"])
    ann, ben = shown(house, "c1")[0], shown(house, "c1")[1]
    values = [one["value"] for one in msgspec.json.decode(ann["identifiers"])]
    assert (values, ann["name"]) == (["[anonphonenumber]", "[anondigitaladdress]"], "Ann")
    assert [line[3] for line in ann["lines"]] == ["my cat is ill", "mine is well", "so your cat is ill"]
    assert BEN in ben["identifiers"] and ANN in shown(house, "c2")[0]["identifiers"]


def test_chosen_content_is_gone_from_every_copy_and_the_others_keep_their_own_words(house: House) -> None:
    house.tell(*call("c1"), *call("c2"))
    assert "my cat is ill" in [line[3] for line in shown(house, "c1")[1]["lines"]]
    partial(house, "r1", ("tel", ANN), conversation_ids=["c1"], fields=["content", "metadata.crm"])
    segments = [{"party_id": "ann", "text": "the cat again"}, {"party_id": "ben", "text": "oh"}]
    house.tell(Told("call.transcribed", "c1/4", START_MS - 700, {"conversation_id": "c1", "segments": segments}))
    ann, ben = shown(house, "c1")[0], shown(house, "c1")[1]
    assert {line[3] for line in ann["lines"]} == {MARKER} and not ann["reviewable"] and "c-77" not in ann["metadata"]
    assert [line[3] for line in ben["lines"]] == ["mine is well", "oh"] and ben["reviewable"] and "c-77" in ben["metadata"]
    assert shown(house, "c2")[0]["lines"][0][3] == "my cat is ill"
    assert every_copy(house, "c1") == {MARKER, "mine is well", "oh"} and "my cat is ill" in every_copy(house, "c2")
    # Somebody else on the same call, independently of her; and an agent, whose own lines go from what the customers hold.
    partial(house, "r2", ("employee", "g1"), conversation_ids=["c2"], fields=["content"])
    assert [line[3] for line in shown(house, "c2")[1]["lines"]] == ["my cat is ill", "mine is well"]


def test_published_again_nothing_of_it_comes_back_and_the_receipt_says_what_was_taken(house: House) -> None:
    house.tell(*call("c1"))
    partial(house, "r1", ("tel", ANN), conversation_ids=["c1"], fields=["*"])
    assert 0 not in shown(house, "c1") and [line[3] for line in shown(house, "c1")[1]["lines"]] == ["mine is well"]
    house.tell(*(told._replace(id=told.id + "again") for told in call("c1")), *call("c2"))
    assert 0 not in shown(house, "c1") and 0 in shown(house, "c2"), "she was fenced altogether"
    receipt = receipt_of(house.service, latest(house.service, "requests.state")["r1"])
    assert receipt.summary.complete and receipt.summary.asked["fields"] == "*"
