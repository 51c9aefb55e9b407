"""Commands about people: decide, consent, subject, request, erase. They ask a running service and hold no rule themselves."""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import quote

import typer
from rich.table import Table

from connectors.cli.faults import BadUsage, Refused
from connectors.cli.output import Format, facts_table, moment, rows_of, rows_table
from connectors.cli.session import AnyController, Controller, Data, Identifiers, Session, command, identifiers_of
from connectors.cli.watch import write_private
from connectors.http.receipts import status_in
from engine.evidence import LogDamaged, NotProvable, receipt_of
from engine.receipts import Receipt, ReceiptInvalid, receipt_json
from engine.service import Service
from schemas.events import FIELD_GROUPS, METADATA_KEY, ErasureGround, Regime, Right

consent = typer.Typer(no_args_is_help=True, help="What people have allowed and refused.")
subject = typer.Typer(no_args_is_help=True, help="What is known of a person; every look is audited.")
request = typer.Typer(no_args_is_help=True, help="Data-subject requests and their clocks.")
erase = typer.Typer(no_args_is_help=True, help="How far erasures are, and the proof of them.")

FIELDS = ", ".join([*FIELD_GROUPS, METADATA_KEY + "KEY", "*"])
GROUNDS = ", ".join(get_args(ErasureGround))
STATES = ("request_id", "state", "right", "regime", "controller", "due_ms", "identifiers", "targets")


class UseName(StrEnum):
    """What someone wants to do."""

    DIAL = "dial"
    RECORD = "record"
    TRANSCRIBE = "transcribe"
    TRAIN = "train"
    SHARE = "share"
    EXPORT = "export"


RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID")]
Ground = Annotated[str | None, typer.Option("--ground", help="Code of the ground, e.g. art17_3_b.")]
Reason = Annotated[str | None, typer.Option("--reason", help="In words; it rests sealed.")]
Until = Annotated[str | None, typer.Option("--until", help="ISO time.")]


def add_decide(app: typer.Typer) -> None:
    """Add `decide` to the program itself."""
    command(app, "decide")(_decide)


def _decide(
    session: Session, use: Annotated[UseName, typer.Option("--use")], controller: Controller,
    channel: Annotated[str, typer.Option("--channel")], identifier: Identifiers = None,
    purpose: Annotated[str | None, typer.Option("--purpose")] = None,
    brand: Annotated[str | None, typer.Option("--brand")] = None,
    campaign: Annotated[str | None, typer.Option("--campaign")] = None,
    conversation: Annotated[str | None, typer.Option("--conversation")] = None,
    jurisdiction: Annotated[str | None, typer.Option(help="Where they are (ISO 3166): it wins over their number.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="Their time zone, as `Europe/Paris`.")] = None,
    callback: Annotated[bool, typer.Option("--callback", help="They asked for the call.")] = False,
    card_data: Annotated[bool, typer.Option("--card-data", help="A card is being read out.")] = False,
    recording_duty: Annotated[bool, typer.Option("--recording-duty", help="The law wants it recorded.")] = False,
    at: Annotated[str | None, typer.Option(help="A moment in the past, ISO 8601: by the law of that day.")] = None,
) -> None:  # fmt: skip
    """Ask whether a use is allowed now. Exit code 0: allow, 1: deny."""
    verdict = session.door().post("/v1/decisions", {
        "use": use.value, "controller": controller, "identifiers": identifiers_of(identifier), "channel": channel,
        "purpose": purpose, "brand": brand, "campaign": campaign, "conversation_id": conversation,
        "jurisdiction": jurisdiction, "time_zone": time_zone, "callback": callback, "card_data": card_data,
        "recording_duty": recording_duty, "at": at,
    })  # fmt: skip
    session.show(verdict)
    if verdict.get("verdict") != "allow":
        raise typer.Exit(1)


def _search(session: Session, controller: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = session.door().post("/v1/subjects/search", {"controller": controller, **body})
    return rows_of(answer, "subjects")


@command(consent, "show")
def consent_show(session: Session, controller: Controller, identifier: Identifiers = None) -> None:
    """Show what the people behind identifiers have allowed and refused."""
    door = session.door()
    found = []
    for row in _search(session, controller, {"identifiers": identifiers_of(identifier)}):
        dossier = door.get(f"/v1/subjects/{row['subject_ref']}", controller=controller)
        parts = {name: dossier.get(name, []) for name in ("consents", "suppressions")}
        found.append({"subject_ref": row["subject_ref"], **parts})
    if not found:
        raise Refused("nothing is known of them", "not-found")
    lines = [{"subject_ref": f["subject_ref"], **c} for f in found for c in rows_of(f["consents"])]
    lists = [{"subject_ref": f["subject_ref"], **s} for f in found for s in rows_of(f["suppressions"])]
    session.show({"subjects": found}, rows_table(lines), *([rows_table(lists)] if lists else []))


@command(subject, "search")
def subject_search(
    session: Session, controller: Controller, identifier: Identifiers = None,
    text: Annotated[str | None, typer.Option("--text", help="Words that were said or noted.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Repeatable: any of them.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", help="key=value; repeatable.")] = None,
) -> None:  # fmt: skip
    """Find people by identifier, metadata, tag or words. Exit code 1: nobody."""
    body: dict[str, Any] = {"identifiers": identifiers_of(identifier, needed=False) or None, "text": text, "tags": tag or None}
    pairs = [pair.partition("=") for pair in metadata or ()]
    if any(not key or not equals for key, equals, _ in pairs):
        raise BadUsage("--metadata is key=value")
    body["metadata"] = {key: value for key, _, value in pairs} or None
    body = {name: value for name, value in body.items() if value is not None}
    if not body:
        raise BadUsage("give at least one of --identifier, --text, --tag, --metadata")
    found = _search(session, controller, body)
    session.show({"subjects": found}, rows_table(found, ("subject_ref", "conversations", "requests")))
    if not found:
        raise typer.Exit(1)


@command(subject, "show")
def subject_show(
    session: Session, ref: Annotated[str, typer.Argument(metavar="SUBJECT_REF")], controller: Controller,
    reveal: Annotated[bool, typer.Option("--reveal", help="Open the sealed fields; audited as a reveal.")] = False,
) -> None:  # fmt: skip
    """Show a person's consents, conversations, holds, requests, links, and who was on the same conversations, for review."""
    answer = session.door().get(f"/v1/subjects/{ref}", controller=controller, reveal="true" if reveal else None)
    sections = [(name, rows) for name, value in answer.items() if (rows := rows_of(value))]
    plain = {name: value for name, value in answer.items() if not rows_of(value)}
    tables = [part for name, rows in sections for part in (name, rows_table(rows))]
    session.show(answer, facts_table(plain), *tables)


@command(request, "open")
def request_open(
    session: Session,
    right: Annotated[str, typer.Option("--right", help=", ".join(get_args(Right)))],
    regime: Annotated[str, typer.Option("--regime", help=", ".join(get_args(Regime)))],
    controller: Controller, identifier: Identifiers = None,
    verified_by: Annotated[str | None, typer.Option("--verified-by", help="Who has verified the identity already.")] = None,
    received_via: Annotated[str, typer.Option("--received-via", help="How it came, e.g. phone, web, letter.")] = "cli",
    conversation: Annotated[list[str] | None, typer.Option("--conversation", help="Only this one; repeatable.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Only conversations from then on; ISO time.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only conversations before then; ISO time.")] = None,
    field: Annotated[list[str] | None, typer.Option("--field", help=f"Only these: {FIELDS}; repeatable.")] = None,
    ground: Annotated[str | None, typer.Option("--ground", help=f"Of an erasure, as you found it: {GROUNDS}.")] = None,
) -> None:  # fmt: skip
    """Open a data-subject request; its clock starts now. Without a limit it is about everything."""
    limits = {"conversation_ids": conversation, "from": since, "to": until, "fields": field}
    scope = {name: limit for name, limit in limits.items() if limit not in (None, [])}  # an empty one is the service's to refuse
    answer = session.door().post("/v1/requests", {
        "controller": controller, "right": right, "regime": regime, "identifiers": identifiers_of(identifier),
        "received_via": received_via, "verified_by": verified_by, "scope": scope or None,
        "ground": ground,
    })  # fmt: skip
    session.show({"request_id": answer["request_id"]})


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A request as one line: its clock's due time beside its state."""
    clock = row.get("clock")
    return {**row, "due_ms": clock.get("due_ms", clock.get("due")) if isinstance(clock, dict) else None}


@command(request, "list")
def request_list(session: Session, controller: AnyController = None) -> None:
    """List requests."""
    rows = rows_of(session.door().get("/v1/requests", controller=controller), "requests")
    session.show({"requests": rows}, rows_table([_flat(row) for row in rows], STATES))


@command(request, "show")
def request_show(session: Session, request_id: RequestId) -> None:
    """Show where a request stands, and what holds keep of it: on which grounds, and until when."""
    answer = session.door().get(f"/v1/requests/{request_id}")
    session.show(answer, facts_table(answer), *_held([answer]))


def _step(action: str) -> Callable[..., None]:
    def step(session: Session, request_id: RequestId, ground: Ground = None, reason: Reason = None, until: Until = None) -> None:
        answer = session.door().post(f"/v1/requests/{request_id}/{action}", {"ground": ground, "reason": reason, "until": until})
        session.show(answer)

    step.__doc__ = f"{action.capitalize()} a request; the actor is the token's name."
    return step


for _action in ("verify", "fail", "approve", "refuse", "extend", "pause", "resume", "withdraw"):
    command(request, _action)(_step(_action))


@command(request, "retry")
def request_retry(
    session: Session, request_id: RequestId, target: Annotated[str, typer.Option("--target", help="Who is told again.")],
) -> None:  # fmt: skip
    """Send one target the notices again that it has not answered with `done`; nobody else is told anything."""
    session.show(session.door().post(f"/v1/requests/{request_id}/retry", {"target": target}))


@command(erase, "status")
def erase_status(
    session: Session, request_id: Annotated[str | None, typer.Argument(metavar="[REQUEST_ID]")] = None,
    controller: AnyController = None,
) -> None:  # fmt: skip
    """Show how far erasures are: what was erased, what a hold keeps, which targets have not answered."""
    answer = session.door().get("/v1/erasures", controller=controller)
    rows = rows_of(answer, "erasures", "requests")
    if request_id is not None:
        rows = [row for row in rows if row.get("request_id") == request_id]
        if not rows:
            raise Refused("there is no such erasure", "not-found")
    session.show({"erasures": rows}, rows_table([_erasure(row) for row in rows]), *_held(rows))


def _held(requests: list[dict[str, Any]]) -> list[Table | str]:
    """A table of what holds keep: items by the identifier's place in the request, and recordings that are not on order."""
    rows: list[dict[str, Any]] = []
    for row in requests:
        parts = [(str(i.get("index", "")), i) for i in rows_of(row.get("identifiers"))]
        parts += [("recording", target) for target in rows_of(row.get("targets"))]
        for of, part in parts:
            for item in rows_of(part.get("kept")):
                until = item.get("until_ms")
                rows.append({
                    "request_id": row.get("request_id"), "of": of, "conversation_id": item.get("conversation_id"),
                    "grounds": item.get("grounds"), "until": "released" if until is None else moment(until),
                })  # fmt: skip
    return ["held", rows_table(rows)] if rows else []


def _erasure(row: dict[str, Any]) -> dict[str, Any]:
    done = rows_of(row.get("identifiers"))
    due = _flat(row)["due_ms"]
    return {
        "request_id": row.get("request_id", row.get("order_id", "")), "state": row.get("state", ""),
        "due": moment(due) if isinstance(due, int) else due, "erased": sum(int(i.get("erased", 0)) for i in done),
        "held": sum(int(i.get("held", 0)) for i in done),
        "targets": json.dumps({t["target"]: t.get("outcome") for t in rows_of(row.get("targets"))}),
    }  # fmt: skip


@command(erase, "receipt")
def erase_receipt(
    session: Session, request_id: RequestId, data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the receipt to this file.")] = None,
) -> None:  # fmt: skip
    """Give the receipt of a request: what happened, with proofs. `audit verify FILE --key K` checks it without the system."""
    service = session.stopped(data) if data is not None else None
    if service is not None:
        try:
            receipt = _receipt(service, request_id)
        finally:
            service.stop()
        content = receipt_json(receipt.document()) if session.output is Format.JSON else receipt.text().encode()
    else:
        accept = "application/json" if session.output is Format.JSON else "text/plain"
        door = session.door(data)
        response = door.send("GET", f"/v1/receipts/{quote(request_id, safe='')}", headers={"accept": accept})
        door.answer(response)
        content = response.content
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)  # to the byte: its hash is signed
        sys.stdout.buffer.flush()
        return
    write_private(out, content.decode())
    session.show({"request_id": request_id, "written": True})


def _receipt(service: Service, request_id: str) -> Receipt:
    """The receipt from a stopped service's folder. Raises `Refused`."""
    service.settle()  # what was accepted before it stopped is part of what happened
    status = status_in(service, request_id)
    if status is None:
        raise Refused("there is no such request", "not-found", "request_id")
    try:
        return receipt_of(service, status)
    except NotProvable:
        raise Refused("no entry of the audit log names this request", "not-found", "request_id") from None
    except (LogDamaged, ReceiptInvalid) as fault:
        raise Refused(f"no receipt can be made: {fault}") from None
