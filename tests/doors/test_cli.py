"""The program as people use it: real processes, a real port, a folder that is killed and opened again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.doors.program import CONTROLLER, NUMBER, TEL, Program, conversation, event, until

pytestmark = pytest.mark.slow


def test_a_day_at_the_command_line(program: Program) -> None:
    assert program.token.stat().st_mode & 0o777 == 0o600
    assert (program.data / "service.json").stat().st_mode & 0o777 == 0o600
    inbox = program.folder / "inbox"
    inbox.mkdir()
    (inbox / "one.json").write_text(json.dumps(conversation("c1")))
    (inbox / "two.jsonl").write_text("".join(json.dumps(e) + "\n" for e in conversation("c2")))
    assert program.json("publish", str(inbox))["accepted"] == 6
    bad_and_good = [event("call.ended", {}, "x"), event("call.ended", {"conversation_id": "c1"}, "y")]
    (inbox / "bad.json").write_text(json.dumps(bad_and_good))
    (inbox / "none.json").write_text("{")
    tally = program.json("publish", str(inbox), code=1)
    assert (tally["accepted"], tally["refused"]) == (7, 2)
    refused = {(r["file"], r["place"], r["code"]) for r in tally["refusals"]}
    assert refused == {("bad.json", 1, "missing-field"), ("none.json", 0, "not-json")}

    decide = ("decide", "--use", "dial", "--controller", CONTROLLER, "--identifier", NUMBER, "--channel", "voice",
              "--purpose", "marketing", "--jurisdiction", "DE")  # fmt: skip
    assert "consent_unknown" in program.json(*decide, code=1)["reasons"]
    consent = {"identifiers": [{"kind": "tel", "value": TEL}], "purposes": ["marketing"], "method": "web", "evidence": {}}
    (program.folder / "consent.json").write_text(json.dumps(event("consent.given", consent, "k1")))
    program.json("publish", str(program.folder / "consent.json"))
    assert until(lambda: program.run(*decide).returncode == 0)
    shown = program.json("consent", "show", "--controller", CONTROLLER, "--identifier", NUMBER)
    assert [row["status"] for row in shown["subjects"][0]["consents"]] == ["given"]

    found = until(lambda: [
        row for row in json.loads(program.run(
            "subject", "search", "--controller", CONTROLLER, "--identifier", NUMBER, "--output", "json").stdout)["subjects"]
        if len(row["conversations"]) == 2
    ])  # fmt: skip
    ref = found[0]["subject_ref"]
    masked = program.run("subject", "show", ref, "--controller", CONTROLLER, "--output", "json").stdout
    assert "bicycle" not in masked and "bicycle" in program.run(
        "subject", "show", ref, "--controller", CONTROLLER, "--reveal", "--output", "json").stdout  # fmt: skip

    search = ("hold", "place", "--search", "--identifier", NUMBER)
    sought = program.json(*search, "--controller", CONTROLLER, "--ground", "art17_3_e")
    assert (sought["conversations"], sought["not_found"]) == (2, 0)
    program.json("hold", "release", sought["hold_id"], "--controller", CONTROLLER)
    hold = program.json("hold", "place", "--controller", CONTROLLER, "--ground", "litigation", "--conversation", "c1")["hold_id"]
    assert until(lambda: hold in program.run("hold", "list", "--output", "json").stdout)
    seen = ("subject", "show", ref, "--controller", CONTROLLER)
    assert until(lambda: [t["ground"] for h in program.json(*seen)["holds"] for t in h["terms"]] == ["litigation"])
    opened = program.json("request", "open", "--right", "erasure", "--regime", "gdpr", "--controller", CONTROLLER,
                          "--identifier", NUMBER, "--verified-by", "front-desk")  # fmt: skip
    assert list(opened) == ["request_id"]
    show = ("request", "show", opened["request_id"])
    assert until(lambda: program.json(*show)["state"] == "partially_fulfilled"), program.json(*show)
    assert opened["request_id"] in {row["request_id"] for row in program.json("request", "list")["requests"]}
    assert [row["request_id"] for row in program.json("erase", "status")["erasures"]] == [opened["request_id"]]
    kept = {"conversation_id": "c1", "grounds": ["litigation"], "until_ms": None}
    assert [part["kept"] for part in program.json(*show)["identifiers"]] == [[kept]]
    for told in (program.run(*show).stdout, program.run("erase", "status").stdout):
        assert {"c1", "litigation", "released"} <= {*told.split()}
    assert "ground.litigation=1" in program.run("erase", "receipt", opened["request_id"]).stdout
    program.json("hold", "release", hold, "--controller", CONTROLLER)
    assert until(lambda: program.json(*show)["state"] == "fulfilled"), program.json(*show)
    assert '"c1"' not in program.run("erase", "status", "--output", "json").stdout

    incident = program.json("breach", "report", "--controller", CONTROLLER, "--category", "contact")["incident_id"]
    assert until(lambda: program.run("breach", "show", incident, "--output", "json").returncode == 0)
    assert program.json("breach", "list")["breaches"]
    assert program.json("quarantine", "list") == {"quarantine": []}
    program.json("lag")
    made = program.json("token", "create", "--name", "dialer", "--role", "decider", "--controller", CONTROLLER)
    assert made["token"]
    assert program.json("audit", "checkpoint")["checkpoints"]
    assert program.json("audit", "verify")["ok"]
    assert program.json("audit", "verify", "--data", str(program.data))["ok"]  # in use: asks the service that has it
    assert "deleted" in program.json("retention", "run", "--raw")


def test_json_refusals_print_nothing_on_standard_output(program: Program) -> None:
    for args in (("request", "show", "nothing"), ("breach", "show", "nothing"), ("quarantine", "show", "0/99")):
        done = program.run(*args, "--output", "json")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr


def test_a_second_up_on_the_folder_is_refused_and_the_first_goes_on(program: Program) -> None:
    second = program.run("up", "--data", str(program.data), "--port", "0", "--token-file", str(program.folder / "other"))
    assert (second.returncode, second.stdout) == (2, "")
    assert "in use" in second.stderr
    assert program.json("audit", "verify")["ok"]
    assert not (program.folder / "other").exists()


def test_sigterm_stops_cleanly_and_the_folder_proves_itself_offline(program: Program) -> None:
    (program.folder / "c1.json").write_text(json.dumps(conversation("c1")))
    program.json("publish", str(program.folder / "c1.json"))
    assert program.stop() == 0
    assert not (program.data / "service.json").exists()
    data = ("--data", str(program.data))
    report = program.json("audit", "verify", *data)
    assert report["ok"] and report["entries"]
    origin = next(origin for origin, facts in report["origins"].items() if facts["checkpoints"])
    proof, key = program.folder / "entry.tlog-proof", program.json("audit", "key", *data)["key"]
    program.json("audit", "prove", "--origin", origin, "--index", "0", "--out", str(proof), *data)
    assert program.json("audit", "verify", "--proof", str(proof), "--key", key)["origin"] == origin
    proof.write_text(proof.read_text().replace("index 0", "index 1"))
    assert program.run("audit", "verify", "--proof", str(proof), "--key", key).returncode == 1
    assert program.json("retention", "run", "--raw", *data)["deleted"] == 0  # younger than a day
    assert program.json("retention", "run", "--raw", *data, CONSENTINEL_RAW__RETENTION_SECS="0")["deleted"] > 0
    assert program.json("audit", "verify", *data)["ok"]


def test_sigint_is_as_good_as_sigterm(program: Program) -> None:
    assert program.stop(signal.SIGINT) == 0


def test_after_kill_9_up_comes_back_with_the_same_token_and_what_was_accepted(program: Program) -> None:
    (program.folder / "c1.json").write_text(json.dumps(conversation("c1")))
    program.json("publish", str(program.folder / "c1.json"))
    token = program.token.read_text()
    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    program.start()
    assert program.token.read_text() == token
    search = ("subject", "search", "--controller", CONTROLLER, "--identifier", NUMBER, "--output", "json")
    assert until(lambda: program.run(*search).returncode == 0)
    assert program.json("audit", "verify")["ok"]
    assert program.stop() == 0


def test_a_port_that_is_taken_is_one_line_and_exit_2(program: Program) -> None:
    port = program.url.rpartition(":")[2]
    other = str(program.folder / "other")
    done = program.run("up", "--data", other, "--port", port, "--token-file", str(program.folder / "t2"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("consentinel: ") and "Traceback" not in done.stderr
    assert program.json("audit", "verify")["ok"]


def test_up_without_a_terminal_does_not_write_a_secret_into_a_log(tmp_path: Path) -> None:
    done = Program(tmp_path).run("up", "--data", str(tmp_path / "data"), "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--token-file" in done.stderr
