"""Runs the tables beside this file: `tests/cases/<processor>/*.yaml` are the cases of `processors/<processor>.py`.

A file has `defaults` (record name -> data that its events share) and `cases`; further keys of a file (`owner`, `settings`,
`task`, `limits`, `places`) are those of each of its cases. A case has a `name`, the events it is `given` (`at`, `type`, then
the data; optionally `received`, `id`, `source`, `by` (the actor), `owner`, `controller`, `refs`; or `advance: time`,
`fence: time`) and what follows, all of it exact but for fields that are left out:

    rows     topic -> the rows that compaction leaves; a row names its key (without the owner) and the fields to compare
    log      topic -> everything ever sent, in order: `key` (without the owner), `is` (the record's name), `refs` and fields;
             "gone" or `gone: true` is a tombstone; `forwarded` the id of an event that went on as it was
    audit    kinds in order, or {kind, named, law, facts to compare}
    refused  codes in order, or {code, field, event: id of an event that had been set aside}
    effects  every effect of the processor in order, in words
    records  kind of state -> how many the owner has
    state    kind -> fields of the owner's record of that kind, where there is one only
    keys     scopes of the owner's living data keys
    alarms   the owner's alarms that are set -> their times; `name/about` for those that name what they are about
    asks     (decide_use) parties, settings, places, use, verdict and the rules behind it

Where a file or a case has `links` (identifier -> its links), every probe is answered at once, by what stands there or by none.
A case may set `limits` (a constant of the processor -> a value that a table can reach), `task` (the processors that fold the
same owner's events, in order; all but the one under test only keep state), and `bug`: why it fails, until that is repaired.
An identifier's ref reads `tel:+12025550143`, a sealed text `sealed:<scope>:<text>`, a hashed actor `acme/eve`.

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

from law.book import shipped
from processors import erase_consents, home_erasures, item_end, parking, planning, request_case, request_links
from processors.decide_use import decide_use
from processors.fence import Fence
from processors.keep_consent import KeepConsent
from processors.kernel import Audit, Delete, Effect, Emit, Forward, Ledger, Mint, Put, Remove, Shred, Wake
from processors.permissions import Permissions
from processors.uses import Mark, PartyView, Use
from schemas.places import Place
from schemas.routed import LinkProbe
from schemas.topics import ControllerState
from tests.drivers import CONTROLLER, RECORDS, Driver, Told

HERE = Path(__file__).parent
PROCESSORS = HERE.parents[1] / "processors"
UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
MOMENTS = {"valid_until", "expires", "until", "detected_at", "aware_at", "notified_at", "from", "to", "scanned_at"}
ENVELOPE = {"at", "type", "received", "id", "source", "by", "owner", "controller", "refs"}
OUTCOMES = {"rows", "log", "audit", "refused", "effects", "records", "state", "keys", "alarms", "asks"}
SHARED = {"owner", "settings", "task", "limits", "links", "places"}
LIMITED = (item_end, home_erasures, parking, request_case, request_links, erase_consents, planning)  # limits that are shared
ANYWHERE = ({"region": "AQ", "zones": ["UTC"]},)  # where a party of `asks` is, if it says nothing: no pack has a rule for it
SEPARATOR = "\x1f"  # between an alarm's name and what it is about


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
        assert set(document) <= {"defaults", "cases"} | SHARED, f"{path}: a key that nobody reads"
        shared = {k: v for k, v in document.items() if k in SHARED}
        for case in document["cases"]:
            name = f"{path.parent.name}/{path.stem}: {case['name']}"
            marks = [pytest.mark.xfail(reason=case["bug"], strict=True, raises=AssertionError)] if "bug" in case else []
            found.append(pytest.param(path.parent.name, document.get("defaults", {}), shared | case, id=name, marks=marks))
    return found


def answer_probes(driver: Driver, links: dict[str, list[str]], known: int, at: int, options: dict[str, Any]) -> int:
    """Answer the probes that were sent since `known`; returns how much has been looked at."""
    while known < len(driver.log):
        told, known = driver.log[known], known + 1
        if isinstance(told.value, LinkProbe):
            data = {"request_id": told.value.request_id, "ref": told.key[0], "peers": links.get(told.key[0], []), "answer": True}
            driver.send(told.owner, "LinksFound", data, at=at, refs=(), **options)
    return known


def play(
    driver: Driver, steps: list[dict[str, Any]], defaults: dict[str, Any], owner: str, links: dict[str, list[str]] | None
) -> None:  # fmt: skip
    answered = 0
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
        data = {k: ms(v) if k.endswith("_ms") and v is not None else v for k, v in data.items()}
        options: dict[str, Any] = {k: step[k] for k in ("id", "source", "controller") if k in step}
        options["actor"] = step.get("by", "")
        if "received" in step:
            options["received"] = ms(step["received"])
        refs = tuple(step.get("refs", ()))
        driver.send(step.get("owner", owner), step["type"], data, at=ms(step["at"]), refs=refs, **options)
        if links is not None:
            own = {k: v for k, v in options.items() if k == "controller"}
            answered = answer_probes(driver, links, answered, ms(step["at"]), own)


def plain(value: Any) -> Any:
    """A record as tables write it."""
    match value:
        case dict():
            return {k: plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case bytes():
            return value.decode()
    return value


def stated(wanted: Any, name: str = "") -> Any:
    """What a table says, with its times in ms."""
    match wanted:
        case dict():
            return {k: stated(v, str(k)) for k, v in wanted.items()}
        case list():
            return [stated(v) for v in wanted]
    return ms(wanted) if name.endswith("_ms") and wanted is not None else wanted


def looked_at(wanted: Any, found: Any) -> Any:
    """The part of `found` that a table speaks of: all entries of its lists, but of its objects only the fields it names."""
    match wanted, found:
        case dict(), dict() if wanted:
            return {k: looked_at(v, found.get(k)) for k, v in wanted.items()}
        case list(), list() if len(wanted) == len(found):
            return [looked_at(w, f) for w, f in zip(wanted, found, strict=True)]
    return found


def compare(wanted: dict[str, Any], found: Any) -> None:
    got = plain(msgspec.to_builtins(found, builtin_types=(bytes,)))
    assert (looked_at(wanted, got) if wanted else {}) == stated(wanted)


def in_words(effect: Effect) -> str:
    match effect:
        case Put(record):
            return f"put {record.KIND}"
        case Delete(kind):
            return f"delete {kind.KIND}"
        case Emit(topic, _, value):
            return f"gone {topic}" if value is None else f"emit {type(value).SCHEMA}"
        case Forward():
            return "forward"
        case Ledger(orders):
            return f"ledger {len(orders)}"
        case Wake(name, due_ms):
            return f"{'cancel' if due_ms is None else 'wake'} {name.partition(SEPARATOR)[0]}"
        case Mint(scope) | Shred(scope):
            return f"{type(effect).__name__.lower()} {scope}"
        case Audit(kind):
            return f"audit {kind}"
        case Remove():
            return "remove"
    return f"refuse {effect.code}"


def parts_of(key: tuple[str, ...], owner: str) -> str:
    if key[0].startswith("["):  # a case's key, as the log has it
        key = tuple(msgspec.json.decode(key[0]))
    return " ".join(key[1:] if key[0] == owner and len(key) > 1 else key)


def message(wanted: dict[str, Any], told: Told, owner: str) -> None:
    envelope = told.forwarded
    about = {"key": parts_of(told.key, owner), "refs": list(told.refs), "is": type(told.value).SCHEMA if told.value else None}
    about |= {"gone": told.value is None and envelope is None, "forwarded": envelope and envelope.id}
    assert {k: v for k, v in about.items() if k in wanted} == {k: v for k, v in wanted.items() if k in about}
    assert (told.value is None) == (bool(wanted.get("gone")) or "forwarded" in wanted)
    if told.value is not None:
        compare({k: v for k, v in wanted.items() if k not in about}, told.value)


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
            message(want if isinstance(want, dict) else {"gone": want == "gone"}, t, owner)
    if "audit" in case:
        assert [a.kind for a in driver.audits] == [w if isinstance(w, str) else w["kind"] for w in case["audit"]]
        for want, audited in zip(case["audit"], driver.audits, strict=True):
            if isinstance(want, dict):
                facts = {k: v for k, v in want.items() if k not in ("kind", "named", "law")}
                text = {k: str(ms(v)) if k.endswith("_ms") else str(v) for k, v in facts.items()}
                assert {k: audited.facts.get(k) for k in text} == text
                assert audited.named == want.get("named", audited.named)
                assert audited.law == want.get("law", audited.law)
    refused = [want if isinstance(want, dict) else {"code": want} for want in case.get("refused", [])]
    found = [{"code": r.code, "field": r.field, "event": r.like and r.like.id} for r in driver.refusals]
    assert looked_at(refused, found) == refused
    if "effects" in case:
        assert [in_words(effect) for effect in driver.done] == case["effects"]
    if "keys" in case:
        assert sorted(driver.keys.get(owner, ())) == sorted(case["keys"])
    if "alarms" in case:
        alarms = {name.replace(SEPARATOR, "/").rstrip("/"): at for (who, name), at in driver.alarms.items() if who == owner}
        assert alarms == {name: ms(due) for name, due in case["alarms"].items()}
    for kind, count in case.get("records", {}).items():
        assert driver.count(owner, kind) == count, kind
    for kind, wanted in case.get("state", {}).items():
        record = next(driver.get(owner, cls) for d in driver.task for cls in d.processor.STATE if kind == cls.KIND)
        compare(wanted, msgspec.structs.asdict(record))


def configured(settings: dict[str, Any]) -> ControllerState:
    return msgspec.convert({"controller": CONTROLLER, **settings}, ControllerState)


def ask(driver: Driver, case: dict[str, Any], row: dict[str, Any]) -> None:
    """One row of `asks`: use, purpose, channel, brand, at; `allow: true` or `deny: [reasons]`."""
    settings = configured(case.get("settings", {}) | row.get("settings", {}))
    parties = []
    for party in row.get("parties", case.get("parties", [{"role": "customer", "of": ["A"]}])):
        known = tuple(driver.get(owner, Permissions) for owner in party["of"])
        marks = tuple(msgspec.convert(mark, Mark) for mark in party.get("marks", ()))
        places = msgspec.convert(party.get("places", row.get("places", case.get("places", ANYWHERE))), tuple[Place, ...])
        parties.append(PartyView(party["role"], known, own=party.get("own", False), marks=marks, places=places))
    fields: dict[str, Any] = {k: row[k] for k in Use.__struct_fields__ if k in row}
    use = msgspec.convert({"channel": "voice", **fields, "at_ms": ms(row.get("at", "1d"))}, Use)
    verdict = decide_use(parties, use, settings, shipped())
    wanted = sorted(row.get("deny", []))
    assert (verdict.verdict, list(verdict.reasons)) == ("deny" if wanted else "allow", wanted), row
    assert bool(wanted) != bool(row.get("allow")), "a row says allow: true or deny: [reasons]"
    if "epoch" in row:
        assert verdict.epoch == row["epoch"]
    if "rules" in row:
        assert list(verdict.rules) == sorted(row["rules"]), row


def driver_of(name: str, task: list[str]) -> Driver:
    """A driver of the processor `name` among those of `task`; a decider looks at folded consents."""
    made = {n: getattr(importlib.import_module(f"processors.{n}"), VERBS[n]) for n in task or [name]}
    first, *others = [thing() if inspect.isclass(thing) else KeepConsent() for thing in made.values()]
    driver = Driver(first)
    for other in others:
        driver.beside(other)
    return driver.task[list(made).index(name)]


@pytest.mark.parametrize(("name", "defaults", "case"), load())
def test_case(name: str, defaults: dict[str, Any], case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    thing: Any = getattr(importlib.import_module(f"processors.{name}"), VERBS[name])
    assert getattr(thing, "name", name) == name, "one key names a thing everywhere"
    assert set(case) <= {"name", "given", "parties", "bug"} | SHARED | OUTCOMES, "a key that nobody reads"
    assert set(case) & OUTCOMES, "a case that checks nothing"
    for limit, value in case.get("limits", {}).items():
        places = [m for m in (importlib.import_module(f"processors.{name}"), *LIMITED) if hasattr(m, limit)]
        assert places, f"no limit {limit}"
        for place in places:
            monkeypatch.setattr(place, limit, value)
    owner = case.get("owner", "A")
    driver = driver_of(name, case.get("task", []))
    if "settings" in case and inspect.isclass(thing):
        driver.settings[CONTROLLER] = configured(case["settings"])
    play(driver, case.get("given", []), defaults, owner, case.get("links"))
    check(driver, case, owner)
    for row in case.get("asks", []):
        ask(driver, case, row)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_processor_has_cases(name: str) -> None:
    assert list((HERE / name).glob("*.yaml")), f"processors/{name}.py has no cases in tests/cases/{name}/"


def test_every_folder_of_cases_has_a_processor() -> None:
    assert {path.parent.name for path in FILES} <= set(VERBS)
