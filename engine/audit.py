"""Audits the log against what was signed: what was changed, dropped, added, moved or cut off comes out as a finding.

Pure and streaming: one pass over the log; memory is O(log n) for each origin, and the sizes at which a root is known.

What it can know: the log up to an origin's `proven` size is what the signing key, or the engine's own frontier, says it
is. Beyond that size only the order of the indexes is checked: the next checkpoint will cover those entries.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from engine.merkle import AuditFault, Frontier, leaf_hash
from engine.notes import NoteInvalid, open_checkpoint, read_vkey
from schemas.codec import decode_as
from schemas.topics import AuditEntry

FINDINGS_MAX = 1_000  # one broken tree can fail at every checkpoint of a year; the first thousand say it all
HOLES_MAX = 256  # per origin: a log with more gaps than this needs a restore, not a longer list

LogLine = tuple[int, int, bytes]  # partition, offset and value of a record of `audit.entries`

Code = Literal[
    "entry_unreadable",  # a record that is no AuditEntry; origin "", index -1
    "entry_missing",  # dropped: never came, though later ones did
    "entry_moved",  # swapped: came after entries that follow it
    "entry_added",  # an index that was there already
    "tail_missing",  # a checkpoint or the frontier knows more entries than the log has
    "tail_added",  # the log has entries that the frontier does not know
    "origin_unknown",  # the log or a checkpoint has an origin that the frontiers do not have
    "checkpoint_invalid",  # a note that this key did not sign, or no checkpoint; origin "", index: which note
    "checkpoint_conflict",  # two signed checkpoints of one size with two roots: the signer told two stories
    "checkpoint_differs",  # changed: the tree of the log has another root than was signed
    "frontier_differs",  # changed: the tree of the log has another root than the engine holds
]


class LogDamaged(AuditFault):
    """No proof can be cut from a log that has faults. Code: `index_order`."""


class AuditFinding(msgspec.Struct, frozen=True):
    """One fault: it lies among the entries `index` to `index + span - 1` of `origin`.

    For roots that differ, `index` is the last size that was proven and `index + span` the size at which they differ.
    `partition` and `offset` are the record at which it showed, -1 where there is none.
    """

    origin: str
    index: int
    code: Code
    span: int = 1
    partition: int = -1
    offset: int = -1


class OriginReport(msgspec.Struct, frozen=True):
    """One tree as the log has it. `root` is hexadecimal, "" if entries are missing or moved: then there is no tree.

    `checkpoints` counts the sizes at which a checkpoint of this origin was signed, `confirmed` those whose root the log
    gave again. `proven` is the largest size confirmed by a checkpoint or by the frontier.
    """

    size: int
    root: str
    checkpoints: int
    confirmed: int
    proven: int


class AuditReport(msgspec.Struct, frozen=True):
    """What `verify_log` found. `left_off` counts findings beyond the first `FINDINGS_MAX`."""

    origins: dict[str, OriginReport]
    findings: tuple[AuditFinding, ...]
    entries: int
    checkpoints: int
    left_off: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was found. How far that reaches is each origin's `proven` size."""
        return not self.findings


class _Findings:
    """The findings so far, bounded. Neighbours of one kind become one finding."""

    def __init__(self) -> None:
        self.kept: list[AuditFinding] = []
        self.left_off = 0

    def add(self, finding: AuditFinding) -> None:
        last = self.kept[-1] if self.kept else None
        if (
            last is not None
            and finding.code in ("entry_moved", "entry_added")
            and (last.origin, last.code, last.index + last.span) == (finding.origin, finding.code, finding.index)
        ):
            self.kept[-1] = msgspec.structs.replace(last, span=last.span + finding.span)
        elif len(self.kept) < FINDINGS_MAX:
            self.kept.append(finding)
        else:
            self.left_off += 1


class _Tree:
    """One origin: its tree as far as the log is in order, and the roots it must show on the way."""

    def __init__(self, origin: str, findings: _Findings) -> None:
        self.origin = origin
        self.findings = findings
        self.frontier = Frontier()
        self.next = 0  # the index the log should have now; ahead of the frontier once an entry is missing
        self.holes: list[tuple[int, int]] = []  # first missing index, and the one after the last
        self.signed: dict[int, bytes] = {}
        self.state: tuple[int, bytes] | None = None
        self.confirmed = self.proven = 0

    def expect(self, size: int, root: bytes) -> None:
        """Note that a signed checkpoint gives `root` for `size`."""
        if self.signed.setdefault(size, root) != root:
            self.findings.add(AuditFinding(self.origin, 0, "checkpoint_conflict", size))

    def take(self, index: int, line: LogLine) -> None:
        """Take the next entry of this origin in the log."""
        if index != self.next:
            self._out_of_order(index, line)
            return
        self.next += 1
        # Behind a gap no later root can be known, so hashing stops; the indexes are still followed.
        if self.frontier.size == index:
            self.frontier.append(line[2])
            self.compare(line)

    def _out_of_order(self, index: int, line: LogLine) -> None:
        if index > self.next:
            self._open_hole(self.next, index)
            self.next = index + 1
            return
        for at, (start, stop) in enumerate(self.holes):
            if start <= index < stop:
                del self.holes[at]
                self._open_hole(start, index)
                self._open_hole(index + 1, stop)
                self.findings.add(AuditFinding(self.origin, index, "entry_moved", 1, line[0], line[1]))
                return
        # It is left out of the tree: if the rest is whole, the roots behind it say so.
        self.findings.add(AuditFinding(self.origin, index, "entry_added", 1, line[0], line[1]))

    def _open_hole(self, start: int, stop: int) -> None:
        if start < stop and len(self.holes) < HOLES_MAX:
            self.holes.append((start, stop))
        elif start < stop:
            self.findings.add(AuditFinding(self.origin, start, "entry_missing", stop - start))

    def compare(self, line: LogLine | None = None) -> None:
        """Compare the root with what is known for this size. `line` is the record that led to it, None at size 0."""
        size = self.frontier.size
        signed = self.signed.get(size)
        held = self.state[1] if self.state is not None and self.state[0] == size else None
        if signed is None and held is None:
            return
        root, proven = self.frontier.root(), self.proven
        partition, offset = (line[0], line[1]) if line is not None else (-1, -1)
        known: tuple[tuple[bytes | None, Code], ...] = ((signed, "checkpoint_differs"), (held, "frontier_differs"))
        for expected, code in known:
            if expected is not None and expected != root:
                self.findings.add(AuditFinding(self.origin, proven, code, size - proven, partition, offset))
        self.confirmed += signed == root
        if signed in (root, None) and held in (root, None):
            self.proven = size

    def close(self, with_frontiers: bool) -> OriginReport:
        """Find what is missing now that the log has ended; answers the origin's report."""
        for start, stop in self.holes:
            self.findings.add(AuditFinding(self.origin, start, "entry_missing", stop - start))
        known = max((*self.signed, self.state[0] if self.state is not None else 0))
        if known > self.next:
            self.findings.add(AuditFinding(self.origin, self.next, "tail_missing", known - self.next))
        if with_frontiers and self.state is None:
            self.findings.add(AuditFinding(self.origin, 0, "origin_unknown", self.next))
        elif self.state is not None and self.state[0] < self.next:
            self.findings.add(AuditFinding(self.origin, self.state[0], "tail_added", self.next - self.state[0]))
        whole = self.frontier.size == self.next
        root = self.frontier.root().hex() if whole else ""
        return OriginReport(self.next, root, len(self.signed), self.confirmed, self.proven)


def _read(value: bytes) -> AuditEntry | None:
    """Read the entry in a record's value; None if there is none."""
    try:
        return decode_as(AuditEntry, value)
    except ValueError:  # the base of what the codec raises on hostile bytes: a finding, never a crash
        return None


def verify_log(
    entries: Iterable[LogLine],
    checkpoints: Iterable[str],
    vkey: str,
    frontiers: Mapping[str, tuple[int, bytes]] | None = None,
) -> AuditReport:
    """Recompute every origin's tree from the log and compare it with the signed checkpoints and the engine's frontiers.

    `entries` are (partition, offset, value) of all of `audit.entries`, each partition in offset order. How origins
    spread over partitions does not matter, as long as the entries of one origin come in the order they were written.
    `checkpoints` are signed notes, in any order. `frontiers` (origin: size and root; sealed origins too) must belong to
    the same committed state as `entries`; with None the log is checked against the notes alone, as a third party does.

    Raises `NoteInvalid` (`key_malformed`) for a vkey that is none; everything else is a finding in the report.
    """
    read_vkey(vkey)
    findings = _Findings()
    trees: dict[str, _Tree] = {}

    def tree_of(origin: str) -> _Tree:
        tree = trees.get(origin)
        if tree is None:
            tree = trees[origin] = _Tree(origin, findings)
        return tree

    notes = count = 0
    for place, note in enumerate(checkpoints):
        notes += 1
        try:
            checkpoint = open_checkpoint(note, vkey)
        except NoteInvalid:
            findings.add(AuditFinding("", place, "checkpoint_invalid"))
            continue
        tree_of(checkpoint.origin).expect(checkpoint.size, checkpoint.root)
    for origin, held in (frontiers or {}).items():
        tree_of(origin).state = held
    for tree in trees.values():
        tree.compare()
    for line in entries:
        count += 1
        entry = _read(line[2])
        if entry is None:
            findings.add(AuditFinding("", -1, "entry_unreadable", 1, line[0], line[1]))
        else:
            tree_of(entry.origin).take(entry.index, line)
    reports = {origin: tree.close(frontiers is not None) for origin, tree in sorted(trees.items())}
    return AuditReport(reports, tuple(findings.kept), count, notes, findings.left_off)


def leaf_hashes(entries: Iterable[LogLine], origin: str, size: int | None = None) -> list[bytes]:
    """Collect the leaf hashes of one origin, for `inclusion_proof`: all, or the first `size` of them.

    Raises `LogDamaged` (`index_order`) if the log does not hold its entries 0, 1, 2 … in this order, up to `size`.
    """
    hashes: list[bytes] = []
    for _, _, value in entries:
        if size is not None and len(hashes) >= size:
            break
        entry = _read(value)
        if entry is None or entry.origin != origin:
            continue
        if entry.index != len(hashes):
            raise LogDamaged("index_order")
        hashes.append(leaf_hash(value))
    if size is not None and len(hashes) < size:
        raise LogDamaged("index_order")
    return hashes
