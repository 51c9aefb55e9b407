"""Runs the tables beside this file: `tests/cases/<processor>/*.yaml` are the cases of `processors/<processor>.py`.

A file has `defaults` (record name -> data that its events share) and `cases`. A case has a `name`, the events it is
`given` (`at`, `type`, then the data; optionally `received`, `id`, `source`, `owner`, `controller`, `refs`; or
`advance: time`, `fence: time`) and what follows, all of it exact:

    rows     topic -> the rows that compaction leaves; a row names its key (without the owner) and the fields to compare
    log      topic -> everything ever sent, in order; "gone" is a tombstone
    audit    kinds in order, or {kind, facts to compare}
    refused  codes in order
    records  kind of state -> how many the owner has
    alarms   the owner's alarms that are set -> their times
    asks     (decide_use) parties, settings, use and verdict

Times are integers (ms) or `2d3h`, `90m`, `5s`, counted from 1970 (a table stays readable that way), or ISO 8601.
"""

import ast
import importlib
import inspect
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from processors.decide_use import Mark, PartyView, Use, decide_use
from processors.fence import Fence
from processors.keep_consent import KeepConsent
from processors.permissions import Permissions
from schemas.topics import ControllerState
from tests.drivers import CONTROLLER, RECORDS, Driver

HERE = Path(__file__).parent
PROCESSORS = HERE.parents[1] / "processors"
UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
MOMENTS = {"valid_until", "expires", "until", "detected_at", "aware_at", "notified_at", "from", "to"}
ENVELOPE = {"at", "type", "received", "id", "source", "owner", "controller", "refs"}
OUTCOMES = {"rows", "log", "audit", "refused", "records", "alarms", "asks"}


def ms(value: int | str | datetime) -> int:
    """A time of the tables in epoch ms."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, int):
        return value
    assert re.fullmatch(r"[+-]?(\d+[dhms])+", value), f"not a time: {value}"
    total = sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([dhms])", value))
    return -total if value.startswith("-") else total


def moment(value: int | str | datetime) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms(value))


def verb(path: Path) -> str | None:
    """The name of the processor (a class with READS) or the decider (a function of the file's name) in a file, if any.

    Read, not imported: one broken processor must not hide the cases of the others.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and any(
            isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id == "READS"
            for part in node.body
        ):
            if "Protocol" not in [base.id for base in node.bases if isinstance(base, ast.Name)]:
                return node.name
        if isinstance(node, ast.FunctionDef) and node.name == path.stem:
            return node.name
    return None


FILES = sorted(HERE.glob("*/*.yaml"))
VERBS = {path.stem: found for path in sorted(PROCESSORS.glob("*.py")) if (found := verb(path))}


def load() -> list[Any]:
    found = []
    for path in FILES:
        document = yaml.safe_load(path.read_text())
        for case in document["cases"]:
            name = f"{path.parent.name}/{path.stem}: {case['name']}"
            found.append(pytest.param(path.parent.name, document.get("defaults", {}), case, id=name))
    return found


def play(driver: Driver, steps: list[dict[str, Any]], defaults: dict[str, Any], owner: str) -> None:
    for step in steps:
        if "fence" in step:  # what erase_subject would have left
            fence = msgspec.msgpack.encode(Fence(ms(step["fence"])))
            driver.store.setdefault(step.get("owner", owner), {})[Fence.KIND, ()] = fence
            continue
        if "advance" in step:
            driver.advance(ms(step["advance"]), late=step.get("late", False))
            continue
        record = RECORDS[step["type"]]
        data = {**defaults.get(record.SCHEMA, {}), **{k: v for k, v in step.items() if k not in ENVELOPE}}
        data = {k: moment(v) if k in MOMENTS and v is not None else v for k, v in data.items()}
        options: dict[str, Any] = {k: step[k] for k in ("id", "source", "controller") if k in step}
        if "received" in step:
            options["received"] = ms(step["received"])
        refs = tuple(step.get("refs", ()))
        driver.send(step.get("owner", owner), step["type"], data, at=ms(step["at"]), refs=refs, **options)


def compare(wanted: dict[str, Any], found: Any) -> None:
    got = msgspec.json.decode(msgspec.json.encode(found))
    shown = {k: got.get(k) for k in wanted}
    assert shown == {k: ms(v) if k.endswith("_ms") and v is not None else v for k, v in wanted.items()}


def parts_of(key: tuple[str, ...], owner: str) -> str:
    return " ".join(key[1:] if key[0] == owner and len(key) > 1 else key)


def check(driver: Driver, case: dict[str, Any], owner: str) -> None:
    for topic, wanted in case.get("rows", {}).items():
        found = {parts_of(key, owner): row for key, row in driver.rows(topic).items()}
        assert sorted(found) == sorted(row["key"] for row in wanted), topic
        for row in wanted:
            compare({k: v for k, v in row.items() if k != "key"}, found[row["key"]])
    for topic, wanted in case.get("log", {}).items():
        told = [t for t in driver.log if t.topic == topic]
        assert len(told) == len(wanted), [msgspec.to_builtins(t.value) for t in told]
        for want, t in zip(wanted, told, strict=True):
            if want == "gone":
                assert t.value is None
                continue
            if "key" in want:
                assert parts_of(t.key, owner) == want["key"]
            compare({k: v for k, v in want.items() if k != "key"}, t.value)
    if "audit" in case:
        assert [a.kind for a in driver.audits] == [w if isinstance(w, str) else w["kind"] for w in case["audit"]]
        for want, audited in zip(case["audit"], driver.audits, strict=True):
            if isinstance(want, dict):
                facts = {k: v for k, v in want.items() if k not in ("kind", "named")}
                stated = {k: str(ms(v)) if k.endswith("_ms") else str(v) for k, v in facts.items()}
                assert {k: audited.facts.get(k) for k in stated} == stated
                assert audited.named == want.get("named", audited.named)
    assert [refusal.code for refusal in driver.refusals] == case.get("refused", [])
    if "alarms" in case:
        alarms = {name: due_ms for (who, name), due_ms in driver.alarms.items() if who == owner}
        assert alarms == {name: ms(due) for name, due in case["alarms"].items()}
    for kind, count in case.get("records", {}).items():
        assert driver.count(owner, kind) == count, kind


def ask(driver: Driver, case: dict[str, Any], row: dict[str, Any]) -> None:
    """One row of `asks`: use, purpose, channel, brand, at; `allow: true` or `deny: [reasons]`."""
    settings = ControllerState(controller=CONTROLLER, **{**case.get("settings", {}), **row.get("settings", {})})
    parties = []
    for party in row.get("parties", case.get("parties", [{"role": "customer", "of": ["A"]}])):
        known = tuple(driver.get(owner, Permissions) for owner in party["of"])
        marks = tuple(msgspec.convert(mark, Mark) for mark in party.get("marks", ()))
        parties.append(PartyView(party["role"], known, own=party.get("own", False), marks=marks))
    fields: dict[str, Any] = {k: row[k] for k in ("use", "purpose", "channel", "brand") if k in row}
    use = msgspec.convert({"channel": "voice", **fields, "at_ms": ms(row.get("at", "1d"))}, Use)
    verdict = decide_use(parties, use, settings)
    wanted = sorted(row.get("deny", []))
    assert (verdict.verdict, list(verdict.reasons)) == ("deny" if wanted else "allow", wanted), row
    assert bool(wanted) != bool(row.get("allow")), "a row says allow: true or deny: [reasons]"
    if "epoch" in row:
        assert verdict.epoch == row["epoch"]


@pytest.mark.parametrize(("name", "defaults", "case"), load())
def test_case(name: str, defaults: dict[str, Any], case: dict[str, Any]) -> None:
    thing: Any = getattr(importlib.import_module(f"processors.{name}"), VERBS[name])
    assert getattr(thing, "name", name) == name, "one key names a thing everywhere"
    assert set(case) <= {"name", "given", "owner", "settings", "parties"} | OUTCOMES, "a key that nobody reads"
    assert set(case) & OUTCOMES, "a case that checks nothing"
    owner = case.get("owner", "A")
    made: Any = thing() if inspect.isclass(thing) else KeepConsent()
    driver = Driver(made)  # a decider looks at folded consents
    if "settings" in case and inspect.isclass(thing):
        driver.settings[CONTROLLER] = ControllerState(controller=CONTROLLER, **case["settings"])
    play(driver, case.get("given", []), defaults, owner)
    check(driver, case, owner)
    for row in case.get("asks", []):
        ask(driver, case, row)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_processor_has_cases(name: str) -> None:
    assert list((HERE / name).glob("*.yaml")), f"processors/{name}.py has no cases in tests/cases/{name}/"


def test_every_folder_of_cases_has_a_processor() -> None:
    assert {path.parent.name for path in FILES} <= set(VERBS)
