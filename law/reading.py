"""Reads a pack from YAML, whole or not at all: whatever is wrong is refused with the row named."""

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

from law.asked import ASKED, CLOCKS
from law.calendars import is_place
from law.counting import PeriodUnusable
from law.counting import check as check_period
from law.rows import Kind, Pack, Row, Vector

TEXT_CHARS_MAX = 1_048_576  # the largest shipped pack has some 40,000
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")
RULE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00")
VALUE_OF = {
    "period": "period", "clock": "period", "floor": "period", "ceiling": "period", "age": "number", "hours": "hours",
    "flag": "flag", "number": "number", "words": "words", "ground": "words", "basis": "words",
}  # fmt: skip
VALUES = ("period", "number", "flag", "words", "hours")


class PackRefused(ValueError):
    """A pack that is not taken. `row` is the row's rule (with its first place and date), or a pack's or file's name.

    Reasons: `unreadable`, `unknown-key`, `missing-key`, `unknown-kind`, `not-a-date`, `wrong-value`, `wrong-name`,
    `ends-before-it-begins`, `overlap`, `gap`, `twice`, `unknown-rule`, `rule-missing`, `unknown-pack`, `unknown-version`,
    `unsigned`, `wrong-signature`, `wrong-vector`; and of what is asked: `not-in-force`, `no-extension`, `no-pause`.
    """

    def __init__(self, row: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{row}: {reason}" + (f" ({detail})" if detail else ""))
        self.row, self.reason, self.detail = row, reason, detail


class _Loader(yaml.SafeLoader):
    """YAML without aliases, tags and double keys, where dates stay text (so a wrong one can be named) and NO stays Norway."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read here")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags are not read here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.MarkedYAMLError(problem="a key stands here twice", problem_mark=node.start_mark)
        return mapping


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^(?:0|[1-9][0-9]*)$"), list("0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[0-9]+\.[0-9]+$"), list("0123456789"))


def read_pack(source: Path | str, name: str = "") -> Pack:
    """Read a pack from a file (`Path`) or from its text, and check all of it. Raises `PackRefused`."""
    name = name or (source.name if isinstance(source, Path) else "pack")
    tree = _tree(source, name)
    head = {key: value for key, value in tree.items() if key not in ("rows", "vectors")}
    pack: Pack = _convert({**head, "rows": []}, Pack, name)
    if not NAME.fullmatch(pack.pack) or not VERSION.fullmatch(pack.version):
        raise PackRefused(name, "wrong-name", "pack and version")
    rows = tuple(_row(item, f"row {n}") for n, item in enumerate(_list(tree, "rows", name), 1))
    pack = msgspec.structs.replace(pack, rows=rows, vectors=tuple(
        _convert(item, Vector, f"vector {n}") for n, item in enumerate(_list(tree, "vectors", name), 1)
    ))  # fmt: skip
    check(pack)
    return pack


def check(pack: Pack) -> None:
    """Refuse what single rows cannot show: versions that overlap or leave a gap, rules that nobody wrote."""
    check_versions(pack.rows)
    rules = {row.rule for row in pack.rows}
    for vector in pack.vectors:
        named = f"vector {vector.rule} {vector.place}"
        if vector.rule not in rules:
            raise PackRefused(named, "unknown-rule")
        if bool(vector.received and vector.due) == bool(vector.on and vector.says) or bool(vector.received) == bool(vector.on):
            raise PackRefused(named, "wrong-value", "a vector has received and due, or on and says")
    for rule in ASKED.get(pack.pack, ()):
        if rule not in rules:
            raise PackRefused(rule, "rule-missing", f"{pack.pack} is asked for it by name")
    for rule, place in CLOCKS.get(pack.pack, {}).items():
        if not any(row.rule == rule and row.status == "law" and row.period and place in row.places for row in pack.rows):
            raise PackRefused(rule, "rule-missing", f"code asks {pack.pack} for its period at {place}")


def check_versions(rows: Iterable[Row]) -> None:
    """Refuse two versions of a rule at one place that overlap, or that leave days between them without any, or of two kinds.

    A proposal stands beside the law it would change; proposals overlap only each other, and may leave gaps.
    """
    versions: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for row in rows:
        if kinds.setdefault(row.rule, row.kind) != row.kind:  # whoever asks for a period anywhere would get none somewhere
            raise PackRefused(title(row), "wrong-value", f"its rule is a {kinds[row.rule]} elsewhere")
        for place in row.places:
            versions[row.status, row.rule, place].append(row)
    for (status, _, place), found in versions.items():
        found.sort(key=lambda row: row.valid_from)
        for before, after in pairwise(found):
            if before.valid_to is None or before.valid_to > after.valid_from:
                raise PackRefused(title(after, place), "overlap")
            if status == "law" and before.valid_to < after.valid_from:
                raise PackRefused(title(after, place), "gap")


def title(row: Row, place: str = "") -> str:
    """How a refusal and an explanation name a row: rule, place, first day."""
    return f"{row.rule} {place or '+'.join(row.places)} {row.valid_from}" + (" proposed" if row.status == "proposed" else "")


def _row(item: Any, number: str) -> Row:
    rule = item.get("rule") if isinstance(item, dict) else None
    named = f"{number}: {rule}" if isinstance(rule, str) else number
    if isinstance(item, dict):
        if item.get("kind") not in get_args(Kind):
            raise PackRefused(named, "unknown-kind" if "kind" in item else "missing-key", "kind")
        for key in ("valid_from", "valid_to"):
            if item.get(key) is not None and not _is_date(item[key]):
                raise PackRefused(named, "not-a-date", key)
    row: Row = _convert(item, Row, named)
    given = [value for value in VALUES if getattr(row, value) is not None]
    if given != [VALUE_OF[row.kind]]:
        raise PackRefused(named, "wrong-value", f"a {row.kind} has a value under {VALUE_OF[row.kind]} and no other")
    if not RULE.fullmatch(row.rule) or not row.places or not all(map(is_place, row.places)):
        raise PackRefused(named, "wrong-name", "rule or places")
    if len({*row.places}) != len(row.places):
        raise PackRefused(named, "twice", "places")
    if row.valid_to is not None and row.valid_to <= row.valid_from:
        raise PackRefused(named, "ends-before-it-begins")
    for period in (row.period, row.extend):
        try:
            if period is not None:
                check_period(period)
        except PeriodUnusable as wrong:
            raise PackRefused(named, "wrong-value", str(wrong)) from None
    if row.extend is not None and (row.period is None or (row.extend.unit == "hours") != (row.period.unit == "hours")):
        raise PackRefused(named, "wrong-value", "extend: there is no period that it could be added to")
    if row.hours is not None and not all(TIME.fullmatch(a) and TIME.fullmatch(b) and a < b for a, b in row.hours.spans):
        raise PackRefused(named, "wrong-value", "spans")
    if row.hours is not None and not all(0 <= day <= 6 for day in row.hours.weekdays):
        raise PackRefused(named, "wrong-value", "weekdays")
    return row


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) == 10 and bool(date.fromisoformat(value))
    except ValueError:
        return False


def read_text(path: Path, chars_max: int) -> str:
    """The text of a file, or of a longer one as much as shows that it is longer. Raises `OSError`, `UnicodeDecodeError`."""
    with path.open(encoding="utf-8") as file:
        return file.read(chars_max + 1)


def _convert(item: Any, cls: Any, named: str) -> Any:
    try:
        found = msgspec.convert(item, cls)
        msgspec.json.encode(found)  # as it will be hashed: half a character is no text
    except UnicodeEncodeError:
        raise PackRefused(named, "wrong-value", "a text is no Unicode") from None
    except msgspec.ValidationError as wrong:
        text = str(wrong)
        reason = "unknown-key" if "unknown field" in text else "missing-key" if "missing required" in text else "wrong-value"
        raise PackRefused(named, reason, text) from None
    return found


def _list(tree: dict[str, Any], key: str, name: str) -> list[Any]:
    found = tree.get(key, [])
    if not isinstance(found, list):
        raise PackRefused(name, "wrong-value", key)
    return found


def _tree(source: Path | str, name: str) -> dict[str, Any]:
    try:
        text = read_text(source, TEXT_CHARS_MAX) if isinstance(source, Path) else source
        if len(text) > TEXT_CHARS_MAX:
            raise PackRefused(name, "unreadable", "it is too large")
        tree = _Loader(text).get_single_data()
    except (OSError, UnicodeDecodeError):
        raise PackRefused(name, "unreadable", "cannot be read as UTF-8 text") from None
    except PackRefused:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as broken:
        mark = getattr(broken, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise PackRefused(name, "unreadable", where + (getattr(broken, "problem", None) or "no YAML")) from None
    if not isinstance(tree, dict):
        raise PackRefused(name, "unreadable", "a pack is a mapping")
    return tree
