"""The receipt over HTTP: whole, provable offline, for those who may see the request, and without a word about the person."""

from typing import Any
from uuid import uuid4

import pytest

from engine.checkpoints import record_of
from engine.evidence import LogDamaged, growth_of, proof_of
from engine.notes import Checkpoint
from engine.proofs import check_consistency, check_proof
from engine.receipts import check_receipt
from engine.runtime import Output
from schemas.codec import decode_as, encode
from schemas.topics import AuditEntry, ErasureNotice

from .conftest import consent

NUMBER, NAME, WORDS = "+493090182301", "Wilhelmina Testperson", "my cat is called Schroedinger"
TEL = {"kind": "tel", "value": NUMBER}
MAIL = {"kind": "email", "value": "w@example.org"}


def talk(still: Any, name: str, identifiers: list[dict[str, str]]) -> None:
    still.send("call.started", {
        "conversation_id": name, "channel": "voice", "direction": "inbound",
        "parties": [{"party_id": "p", "role": "customer", "identifiers": identifiers, "name": NAME}]})  # fmt: skip
    still.send("call.transcribed", {"conversation_id": name, "segments": [{"text": WORDS, "party_id": "p"}]})
    still.send("call.ended", {"conversation_id": name})


@pytest.fixture
def erased(still: Any) -> dict[str, Any]:
    """Someone with two conversations asked to be forgotten; the warehouse has not answered yet."""
    still.send("controller.configured", {"default_region": "DE", "employee_basis": "art6_1_f",
                                         "targets": [{"name": "warehouse", "deadline_days": 30}]})  # fmt: skip
    still.settle()
    for name in ("talk-1", "talk-2"):
        talk(still, name, [TEL, MAIL])
    talk(still, "another", [{"kind": "tel", "value": "+493090182302"}])
    still.send("consent.given", consent(NUMBER))
    still.settle()
    ask = {"controller": "acme", "right": "erasure", "regime": "gdpr", "received_via": "phone", "verified_by": "x"}
    ids = [still.root.post("/v1/requests", json={**ask, "identifiers": [kind]}).json()["request_id"] for kind in (TEL, MAIL)]
    still.settle()
    return {"request_id": ids[0], "other": ids[1], "key": still.service.signer.vkey}


def answer_for(still: Any, target: str) -> None:
    """The target acknowledges every notice it was sent."""
    notices = [decode_as(ErasureNotice, r.value) for _, r in still.service.topic("erasure.notices") if r.value]
    for order_id in {notice.order_id for notice in notices}:
        still.send("erasure.acknowledged", {"order_id": order_id, "target": target, "outcome": "done"})
    still.settle()


def receipt(still: Any, erased: dict[str, Any], role: str = "auditor") -> Any:
    response = still.by_role(role).get(f"/v1/receipts/{erased['request_id']}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain")
    return check_receipt(response.content, erased["key"])


def test_before_the_end_the_receipt_says_what_is_open_and_until_when(still: Any, erased: dict[str, Any]) -> None:
    found = receipt(still, erased)
    assert not found.summary.complete and found.summary.asked["right"] == "erasure"
    assert (found.summary.identifiers_ordered, found.summary.targets_ordered, found.summary.targets_done) == (1, 1, 0)
    (target,) = found.stated.open
    assert (target.target, target.acknowledge_by_ms) == ("warehouse", still.now_ms + 30 * 86_400_000)
    assert found.stated.due_ms > still.now_ms


def test_after_the_end_the_receipt_is_complete_proven_and_says_nothing_of_the_person(still: Any, erased: dict[str, Any]) -> None:
    ref = still.service.secrets.ref("acme", "tel", NUMBER)
    answer_for(still, "warehouse")
    texts = []
    for role in ("analyst", "approver", "auditor", "administrator"):
        found = receipt(still, erased, role)
        texts.append(found.text())
    assert found.summary.complete and not found.stated.open
    assert [(party.name, party.outcome) for party in found.summary.targets] == [("warehouse", "done")]
    kinds = {entry.kind for entry in found.entries}
    assert kinds >= {"request.opened", "request.identity_verified", "erasure.ordered", "erasure.fenced", "item.destroyed",
                     "consents.erased", "erasure.done", "erasure.acknowledged", "request.closed"}  # fmt: skip
    assert {entry.facts["request"] for entry in found.entries} == {erased["request_id"]}
    assert found.summary.identifiers_erased == 1
    said = "\n".join([texts[0], *(repr(entry) for entry in found.entries), repr(found.document())])
    assert not [secret for secret in (ref, "sub_", NUMBER, NUMBER[3:], "w@example.org", NAME, "Schroedinger", "talk-1")
                if secret in said]  # fmt: skip


def test_the_json_form_is_the_same_and_checks_as_well(still: Any, erased: dict[str, Any]) -> None:
    path = f"/v1/receipts/{erased['request_id']}"
    response = still.by_role("auditor").get(path, headers={"accept": "application/json"})
    assert response.headers["content-type"] == "application/json"
    found = check_receipt(response.content, erased["key"])
    assert response.json() == found.document()
    assert found.entries == receipt(still, erased).entries


def test_who_may_not_see_the_request_sees_no_receipt(still: Any, erased: dict[str, Any]) -> None:
    path = f"/v1/receipts/{erased['request_id']}"
    rival = still.token(uuid4().hex, ["auditor", "administrator"], ["rival"])
    for client, at in ((rival, path), (still.root, "/v1/receipts/%00")):
        response = client.get(at)
        assert (response.status_code, response.json()["field"]) == (404, "request_id")
    for role in ("publisher", "decider", "operator", "target"):
        assert still.by_role(role).get(path).status_code == 403


def test_a_checkpoint_kept_outside_is_shown_to_be_the_beginning_of_the_log(still: Any, erased: dict[str, Any]) -> None:
    auditor, key = still.by_role("auditor"), erased["key"]
    origin = receipt(still, erased).entries[0].origin
    kept = {note.split("\n")[0]: note for note in still.service.checkpoint()}[origin]
    size = int(kept.split("\n")[1])
    answer_for(still, "warehouse")
    still.service.checkpoint()
    response = auditor.get("/v1/audit/proof", params={"origin": origin, "old": size})
    before, after = check_consistency(response.text, kept, key)
    assert (before.size, before.origin) == (size, origin) and after.size > size
    for old, status in ((after.size + 1, 404), ("-1", 400), ("", 400)):
        problem = auditor.get("/v1/audit/proof", params={"origin": origin, "old": old})
        assert (problem.status_code, problem.json()["field"]) == (status, "old")
    assert auditor.get("/v1/audit/proof", params={"origin": "nobody", "old": 1}).status_code == 404
    index = auditor.get("/v1/audit/proof", params={"origin": origin, "index": size})
    assert check_proof(index.content, None, key, origin).size == after.size


def test_a_log_that_is_not_the_signed_one_proves_nothing(still: Any, erased: dict[str, Any]) -> None:
    """Somebody writes into the log of another's origin: no proof is cut, instead of one that does not hold."""
    entry = receipt(still, erased).entries[0]
    still.service.checkpoint()
    tree = still.service.frontiers()[entry.origin]
    forged = AuditEntry(origin=entry.origin, index=tree.size, at_ms=1, kind="request.closed", controller="acme",
                        facts={"request": erased["request_id"], "state": "fulfilled"})  # fmt: skip
    still.service.runtime.append([Output("audit.entries", entry.origin.encode(), encode(forged))], still.now_ms)
    longer = Checkpoint(entry.origin, tree.size + 1, tree.root()).format()
    still.service.append("audit.checkpoints", entry.origin, _note(still, longer))
    for look in (lambda: proof_of(still.service, entry.origin, 0), lambda: growth_of(still.service, entry.origin, 1)):
        with pytest.raises(LogDamaged):
            look()
    assert not receipt(still, erased).summary.complete  # the engine's own checkpoint is the newest again


def _note(still: Any, text: str) -> bytes:
    return record_of(still.service.signer.sign(text))
