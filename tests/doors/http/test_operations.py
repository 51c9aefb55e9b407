"""Holds, incidents, quarantine, lag, schemas, audit, vCon and the server's own life."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from engine.audit import verify_log
from engine.proofs import check_proof
from schemas.codec import decode_as, encode, fingerprint
from schemas.events import CallEnded
from schemas.routed import Envelope
from schemas.topics import AuditEntry

from .conftest import consent

ROOT = Path(__file__).parents[3]


def test_holds_and_incidents_are_listed_with_their_clocks(house: Any) -> None:
    controller, hold, incident = uuid4().hex, uuid4().hex, uuid4().hex
    house.send("hold.placed", {"hold_id": hold, "ground": "art17_3_e", "scope": {
        "identifiers": [{"kind": "tel", "value": "+493090182400"}]}}, controller)  # fmt: skip
    house.send("breach.reported", {"incident_id": incident, "detected_at": "2026-01-01T00:00:00Z", "role": "controller",
                                   "categories": ["contact"], "risk": "high"}, controller)  # fmt: skip
    house.folded()
    (held,) = house.root.get(f"/v1/holds?controller={controller}").json()["holds"]
    assert (held["hold_id"], held["people"], "refs" in held) == (hold, 1, False)
    (case,) = house.root.get(f"/v1/breaches?controller={controller}").json()["breaches"]
    assert case["incident_id"] == incident and case["headroom_ms"] < 0 and case["level"] == "overdue"


def test_what_was_quarantined_is_listed_without_its_content_and_can_be_retried(house: Any) -> None:
    controller, now_ms = uuid4().hex, house.service.clock()
    data = {"identifiers": [{"kind": "tel", "value": "030 901825"}], "purposes": ["p"], "method": "web", "evidence": {}}
    envelope = Envelope(id="q", source="kafka", type="consent.given", controller=controller, time_ms=now_ms, receipt_ms=now_ms,
                        content_type="application/json", data=json.dumps(data).encode())  # fmt: skip
    house.service.publish([("consents", "q", envelope)])
    house.folded()
    listed = house.root.get(f"/v1/quarantine?controller={controller}")
    (row,) = listed.json()["quarantine"]
    assert (row["code"], row["source"]["topic"]) == ("number-needs-region", "consents") and "901825" not in listed.text
    path = f"/v1/quarantine/{row['partition']}/{row['offset']}/retry"
    assert house.by_role("operator").post(path).status_code == 404  # another controller's
    settings = {"default_region": "DE", "employee_basis": "contract"}
    assert house.send("controller.configured", settings, controller).status_code == 202
    assert house.root.post(path).json() == {"accepted": 1, "topic": "consents"}
    house.folded()
    assert len(house.root.get(f"/v1/quarantine?controller={controller}").json()["quarantine"]) == 1
    search = {"controller": controller, "identifiers": data["identifiers"]}
    assert len(house.root.post("/v1/subjects/search", json=search).json()["subjects"]) == 1
    assert house.root.post("/v1/quarantine/99/0/retry").status_code == 404
    assert house.root.post("/v1/quarantine/0/999999/retry").status_code == 404


def test_lag_schemas_and_raw_retention(house: Any) -> None:
    house.folded()
    lag = house.root.get("/v1/lag").json()
    assert {row["task"] for row in lag["lag"]} == {"intake", "subject", "case"} and 0 <= lag["age_secs"] < 5
    schema = house.by_role("publisher").get(f"/v1/schemas/{fingerprint(CallEnded).hex()}")
    assert schema.json()["name"] == "CallEnded"
    assert house.root.get("/v1/schemas/zz").status_code == 404
    assert house.root.post("/v1/admin/retention/raw").json()["deleted"] >= 0


def test_the_audit_log_verifies_while_it_grows_and_its_proofs_check_offline(house: Any) -> None:
    number = iter(range(1_000))
    vkey = house.root.get("/v1/audit/key").json()["vkey"]
    for _ in range(5):
        house.send("consent.given", consent(f"+4930901826{next(number):02d}"))
        report = house.by_role("auditor").get("/v1/audit/report").json()
        assert report["ok"], report["findings"]
    house.folded()
    notes = house.root.post("/v1/audit/checkpoint").json()["checkpoints"]
    origins = house.root.get("/v1/audit/checkpoints").json()["checkpoints"]
    assert sorted(origins.values()) == sorted(notes)
    origin = next(name for name in origins if "/subject/" in name)
    proof = house.root.get("/v1/audit/proof", params={"origin": origin, "index": 0})
    assert check_proof(proof.text, None, vkey, origin).origin == origin
    assert house.root.get("/v1/audit/proof", params={"origin": origin, "index": 10**9}).status_code == 404
    assert house.root.get("/v1/audit/proof", params={"origin": "x", "index": 0}).status_code == 404
    stranger = house.token(uuid4().hex, ["auditor"], ["somebody"])
    assert stranger.get("/v1/audit/proof", params={"origin": origin, "index": 0}).status_code == 404
    lines = ((p, r.offset, r.value) for p, r in house.service.topic("audit.entries"))
    assert verify_log(lines, notes, vkey).ok


def test_an_entry_that_the_engine_did_not_write_is_found(still: Any) -> None:
    still.send("consent.given", consent("+493090182700"))
    still.settle()
    assert still.root.get("/v1/audit/report").json()["ok"]
    _, last = list(still.service.topic("audit.entries"))[-1]
    entry = decode_as(AuditEntry, last.value)
    forged = encode(msgspec.structs.replace(entry, index=entry.index + 1))  # beyond all that the engine knows
    still.service.append("audit.entries", last.key.decode(), forged)
    assert not still.root.get("/v1/audit/report").json()["ok"]


VCON = {
    "vcon": "0.0.1", "uuid": "018f3b5c-1111-8222-8333-444455556666", "created_at": "2026-01-02T10:00:00+00:00",
    "parties": [{"tel": "+493090182800", "name": "Vera", "role": "customer"},
                {"name": "Al", "role": "agent", "mailto": "al@example.org"}],
    "dialog": [{"type": "text", "start": "2026-01-02T10:00:00+00:00", "parties": 0, "mediatype": "text/plain", "encoding": "none",
                "body": "hello"}],
}  # fmt: skip


def test_a_vcon_becomes_events_of_one_conversation(house: Any) -> None:
    client = house.by_role("publisher")
    response = client.post("/v1/vendors/vcon?controller=acme", content=json.dumps(VCON))
    answer = response.json()
    assert response.status_code == 202 and answer["conversation_id"] == VCON["uuid"] and len(answer["events"]) >= 3
    assert {e.id for e in house.envelopes("calls")} >= set(answer["events"])
    assert client.post("/v1/vendors/vcon", content=b"{}").json()["field"] == "controller"
    assert client.post("/v1/vendors/vcon?controller=rival", content=b"{}").status_code == 403
    broken = client.post("/v1/vendors/vcon?controller=acme", content=b'{"Sentinel')
    assert broken.status_code == 400 and broken.json()["type"].endswith(":vcon-broken") and "Sentinel" not in broken.text
    signed = client.post("/v1/vendors/vcon?controller=acme", content=json.dumps({**VCON, "signatures": [{}]}))
    assert signed.status_code == 422 and signed.json()["type"].endswith(":vcon-not-supported-yet")
    assert client.post("/v1/vendors/genesys?controller=acme", content=b"{}").status_code == 422


PROGRAM = """
import sys
from pathlib import Path
from connectors.http.server import serve
from connectors.http.tokens import TokenStore
from engine.service import Service
folder = Path(sys.argv[1])
service = Service.open(folder)
service.start()
store = TokenStore.open(folder / "tokens.json")
print(store.first_token(), flush=True)
serve(service, store, ready=lambda url: print("ready", url, flush=True))
print("stopped", service.runtime is not None, flush=True)
"""


def test_the_server_says_when_it_serves_and_stops_the_service_at_sigterm(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number in (signal.SIGTERM, signal.SIGINT):
        program = [sys.executable, "-c", PROGRAM, str(tmp_path / "data")]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert process.stdout.readline().startswith("ready http://127.0.0.1:")
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, out.strip(), err) == (0, "stopped True", "")


def test_the_metrics_name_nobody(house: Any) -> None:
    text = house.root.get("/metrics").text
    for name in ("consentinel_http_requests_total", "consentinel_records_folded_total", "consentinel_lag_records",
                 "consentinel_beat_age_seconds", "consentinel_decisions", "consentinel_up 1.0"):  # fmt: skip
        assert name in text
    assert "acme" not in text and "sub_" not in text
    assert msgspec.json.decode(house.root.get("/healthz").content) == {"status": "ok"}
