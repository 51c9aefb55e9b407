"""The parts of the command line that need no service: usage, settings, reading files, waiting, offline checks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.cli import app, publish
from connectors.cli.client import ATTEMPTS_MAX, Door
from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.settings import load_settings

NUMBER = "+12025550123"
VERBS = {
    "up", "demo", "publish", "decide", "consent", "subject", "request", "hold", "erase", "breach", "retention", "audit",
    "quarantine", "lag", "topology", "token", "gateway", "worker", "sim", "keys", "scan", "law",
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "TOKEN", "TOKEN_FILE", "RAW__RETENTION_SECS", "KEYS__RING"):
        monkeypatch.delenv(f"CONSENTINEL_{name}", raising=False)


def test_only_what_is_built_is_a_command() -> None:
    groups = {group.name for group in app.app.registered_groups}
    assert groups | {command.name for command in app.app.registered_commands} == VERBS


@pytest.mark.parametrize("args", [
    ["decide", "--use", "dial", "--controller", "c", "--channel", "voice", "--identifier", NUMBER],
    ["decide", "--use", NUMBER, "--controller", "c", "--channel", "voice"],
    ["consent", "show", NUMBER],
    ["request", "open", "--right", "erasure", NUMBER],
    [NUMBER],
    ["publish"],
    ["up", "--port", NUMBER],
    ["retention", "run"],
    ["quarantine", "show", NUMBER],
    ["hold", "place", "--controller", "c", "--ground", "g"],
    ["--" + NUMBER],
])  # fmt: skip
def test_wrong_usage_is_one_line_exit_2_and_never_repeats_a_value(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1 and err.startswith("consentinel: ")
    assert NUMBER not in err and "2025550123" not in err


def test_help_is_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["request", "open", "--help"]) == 0
    assert "--verified-by" in capsys.readouterr().out


def test_settings_come_from_the_file_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "consentinel.toml").write_text("freshness_secs = 2\n[raw]\nretention_secs = 60\n[http]\nport = 9\n")
    monkeypatch.setenv("CONSENTINEL_RAW__RETENTION_SECS", "120")
    monkeypatch.setenv("CONSENTINEL_KEYS__RING", "/keys/ring")
    settings = load_settings()
    assert (settings.raw.retention_secs, settings.http.port, settings.freshness_secs) == (120, 9, 2.0)
    assert settings.keys.ring == Path("/keys/ring")


@pytest.mark.parametrize("text", [
    "[raw]\nretention = 60\n", "[raw]\nretention_secs = 'soon'\n", "nonsense = 1\n", "[", "[raw]\nretention_secs = -1\n",
])  # fmt: skip
def test_a_setting_that_is_none_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "consentinel.toml").write_text(text)
    with pytest.raises(BadUsage) as fault:
        load_settings()
    assert "soon" not in str(fault.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unanswered):
        load_settings().bearer()
    (tmp_path / "t").write_text("cst_secret\n")
    monkeypatch.setenv("CONSENTINEL_TOKEN_FILE", str(tmp_path / "t"))
    assert load_settings().bearer() == "cst_secret"
    assert "cst_secret" not in repr(load_settings())


def door_to(answers: list[httpx.Response], seen: list[httpx.Request], waits: list[float]) -> Door:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers.pop(0)

    return Door("http://service", "t", sleep=waits.append, transport=httpx.MockTransport(answer))


def problem(status: int, code: str, field: str = "", **headers: str) -> httpx.Response:
    body = {"type": f"urn:consentinel:problem:{code}", "status": status, "field": field}
    return httpx.Response(status, json=body, headers=headers)


def test_busy_is_waited_for_as_long_as_asked_and_not_for_ever() -> None:
    seen: list[httpx.Request] = []
    waits: list[float] = []
    answers = [problem(429, "busy", **{"retry-after": "3"}), problem(503, "unavailable"), httpx.Response(200, json=1)]
    door = door_to(answers, seen, waits)
    assert door.get("/v1/lag") == 1
    assert waits == [3.0, 1.0]
    with pytest.raises(Unanswered):
        door_to([problem(503, "unavailable") for _ in range(ATTEMPTS_MAX)], seen, waits).get("/v1/lag")


def test_a_refusal_is_a_code_and_a_field() -> None:
    with pytest.raises(Refused) as fault:
        door_to([problem(422, "number-not-possible", "/identifiers/0/value")], [], []).post("/v1/requests", {})
    assert (fault.value.code, fault.value.field, fault.value.exit_code) == ("number-not-possible", "/identifiers/0/value", 1)


@pytest.mark.parametrize(("data", "vcon", "kinds"), [
    (b'{"specversion": "1.0"}', False, ["event"]),
    (b'[{"specversion": "1.0"}, {"parties": []}, 3]', False, ["event", "vcon", "not-an-object"]),
    (b'{"a": 1}\n\n{"payload": ""}\nnope\n', False, ["event", "vcon", "not-json"]),
    (b'{"specversion": "1.0", "parties": []}', False, ["event"]),
    (b'{"a": 1, "a": 2}', False, ["not-json"]),
    (b'{"a": NaN}', False, ["not-json"]),
    (b"", False, ["not-json"]),
    (b"whatever", True, ["vcon"]),
    (b"[" * 100_000, False, ["not-json"]),
])  # fmt: skip
def test_a_file_is_read_for_what_it_holds(data: bytes, vcon: bool, kinds: list[str]) -> None:
    found = list(publish.documents(data, vcon=vcon))
    assert ["event" if f.event is not None else "vcon" if f.vcon is not None else f.code for f in found] == kinds


def test_batches_are_bounded_and_one_spoilt_event_does_not_refuse_the_others(tmp_path: Path) -> None:
    events = [{"specversion": "1.0", "id": str(n)} for n in range(501)]
    (tmp_path / "events.json").write_text(json.dumps(events))

    def answer(request: httpx.Request) -> httpx.Response:
        body: list[dict[str, Any]] = json.loads(request.content)
        sizes.append(len(body))
        assert all(e["controller"] == "c" for e in body)
        if len(body) == 500:
            bad = {"status": 400, "problem": {"type": "urn:x:wrong-field", "field": "/a"}}
            results = [{"index": n, **(bad if n == 7 else {"status": 202})} for n in range(500)]
            return httpx.Response(207, json={"results": results})
        return httpx.Response(202, json={"accepted": 1})

    sizes: list[int] = []
    door = Door("http://service", "t", transport=httpx.MockTransport(answer))
    tally = publish.Publisher(door, "c").publish(tmp_path / "events.json")
    assert (sizes, tally.accepted, tally.refused) == ([500, 1], 500, 1)
    assert [(r.place, r.code, r.field) for r in tally.refusals] == [(8, "wrong-field", "/a")]


def test_a_batch_that_is_refused_whole_is_sent_again_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "events.json").write_text(json.dumps([{"specversion": "1.0", "id": "\ud800"}, {"specversion": "1.0", "id": "b"}]))

    def answer(request: httpx.Request) -> httpx.Response:
        return problem(400, "not-json") if b"ud800" in request.content else httpx.Response(202, json={"accepted": 1})

    door = Door("http://service", "t", transport=httpx.MockTransport(answer))
    tally = publish.Publisher(door, None).publish(tmp_path / "events.json")
    assert (tally.accepted, [(r.place, r.code) for r in tally.refusals]) == (1, [(1, "not-json")])


def test_without_a_valid_token_nothing_is_called_refused(tmp_path: Path) -> None:
    (tmp_path / "events.json").write_text(json.dumps([{"specversion": "1.0"}] * 2))
    with pytest.raises(Unanswered):
        publish.Publisher(door_to([problem(401, "unauthenticated")], [], []), None).publish(tmp_path)


def test_a_folder_is_walked_in_order_and_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    for name in ("b/2.json", "a.json", "LICENSE"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(json.dumps({"specversion": "1.0", "id": name}))
    order: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        order.extend(e["id"] for e in json.loads(request.content))
        return httpx.Response(202, json={})

    tally = publish.Publisher(Door("http://s", "t", transport=httpx.MockTransport(answer)), None).publish(tmp_path / "in")
    assert order == ["a.json", "b/2.json"]
    assert (tally.accepted, tally.files, tally.passed_over) == (2, 2, 1)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The bodies that reach a service on loopback, which opens every request."""
    bodies: list[Any] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(202)
            self.end_headers()
            self.wfile.write(b'{"request_id": "r1"}')

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CONSENTINEL_TOKEN", "t")
        monkeypatch.setenv("CONSENTINEL_URL", f"http://127.0.0.1:{server.server_port}")
        yield bodies
        server.shutdown()


@pytest.mark.parametrize(("limits", "scope"), [
    (["--conversation", "c1", "--conversation", "c2"], {"conversation_ids": ["c1", "c2"]}),
    (["--from", "2026-01-01T00:00:00Z", "--to", "2026-02-01T00:00:00Z"],
     {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}),
    (["--field", "numbers", "--field", "metadata.order"], {"fields": ["numbers", "metadata.order"]}),
    (["--conversation", "c1", "--field", "*"], {"conversation_ids": ["c1"], "fields": ["*"]}),
    (["--from", ""], {"from": ""}),  # a variable that was not set must not make it a request about everything
    ([], None),
])  # fmt: skip
def test_a_request_is_limited_to_what_was_given_and_to_nothing_else(limits: list[str], scope: Any, heard: list[Any]) -> None:
    ask = ["request", "open", "--right", "erasure", "--regime", "gdpr", "--controller", "c", "--identifier", f"tel:{NUMBER}"]
    assert app.run([*ask, *limits]) == 0
    body = {"controller": "c", "right": "erasure", "regime": "gdpr", "identifiers": [{"kind": "tel", "value": NUMBER}]}
    assert heard == [{**body, "received_via": "cli"} | ({} if scope is None else {"scope": scope})]


def test_a_vcon_needs_a_controller(tmp_path: Path) -> None:
    (tmp_path / "x.vcon").write_text("{}")
    with pytest.raises(BadUsage):
        publish.Publisher(door_to([], [], []), None).publish(tmp_path)


def test_topology_check_finds_faults_and_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["topology", "check", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    (tmp_path / "t.yaml").write_text("topics: {x: {schema: [Nope], key: [free], cleanup: delete, personal: true, erase: none}}\n")
    assert app.run(["topology", "check", str(tmp_path / "t.yaml"), "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["faults"]


def test_a_folder_without_a_deployment_is_not_begun_by_looking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["audit", "verify"], ["retention", "run", "--raw"], ["audit", "key"]):
        assert app.run([*args, "--data", str(tmp_path / "none")]) == 2
        assert "no deployment" in capsys.readouterr().err
    assert not (tmp_path / "none").exists() and not (tmp_path / "none.ring").exists()


def test_nobody_to_ask_is_exit_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENTINEL_TOKEN", "t")
    assert app.run(["lag", "--url", "http://127.0.0.1:1", "--output", "json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "does not answer" in err
