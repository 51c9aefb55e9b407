"""Commands that prove and that end retention: audit, retention. They work on a running service, or on a stopped one's folder."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from connectors.cli.faults import BadUsage, Refused, Unanswered
from connectors.cli.output import rows_of, rows_table
from connectors.cli.session import Data, Session, command
from connectors.cli.watch import write_private
from engine.evidence import NotProvable, proof_of, report_of
from engine.merkle import AuditFault
from engine.proofs import check_proof, read_proof
from schemas.codec import decode_as
from schemas.topics import AuditEntry

audit = typer.Typer(no_args_is_help=True, help="The audit log, its checkpoints and proofs.")
retention = typer.Typer(no_args_is_help=True, help="What retention has to destroy.")

Proof = Annotated[Path | None, typer.Option("--proof", help="A proof file, to be checked with nothing but --key.")]
Kept = Annotated[list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that was kept outside; repeatable.")]
Key = Annotated[str | None, typer.Option("--key", help="The public key that `audit key` prints.")]


@command(audit, "verify")
def audit_verify(
    session: Session, data: Data = None, proof: Proof = None, key: Key = None, checkpoint: Kept = None
) -> None:
    """Recompute the whole log against what was signed, or check one proof file offline. Exit code 1: something was found.

    With --checkpoint, of a stopped service: a log that was rolled back, or rewritten and signed anew, contradicts the copies.
    """
    notes = tuple(_text_of(path) for path in checkpoint or ())
    if notes and data is None:
        raise BadUsage("checkpoints kept outside are compared with the folder of a stopped service: say --data")
    if proof is not None or key is not None:
        if proof is None or key is None or data is not None:
            raise BadUsage("a proof file is checked with --proof and --key, and needs no data folder")
        session.show(_checked(proof, key))
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
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise Unanswered("a checkpoint file cannot be read") from None


def _checked(proof: Path, key: str) -> dict[str, Any]:
    """Check a proof file with a public key alone: no service, no data folder, no other file."""
    try:
        text = proof.read_bytes()
    except OSError:
        raise Unanswered("the proof file cannot be read") from None
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
    session: Session, origin: Annotated[str, typer.Option("--origin", help="As `audit verify` lists it.")],
    index: Annotated[int, typer.Option("--index", min=0)], data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the proof to this file.")] = None,
) -> None:  # fmt: skip
    """Give a proof file that one entry stands in the signed log: it verifies offline with the public key alone."""
    service = session.stopped(data) if data is not None else None
    if service is not None:
        try:
            text = proof_of(service, origin, index)
        except NotProvable:
            raise Refused("no signed checkpoint covers such an entry", "not-found") from None
        finally:
            service.stop()
    else:
        answer = session.door(data).get("/v1/audit/proof", origin=origin, index=index)
        text = str(answer.get("proof", answer.get("text", "")))
    if out is not None:
        write_private(out, text)
        session.show({"origin": origin, "index": index, "written": True})
        return
    session.show({"origin": origin, "index": index, "proof": text}, text.rstrip("\n"))


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


@command(retention, "run")
def retention_run(
    session: Session, data: Data = None,
    raw: Annotated[bool, typer.Option("--raw", help="Raw payloads past their retention.")] = False,
) -> None:  # fmt: skip
    """Destroy now what is past its retention, with the keys that nothing needs any more."""
    if not raw:
        raise BadUsage("say what: --raw is what can be run by hand; everything else goes by itself when it is due")
    service = session.stopped(data) if data is not None else None
    if service is None:
        session.show(session.door(data).post("/v1/admin/retention/raw"))
        return
    try:
        service.settle()  # only what every reader has folded may go
        deleted = service.retain_raw(at_once=True)
    finally:
        service.stop()
    session.show({"deleted": deleted})
