"""The command: control before an erasure, scan after it. Its report names nobody, and what it cannot know is not called clean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.cli.app import run
from engine.scan.report import Report, digest_of
from engine.service import Limits, Service
from tests.endtoend.world import Told, envelope, request, topic_of
from tests.harness import START_MS, call, party

NUMBER, MAIL, WORDS = "+12025550123", "ann.example@example.com", "my parrot has eaten the policy"
OTHER = "+12025550177"


class Site:
    """A service's folder, told of two calls; `scan` runs the command on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.now_ms = folder / "data", capsys, START_MS
        self.words, self.control = folder / "words", folder / "control"
        self.words.write_text(f"{WORDS}\n\n")
        service = self.opened()
        for n, (tel, mail, said) in enumerate(((NUMBER, MAIL, WORDS), (OTHER, "bob@example.com", "nothing to do with it"))):
            people = party("p", "customer", ("tel", tel), ("email", mail)), party("a", "agent", ("email", "agent@example.net"))
            self.tell(service, Told("call.started", f"s{n}", START_MS, call(f"c{n}", *people)))
            lines = [{"party_id": "p", "offset_ms": 0, "text": said}]
            self.tell(service, Told("call.transcribed", f"t{n}", START_MS, {"conversation_id": f"c{n}", "segments": lines}))
        service.settle()
        service.stop()

    def opened(self) -> Service:
        return Service.open(self.folder, clock=lambda: self.now_ms, limits=Limits(raw_retention_secs=1))

    def tell(self, service: Service, told: Told) -> None:
        service.publish([(topic_of(told.type), told.id, envelope(told, self.now_ms))])

    def forget(self) -> None:
        service = self.opened()
        for told in request("r1", self.now_ms, ("tel", NUMBER), ("email", MAIL)):
            self.tell(service, told)
        service.settle()
        self.now_ms += 600_000
        service.settle()
        self.now_ms += 5_000
        for _ in range(2):
            service.retain_raw(at_once=True)
            service.maintain()
        service.stop()

    def scan(self, *more: str, words: bool = True) -> tuple[int, dict[str, Any]]:
        asked = ["--identifier", f"tel:{NUMBER}", "--identifier", f"email:{MAIL.upper()}", "--controller", "acme"]
        asked += ["--words", str(self.words)] if words else []
        code = run(["scan", *asked, "--data", str(self.folder), "--output", "json", *more])
        printed = self.capsys.readouterr()
        self.told = printed.out + printed.err
        return code, json.loads(printed.out) if printed.out else {}


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    yield Site(tmp_path, capsys)


def test_before_the_erasure_everything_is_found_and_after_it_nothing(site: Site) -> None:
    code, before = site.scan("--expect-all", "--control", str(site.control))
    assert (code, before["verdict"]) == (0, "all_found")
    assert site.control.stat().st_mode & 0o777 == 0o600
    assert site.scan()[0] == 1
    site.forget()
    code, after = site.scan("--control", str(site.control))
    assert (code, after["verdict"], after["not_read"]) == (0, "clean", [])
    assert [row["control"] for row in after["needles"]] == [True] * 5
    refs = [row for row in after["needles"] if row["kind"] == "ref"]
    assert {row["of"] for row in refs} == {1, 2} and all(row["kept"] and not row["outside"] for row in refs)
    kinds = {where["name"].split()[-1] for row in refs for where in row["where"] if where["standing"] == "kept"}
    assert kinds <= {"fence", "fenced", "permissions"}
    assert after["looked_at"]["opened"]["field"] > 0 and after["looked_at"]["data_keys"] > 0
    assert after["digest"] == digest_of(msgspec.convert(after, Report))
    code, again = site.scan("--expect-all")
    assert (code, again["verdict"]) == (1, "missing")


def test_a_report_and_a_control_name_nobody(site: Site) -> None:
    site.scan("--expect-all", "--control", str(site.control))
    told = (site.told + site.control.read_text()).lower()
    assert not [value for value in ("2025550123", MAIL, "parrot", "sub_") if value in told]
    run(["scan", "--identifier", f"tel:{NUMBER}", "--words", str(site.words), "--data", str(site.folder)])
    printed = site.capsys.readouterr().out
    assert "NOT clean" in printed and "2025550123" not in printed and "parrot" not in printed


def test_what_the_control_never_found_is_not_called_clean(site: Site) -> None:
    site.scan("--expect-all", "--control", str(site.control), words=False)
    site.forget()
    code, report = site.scan("--control", str(site.control))
    assert (code, report["verdict"]) == (1, "uncontrolled")
    assert [row["number"] for row in report["needles"] if not row["control"]] == [3]


def test_what_cannot_be_read_is_not_called_clean(site: Site, tmp_path: Path) -> None:
    site.forget()
    (tmp_path / "x.parquet").write_bytes(b"PAR1PAR1")
    code, report = site.scan("--path", str(tmp_path / "x.parquet"))
    assert (code, report["verdict"], len(report["not_read"])) == (1, "incomplete", 1)


def test_a_copy_elsewhere_is_found(site: Site, tmp_path: Path) -> None:
    site.forget()
    exports = tmp_path / "exports"
    exports.mkdir()
    (exports / "calls.json").write_text(json.dumps({"mail": MAIL.title(), "tel": "(202) 555-0123"}))
    code, report = site.scan("--path", str(exports))
    assert code == 1
    assert {(row["number"], where["source"], where["name"]) for row in report["needles"] for where in row["where"]
            if where["standing"] == "outside"} == {(1, "path", "1.json"), (2, "path", "1.json")}  # fmt: skip


def test_a_folder_in_use_is_refused_and_left_as_it_is(site: Site) -> None:
    service = site.opened()
    code, report = site.scan()
    assert (code, report) == (2, {}) and "in use" in site.told and "snapshot" in site.told
    service.stop()


@pytest.mark.parametrize(
    "args",
    [
        ["--data", "data"],
        ["--identifier", "tel:+12025550123"],
        ["--identifier", "tel:2025550123", "--data", "data"],
        ["--identifier", "crm:42", "--data", "data"],
        ["--identifier", "tel:+12025550123", "--data", "data", "--controller", "nobody"],
        ["--identifier", "tel:+12025550123", "--data", "nowhere"],
        ["--identifier", "tel:+12025550123", "--path", "words"],
        ["--identifier", "tel:+12025550123", "--data", "data", "--control", "words"],
    ],
)
def test_bad_use_is_told_without_the_value(site: Site, args: list[str]) -> None:
    assert run(["scan", *args]) == 2
    printed = site.capsys.readouterr()
    assert printed.out == "" and printed.err and "2025550123" not in printed.err and "unexpected" not in printed.err


def test_a_national_number_is_taken_with_its_region(site: Site) -> None:
    assert run(["scan", "--identifier", "tel:(202) 555-0123", "--region", "US", "--data", "data", "--output", "json"]) == 1
    assert json.loads(site.capsys.readouterr().out)["needles"][0]["outside"] > 0
