"""What a command prints: a table for people, or with `--output json` one JSON document on standard output and nothing else."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from shutil import get_terminal_size
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

COLUMN_CHARS_MIN = 18  # a time stands in one line, an id in two
CELL_CHARS_MAX = 200


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


def diagnose(line: str) -> None:
    """Tell the user something that is not the result."""
    print(line, file=sys.stderr, flush=True)


def moment(ms: int | None) -> str:
    """Epoch milliseconds as ISO time, UTC."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def cell(name: str, value: Any) -> str:
    """One value as text for a table: times by the name of their field, lists as a count where they hold records."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_ms") and name not in ("headroom_ms", "lag_ms"):
            return moment(value)
        case list() | tuple() if any(isinstance(item, dict) for item in value):
            return f"{len(value)} entries"
        case list() | tuple():
            return ", ".join(str(item) for item in value)[:CELL_CHARS_MAX]
        case dict():
            return ", ".join(f"{key} {cell(key, item)}" for key, item in value.items())[:CELL_CHARS_MAX]
    return str(value)[:CELL_CHARS_MAX]


def rows_table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] = ()) -> Table:
    """A table of records. Without `columns`, all of the first record's fields.

    Where the columns would be too narrow to read, or to copy an id from, each record stands as a block of lines.
    """
    names = list(columns) or list(rows[0] if rows else ["nothing"])
    if rows and len(names) * COLUMN_CHARS_MIN > get_terminal_size().columns:
        block = Table("name", Column("value", overflow="fold"), show_header=False)
        for row in rows:
            for name in names:
                block.add_row(Text(name.removesuffix("_ms")), Text(cell(name, row.get(name))))
            block.add_section()
        return block
    table = Table(*(Column(escape(name.removesuffix("_ms")), overflow="fold") for name in names))
    for row in rows:
        table.add_row(*(Text(cell(name, row.get(name))) for name in names))
    return table


def facts_table(facts: Mapping[str, Any]) -> Table:
    """A table of one record, a field a line."""
    table = Table("name", Column("value", overflow="fold"), show_header=False)
    for name, value in facts.items():
        table.add_row(Text(name.removesuffix("_ms")), Text(cell(name, value)))
    return table


def show(document: Any, format_: Format, *tables: Table | str) -> None:
    """Print the result: the document, or the tables (without any, what the document's form suggests)."""
    if format_ is Format.JSON:
        # ASCII, so that a document is whole in any locale.
        sys.stdout.write(json.dumps(document, ensure_ascii=True) + "\n")
        sys.stdout.flush()
        return
    console = Console(highlight=False)
    for table in tables or (_table(document),):
        console.print(Text(table) if isinstance(table, str) else table, soft_wrap=isinstance(table, str))


def _table(document: Any) -> Table:
    if isinstance(document, dict):
        return facts_table(document)
    return rows_table([item if isinstance(item, dict) else {"value": item} for item in document])


def rows_of(document: Any, *names: str) -> list[dict[str, Any]]:
    """The records in an answer: the answer itself where it is a list, or what stands under one of `names`."""
    if isinstance(document, dict):
        document = next((document[name] for name in names if isinstance(document.get(name), list)), [])
    return [row for row in document if isinstance(row, dict)] if isinstance(document, list) else []
