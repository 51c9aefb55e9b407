"""Commands of those who watch: holds, breaches, quarantine, tokens."""

import os
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.output import rows_of, rows_table
from connectors.cli.session import AnyController, Controller, Conversations, Identifiers, Session, command, pick, scope_of

hold = typer.Typer(no_args_is_help=True, help="Legal holds: what they cover is neither erased nor expired.")
breach = typer.Typer(no_args_is_help=True, help="Incidents and their legal clocks.")
quarantine = typer.Typer(no_args_is_help=True, help="Events that could not be used.")
token = typer.Typer(no_args_is_help=True, help="Who may call the service.")

PLACE = "PARTITION/OFFSET"


class PartIn(StrEnum):
    """Whose incident it is."""

    CONTROLLER = "controller"
    PROCESSOR = "processor"


class Risk(StrEnum):
    """How much of a risk it is to people."""

    UNLIKELY = "unlikely"
    RISK = "risk"
    HIGH = "high"


@command(hold, "place")
def hold_place(
    session: Session, controller: Controller, ground: Annotated[str, typer.Option("--ground")],
    conversation: Conversations = None, identifier: Identifiers = None,
    hold_id: Annotated[str | None, typer.Option("--hold-id", help="Your own id; else one is made.")] = None,
    authority: Annotated[str | None, typer.Option("--authority")] = None,
    until: Annotated[str | None, typer.Option("--until", help="ISO time at which it ends by itself.")] = None,
    search: Annotated[bool, typer.Option("--search", help="Hold all conversations found by these now.")] = False,
) -> None:  # fmt: skip
    """Place a legal hold on conversations or on people; with --search, on all conversations that are found now."""
    if search:
        ask = {
            "controller": controller, "search": scope_of(conversation, identifier), "ground": ground, "hold_id": hold_id,
            "authority": authority, "until": until,
        }  # fmt: skip
        session.show(session.door().post("/v1/holds", {name: value for name, value in ask.items() if value is not None}))
        return
    name = hold_id or f"hold_{uuid.uuid4().hex}"
    scope = scope_of(conversation, identifier)
    data = {"hold_id": name, "scope": scope, "ground": ground, "authority": authority, "until": until, "actor": ""}
    session.door().event("hold.placed", controller, data)
    session.show({"hold_id": name})


@command(hold, "release")
def hold_release(session: Session, hold_id: Annotated[str, typer.Argument(metavar="HOLD_ID")], controller: Controller) -> None:
    """Release a legal hold: what it kept back goes its way by itself."""
    session.door().event("hold.released", controller, {"hold_id": hold_id, "actor": ""})
    session.show({"hold_id": hold_id, "released": True})


@command(hold, "list")
def hold_list(session: Session, controller: AnyController = None) -> None:
    """List legal holds."""
    rows = rows_of(session.door().get("/v1/holds", controller=controller), "holds")
    session.show({"holds": rows}, rows_table(rows))


@command(breach, "list")
def breach_list(session: Session, controller: AnyController = None) -> None:
    """List incidents with their clocks."""
    rows = rows_of(session.door().get("/v1/breaches", controller=controller), "breaches", "incidents")
    session.show({"breaches": rows}, rows_table(rows))


@command(breach, "show")
def breach_show(
    session: Session, incident_id: Annotated[str, typer.Argument(metavar="INCIDENT_ID")], controller: AnyController = None
) -> None:
    """Show one incident."""
    answer = session.door().get("/v1/breaches", controller=controller)
    session.show(pick(answer, "incident_id", incident_id, "breaches", "incidents"))


@command(breach, "report")
def breach_report(
    session: Session, controller: Controller, category: Annotated[list[str], typer.Option("--category", help="Repeatable.")],
    detected_at: Annotated[str | None, typer.Option("--detected-at", help="ISO time; else now.")] = None,
    aware_at: Annotated[str | None, typer.Option("--aware-at", help="ISO time from which the 72 hours run.")] = None,
    role: Annotated[PartIn, typer.Option("--role")] = PartIn.CONTROLLER,
    risk: Annotated[Risk, typer.Option("--risk")] = Risk.HIGH,
    conversation: Conversations = None, identifier: Identifiers = None,
    incident_id: Annotated[str | None, typer.Option("--incident-id", help="Your own id; else one is made.")] = None,
) -> None:  # fmt: skip
    """Report an incident: its legal clock starts, and alerts before it runs out."""
    name = incident_id or f"inc_{uuid.uuid4().hex}"
    session.door().event("breach.reported", controller, {
        "incident_id": name, "detected_at": detected_at or datetime.now(UTC).isoformat(), "aware_at": aware_at,
        "role": role.value, "risk": risk.value, "categories": category, "actor": "",
        "scope": scope_of(conversation, identifier, needed=False),
    })  # fmt: skip
    session.show({"incident_id": name})


@command(quarantine, "list")
def quarantine_list(session: Session, controller: AnyController = None) -> None:
    """List what could not be used: where it was and why, never what was in it."""
    rows = rows_of(session.door().get("/v1/quarantine", controller=controller), "quarantine", "entries")
    session.show({"quarantine": rows}, rows_table(rows))


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition("/")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise BadUsage(f"the place is {PLACE}, as `quarantine list` shows it")
    return int(partition), int(offset)


@command(quarantine, "show")
def quarantine_show(session: Session, place: Annotated[str, typer.Argument(metavar=PLACE)]) -> None:
    """Show one entry."""
    partition, offset = _place(place)
    for row in rows_of(session.door().get("/v1/quarantine"), "quarantine", "entries"):
        if (row.get("partition"), row.get("offset")) == (partition, offset):
            session.show(row)
            return
    raise Refused("there is no such entry", "not-found")


@command(quarantine, "retry")
def quarantine_retry(session: Session, place: Annotated[str, typer.Argument(metavar=PLACE)]) -> None:
    """Send one entry in again, now that what was missing is there."""
    partition, offset = _place(place)
    session.show(session.door().post(f"/v1/quarantine/{partition}/{offset}/retry"))


@command(token, "create")
def token_create(
    session: Session, name: Annotated[str, typer.Option("--name", help="The actor's name in the audit log.")],
    role: Annotated[list[str], typer.Option("--role", help="Repeatable.")],
    controller: Annotated[list[str], typer.Option("--controller", help="Repeatable; * for all.")],
    target: Annotated[list[str] | None, typer.Option("--target", help="Targets it may acknowledge for; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file (0600) instead of printing it.")] = None,
) -> None:  # fmt: skip
    """Make a token. It is told once: the service keeps only its hash."""
    if out is not None and out.exists():
        raise BadUsage("the file for the token exists already: name another one")
    body: dict[str, Any] = {"name": name, "roles": role, "controllers": controller}
    answer = session.door().post("/v1/tokens", body | ({"targets": target} if target else {}))
    if out is not None:
        write_private(out, str(answer.pop("token")) + "\n")
    session.show(answer)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises `Unanswered`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        aside.replace(path)
    except OSError:
        raise Unanswered("a private file cannot be written") from None
