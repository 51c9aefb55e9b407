"""Commands that look at retention and end it by hand: on a running service, or on a stopped one's folder."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from connectors.cli.faults import BadUsage
from connectors.cli.output import facts_table, rows_table
from connectors.cli.session import Controller, Data, Session, command
from connectors.http.retention import Ran, ran
from engine.service import Service

retention = typer.Typer(no_args_is_help=True, help="What retention has to destroy, and what policies would.")

LIST_MAX = 10_000  # rows that a command gathers
CALL = "/v1/retention/preview"
COUNTS = ("items", "held", "restricted", "imported", "earlier", "later")

PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Proposed: data of retention.policy_set, JSON.")]
Before = Annotated[str | None, typer.Option("--before", help="List only what goes before this ISO time.")]
Limit = Annotated[int, typer.Option("--limit", min=0, max=LIST_MAX, help="How much is listed; everything is counted.")]


@command(retention, "preview")
def retention_preview(
    session: Session, controller: Controller, policy: PolicyFile = None, before: Before = None, limit: Limit = 100
) -> None:  # fmt: skip
    """Show what the policies would destroy and when: those that are set, or with --policy, proposed ones. Changes nothing."""
    policies = None if policy is None else _policies(policy)
    door = session.door()
    whole: dict[str, Any] = {"by_month": {}, "by_rule": {}, "listed": [], "more": False, **dict.fromkeys(COUNTS, 0)}
    after: str | None = ""
    while after is not None:
        if policies is None:
            part = door.get(CALL, controller=controller, before=before, after=after or None)
        else:
            body = {"controller": controller, "policies": policies, "before": _instant(before), "after": after}
            part = door.post(CALL, {name: value for name, value in body.items() if value is not None})
        _add(whole, part, limit)
        after = part["next"]
    tables: list[Any] = [facts_table({name: whole[name] for name in ("controller", "as_of_ms", "law_pack", *COUNTS)})]
    for name in ("by_month", "by_rule"):
        rows = [{name.removeprefix("by_"): label, **counts} for label, counts in whole[name].items()]
        tables += [rows_table(rows, (name.removeprefix("by_"), "conversation", "recordings"))] if rows else []
    tables += [rows_table(whole["listed"])] if whole["listed"] else []
    tables += ["and more: --limit lists more of it, --before less"] if whole["more"] else []
    session.show(whole, *tables)


def _add(whole: dict[str, Any], part: dict[str, Any], limit: int) -> None:
    """Add a part of the answer to the whole."""
    for name in ("controller", "as_of_ms", "law_pack"):
        whole.setdefault(name, part[name])
    for name in COUNTS:
        whole[name] += part[name]
    for name in ("by_month", "by_rule"):
        for label, counts in part[name].items():
            whole[name][label] = dict(Counter(whole[name].get(label, {})) + Counter(counts))
        whole[name] = dict(sorted(whole[name].items()))
    whole["more"] = whole["more"] or len(whole["listed"]) + len(part["listed"]) > limit
    whole["listed"] = [*whole["listed"], *part["listed"]][:limit]


def _policies(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise BadUsage("the file of policies cannot be read, or holds no JSON object and no list of them")
    return [row.get("data", row) for row in rows]  # whole CloudEvents will do


def _instant(text: str | None) -> str | None:
    """The time with a zone, as the body of a call wants it."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadUsage("--before is no ISO time") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


@command(retention, "run")
def retention_run(
    session: Session, data: Data = None,
    raw: Annotated[bool, typer.Option("--raw", help="Raw payloads past their retention.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Conversations and recordings that are due now.")] = False,
) -> None:  # fmt: skip
    """Destroy now what is past its retention, with the keys that nothing needs any more, and print what went.

    Exit code 1: with --now, when not all that is due went in time; it goes on by itself.
    """
    if raw == now:
        raise BadUsage("say what: --now for what is due, or --raw for raw payloads")
    service = session.stopped(data) if data is not None else None
    if service is None:
        door = session.door(data)
        if raw:
            session.show(door.post("/v1/admin/retention/raw"))
            return
        _show(session, msgspec.convert(door.post("/v1/admin/retention/now"), Ran))
        return
    try:
        found = _run_stopped(service, raw=raw)
    finally:
        service.stop()
    if isinstance(found, Ran):
        _show(session, found)
    else:
        session.show({"deleted": found})


def _run_stopped(service: Service, *, raw: bool) -> Ran | int:
    if not raw:
        return ran(service, service.ring_due())
    service.settle()  # only what every reader has folded may go
    return service.retain_raw(at_once=True)


def _show(session: Session, found: Ran) -> None:
    document = msgspec.to_builtins(found)
    rows = [
        {"rule": rule, "conversations": found.conversations.get(rule, 0), "recordings": found.recordings.get(rule, 0)}
        for rule in sorted({*found.conversations, *found.recordings})
    ]
    session.show(document, *([rows_table(rows)] if rows else ["nothing was due"]))
    if not found.finished:
        raise typer.Exit(1)
