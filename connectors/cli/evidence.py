"""Commands that prove: audit. They work on a running service, or on a stopped one's folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.output import rows_of, rows_table
from connectors.cli.recording import on_record, read_report
from connectors.cli.session import Data, Session, command
from connectors.cli.watch import write_private
from engine.evidence import LogDamaged, NotProvable, growth_of, proof_of, report_of
from engine.merkle import AuditFault
from engine.notes import Checkpoint
from engine.proofs import check_consistency, check_proof, read_proof
from engine.receipt_summary import moment as instant
from engine.receipt_summary import summary_lines, word
from engine.receipts import Receipt as Proven
from engine.receipts import check_receipt
from schemas.codec import decode_as
from schemas.topics import AuditEntry

audit = typer.Typer(no_args_is_help=True, help="The audit log, its checkpoints and proofs.")

Receipt = Annotated[Path | None, typer.Argument(metavar="[RECEIPT]", help="A receipt, text or JSON, to be checked with --key.")]
Proof = Annotated[Path | None, typer.Option("--proof", help="A proof file, to be checked with nothing but --key.")]
Growth = Annotated[Path | None, typer.Option("--consistency", help="A consistency proof from --from, to be checked with --key.")]
From = Annotated[Path | None, typer.Option("--from", help="A checkpoint that was kept outside: where the proof begins.")]
Kept = Annotated[list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that was kept outside; repeatable.")]
Scanned = Annotated[Path | None, typer.Option("--scan", help="With a receipt: the scan's report that it must hold.")]
Key = Annotated[str | None, typer.Option("--key", help="The public key that `audit key` prints.")]


@command(audit, "verify")
def audit_verify(
    session: Session, receipt: Receipt = None, data: Data = None, proof: Proof = None, key: Key = None,
    checkpoint: Kept = None, consistency: Growth = None, kept: From = None, scan: Scanned = None,
) -> None:  # fmt: skip
    """Recompute the whole log against what was signed, or check one file offline. Exit code 1: something was found.

    Offline: a receipt, a proof (--proof), or a consistency proof (--consistency with --from), each with --key. With --checkpoint,
    of a stopped service: a log that was rolled back, or rewritten and signed anew, contradicts the copies.
    """
    notes = tuple(_text_of(path) for path in checkpoint or ())
    if notes and data is None:
        raise BadUsage("checkpoints kept outside are compared with the folder of a stopped service: say --data")
    if scan is not None and receipt is None:
        raise BadUsage("--scan is compared with a receipt")
    files = [path for path in (receipt, proof, consistency) if path is not None]
    if files or key is not None or kept is not None:
        if len(files) != 1 or key is None or data is not None or (consistency is None) != (kept is None):
            raise BadUsage("a receipt, --proof, or --consistency with --from, is checked with --key, and needs no data folder")
        if receipt is not None:
            _show_receipt(session, receipt, key, scan)
        elif kept is not None and consistency is not None:
            session.show(_grown(consistency, kept, key))
        else:
            session.show(_checked(files[0], key))
        return
    service = session.stopped(data) if data is not None else None
    if service is not None:
        try:
            report = report_of(service, notes)
            document = {"ok": report.ok, **msgspec.to_builtins(report)}
        finally:
            service.stop()
    else:
        document = session.door(data).get("/v1/audit/report")
        document.setdefault("ok", not document.get("findings"))
    origins = [{"origin": origin, **facts} for origin, facts in dict(document.get("origins", {})).items()]
    findings = rows_of(document.get("findings"))
    verdict = "The log is whole: nothing was found." if document["ok"] else "The log is NOT what was signed."
    session.show(document, rows_table(origins), *([rows_table(findings)] if findings else []), verdict)
    if not document["ok"]:
        raise typer.Exit(1)


def _text_of(path: Path) -> str:
    try:
        return _bytes_of(path).decode()
    except ValueError:
        raise Unanswered("a checkpoint file cannot be read") from None


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise Unanswered("a file to be checked cannot be read") from None


def _show_receipt(session: Session, path: Path, key: str, scan: Path | None) -> None:
    """Check a receipt with a public key alone, and say what its entries say."""
    try:
        found = check_receipt(_bytes_of(path), key)
    except AuditFault as fault:
        raise Refused(f"the receipt does not hold: {fault}") from None
    if scan is not None:
        on_record(found, read_report(scan))
    told = {"made_ms": found.made_ms, "summary": msgspec.to_builtins(found.summary), "stated": msgspec.to_builtins(found.stated)}
    document = {"ok": True, "request": found.request, "controller": found.controller, "complete": found.summary.complete,
                "entries": len(found.entries), **told}  # fmt: skip
    session.show(document, *_in_words(found))


def _in_words(found: Proven) -> Iterator[str]:
    yield f"request {word(found.request)} of {word(found.controller)}, receipt made {instant(found.made_ms)}"
    yield from summary_lines(found.summary)
    if not found.summary.complete:
        yield f"on the signer's word, not proven: state {word(found.stated.state)}, due {instant(found.stated.due_ms)}"
        yield from (f"  open {word(t.target)} until {instant(t.acknowledge_by_ms)}" for t in found.stated.open)
    yield f"The receipt holds: {len(found.entries)} entries are in the signed log, and say this."


def _grown(proof: Path, kept: Path, key: str) -> dict[str, Any]:
    """Check with a public key alone that the log of a kept checkpoint is the beginning of a newer one's."""
    try:
        before, after = check_consistency(_bytes_of(proof), _bytes_of(kept), key)
    except AuditFault as fault:
        raise Refused(f"the proof does not hold: {fault}") from None
    return {"ok": True, "origin": after.origin, "from": before.size, "size": after.size}


def _checked(proof: Path, key: str) -> dict[str, Any]:
    """Check a proof file with a public key alone: no service, no data folder, no other file."""
    text = _bytes_of(proof)
    try:
        checkpoint = check_proof(text, None, key, None)
        read = read_proof(text)
        entry = decode_as(AuditEntry, read.extra or b"")
    except AuditFault as fault:
        raise Refused(f"the proof does not hold: {fault}") from None
    except ValueError:
        raise Refused("the proof does not hold: it proves something that is no audit entry") from None
    if (entry.origin, entry.index) != (checkpoint.origin, read.index):
        raise Refused("the proof does not hold: the entry says it stands elsewhere")
    return {"ok": True, "origin": checkpoint.origin, "index": read.index, "size": checkpoint.size, "kind": entry.kind}


@command(audit, "prove")
def audit_prove(
    session: Session, origin: Annotated[str | None, typer.Option("--origin", help="As `audit verify` lists it.")] = None,
    index: Annotated[int | None, typer.Option("--index", min=0)] = None, kept: From = None, data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the proof to this file.")] = None,
) -> None:  # fmt: skip
    """Give a proof file that verifies offline with the public key alone.

    With --origin and --index: the entry stands in the signed log. With --from: a checkpoint that was kept outside is the
    beginning of today's log.
    """
    if kept is not None and origin is None and index is None:
        old = _begun(kept)
        place: dict[str, Any] = {"origin": old.origin, "old": old.size}
    elif kept is None and origin is not None and index is not None:
        place = {"origin": origin, "index": index}
    else:
        raise BadUsage("say --origin and --index of an entry, or --from a checkpoint that was kept outside")
    service = session.stopped(data) if data is not None else None
    if service is not None:
        try:
            prove = proof_of if "index" in place else growth_of
            text = prove(service, *place.values())
        except NotProvable:
            raise Refused("no signed checkpoint covers as much", "not-found") from None
        except LogDamaged:
            raise Refused("the log has faults: `audit verify` says which") from None
        finally:
            service.stop()
    else:
        answer = session.door(data).get("/v1/audit/proof", **place)
        text = str(answer.get("proof", answer.get("text", "")))
    if out is not None:
        write_private(out, text)
        session.show({**place, "written": True})
        return
    session.show({**place, "proof": text}, text.rstrip("\n"))


def _begun(path: Path) -> Checkpoint:
    """The checkpoint in a note, nothing verified: whoever checks the proof does that."""
    try:
        return Checkpoint.parse(_text_of(path).partition("\n\n")[0] + "\n")
    except AuditFault:
        raise Unanswered("the file holds no checkpoint") from None


@command(audit, "checkpoint")
def audit_checkpoint(session: Session) -> None:
    """Sign a checkpoint of every tree that grew, and print the newest of each."""
    answer = session.door().post("/v1/audit/checkpoint")
    found: Any = answer.get("checkpoints", answer.get("notes", ())) if isinstance(answer, dict) else answer
    texts = [str(item.get("note", item)) if isinstance(item, dict) else str(item) for item in found]
    session.show({"checkpoints": texts}, *texts)


@command(audit, "key")
def audit_key(session: Session, data: Data = None) -> None:
    """Print the public key that checkpoints and proofs verify with."""
    service = session.stopped(data) if data is not None else None
    if service is not None:
        key = service.signer.vkey
        service.stop()
    else:
        answer = session.door(data).get("/v1/audit/key")
        key = str(next((answer[name] for name in ("key", "vkey", "text") if name in answer), "")).strip()
    session.show({"key": key}, key)
