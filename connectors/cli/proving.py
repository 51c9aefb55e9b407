"""Audits and proves from a deployment that is open here, so that it works when no service runs; reads only what is committed."""

from collections.abc import Iterator
from typing import Any

import msgspec

from connectors.cli.faults import Refused
from engine.audit import AuditReport, LogLine, leaf_hashes, verify_log
from engine.checkpoints import frontiers, latest_notes
from engine.merkle import inclusion_proof
from engine.notes import open_checkpoint
from engine.proofs import write_proof
from engine.service import Service
from schemas.codec import decode_as
from schemas.topics import AuditCheckpoint, AuditEntry

ENTRIES, CHECKPOINTS = "audit.entries", "audit.checkpoints"


def lines(service: Service) -> Iterator[LogLine]:
    """Every audit entry as (partition, offset, bytes)."""
    for partition, record in service.topic(ENTRIES):
        yield partition, record.offset, record.value or b""


def notes(service: Service) -> Iterator[str]:
    """Every signed checkpoint that is still on the log."""
    for _, record in service.topic(CHECKPOINTS):
        if record.value is not None:
            yield decode_as(AuditCheckpoint, record.value).note


def report_of(service: Service) -> AuditReport:
    """Verify the whole log against the signed checkpoints and the engine's own frontiers. Nothing may be folding meanwhile."""
    held = frontiers(service.runtime, service.loop.tasks, service.shared.deployment)
    return verify_log(lines(service), notes(service), service.signer.vkey, {o: (f.size, f.root()) for o, f in held.items()})


def document_of(report: AuditReport) -> dict[str, Any]:
    """The report as a JSON document, with `ok`."""
    document: dict[str, Any] = msgspec.to_builtins(report)
    return {"ok": report.ok, **document}


def proof_of(service: Service, origin: str, index: int) -> str:
    """A proof file for the entry at `index` of `origin`, under its newest checkpoint. Raises `Refused` (`not-found`)."""
    note = latest_notes(service.runtime).get(origin)
    size = 0 if note is None else open_checkpoint(note, service.signer.vkey).size
    if note is None or not 0 <= index < size:
        raise Refused("no signed checkpoint covers such an entry", "not-found")
    leaf = next((value for _, _, value in lines(service) if _is_at(value, origin, index)), None)
    return write_proof(leaf, index, inclusion_proof(leaf_hashes(lines(service), origin, size), index), note)


def _is_at(value: bytes, origin: str, index: int) -> bool:
    entry = decode_as(AuditEntry, value)
    return (entry.origin, entry.index) == (origin, index)
