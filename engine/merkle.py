"""Merkle trees of RFC 6962: at most 2 KB hold a log of any length to its word, and every leaf's place can be proven.

A hash is SHA-256 over 0x00 ‖ leaf or 0x01 ‖ left ‖ right (RFC 6962, section 2.1): a leaf can never pass for a node.

    AuditFault             what the audit modules raise; `code` comes from a closed list
    ├── FrontierDamaged    these bytes are not a frontier (`engine/merkle.py`)
    ├── NoteInvalid        not a note that this key signed (`engine/notes.py`)
    ├── ProofInvalid       this file does not prove this leaf (`engine/proofs.py`)
    └── LogDamaged         no proof can be cut from a log that has faults (`engine/audit.py`)
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
SIZE_MAX = 2**63 - 1  # a log offset is a signed 64-bit number, and no tree is longer than its log
SIZE_BYTES = 8
EMPTY_ROOT = sha256(b"").digest()


class AuditFault(Exception):
    """Base of what the audit modules raise. `code` is from a closed list; the text never holds a value."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class FrontierDamaged(AuditFault):
    """These bytes are not a frontier."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf, 32 bytes (RFC 6962, section 2.1)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node over its children's hashes, 32 bytes (RFC 6962, section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree: all that is needed to append to it and to know its root (RFC 6962, section 2.1).

    `size` counts the leaves. A tree of n leaves splits into one full subtree per binary digit 1 of n; their roots,
    largest first, are the frontier. Appending adds one to n: each carry merges two roots. Not safe to share between
    threads.
    """

    __slots__ = ("_roots", "size")

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Roots of the full subtrees, largest first: one per binary digit 1 of `size`."""
        return tuple(self._roots)

    def append(self, leaf: bytes) -> int:
        """Add a leaf by its bytes; answers its index."""
        return self.append_hash(sha256(b"\x00" + leaf).digest())

    def append_hash(self, digest: bytes) -> int:
        """Add a leaf by its hash (32 bytes, from `leaf_hash`); answers its index."""
        roots = self._roots
        index = carry = self.size
        while carry & 1:
            digest = sha256(b"\x01" + roots.pop() + digest).digest()
            carry >>= 1
        roots.append(digest)
        self.size = index + 1
        return index

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves by their bytes, in order: `append` for each, without a call for each (the engine's hot path)."""
        roots, size, digest_of = self._roots, self.size, sha256
        try:
            for leaf in leaves:
                digest = digest_of(b"\x00" + leaf).digest()
                carry = size
                while carry & 1:
                    digest = digest_of(b"\x01" + roots.pop() + digest).digest()
                    carry >>= 1
                roots.append(digest)
                size += 1
        finally:
            # `leaves` may raise half-way: the size must agree with the roots that are already merged.
            self.size = size

    def root(self) -> bytes:
        """Root of the tree, 32 bytes; of the empty tree it is SHA-256 of nothing (RFC 6962, section 2.1)."""
        if not self._roots:
            return EMPTY_ROOT
        root = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """Write the frontier as it rests in state: size (8 bytes, big-endian), then the roots (32 bytes each)."""
        return self.size.to_bytes(SIZE_BYTES, "big") + b"".join(self._roots)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Frontier":
        """Read what `to_bytes` wrote. Raises `FrontierDamaged` if the number of roots does not follow from the size."""
        size = int.from_bytes(data[:SIZE_BYTES], "big")
        if size > SIZE_MAX or len(data) != SIZE_BYTES + HASH_BYTES * size.bit_count():
            raise FrontierDamaged("frontier_length")
        frontier = cls()
        frontier.size = size
        frontier._roots = [data[at : at + HASH_BYTES] for at in range(SIZE_BYTES, len(data), HASH_BYTES)]
        return frontier


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Hashes that lead from leaf `index` to the root of `leaf_hashes`, leaf's sibling first (RFC 6962, section 2.1.1).

    Time and memory grow with the number of leaves. Raises `IndexError` if there is no such leaf.
    """
    if not 0 <= index < len(leaf_hashes):
        raise IndexError("no such leaf")
    proof: list[bytes] = []
    level = list(leaf_hashes)
    while len(level) > 1:
        if (sibling := index ^ 1) < len(level):
            proof.append(level[sibling])
        pairs = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        # A node without a sibling rises unhashed. That is the RFC's split at the largest power of two, seen from below.
        level = pairs + level[len(pairs) * 2 :]
        index >>= 1
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` leads from leaf hash `leaf` at `index` to `root` of `size` leaves (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, digest = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            digest = node_hash(sibling, digest)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            digest = node_hash(digest, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and digest == root
