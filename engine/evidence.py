"""What a deployment shows of its audit log: a report over everything committed, and proofs that check offline.

It may run beside the loop: an entry and its tree's frontier are committed together, so an entry past the frontier of the
moment is the engine's own if a frontier that is read after it covers it. If not, somebody else added it, and it is found.
"""

from collections.abc import Callable, Iterator
from time import sleep

from engine.audit import AuditReport, LogDamaged, LogLine, leaf_hashes, verify_log
from engine.checkpoints import TOPIC as CHECKPOINTS
from engine.deployment import Deployment
from engine.effects import AUDIT_TOPIC
from engine.merkle import Frontier, inclusion_proof
from engine.notes import open_checkpoint
from engine.proofs import write_proof
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import AuditCheckpoint, AuditEntry

# A store may show a commit's state some instants before its log, so that a frontier is ahead of what is read right after it.
# What is truly wrong is found at every look.
LOOKS_MAX = 3
LOOK_SECS = 0.05


class NotProvable(Exception):
    """No signed checkpoint covers such an entry, or the asker may not see it."""


def lines_of(service: Deployment) -> Iterator[LogLine]:
    """Every audit entry as (partition, offset, bytes)."""
    for partition, record in service.topic(AUDIT_TOPIC):
        yield partition, record.offset, record.value or b""


def notes_of(service: Deployment) -> Iterator[str]:
    """Every signed checkpoint that is still on the log."""
    for _, record in service.topic(CHECKPOINTS):
        if record.value is not None:
            yield decode_as(AuditCheckpoint, record.value).note


def report_of(service: Deployment, more_notes: tuple[str, ...] = ()) -> AuditReport:
    """Recompute every tree; compare it with the frontiers, the signed checkpoints and `more_notes` that were kept outside."""
    for look in range(LOOKS_MAX):
        notes = list(notes_of(service))
        snapshot = _Snapshot(service)  # after the notes: a note that was signed later may know more than its frontiers
        held = {origin: (frontier.size, frontier.root()) for origin, frontier in snapshot.frontiers.items()}
        report = verify_log(snapshot.lines(), [*notes, *more_notes], service.signer.vkey, held)
        if report.ok or look == LOOKS_MAX - 1:
            break
        sleep(LOOK_SECS)
    return report


def proof_of(service: Deployment, origin: str, index: int, may_see: Callable[[str], bool] = lambda controller: True) -> str:
    """A proof file for the entry at `index` of `origin`, under its newest checkpoint; signs one when none covers it.

    `may_see` is asked with the entry's controller. Raises `NotProvable`, and `LogDamaged` when the log has faults.
    """
    note = service.notes().get(origin)
    if note is None or open_checkpoint(note, service.signer.vkey).size <= index:
        service.checkpoint()
        note = service.notes().get(origin)
    size = 0 if note is None else open_checkpoint(note, service.signer.vkey).size
    if note is None or not 0 <= index < size:
        raise NotProvable
    leaf: list[bytes] = []

    def watched() -> Iterator[LogLine]:
        for line in lines_of(service):
            entry = _entry(line[2])
            if entry is not None and (entry.origin, entry.index) == (origin, index):
                if not may_see(entry.controller):
                    raise NotProvable
                leaf.append(line[2])
            yield line

    hashes = leaf_hashes(watched(), origin, size)
    return write_proof(leaf[0], index, inclusion_proof(hashes, index), note)


class _Snapshot:
    """The log as of a moment although it grows: entries that the engine itself has added since are left out."""

    def __init__(self, service: Deployment) -> None:
        self._service = service
        self.frontiers = self._read()
        self._later: dict[str, int] = {}

    def lines(self) -> Iterator[LogLine]:
        for line in lines_of(self._service):
            entry = _entry(line[2])
            if entry is None or not self._grown(entry):
                yield line

    def _grown(self, entry: AuditEntry) -> bool:
        known = self.frontiers.get(entry.origin)
        if known is not None and entry.index < known.size:
            return False
        if entry.index >= self._later.get(entry.origin, 0):
            self._later = {origin: frontier.size for origin, frontier in self._read().items()}
        return entry.index < self._later.get(entry.origin, 0)

    def _read(self) -> dict[str, Frontier]:
        return self._service.frontiers()


def _entry(value: bytes) -> AuditEntry | None:
    try:
        return decode_as(AuditEntry, value)
    except (Malformed, SchemaUnknown):
        return None


__all__ = ["LogDamaged", "NotProvable", "lines_of", "notes_of", "proof_of", "report_of"]
