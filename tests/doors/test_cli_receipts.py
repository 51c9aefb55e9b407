"""Receipts and consistency proofs at the command line: taken from a running service or a stopped folder, checked by a key."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.cli import app
from engine.notes import Signer
from engine.scan.report import Report, digest_of
from engine.service import Limits, Service
from tests.doors.program import CONTROLLER, NUMBER, TEL, WAIT_SECS, Program, conversation, environment, until

KEY = Signer("example.com/log", bytes(32)).vkey


def alone(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run in an empty folder, without service, token or data."""
    there = folder / "regulator"
    there.mkdir(exist_ok=True)
    return subprocess.run([sys.executable, "-m", "connectors.cli", *args], cwd=there, env=environment(there), check=False,
                          capture_output=True, text=True, timeout=WAIT_SECS, stdin=subprocess.DEVNULL)  # fmt: skip


def checked(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    """Run in this process; answers standard output."""
    capsys.readouterr()
    assert app.run(list(args)) == code
    return capsys.readouterr().out


def erased(program: Program) -> str:
    (program.folder / "c1.json").write_text(json.dumps(conversation("c1")))
    program.json("publish", str(program.folder / "c1.json"))
    opened = program.json("request", "open", "--right", "erasure", "--regime", "gdpr", "--controller", CONTROLLER,
                          "--identifier", NUMBER, "--verified-by", "front-desk")["request_id"]  # fmt: skip
    assert until(lambda: program.json("request", "show", opened)["state"] == "fulfilled")
    return str(opened)


@pytest.mark.slow
def test_a_receipt_is_taken_here_and_checked_anywhere(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    request_id = erased(program)
    key = program.json("audit", "key")["key"]
    files = [program.folder / name for name in ("a.receipt", "b.receipt", "a.json", "c.receipt", "c.json")]
    files[0].write_text(program.run("erase", "receipt", request_id).stdout)
    program.json("erase", "receipt", request_id, "--out", str(files[1]), code=0)
    assert files[1].read_bytes().startswith(b"{")  # the form is the one of --output
    assert program.run("erase", "receipt", request_id, "--out", str(files[1])).returncode == 0
    assert files[1].stat().st_mode & 0o777 == 0o600
    files[2].write_text(json.dumps(program.json("erase", "receipt", request_id)) + "\n")
    assert program.run("erase", "receipt", "nothing").returncode == 1
    assert program.stop() == 0
    data = ("--data", str(program.data))
    assert program.run("erase", "receipt", request_id, "--out", str(files[3]), *data).returncode == 0
    files[4].write_text(program.run("erase", "receipt", request_id, "--output", "json", *data).stdout)
    missing = program.run("erase", "receipt", "nothing", *data)
    assert (missing.returncode, missing.stdout) == (1, "")
    for file in files:
        told = json.loads(checked(capsys, "audit", "verify", str(file), "--key", key, "--output", "json"))
        assert (told["ok"], told["request"], told["complete"]) == (True, request_id, True)
        assert TEL not in file.read_text() and "Ada" not in file.read_text()
        words = checked(capsys, "audit", "verify", str(file), "--key", key)
        assert "identifiers 1 of 1 erased" in words and "the signed log" in words
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 4
        file.with_suffix(".bent").write_bytes(bytes(raw))
        assert checked(capsys, "audit", "verify", str(file.with_suffix(".bent")), "--key", key, code=1) == ""
    done = alone(program.folder, "audit", "verify", str(files[3]), "--key", key)
    assert done.returncode == 0 and "The receipt holds" in done.stdout


@pytest.mark.slow
def test_a_scan_is_on_record_with_its_request_and_no_other_report_passes_for_it(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (program.folder / "c0.json").write_text(json.dumps(conversation("c0")))
    (program.folder / "said").write_text("order a green bicycle\n")
    program.json("publish", str(program.folder / "c0.json"))
    assert program.stop() == 0
    look = ("scan", "--identifier", NUMBER, "--words", "said", "--data", str(program.data), "--control", "control")
    before = program.json(*look, "--expect-all")
    program.start()
    request_id = erased(program)
    assert program.stop() == 0
    service = Service.open(program.data, limits=Limits(raw_retention_secs=0))
    service.settle()
    service.retain_raw(at_once=True)
    service.maintain()  # what the running service does in a quarter of an hour
    service.stop()
    after = program.json(*look)
    assert (after["verdict"], after["control"], after["epochs"]) == ("clean", before["digest"], "1-1")
    forged = {**after, "verdict": "found"}
    resigned = {**forged, "digest": digest_of(msgspec.convert(forged, Report))}
    files = {name: program.folder / f"{name}.json" for name in ("before", "after", "forged", "resigned")}
    for file, report in zip(files.values(), (before, after, forged, resigned), strict=True):
        file.write_text(json.dumps(report))
    program.start()
    record = ("scan", "--request", request_id, "--report")
    assert program.run(*record, str(files["forged"])).returncode == 1
    assert program.run("scan", "--request", "nothing", "--report", str(files["after"])).returncode == 1
    (program.folder / "export.csv").write_text(f"who,what\n{TEL},bicycle\n")
    export = ("--path", str(program.folder / "export.csv"), "--no-ring", "--identifier", NUMBER)
    assert program.run("scan", "--request", "nothing", *export).returncode == 1
    found = program.json("scan", "--request", request_id, *export, code=1)  # what was found is on record as well
    for name in ("before", "after"):
        assert program.json(*record, str(files[name]))["digest"] == json.loads(files[name].read_text())["digest"]
    assert program.json("request", "show", request_id)["state"] == "fulfilled", "nothing was opened again"
    key, receipt = program.json("audit", "key")["key"], str(program.folder / "r")
    verify = ("audit", "verify", receipt, "--key", key, "--output", "json")
    assert until(lambda: program.run("erase", "receipt", request_id, "--out", receipt).returncode == 0
                 and '"clean"' in checked(capsys, *verify))  # fmt: skip
    assert program.stop() == 0
    told = json.loads(checked(capsys, *verify, "--scan", str(files["after"])))
    assert told["complete"] and told["summary"]["scan"] == {
        "verdict": "clean", "digest": after["digest"], "control": before["digest"], "controlled": "2", "needles": "2",
        "found": "0", "sources": "data", "epochs": "1-1", "by": told["summary"]["scan"]["by"],
        "scanned_at": told["summary"]["scan"]["scanned_at"],
    }  # fmt: skip
    assert told["summary"]["scan"]["by"].startswith("act_")
    checked(capsys, *verify, "--scan", str(files["before"]))  # the control run is on record as well
    happened = [one["facts"] for one in told["summary"]["others"] if one["kind"] == "request.scanned"]
    assert [(f["verdict"], f["found"], f["sources"]) for f in happened] == [
        ("found", "1", "path"), ("all_found", "2", "data"), ("clean", "0", "data")
    ]  # fmt: skip
    assert happened[0]["digest"] == found["digest"] and not {"control", "epochs"} & happened[0].keys()
    for name in ("forged", "resigned"):
        assert checked(capsys, *verify, "--scan", str(files[name]), code=1) == ""
    raw = Path(receipt).read_text()
    Path(receipt).write_text(raw.replace(after["digest"], resigned["digest"]))
    assert checked(capsys, *verify, code=1) == ""


@pytest.mark.slow
def test_a_checkpoint_kept_outside_is_proven_to_be_the_beginning_of_the_log(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (program.folder / "c0.json").write_text(json.dumps(conversation("c0")))
    program.json("publish", str(program.folder / "c0.json"))
    notes = until(lambda: [n for n in program.json("audit", "checkpoint")["checkpoints"] if "/subject/" in n])
    kept = program.folder / "kept.note"
    kept.write_text(notes[0])
    erased(program)
    proof, key = program.folder / "growth", program.json("audit", "key")["key"]
    check = ("audit", "verify", "--consistency", str(proof), "--from", str(kept), "--key", key)
    made = program.json("audit", "prove", "--from", str(kept), "--out", str(proof))
    found = json.loads(checked(capsys, *check, "--output", "json"))
    assert (found["ok"], found["from"], found["origin"]) == (True, made["old"], made["origin"])
    assert program.stop() == 0
    offline = ("audit", "prove", "--from", str(kept), "--data", str(program.data), "--out", str(proof))
    assert program.run(*offline).returncode == 0
    checked(capsys, *check)
    proof.write_text(proof.read_text().replace("old ", "old 1", 1))
    assert checked(capsys, *check, code=1) == ""
    ahead = notes[0].replace(f"\n{made['old']}\n", "\n999999\n", 1)
    kept.write_text(ahead)
    assert program.run(*offline).returncode == 1  # the log never was so long


@pytest.mark.parametrize("args", [
    ["audit", "verify", "r.receipt"],
    ["audit", "verify", "--key", KEY],
    ["audit", "verify", "r.receipt", "--key", KEY, "--data", "d"],
    ["audit", "verify", "r.receipt", "--proof", "p", "--key", KEY],
    ["audit", "verify", "--consistency", "c", "--key", KEY],
    ["audit", "verify", "r.receipt", "--from", "c", "--key", KEY],
    ["audit", "prove"],
    ["audit", "prove", "--origin", "o"],
    ["audit", "prove", "--from", "f", "--index", "1"],
    ["audit", "verify", "no-such.receipt", "--key", KEY],
    ["audit", "verify", "--key", KEY, "--scan", "s"],
    ["scan", "--report", "no-such"],
    ["audit", "prove", "--from", "no-such.note"],
    ["erase", "receipt", "r", "--data", "no-such"],
])  # fmt: skip
def test_what_cannot_be_checked_or_proven_is_one_line_and_exit_2(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert app.run(args) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1) and err.startswith("consentinel: ")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"consentinel/receipt@v1\n\n\n\n"])
def test_a_file_that_is_no_receipt_is_refused_with_exit_1(content: bytes, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "r").write_bytes(content)
    assert app.run(["audit", "verify", str(tmp_path / "r"), "--key", KEY]) == 1
    assert app.run(["audit", "verify", "--consistency", str(tmp_path / "r"), "--from", str(tmp_path / "r"), "--key", KEY]) == 1
    assert capsys.readouterr().out == ""
