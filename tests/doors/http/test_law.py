"""Activating a law pack at the door: the version is in force for the next event and decision, for this controller alone."""

from typing import Any

import msgspec

from law.book import Library, shipped
from law.rows import Period
from schemas.codec import decode_as
from schemas.topics import AuditEntry, Decision, RequestStatus

NUMBER = "+493090182190"
REQUEST = {"right": "erasure", "regime": "gdpr", "received_via": "web", "identifiers": [{"kind": "tel", "value": NUMBER}]}
PACKS = {pack.pack: pack for pack in shipped().packs}


def own() -> Library:
    """The shipped packs, and a version of the GDPR's under which answers are due in ten days."""
    rows = tuple(
        msgspec.structs.replace(row, period=Period(amount=10, unit="days")) if row.rule == "gdpr.art12.response" else row
        for row in PACKS["gdpr"].rows
    )
    return Library(shipped().packs, [msgspec.structs.replace(PACKS["gdpr"], version="2099.1", rows=rows)])


def due_days(still: Any, request_id: str) -> float:
    found = [decode_as(RequestStatus, r.value) for _, r in still.service.topic("requests.state") if r.value is not None]
    clock = next(status.clock for status in reversed(found) if status.request_id == request_id)
    return (clock.due_ms - clock.received_ms) / 86_400_000


def test_an_activated_version_is_in_force_for_what_follows_and_on_record(still: Any) -> None:
    still.service.shared.library = own()
    still.send("request.opened", REQUEST | {"request_id": "before"})
    still.settle()
    assert "gdpr@2026.1" in still.decide(NUMBER)["law_pack"]
    assert still.send("law.activated", {"pack": "gdpr", "version": "2099.1"}).status_code == 202
    still.settle()
    still.send("request.opened", REQUEST | {"request_id": "after"})
    still.settle()
    assert due_days(still, "before") > 27 and due_days(still, "after") < 14
    answer = still.decide(NUMBER, conversation_id="conv")
    assert "gdpr@2099.1" in answer["law_pack"] and "ccpa@2026.1" in answer["law_pack"]
    recorded = [decode_as(Decision, r.value).law_pack for _, r in still.service.topic("decisions") if r.key == b"conv"]
    assert recorded == [answer["law_pack"]]
    entries = [decode_as(AuditEntry, r.value) for _, r in still.service.topic("audit.entries")]
    assert [e.facts["version"] for e in entries if e.kind == "law.activated"] == ["2099.1"]
    assert [e.law_pack for e in entries if e.kind == "request.opened"] == ["gdpr@2026.1", "gdpr@2099.1"]


def test_other_controllers_keep_the_law_that_they_chose_or_the_newest_that_is_shipped(still: Any) -> None:
    still.service.shared.library = own()
    assert still.send("law.activated", {"pack": "gdpr", "version": "2099.1"}).status_code == 202
    still.settle()
    assert "gdpr@2099.1" in still.service.law("acme").names and "gdpr@2026.1" in still.service.law("globex").names


def test_what_is_activated_and_not_there_any_more_denies_and_stands_for_no_other(still: Any) -> None:
    still.service.shared.library = own()
    assert still.send("law.activated", {"pack": "gdpr", "version": "2099.1"}).status_code == 202
    still.settle()
    still.service.shared.library = Library(shipped().packs)
    answer = still.decide(NUMBER)
    assert answer["verdict"] == "deny" and "law_unknown" in answer["reasons"] and answer["law_pack"] == ""
    previewed = still.root.get("/v1/retention/preview", params={"controller": "acme"})
    assert previewed.status_code == 422 and previewed.json()["type"].endswith("unknown-law")
    assert still.send("law.activated", {"pack": "ccpa", "version": "2026.1"}).status_code == 202  # what was chosen stays missing
    still.settle()
    assert "law_unknown" in still.decide(NUMBER)["reasons"]
    still.now_ms += 1_000  # at one moment the greater event id would win
    assert still.send("law.activated", {"pack": "gdpr", "version": "2026.1"}).status_code == 202
    still.settle()
    assert "gdpr@2026.1" in still.decide(NUMBER)["law_pack"]
