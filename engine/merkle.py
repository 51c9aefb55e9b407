"""Merkle trees of RFC 6962: at most 2 KB hold a log of any length to its word, and every leaf's place can be proven.

A hash is SHA-256 over 0x00 ‖ leaf or 0x01 ‖ left ‖ right (RFC 6962, section 2.1): a leaf can never pass for a node.

    AuditFault             what the audit modules raise; `code` comes from a closed list
    ├── FrontierDamaged    these bytes are not a frontier (`engine/merkle.py`)
    ├── NoteInvalid        not a note that this key signed (`engine/notes.py`)
    ├── ProofInvalid       this file does not prove what it claims (`engine/proofs.py`)
    ├── ReceiptInvalid     this file is no receipt that this key signed (`engine/receipts.py`)
    └── LogDamaged         no proof can be cut from a log that has faults (`engine/audit.py`)
"""

from collections.abc import Iterable, Iterator, Sequence
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
        return _merged(self._roots)

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


class Cutter:
    """Cuts proofs from a log that is read once, front to back. Memory: O(log n) hashes for each node that is wanted.

    `want` a node before its first leaf comes: its left siblings are at hand then, the right ones come later. `take` the
    hash of each leaf in order; what follows the first `size` is passed over. Then ask for paths. A node is (level, place):
    the leaves from place * 2^level on, 2^level of them. A leaf is a node of level 0.

    Raises `IndexError` for what nobody wanted in time, and for paths before the last leaf has come.
    """

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._roots: list[bytes] = []  # as in `Frontier`
        self._nodes: dict[tuple[int, int], bytes | None] = {}  # None: still to come

    def want(self, place: int, level: int = 0) -> None:
        """Collect what the path of a node needs."""
        if place << level < self.taken or (place + 1) << level > self.size:
            raise IndexError("no such leaf, or too late")
        for height, at in _siblings(level, place, self.size):
            if (at + 1) << height <= self.taken:
                # It is still a root of its own: what would merge it is the subtree of the node itself.
                self._nodes[height, at] = self._roots[(self.taken >> (height + 1)).bit_count()]
            elif (at + 1) << height <= self.size:
                self._nodes.setdefault((height, at))

    def want_prefix(self, old: int) -> None:
        """Collect what the proof needs that the first `old` leaves are a prefix."""
        if not 0 <= old <= self.size:
            raise IndexError("longer than the log")
        if 0 < old < self.size:
            level, place = _last_subtree(old)
            self.want(place, level)
            self._nodes.setdefault((level, place))

    def take(self, digest: bytes) -> None:
        """Take the hash of the next leaf, 32 bytes."""
        if self.taken == self.size:
            return
        nodes, roots = self._nodes, self._roots
        level, place = 0, self.taken
        if (level, place) in nodes:
            nodes[level, place] = digest
        while place & 1:
            digest = node_hash(roots.pop(), digest)
            level, place = level + 1, place >> 1
            if (level, place) in nodes:
                nodes[level, place] = digest
        roots.append(digest)
        self.taken += 1

    def root(self) -> bytes:
        """Root of the leaves that have come: to be compared with the one that was signed."""
        return _merged(self._roots)

    def path(self, place: int, level: int = 0) -> list[bytes]:
        """The audit path of a wanted node, its sibling first (RFC 6962, section 2.1.1)."""
        if self.taken < self.size:
            raise IndexError("the log has not come to its end")
        return [self._node(height, at) for height, at in _siblings(level, place, self.size)]

    def prefix(self, old: int) -> list[bytes]:
        """The consistency proof from `old` leaves to all, for the prefix that was wanted (RFC 6962, section 2.1.2)."""
        if old in (0, self.size):
            return []
        level, place = _last_subtree(old)
        # Where the old tree is one full subtree, its root is what the reader has already.
        return ([] if place == 0 else [self._node(level, place)]) + self.path(place, level)

    def _node(self, level: int, place: int) -> bytes:
        start = place << level
        if start + (1 << level) > self.size:  # ragged: the last roots cover it exactly
            return _merged(self._roots[-(self.size - start).bit_count() :])
        digest = self._nodes.get((level, place))
        if digest is None:
            raise IndexError("not wanted in time")
        return digest


def consistency_proof(leaf_hashes: Sequence[bytes], old: int) -> list[bytes]:
    """Hashes that show the first `old` of `leaf_hashes` to be a prefix of all (RFC 6962, section 2.1.2).

    Empty for none and for all of them. Raises `IndexError` where there are fewer than `old`.
    """
    cutter = Cutter(len(leaf_hashes))
    cutter.want_prefix(old)
    for digest in leaf_hashes:
        cutter.take(digest)
    return cutter.prefix(old)


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `old` leaves is a prefix of the one of `size` (RFC 9162, section 2.1.4.2).

    An empty tree is a prefix of every tree, which takes no proof (C2SP tlog-witness).
    """
    if not 0 <= old <= size or len(proof) > SIZE_MAX.bit_length() or any(len(digest) != HASH_BYTES for digest in proof):
        return False
    if old in (0, size):
        return not proof and old_root == (EMPTY_ROOT if old == 0 else root)
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    fn, sn = old - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    if not proof:
        return False
    fr = sr = path[0]
    for digest in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(digest, fr), node_hash(digest, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, digest)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == root


def _merged(roots: Sequence[bytes]) -> bytes:
    """Root over the roots of full subtrees, largest first."""
    if not roots:
        return EMPTY_ROOT
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = node_hash(left, root)
    return root


def _siblings(level: int, place: int, size: int) -> Iterator[tuple[int, int]]:
    """The nodes on the path from a node to the root of `size` leaves. The last one of a level may be ragged."""
    last = (size - 1) >> level
    while last:
        if (sibling := place ^ 1) <= last:
            yield level, sibling
        level, place, last = level + 1, place >> 1, last >> 1


def _last_subtree(size: int) -> tuple[int, int]:
    """The smallest full subtree at the right edge of `size` leaves: where a consistency proof begins."""
    level = (size & -size).bit_length() - 1
    return level, (size >> level) - 1
