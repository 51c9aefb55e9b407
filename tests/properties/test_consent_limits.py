"""A dossier stays bounded, and bounds fail closed: grants are refused before denials, proofs in force go last."""

from typing import Any

import msgspec

from processors.keep_consent import KeepConsent
from processors.permissions import (
    ALWAYS_MS,
    ANY,
    CELLS_FOR_DENIALS,
    CELLS_MAX,
    EVIDENCE_MAX,
    EVIDENCE_SCOPE,
    SEEN_MAX,
    ConsentEvidence,
    Permissions,
    remember,
    resolve,
    row_key,
)
from processors.terms import SEEN_MS
from tests.drivers import Driver

DATA: dict[str, Any] = {
    "identifiers": [{"kind": "email", "value": "Jo@Example.org"}],
    "purposes": ["marketing"],
    "method": "agent",
    "evidence": {},
}


def full() -> Driver:
    """A dossier with CELLS_MAX rows, all given."""
    driver = Driver(KeepConsent())
    for block in range(CELLS_MAX // 256):
        purposes, channels = [f"p{block}-{n}" for n in range(32)], [f"c{n}" for n in range(8)]
        driver.send("A", "consent.given", {**DATA, "purposes": purposes, "channels": channels}, at=10)
    assert len(driver.rows("consent.state")) == CELLS_MAX
    return driver


def test_a_full_dossier_refuses_grants_and_takes_denials() -> None:
    driver = full()
    driver.send("A", "consent.given", DATA, at=20)
    assert [refusal.code for refusal in driver.refusals] == ["too-many-cells"]
    driver.send("A", "consent.given", {**DATA, "purposes": ["p0-0"], "channels": ["c0"]}, at=20)  # no new row
    driver.send("A", "consent.withdrawn", {**DATA, "purposes": ["*"]}, at=30)
    assert len(driver.refusals) == 1
    told = driver.rows("consent.state").values()
    assert {row.status for row in told} == {"withdrawn"}  # type: ignore[attr-defined]
    assert len(told) == CELLS_MAX + 1


def test_denials_are_bounded_too() -> None:
    driver = full()
    many = {"channels": [f"d{n}" for n in range(8)], "purposes": [f"q{n}" for n in range(CELLS_FOR_DENIALS // 8)]}
    driver.send("A", "consent.refused", {**DATA, **many}, at=20)
    assert not driver.refusals
    before = len(driver.get("A", Permissions).cells)
    driver.send("A", "consent.refused", {**DATA, "purposes": ["one more"]}, at=20)
    assert not driver.refusals, "a denial is never lost for want of room"
    known = driver.get("A", Permissions)
    assert len(known.cells) == before + 1
    assert known.cells[row_key(ANY, ANY, ANY)].status == "refused", "it denies everything instead"
    assert resolve(known, "p0", "voice", "*").status == "refused"
    driver.send("A", "consent.refused", {**DATA, "purposes": ["yet another"]}, at=30)
    assert len(driver.get("A", Permissions).cells) == before + 1


def test_evidence_rests_sealed_and_opens_to_what_was_sent() -> None:
    driver = Driver(KeepConsent())
    proof = {"evidence": {"agent": "Jo Example", "uri": "https://example.org/r/1"}, "guardian": "Kim Example"}
    driver.send("A", "consent.given", {**DATA, **proof}, at=10)
    assert driver.keys == {"A": {EVIDENCE_SCOPE}}
    ((_, parts),) = [key for key in driver.store["A"] if key[0] == ConsentEvidence.KIND]
    record = driver.get("A", ConsentEvidence, *parts)
    assert record.sealed.startswith(b"sealed:\x1fevidence:")
    assert msgspec.json.decode(record.sealed.removeprefix(b"sealed:\x1fevidence:")) == {
        "agent": "Jo Example",
        "uri": "https://example.org/r/1",
        "guardian": "Kim Example",
        "identifier": {"kind": "email", "value": "Jo@Example.org"},
    }
    said = msgspec.json.encode([driver.log, driver.audits]).decode()
    assert "Example" not in said
    assert "example.org" not in said


def test_the_oldest_proof_that_governs_nothing_goes_first() -> None:
    driver = Driver(KeepConsent())
    agent = {**DATA, "evidence": {"agent": "Jo Example"}}
    driver.send("A", "consent.given", {**agent, "purposes": ["recording"]}, at=1, id="in force")
    for n in range(EVIDENCE_MAX):
        driver.send("A", "consent.renewed", agent, at=10 + n, id=f"r{n}")
    assert driver.count("A", "evidence") == EVIDENCE_MAX == driver.get("A", Permissions).evidence
    in_force = {cell.event_id for cell in driver.get("A", Permissions).cells.values()}
    kept = {parts[0] for kind, parts in driver.store["A"] if kind == "evidence"}
    assert in_force <= kept
    dropped = [entry for entry in driver.audits if entry.kind == "evidence.dropped"]
    assert [entry.facts["in_force"] for entry in dropped] == ["no"]


def test_ids_are_remembered_for_eight_days_and_no_more_than_the_newest() -> None:
    seen = {f"old{n}": 10 for n in range(70)}
    assert set(remember(seen, "new", 10 + SEEN_MS - 1, 10 + SEEN_MS - 1)) == {*seen, "new"}
    assert set(remember(seen, "new", 10 + SEEN_MS, 10 + SEEN_MS)) == {"new"}
    seen = {f"e{n}": n for n in range(1, SEEN_MAX + 1)}
    kept = remember(seen, "new", SEEN_MAX + 1, SEEN_MAX + 1)
    assert len(kept) == SEEN_MAX
    assert "new" in kept
    assert "e1" not in kept


def test_an_event_from_a_fast_clock_is_remembered_for_good() -> None:
    seen = remember({f"old{n}": 10 for n in range(70)}, "fast", 11, 10)
    assert seen["fast"] == ALWAYS_MS
    assert set(remember(seen, "later", 10 * SEEN_MS, 10 * SEEN_MS)) == {"fast", "later"}


def test_evidence_of_an_event_that_is_published_again_is_counted_once() -> None:
    driver = Driver(KeepConsent())
    agent = {**DATA, "evidence": {"agent": "Jo Example"}}
    driver.send("A", "consent.given", agent, at=10, id="same")
    for n in range(70):
        driver.send("A", "consent.renewed", DATA, at=2 * SEEN_MS + n)
    assert len(driver.get("A", Permissions).seen) == 70
    driver.send("A", "consent.given", agent, at=10, received=3 * SEEN_MS, id="same")
    assert driver.count("A", "evidence") == 1 == driver.get("A", Permissions).evidence
