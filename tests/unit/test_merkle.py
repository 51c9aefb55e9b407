"""The tree is the one of RFC 6962, and a proof holds for one leaf, one place, one size and one root only."""

from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.merkle import (
    EMPTY_ROOT,
    Cutter,
    Frontier,
    FrontierDamaged,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    verify_consistency,
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


def naive_subproof(hashes: list[bytes], old: int, whole: bool) -> list[bytes]:
    """RFC 6962, section 2.1.2, word for word: SUBPROOF(m, D[n], b)."""
    if old == len(hashes):
        return [] if whole else [naive_root(hashes)]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    if old <= split:
        return [*naive_subproof(hashes[:split], old, whole), naive_root(hashes[split:])]
    return [*naive_subproof(hashes[split:], old - split, False), naive_root(hashes[:split])]


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


# The consistency proofs of Certificate Transparency's reference tests, over the reference leaves.
CT_CONSISTENCY = {
    (1, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 5): ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
}  # fmt: skip


@pytest.mark.parametrize(("old", "size"), CT_CONSISTENCY)
def test_the_reference_leaves_give_the_reference_consistency_proofs(old: int, size: int) -> None:
    proof = consistency_proof([leaf_hash(leaf) for leaf in CT_LEAVES[:size]], old)
    assert [digest.hex() for digest in proof] == CT_CONSISTENCY[old, size]
    assert verify_consistency(old, frontier_of(CT_LEAVES[:old]).root(), size, frontier_of(CT_LEAVES[:size]).root(), proof)


@pytest.mark.parametrize("size", [*range(1, 18), 31, 32, 33, 64, 65])
def test_every_prefix_is_proven_by_the_hashes_of_the_definition_and_no_other_size_by_them(size: int) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    roots = [naive_root(hashes[:old]) for old in range(size + 1)]
    for old in range(1, size + 1):
        proof = consistency_proof(hashes, old)
        assert proof == naive_subproof(hashes, old, True)
        held = [at for at in range(size + 1) if verify_consistency(at, roots[at], size, roots[size], proof)]
        assert held == ([0, size] if old == size else [old])
        assert old == size or not verify_consistency(old, roots[old], size * 4, roots[size], proof)
        assert not verify_consistency(old, roots[old - 1], size, roots[size], proof)
        assert not verify_consistency(old, roots[old], size, naive_root([*hashes[:-1], leaf_hash(b"x")]), proof)


def test_the_empty_tree_is_a_prefix_of_every_tree_and_no_tree_of_a_shorter_one() -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(5)]
    assert consistency_proof(hashes, 0) == []
    assert verify_consistency(0, EMPTY_ROOT, 5, naive_root(hashes), [])
    assert not verify_consistency(0, hashes[0], 5, naive_root(hashes), [])
    assert not verify_consistency(0, EMPTY_ROOT, 5, naive_root(hashes), hashes[:1])
    assert not verify_consistency(5, naive_root(hashes), 4, naive_root(hashes[:4]), [])
    for old in (-1, 6):
        with pytest.raises(IndexError):
            consistency_proof(hashes, old)
        assert not verify_consistency(old, naive_root(hashes), 5, naive_root(hashes), [])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.data())
def test_a_consistency_proof_with_any_bit_flipped_or_any_hash_more_or_less_fails(size: int, data: st.DataObject) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    old = data.draw(st.integers(1, size - 1))
    first, last, proof = naive_root(hashes[:old]), naive_root(hashes), consistency_proof(hashes, old)
    for place, digest in enumerate(proof):
        for flipped in flips(digest):
            assert not verify_consistency(old, first, size, last, [*proof[:place], flipped, *proof[place + 1 :]])
        assert not verify_consistency(old, first, size, last, [*proof[:place], digest[:-1], *proof[place + 1 :]])
        assert not verify_consistency(old, first, size, last, proof[:place] + proof[place + 1 :])
    for flipped in flips(first):
        assert not verify_consistency(old, flipped, size, last, proof)
    for flipped in flips(last):
        assert not verify_consistency(old, first, size, flipped, proof)
    assert not verify_consistency(old, first, size, last, [*proof, leaf_hash(b"")])
    assert not verify_consistency(old, first, size, last, [leaf_hash(b"")] * 1_000)


@given(st.integers(1, 70), st.data())
def test_one_pass_over_a_log_cuts_every_proof_that_was_wanted_in_time(size: int, data: st.DataObject) -> None:
    hashes = [leaf_hash(bytes([at])) for at in range(size)]
    wanted = data.draw(st.sets(st.integers(0, size - 1)))
    old = data.draw(st.integers(0, size))
    cutter = Cutter(size)
    cutter.want_prefix(old)
    for index, digest in enumerate([*hashes, leaf_hash(b"after the end")]):
        if index in wanted:
            cutter.want(index)
        cutter.take(digest)
    assert cutter.root() == naive_root(hashes)
    assert {index: cutter.path(index) for index in wanted} == {index: naive_path(hashes, index) for index in wanted}
    assert cutter.prefix(old) == (naive_subproof(hashes, old, True) if old else [])


def test_what_was_not_wanted_in_time_has_no_path() -> None:
    cutter = Cutter(4)
    cutter.want(1)
    cutter.take(leaf_hash(b"0"))
    for place, level in ((0, 0), (4, 0), (0, 1), (2, 1)):
        with pytest.raises(IndexError):
            cutter.want(place, level)
    with pytest.raises(IndexError):
        cutter.path(1)
    for leaf in (b"1", b"2", b"3"):
        cutter.take(leaf_hash(leaf))
    assert len(cutter.path(1)) == 2
    with pytest.raises(IndexError):
        cutter.path(2)
