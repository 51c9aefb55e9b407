"""Proof files: one text and one public key show, offline, that a leaf stands in a signed log (C2SP tlog-proof).

    c2sp.org/tlog-proof@v1
    extra <base64 of the leaf>        optional; we always write it, so that the file needs nothing beside it
    index <place of the leaf>
    <base64 hash>*                    RFC 6962, section 2.1.1: the leaf's sibling first
    <blank line>
    <checkpoint: a signed note, to the end of the file>

The specification warns that nothing authenticates `extra`. Here the proof does: `extra` is the leaf, and its hash must
be the proven one.

A consistency proof shows that a checkpoint which somebody kept is a prefix of a newer one. Its file is the body with which
a witness is asked for its signature (C2SP tlog-witness, add-checkpoint), so it can be sent to one as it is:

    old <size of the kept checkpoint>
    <base64 hash>*                    RFC 6962, section 2.1.2
    <blank line>
    <newer checkpoint: a signed note, to the end of the file>
"""

from base64 import b64encode
from collections.abc import Sequence

import msgspec

from engine.merkle import HASH_BYTES, AuditFault, leaf_hash, verify_consistency, verify_inclusion
from engine.notes import NOTE_CHARS_MAX, Checkpoint, NoteInvalid, open_checkpoint, strict_base64, strict_number

HEADER = "c2sp.org/tlog-proof@v1"
LEAF_BYTES_MAX = 1_048_576  # an event is at most 1 MiB (contract, section 2), and its audit entry is smaller
HASHES_MAX = 63  # the depth of the largest tree
PROOF_CHARS_MAX = NOTE_CHARS_MAX + LEAF_BYTES_MAX * 4 // 3 + 64 * (HASHES_MAX + 2)


class ProofInvalid(AuditFault):
    """Raised when a file does not prove its leaf, or its prefix.

    Codes: `proof_malformed`; `leaf_missing` (neither given nor in the file), `leaf_differs` (given and in the file, but
    not the same); `origin_differs`; `not_included` (the hashes do not lead from leaf to signed root); `size_differs` (made
    for a checkpoint of another size), `not_a_prefix` (the kept checkpoint's log is not the beginning of the newer one's);
    and those of `NoteInvalid`.
    """


class Proof(msgspec.Struct, frozen=True):
    """What stands in a proof file, not verified yet. `extra` is the leaf's bytes; `hashes` are 32 bytes each."""

    extra: bytes | None
    index: int
    hashes: tuple[bytes, ...]
    note: str


def write_proof(leaf: bytes | None, index: int, hashes: Sequence[bytes], note: str) -> str:
    """Write a proof file (`.tlog-proof`) for the leaf at `index` under the checkpoint `note` (C2SP tlog-proof).

    `hashes` is the `inclusion_proof` in the tree of the checkpoint's size. Without `leaf` the reader has to bring it.
    Raises `ValueError` for parts that are out of bounds; whether they fit together is for `check_proof` to say.
    """
    if index < 0 or len(hashes) > HASHES_MAX or any(len(digest) != HASH_BYTES for digest in hashes):
        raise ValueError("a proof has an index and at most 63 hashes of 32 bytes")
    if leaf is not None and len(leaf) > LEAF_BYTES_MAX:
        raise ValueError("a leaf is at most 1 MiB")
    lines = [HEADER]
    if leaf is not None:
        lines.append(f"extra {b64encode(leaf).decode()}")
    lines.append(f"index {index}")
    lines.extend(b64encode(digest).decode() for digest in hashes)
    return "\n".join(lines) + "\n\n" + note


def read_proof(text: str | bytes) -> Proof:
    """Read a proof file without believing it, to get at the leaf. Raises `ProofInvalid` (`proof_malformed`)."""
    text = _decoded(text, PROOF_CHARS_MAX)
    head, blank, note = text.partition("\n\n")
    lines = head.split("\n")
    if not blank or lines.pop(0) != HEADER:
        raise ProofInvalid("proof_malformed")
    extra = _field(lines, "extra ")
    leaf = None if extra is None else strict_base64(extra)
    number = _field(lines, "index ")
    index = None if number is None else strict_number(number)
    if (extra is not None and leaf is None) or index is None:
        raise ProofInvalid("proof_malformed")
    return Proof(leaf, index, _hashes(lines), note)


def _decoded(text: str | bytes, chars_max: int) -> str:
    if len(text) > chars_max:
        raise ProofInvalid("proof_malformed")
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        raise ProofInvalid("proof_malformed") from None


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    hashes = [digest for line in lines if (digest := strict_base64(line)) is not None and len(digest) == HASH_BYTES]
    if len(hashes) != len(lines) or len(lines) > HASHES_MAX:
        raise ProofInvalid("proof_malformed")
    return tuple(hashes)


def _field(lines: list[str], prefix: str) -> str | None:
    """Take the next line if it starts with `prefix`; answers what follows."""
    return lines.pop(0).removeprefix(prefix) if lines and lines[0].startswith(prefix) else None


def check_proof(text: str | bytes, leaf_bytes: bytes | None, vkey: str, origin: str | None) -> Checkpoint:
    """Verify a proof file (C2SP tlog-proof); answers the checkpoint that covers the leaf. Raises `ProofInvalid`.

    1. The key of `vkey` signed the checkpoint, and it is of `origin` (None: of any origin; the answer says which).
    2. The leaf is `leaf_bytes`, or what the file carries; where there are both they are the same.
    3. The hashes lead from that leaf at that index to the signed root (RFC 9162, section 2.1.3.2).
    """
    proof = read_proof(text)
    try:
        checkpoint = open_checkpoint(proof.note, vkey)  # 1
    except NoteInvalid as fault:
        raise ProofInvalid(fault.code) from None
    if origin is not None and checkpoint.origin != origin:
        raise ProofInvalid("origin_differs")
    leaf = proof.extra if leaf_bytes is None else leaf_bytes  # 2
    if leaf is None:
        raise ProofInvalid("leaf_missing")
    if proof.extra is not None and proof.extra != leaf:
        raise ProofInvalid("leaf_differs")
    if not verify_inclusion(leaf_hash(leaf), proof.index, checkpoint.size, proof.hashes, checkpoint.root):  # 3
        raise ProofInvalid("not_included")
    return checkpoint


def write_consistency(old: int, hashes: Sequence[bytes], note: str) -> str:
    """Write the file that leads from the checkpoint of size `old` to the newer one in `note` (C2SP tlog-witness).

    Raises `ValueError` for parts that are out of bounds; whether they fit together is for `check_consistency` to say.
    """
    if old < 0 or len(hashes) > HASHES_MAX or any(len(digest) != HASH_BYTES for digest in hashes):
        raise ValueError("a consistency proof has a size and at most 63 hashes of 32 bytes")
    return "\n".join([f"old {old}", *(b64encode(digest).decode() for digest in hashes)]) + "\n\n" + note


def check_consistency(text: str | bytes, kept: str | bytes, vkey: str) -> tuple[Checkpoint, Checkpoint]:
    """Verify that the log of the `kept` checkpoint is a prefix of the one in the file; answers both. Raises `ProofInvalid`.

    1. The key of `vkey` signed both checkpoints, and they are of one origin.
    2. The file was made for the size of the kept one.
    3. The hashes lead from the kept root to both roots (RFC 9162, section 2.1.4.2).
    """
    head, blank, note = _decoded(text, PROOF_CHARS_MAX).partition("\n\n")
    lines = head.split("\n")
    number = _field(lines, "old ")
    old = None if number is None else strict_number(number)
    if not blank or old is None:
        raise ProofInvalid("proof_malformed")
    hashes = _hashes(lines)
    try:
        before, after = open_checkpoint(_decoded(kept, NOTE_CHARS_MAX), vkey), open_checkpoint(note, vkey)  # 1
    except NoteInvalid as fault:
        raise ProofInvalid(fault.code) from None
    if before.origin != after.origin:
        raise ProofInvalid("origin_differs")
    if before.size != old:  # 2
        raise ProofInvalid("size_differs")
    if not verify_consistency(old, before.root, after.size, after.root, hashes):  # 3
        raise ProofInvalid("not_a_prefix")
    return before, after
