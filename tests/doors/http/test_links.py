"""Links and candidates of a person: what somebody said is shown at both ends, and who shared calls is shown for review only."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from connectors.cli import app
from connectors.http import links

from .conftest import Still

ANNA, BEN, CARL = ({"kind": "tel", "value": f"+120255501{n}"} for n in (11, 12, 13))
MAIL = {"kind": "email", "value": "anna@example.com"}
EMPLOYEE, BOT = {"kind": "employee", "value": "e1"}, {"kind": "device", "value": "ivr-1"}


def ref_of(house: Any, identifier: dict[str, str], controller: str = "acme") -> str:
    ref: str = house.service.secrets.ref(controller, identifier["kind"], identifier["value"])
    return ref


def call(house: Any, name: str, *customers: list[dict[str, str]], controller: str = "acme") -> None:
    """A call of customers, each with identifiers, an agent and a bot."""
    parties = [{"party_id": f"p{n}", "role": "customer", "identifiers": ids} for n, ids in enumerate(customers)]
    parties += [{"party_id": role, "role": role, "identifiers": [one]} for role, one in (("agent", EMPLOYEE), ("bot", BOT))]
    started = {"conversation_id": name, "channel": "voice", "direction": "inbound", "parties": parties}
    assert house.send("call.started", started, controller).status_code == 202


def link(house: Any, a: dict[str, str], b: dict[str, str], type_: str = "identity.linked", controller: str = "acme") -> None:
    assert house.send(type_, {"a": a, "b": b, "source": "crm"}, controller).status_code == 202


def shown(house: Any, identifier: dict[str, str], client: Any = None) -> Any:
    return (client or house.root).get(f"/v1/subjects/{ref_of(house, identifier)}").json()


def candidates(house: Any, identifier: dict[str, str]) -> list[tuple[str, int, int]]:
    rows = shown(house, identifier)["candidates"]
    return [(row["subject_ref"], row["conversations"], row["as_one_party"]) for row in rows]


def erase(house: Still, identifier: dict[str, str]) -> None:
    ask = {"controller": "acme", "right": "erasure", "regime": "gdpr", "identifiers": [identifier], "received_via": "web"}
    request_id = house.root.post("/v1/requests", json={**ask, "verified_by": "desk"}).json()["request_id"]
    house.settle()
    assert house.root.get(f"/v1/requests/{request_id}").json()["state"] == "fulfilled"


def test_a_link_is_shown_at_both_ends_with_its_time_and_source_until_it_is_taken_back(still: Still) -> None:
    call(still, "c1", [ANNA])
    link(still, ANNA, MAIL)
    still.settle()
    for one, other in ((ANNA, MAIL), (MAIL, ANNA)):
        row = {"subject_ref": ref_of(still, other), "since_ms": still.now_ms, "source": "crm"}
        assert shown(still, one)["links"] == [row]
    still.now_ms += 1
    link(still, ANNA, MAIL, "identity.unlinked")
    still.settle()
    assert shown(still, ANNA)["links"] == []


def test_someone_who_is_known_by_a_link_alone_is_found_by_who_may_see_that_controller(still: Still) -> None:
    link(still, MAIL, ANNA)
    still.settle()
    search = {"controller": "acme", "identifiers": [MAIL]}
    found = [{"subject_ref": ref_of(still, MAIL), "conversations": [], "requests": []}]
    assert still.by_role("analyst").post("/v1/subjects/search", json=search).json() == {"subjects": found}
    assert [row["subject_ref"] for row in shown(still, MAIL, still.by_role("auditor"))["links"]] == [ref_of(still, ANNA)]
    rival = still.token("rival", ["analyst"], ["rival"])
    assert rival.get(f"/v1/subjects/{ref_of(still, MAIL)}").status_code == 404


def test_candidates_are_who_shared_calls_most_shared_first_and_no_employee_or_bot(still: Still) -> None:
    call(still, "c1", [ANNA, MAIL], [BEN])
    call(still, "c2", [ANNA], [CARL], [BEN])
    call(still, "c3", [CARL])
    call(still, "c4", [ANNA], [CARL], controller="rival")
    still.settle()
    ben, carl, mail = (ref_of(still, one) for one in (BEN, CARL, MAIL))
    assert candidates(still, ANNA) == [(ben, 2, 0), *sorted([(carl, 1, 0), (mail, 1, 1)])]
    assert candidates(still, MAIL) == sorted([(ref_of(still, ANNA), 1, 1), (ben, 1, 0)])  # by its pointer
    assert candidates(still, EMPLOYEE) == []
    assert not shown(still, ANNA)["candidates_truncated"] and shown(still, ANNA)["links"] == []


def test_what_somebody_has_decided_is_no_candidate_any_more(still: Still) -> None:
    call(still, "c1", [ANNA], [BEN], [CARL])
    link(still, ANNA, BEN)
    link(still, CARL, ANNA, "identity.unlinked")
    still.settle()
    assert candidates(still, ANNA) == []
    assert candidates(still, BEN) == [(ref_of(still, CARL), 1, 0)]


def test_an_answer_is_bounded_and_says_so(still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    call(still, "c1", [ANNA], [BEN])
    call(still, "c2", [ANNA], [BEN], [CARL])
    still.settle()
    monkeypatch.setattr(links, "CANDIDATES_MAX", 1)
    assert candidates(still, ANNA) == [(ref_of(still, BEN), 2, 0)] and shown(still, ANNA)["candidates_truncated"]
    monkeypatch.setattr(links, "CANDIDATES_MAX", 2)
    assert not shown(still, ANNA)["candidates_truncated"]
    monkeypatch.setattr(links, "CONVERSATIONS_MAX", 1)
    assert candidates(still, ANNA) == [(ref_of(still, BEN), 1, 0)] and shown(still, ANNA)["candidates_truncated"]


def test_who_was_erased_is_nobodys_link_and_nobodys_candidate(still: Still) -> None:
    call(still, "c1", [ANNA, MAIL], [BEN])
    call(still, "c2", [ANNA], [BEN], [CARL])
    link(still, CARL, ANNA)
    still.settle()
    gone = [ref_of(still, one) for one in (ANNA, MAIL)]
    assert [ref for ref, _, _ in candidates(still, BEN)] == [gone[0], *sorted([gone[1], ref_of(still, CARL)])]
    link(still, CARL, ANNA, "identity.unlinked")  # Carl is to stay
    link(still, BEN, ANNA)
    link(still, BEN, ANNA, "identity.unlinked")
    still.now_ms += 1
    still.settle()
    erase(still, ANNA)
    for one in (BEN, CARL):
        text = json.dumps(shown(still, one))
        assert not any(ref in text for ref in gone), one
    assert candidates(still, BEN) == [(ref_of(still, CARL), 1, 0)]
    assert shown(still, ANNA)["links"] == shown(still, ANNA)["candidates"] == []


def test_the_command_shows_both(
    house: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    controller = uuid4().hex
    call(house, "c1", [ANNA], [BEN], controller=controller)
    link(house, ANNA, MAIL, controller=controller)
    house.folded()
    token = tmp_path / "token"
    token.write_text(house.store.create(uuid4().hex, ["auditor"], [controller]))
    anna, ben, mail = (ref_of(house, one, controller) for one in (ANNA, BEN, MAIL))
    show = ["subject", "show", anna, "--controller", controller, "--url", house.url, "--token-file", str(token)]
    assert app.run([*show, "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["subject_ref"] for row in found["links"]] == [mail]
    assert found["candidates"] == [{"subject_ref": ben, "conversations": 1, "as_one_party": 0}]
    monkeypatch.setenv("COLUMNS", "200")
    assert app.run(show) == 0
    table = capsys.readouterr().out
    assert all(text in table for text in ("links", mail, "crm", "candidates", ben, "as_one_party"))
