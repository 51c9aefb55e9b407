"""The tree is the one of RFC 6962, and a proof holds for one leaf, one place, one size and one root only."""

from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.merkle import (
    EMPTY_ROOT,
    Frontier,
    FrontierDamaged,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_inclusion,
)

# The reference leaves of Certificate Transparency, and the root over the first n of them.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}

leaves_of_a_log = st.lists(st.binary(max_size=8), max_size=70)


def naive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: split at the largest power of two below n."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])).digest()


def naive_path(hashes: list[bytes], index: int) -> list[bytes]:
    """RFC 6962, section 2.1.1, word for word."""
    if len(hashes) == 1:
        return []
    split = 1 << (len(hashes) - 1).bit_length() - 1
    if index < split:
        return [*naive_path(hashes[:split], index), naive_root(hashes[split:])]
    return [*naive_path(hashes[split:], index - split), naive_root(hashes[:split])]


def frontier_of(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier


def flips(data: bytes) -> Iterator[bytes]:
    for bit in range(len(data) * 8):
        yield bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))


@pytest.mark.parametrize("size", CT_ROOTS)
def test_the_reference_leaves_give_the_reference_roots(size: int) -> None:
    assert frontier_of(CT_LEAVES[:size]).root().hex() == CT_ROOTS[size]


def test_a_leaf_and_a_node_over_the_same_bytes_differ() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert node_hash(left, right) != leaf_hash(left + right)
    assert Frontier().root() == EMPTY_ROOT


@given(leaves_of_a_log, st.integers(0, 70))
def test_however_a_log_grows_its_root_is_that_of_the_definition(leaves: list[bytes], cut: int) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    one, many, half = frontier_of(leaves), Frontier(), Frontier()
    many.extend(leaves)
    half.extend(leaves[:cut])
    half = Frontier.from_bytes(half.to_bytes())
    for digest in hashes[cut:]:
        half.append_hash(digest)
    assert one.root() == many.root() == half.root() == naive_root(hashes)
    assert one.size == many.size == half.size == len(leaves)
    assert one.roots == many.roots == half.roots
    assert len(one.roots) == len(leaves).bit_count()


def test_append_answers_the_index_of_the_leaf() -> None:
    frontier = Frontier()
    assert [frontier.append(b"x") for _ in range(5)] == [0, 1, 2, 3, 4]


def test_a_batch_that_breaks_off_leaves_a_frontier_that_is_true() -> None:
    def two_then_fail() -> Iterator[bytes]:
        yield from (b"a", b"b", b"c")
        raise RuntimeError

    frontier = Frontier()
    with pytest.raises(RuntimeError):
        frontier.extend(two_then_fail())
    assert frontier.to_bytes() == frontier_of([b"a", b"b", b"c"]).to_bytes()


def test_a_frontier_rests_in_few_bytes() -> None:
    assert Frontier().to_bytes() == bytes(8)
    assert len(frontier_of([b"x"] * 1023).to_bytes()) == 8 + 32 * 10


@pytest.mark.parametrize("length", [0, 4, 8, 8 + 32 * 3 - 1, 8 + 32 * 3 + 1, 8 + 32 * 4])
def test_bytes_that_are_no_frontier_are_refused(length: int) -> None:
    data = frontier_of(CT_LEAVES[:7]).to_bytes() + bytes(32)
    with pytest.raises(FrontierDamaged) as fault:
        Frontier.from_bytes(data[:length])
    assert fault.value.code == "frontier_length"


def test_a_size_beyond_a_log_is_no_frontier() -> None:
    with pytest.raises(FrontierDamaged):
        Frontier.from_bytes((1 << 63).to_bytes(8, "big") + bytes(32))


@pytest.mark.parametrize("size", [*range(1, 18), 31, 32, 33, 64, 65])
def test_every_leaf_can_be_proven_by_the_path_of_the_definition(size: int) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    root = naive_root(hashes)
    for index in range(size):
        proof = inclusion_proof(hashes, index)
        assert proof == naive_path(hashes, index)
        assert verify_inclusion(hashes[index], index, size, proof, root)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError):
        inclusion_proof([leaf_hash(b"")] * 3, index)


def test_a_proof_holds_at_one_index_only() -> None:
    # By the algorithm of the RFC another size may verify where the path has the same shape: what ties a proof to its
    # size is the signed checkpoint, which names size and root.
    hashes = [leaf_hash(bytes([at])) for at in range(11)]
    root = naive_root(hashes)
    for index in range(11):
        proof = inclusion_proof(hashes, index)
        assert [at for at in range(-1, 14) if verify_inclusion(hashes[index], at, 11, proof, root)] == [index]


@settings(max_examples=40)
@given(st.integers(2, 20), st.data())
def test_a_proof_with_any_bit_flipped_fails(size: int, data: st.DataObject) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root, proof = naive_root(hashes), inclusion_proof(hashes, index)
    place = data.draw(st.integers(0, len(proof) - 1))
    for flipped in flips(proof[place]):
        assert not verify_inclusion(hashes[index], index, size, [*proof[:place], flipped, *proof[place + 1 :]], root)
    for flipped in flips(root):
        assert not verify_inclusion(hashes[index], index, size, proof, flipped)
    for flipped in flips(hashes[index]):
        assert not verify_inclusion(flipped, index, size, proof, root)


@given(st.integers(1, 20), st.data())
def test_a_proof_that_is_too_short_or_too_long_fails(size: int, data: st.DataObject) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root, proof = naive_root(hashes), inclusion_proof(hashes, index)
    assert not verify_inclusion(hashes[index], index, size, [*proof, leaf_hash(b"")], root)
    if proof:
        assert not verify_inclusion(hashes[index], index, size, proof[:-1], root)
        assert not verify_inclusion(hashes[index], index, size, proof[1:], root)
        assert not verify_inclusion(hashes[index], index, size, [*proof[:-1], proof[-1][:-1]], root)


@pytest.mark.parametrize("size", [2, 3, 4, 8, 13])
def test_the_last_leaf_of_a_tree_is_not_the_only_leaf_of_one(size: int) -> None:
    # Its path takes left siblings only, so a reader that does not count steps would follow it from a smaller size.
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    proof = inclusion_proof(hashes, size - 1)
    assert not verify_inclusion(hashes[-1], 0, 1, proof, naive_root(hashes))
