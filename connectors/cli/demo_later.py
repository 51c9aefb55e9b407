"""The later steps of the demonstration: holds and retention, the clock of a breach, bad input, and the proof at the end."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from connectors.cli.demo_data import CONTROLLER, Person, cloud_event
from connectors.cli.demo_stage import Stage, found_in_text
from connectors.cli.demo_world import World
from connectors.cli.faults import Refused
from connectors.cli.output import rows_of
from engine.audit import verify_log
from engine.evidence import lines_of, notes_of, proof_of, report_of
from engine.proofs import ProofInvalid, check_proof
from schemas.codec import decode_as
from schemas.topics import AuditEntry, BreachAlert, QuarantineEntry

HOUR_MS = 3_600_000
MONTHS_25_MS = 25 * 31 * 24 * HOUR_MS
ALERTS = (("started", 0), ("48h", 24), ("24h", 48), ("6h", 66), ("overdue", 72))  # level, hours after awareness


def holds_and_retention(stage: Stage, world: World, person: Person) -> None:
    """Step 6."""
    stage.step("A legal hold keeps what retention would destroy")
    analyst, kept = world.doors["analyst"], person.conversations[0]
    analyst.take(cloud_event("hold.placed", world.clock.now(), {
        "hold_id": "demo-hold", "scope": {"conversation_ids": [kept]}, "ground": "litigation", "actor": "",
    }))  # fmt: skip
    world.wait_until_folded()
    before = {conversation for _, conversation in world.views()}
    listed = rows_of(analyst.get("/v1/holds", controller=CONTROLLER), "holds")
    stage.check("the hold stands in the list of holds", "demo-hold" in {hold.get("hold_id") for hold in listed})
    stage.say("25 months pass: the retention of 24 months ends for everything that was imported.")
    world.later(MONTHS_25_MS)
    stage.soon("only the held conversation is left", lambda: {c for _, c in world.views()} == {kept})
    stage.table([{"conversations before": len(before), "after 25 months": len({c for _, c in world.views()}), "held": 1}])
    stage.check("it can still be found by its customer's identifiers", kept in world.conversations(person.identifiers))
    analyst.take(cloud_event("hold.released", world.clock.now(), {"hold_id": "demo-hold", "actor": ""}))
    stage.soon("released, it goes by itself", lambda: not world.views() and not world.conversations(person.identifiers))


def breach_clock(stage: Stage, world: World) -> None:
    """Step 7."""
    stage.step("A breach is reported: 72 hours, with alerts before they run out")
    aware = world.clock.now()
    analyst = world.doors["analyst"]
    analyst.take(cloud_event("breach.reported", aware, {
        "incident_id": "demo-incident", "detected_at": (aware - timedelta(hours=1)).isoformat(), "aware_at": aware.isoformat(),
        "role": "controller", "categories": ["contact"], "risk": "high", "actor": "",
    }))  # fmt: skip
    start_ms = world.clock()
    for level, hours in ALERTS:
        world.later(max(0, start_ms + hours * HOUR_MS - world.clock()))
        stage.soon(f"{hours} hours after awareness the alert says: {level}", lambda want=level: _levels(world)[-1:] == [want])  # type: ignore[misc]
    stage.check("each alert came once, in order", _levels(world) == [level for level, _ in ALERTS])
    due = next((alert.due_ms for alert in _alerts(world)), 0)
    stage.check("the clock is 72 hours from awareness", abs(due - round(aware.timestamp() * 1000) - 72 * HOUR_MS) < 1_000)
    stage.table([{"level": a.level, "due_ms": a.due_ms, "hours left": round(a.headroom_ms / HOUR_MS)} for a in _alerts(world)])


def _alerts(world: World) -> Iterator[BreachAlert]:
    for _, record in world.service.topic("breach.alerts"):
        if record.value is not None:
            yield decode_as(BreachAlert, record.value)


def _levels(world: World) -> list[str]:
    return [alert.level for alert in _alerts(world) if alert.incident_id == "demo-incident"]


def bad_input(stage: Stage, world: World) -> None:
    """Step 8."""
    stage.step("Bad input is refused with a code, and stops nothing")
    now = world.clock.now()
    party = {"party_id": "p", "role": "customer", "identifiers": [{"kind": "tel", "value": "not a number"}]}
    started = {"conversation_id": "bad", "channel": "voice", "direction": "inbound", "parties": [party]}
    late = {**started, "parties": [{**party, "identifiers": [{"kind": "tel", "value": "+12025550199"}]}]}
    cases: list[tuple[str, Any]] = [
        ("an unknown type", cloud_event("call.teleported", now, {"conversation_id": "bad"})),
        ("a missing field", cloud_event("call.started", now, {"conversation_id": "bad"})),
        ("a number that is none", cloud_event("call.started", now, started)),
        ("a time two days ahead", cloud_event("call.started", now + timedelta(days=2), late)),
        ("a type of another role", cloud_event("hold.released", now, {"hold_id": "x", "actor": ""})),
        ("no controller", {k: v for k, v in cloud_event("call.started", now, late).items() if k != "controller"}),
    ]
    rows = []
    for what, event in cases:
        try:
            world.doors["publisher"].take(event)
            rows.append({"sent": what, "status": 202, "code": "", "field": ""})
        except Refused as refused:
            rows.append({"sent": what, "status": refused.status, "code": refused.code, "field": refused.field})
    stage.table(rows)
    refused_all = all(400 <= int(str(row["status"])) < 500 and row["code"] for row in rows)
    stage.check("each is refused at the door, with a code", refused_all)
    orphan = {"conversation_id": "never-started", "segments": [{"text": "A line of a conversation that nobody announced."}]}
    world.doors["publisher"].take(cloud_event("call.transcribed", now, orphan))
    world.wait_until_folded()
    stage.say("A line whose conversation never begins waits sealed for an hour.")
    world.later(HOUR_MS + 60_000)
    stage.soon("then it is in quarantine with its code", lambda: "no-conversation" in set(quarantine_codes(world)))
    listed = world.doors["operator"].get("/v1/quarantine")
    stage.check("the list of quarantine shows the code and not a word of it",
                "no-conversation" in str(listed) and "nobody announced" not in str(listed))  # fmt: skip
    stage.check("the processors went on: nothing is unread", world.wait_until_folded() and world.service.failed is None)


def quarantine_codes(world: World) -> Iterator[str]:
    """The code of every entry in quarantine."""
    for _, record in world.service.topic("quarantine"):
        if record.value is not None:
            yield decode_as(QuarantineEntry, record.value).code


def proof(stage: Stage, world: World, clues: list[str]) -> None:
    """Step 9; the service is stopped. `clues` are of everybody who took part."""
    stage.step("Everything can be proven offline")
    service = world.opened()
    try:
        report = report_of(service)
        entries = list(lines_of(service))
        stage.table([{"audit entries": report.entries, "trees": len(report.origins), "checkpoints": report.checkpoints}])
        stage.check("the log is what was signed, every tree up to its last entry",
                    report.ok and report.entries > 0 and all(o.proven == o.size for o in report.origins.values()))  # fmt: skip
        which = next(value for _, _, value in entries if decode_as(AuditEntry, value).kind == "erasure.done")
        entry = decode_as(AuditEntry, which)
        vkey, text = service.signer.vkey, proof_of(service, entry.origin, entry.index)
        stage.check("with the public key alone, a proof file shows that the erasure stands in it", _holds(text, vkey))
        forged = text.replace("\nindex ", "\nindex 1", 1)
        stage.check("the same file with another place written into it does not hold", not _holds(forged, vkey))
        texts = (value.decode("utf-8", "replace") for _, _, value in entries)
        stage.check(f"none of the {len(clues)} clues is in the audit log", not found_in_text(clues, texts))
        middle = len(entries) // 2
        partition, offset, value = entries[middle]
        entries[middle] = partition, offset, value[:-1] + bytes([value[-1] ^ 1])
        stage.check("one flipped byte in the log is found", not verify_log(entries, notes_of(service), vkey).ok)
    finally:
        service.stop()


def _holds(text: str, vkey: str) -> bool:
    try:
        check_proof(text, None, vkey, None)
    except ProofInvalid:
        return False
    return True
