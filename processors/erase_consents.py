"""What an erasure does to the consents of an identifier; `processors/keep_consent.py` keeps them."""

from collections.abc import Generator

import msgspec

from processors.kernel import Audit, Delete, Effect, Emit, Put, Shred, View, Wake
from processors.permissions import CONSENT_EXPIRY, EVIDENCE_SCOPE, PART, ConsentEvidence, Permissions

CELLS_PER_STEP = 100  # rows of consent.state turned into tombstones in one step


def forget_consents(view: View, controller: str, fence_ms: int, request_id: str) -> Generator[Effect, None, bool]:
    """Tombstones for every consent up to the fence, and no proof left; suppressions stay. Returns whether more is to do."""
    known = view.get(Permissions)
    if known is None:
        return False
    old = [key for key, cell in known.cells.items() if cell.effective_ms <= fence_ms]
    proofs = [parts for parts, proof in view.scan(ConsentEvidence) if proof.effective_ms <= fence_ms]
    if not old and not proofs and not known.seen:
        return False
    yield Audit("consents.erased", controller, {"rows": str(len(old[:CELLS_PER_STEP])), "request": request_id})
    if not any(cell.effective_ms > fence_ms for cell in known.cells.values()):
        yield Wake(CONSENT_EXPIRY, None, of="keep_consent")
    for key in old[:CELLS_PER_STEP]:
        yield Emit("consent.state", (view.owner, *key.split(PART)), None)
    for parts in proofs[:CELLS_PER_STEP]:
        yield Delete(ConsentEvidence, parts)
    more = max(len(old), len(proofs)) > CELLS_PER_STEP
    gone = set(old[:CELLS_PER_STEP])
    cells = {key: cell for key, cell in known.cells.items() if key not in gone}
    kept = {name: entry for name, entry in known.suppressions.items() if entry.on or entry.effective_ms > fence_ms}
    if not cells and not more:
        yield Shred(EVIDENCE_SCOPE, {"request": request_id})
    if cells or kept or more:
        # What was seen is forgotten too: the fence refuses its replay.
        evidence = max(0, known.evidence - len(proofs[:CELLS_PER_STEP]))
        revoked_ms = known.revoked_ms if (known.revoked_ms or 0) > fence_ms else None
        yield Put(msgspec.structs.replace(
            known, cells=cells, suppressions=kept, seen={}, evidence=evidence, revoked_ms=revoked_ms
        ))  # fmt: skip
    else:
        yield Delete(Permissions)
    return more
