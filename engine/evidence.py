"""What a deployment shows of its audit log: a report over everything committed, proofs and receipts that check offline.

It may run beside the loop: an entry and its tree's frontier are committed together, so an entry past the frontier of the
moment is the engine's own if a frontier that is read after it covers it. If not, somebody else added it, and it is found.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from time import sleep

from engine.audit import AuditReport, LogDamaged, LogLine, verify_log
from engine.checkpoints import TOPIC as CHECKPOINTS
from engine.deployment import Deployment
from engine.effects import AUDIT_TOPIC
from engine.merkle import Cutter, Frontier, leaf_hash
from engine.notes import open_checkpoint
from engine.proofs import write_consistency, write_proof
from engine.receipt_summary import FULFILLED, REQUEST, ROTATION, bound_ms, covers, is_rotation, summary_of
from engine.receipts import ENTRIES_MAX, Proven, Receipt, ReceiptInvalid, Section, Stated, Target, make_receipt
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import AuditCheckpoint, AuditEntry, RequestStatus

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
    if index < 0:
        raise NotProvable
    tree = _covering(service, origin, index + 1)
    _read_log(service, {origin: tree}, lambda at, value: at == index)
    entry = _entry(tree.leaves[index])
    if entry is None or not may_see(entry.controller):
        raise NotProvable
    return write_proof(tree.leaves[index], index, tree.cutter.path(index), tree.note)


def growth_of(service: Deployment, origin: str, old: int) -> str:
    """A consistency proof file from size `old` of `origin` to its newest checkpoint; signs one when none is as large.

    Raises `NotProvable` when the log never was so long, and `LogDamaged` when it has faults.
    """
    tree = _covering(service, origin, old)
    tree.cutter.want_prefix(old)
    _read_log(service, {origin: tree}, lambda at, value: False)
    return write_consistency(old, tree.cutter.prefix(old), tree.note)


def receipt_of(service: Deployment, status: RequestStatus) -> Receipt:
    """The receipt of a request that stands at `status`, under checkpoints of this moment.

    Raises `NotProvable` when no entry names the request, `ReceiptInvalid` (`receipt_too_large`), and `LogDamaged`.
    """
    service.checkpoint()
    trees = {origin: _Tree(note, service.signer.vkey) for origin, note in service.notes().items()}
    request, controller = status.request_id, status.controller
    sections = [
        Section(tree.note, tuple(Proven(at, leaf, tuple(tree.cutter.path(at))) for at, leaf in tree.leaves.items()))
        for _, tree in sorted(_entries_of(service, trees, request, controller).items())
    ]  # fmt: skip
    if not sections:
        raise NotProvable
    waiting = tuple(Target(t.target, t.acknowledge_by_ms) for t in status.targets if t.outcome != "done")
    stated = Stated(status.state, status.clock.due_ms, waiting)
    if summary_of(decode_as(AuditEntry, proven.leaf) for section in sections for proven in section.entries).complete:
        stated = Stated(FULFILLED, status.clock.due_ms)  # the entries are ahead of the state, or of a read model
    return make_receipt(request, controller, service.clock(), stated, sections, service.signer)


def _entries_of(service: Deployment, trees: dict[str, "_Tree"], request: str, controller: str) -> dict[str, "_Tree"]:
    """Collect what names the request: the trees that hold any of it. Reads the whole log; an index would come in here."""
    needles, found = (request.encode(), *(kind.encode() for kind in ROTATION)), 0

    def chosen(index: int, value: bytes) -> bool:
        nonlocal found
        if not any(needle in value for needle in needles):
            return False
        entry = _entry(value)
        if entry is None or entry.controller != controller or (entry.facts.get(REQUEST) != request and not is_rotation(entry)):
            return False
        found += 1
        if found > ENTRIES_MAX:
            raise ReceiptInvalid("receipt_too_large")
        return True

    _read_log(service, trees, chosen)
    _keep_rotation(trees.values())
    return {origin: tree for origin, tree in trees.items() if tree.leaves}


def _keep_rotation(trees: Collection["_Tree"]) -> None:
    """Of the controller's rotations keep the first that makes every copy of the request's keys useless, if one has ended."""
    entries = [(tree, index, decode_as(AuditEntry, leaf)) for tree in trees for index, leaf in tree.leaves.items()]
    closed_ms = bound_ms(entry for _, _, entry in entries)
    rotations = sorted((at for at in entries if is_rotation(at[2])), key=lambda at: at[2].at_ms)
    ends = [at for at in rotations if at[2].kind == ROTATION[1]]
    pairs = ((began, end) for end in ends for began in rotations if closed_ms is not None and covers(began[2], end[2], closed_ms))
    kept = [(tree, index) for tree, index, _ in next(pairs, ())]
    for tree, index, _ in rotations:
        if (tree, index) not in kept:
            del tree.leaves[index]


class _Tree:
    """One origin up to its checkpoint: the leaves that were chosen, and what their proofs need."""

    def __init__(self, note: str, vkey: str) -> None:
        self.note, self.checkpoint = note, open_checkpoint(note, vkey)
        self.cutter = Cutter(self.checkpoint.size)
        self.leaves: dict[int, bytes] = {}


def _covering(service: Deployment, origin: str, size: int) -> _Tree:
    """The newest checkpoint of `origin`, of at least `size` leaves. Raises `NotProvable`."""
    for fresh in (False, True):
        if fresh:
            service.checkpoint()
        note = service.notes().get(origin)
        if note is not None and open_checkpoint(note, service.signer.vkey).size >= size >= 0:
            return _Tree(note, service.signer.vkey)
    raise NotProvable


def _read_log(service: Deployment, trees: Mapping[str, _Tree], chosen: Callable[[int, bytes], bool]) -> None:
    """Read the log once and collect the entries that are `chosen` by index and bytes, with their proofs.

    Memory is bounded by what is chosen. An entry's origin is its record's key: where that is not true the root differs.
    Raises `LogDamaged` (`root_differs`) when a tree that has chosen entries, or was asked for alone, is not the signed one.
    """
    for _, record in service.topic(AUDIT_TOPIC):
        tree = trees.get(record.key.decode(errors="replace"))
        if tree is None or (index := tree.cutter.taken) == tree.checkpoint.size:
            continue
        value = record.value or b""
        if chosen(index, value):
            tree.cutter.want(index)
            tree.leaves[index] = value
        tree.cutter.take(leaf_hash(value))
    for tree in trees.values():
        if (tree.leaves or len(trees) == 1) and tree.cutter.root() != tree.checkpoint.root:
            raise LogDamaged("root_differs")


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


__all__ = ["LogDamaged", "NotProvable", "growth_of", "lines_of", "notes_of", "proof_of", "receipt_of", "report_of"]
