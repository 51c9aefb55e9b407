"""A proof file and a public key convince someone who has nothing else; the same file with one bit changed does not."""

from base64 import b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash
from engine.notes import NOTE_CHARS_MAX, Checkpoint, Signer
from engine.proofs import ProofInvalid, check_consistency, check_proof, read_proof, write_consistency, write_proof

SIGNER = Signer("example.com/log", bytes(range(32)))
ORIGIN = "example.com/log/subject/3"
LEAVES = [b"leaf %d" % at for at in range(13)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def checkpoint_of(size: int, origin: str = ORIGIN) -> Checkpoint:
    tree = Frontier()
    tree.extend(LEAVES[:size])
    return Checkpoint(origin, size, tree.root())


def file_of(index: int, size: int = 13, *, extra: bool = True, signer: Signer = SIGNER) -> str:
    note = signer.sign(checkpoint_of(size).format())
    return write_proof(LEAVES[index] if extra else None, index, inclusion_proof(HASHES[:size], index), note)


def code_of(text: str | bytes, leaf: bytes | None = None, vkey: str = SIGNER.vkey, origin: str | None = ORIGIN) -> str:
    with pytest.raises(ProofInvalid) as fault:
        check_proof(text, leaf, vkey, origin)
    return fault.value.code


def test_the_file_is_the_one_of_the_specification() -> None:
    lines = file_of(1, 2).split("\n")
    assert lines[:7] == [
        "c2sp.org/tlog-proof@v1",
        "extra " + b64encode(b"leaf 1").decode(),
        "index 1",
        b64encode(HASHES[0]).decode(),
        "",
        ORIGIN,
        "2",
    ]
    assert lines[9].startswith("— example.com/log ")
    assert file_of(1, 2, extra=False).split("\n")[:2] == ["c2sp.org/tlog-proof@v1", "index 1"]


@given(st.integers(1, 13), st.data())
def test_every_leaf_is_proven_by_file_and_key_alone(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    text = file_of(index, size)
    assert check_proof(text, None, SIGNER.vkey, None) == checkpoint_of(size)
    assert check_proof(text.encode(), LEAVES[index], SIGNER.vkey, ORIGIN) == checkpoint_of(size)
    assert check_proof(file_of(index, size, extra=False), LEAVES[index], SIGNER.vkey, ORIGIN) == checkpoint_of(size)
    assert read_proof(text).extra == LEAVES[index]
    assert read_proof(text).index == index


@pytest.mark.parametrize(("index", "size"), [(0, 1), (4, 5), (7, 13)])
def test_any_bit_flipped_in_the_file_is_found(index: int, size: int) -> None:
    raw = file_of(index, size).encode()
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        code_of(bytes(flipped))


@settings(max_examples=60)
@given(st.data())
def test_any_bytes_lost_or_added_are_found(data: st.DataObject) -> None:
    raw = file_of(7).encode()
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, len(raw)))
    new = data.draw(st.binary(max_size=4))
    # A signature line of another key may follow by the specification; four bytes are too few for one.
    if raw[start:stop] != new:
        code_of(raw[:start] + new + raw[stop:])


def test_the_file_proves_its_own_leaf_only() -> None:
    assert code_of(file_of(3), b"leaf 4") == "leaf_differs"
    assert code_of(file_of(3, extra=False), b"leaf 4") == "not_included"
    assert code_of(file_of(3, extra=False)) == "leaf_missing"
    forged = file_of(3).replace(b64encode(b"leaf 3").decode(), b64encode(b"leaf 4").decode())
    assert code_of(forged) == "not_included"


def test_the_checkpoint_must_be_of_this_key_and_this_origin() -> None:
    other = Signer(SIGNER.name, bytes(32))
    assert code_of(file_of(3), vkey=other.vkey) == "signature_missing"
    assert code_of(file_of(3, signer=other)) == "signature_missing"
    assert code_of(file_of(3), origin="example.com/log/subject/4") == "origin_differs"
    assert code_of(file_of(3), vkey="no key") == "key_malformed"
    head, _, _ = file_of(3).partition("\n\n")
    assert code_of(head + "\n\n" + SIGNER.sign("no checkpoint\n")) == "checkpoint_malformed"


def test_the_proof_of_another_size_or_index_fails() -> None:
    late = SIGNER.sign(checkpoint_of(13).format())
    assert code_of(write_proof(LEAVES[3], 3, inclusion_proof(HASHES[:5], 3), late)) == "not_included"
    assert code_of(write_proof(LEAVES[3], 2, inclusion_proof(HASHES, 3), late)) == "not_included"
    assert code_of(write_proof(LEAVES[3], 13, inclusion_proof(HASHES, 3), late)) == "not_included"


LINES = file_of(7).split("\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        b"\xff",
        "\n\n",
        "\n".join(LINES[:5]),
        "\n".join(LINES[:3]),
        "\n".join(LINES[1:]),
        "\n".join([*LINES[:2], *LINES[3:]]),
        "\n".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]),
        "\n".join([LINES[0], LINES[1], *LINES[1:]]),
        file_of(7).replace("@v1", "@v2"),
        file_of(7).replace("index 7", "index 07"),
        file_of(7).replace("index 7", "index  7"),
        file_of(7).replace("index 7", "index -7"),
        file_of(7).replace("index 7", "index ٧"),
        file_of(7).replace("extra ", "extra  "),
        file_of(7).replace("\n", "\r\n"),
        file_of(7).replace(LINES[3], LINES[3][:-4]),
        file_of(7).replace(LINES[3], LINES[3] + " "),
        file_of(7).replace(LINES[3], "\n".join([LINES[3]] * 64)),
        file_of(7) + " " * 3_000_000,
    ],
)
def test_a_malformed_file_is_refused(text: str | bytes) -> None:
    assert code_of(text) == "proof_malformed"


def test_parts_out_of_bounds_are_not_written() -> None:
    note = SIGNER.sign(checkpoint_of(13).format())
    for index, hashes in ((-1, []), (0, [bytes(31)]), (0, [bytes(32)] * 64)):
        with pytest.raises(ValueError, match="at most 63 hashes"):
            write_proof(b"", index, hashes, note)
    with pytest.raises(ValueError, match="at most 1 MiB"):
        write_proof(bytes(2**20 + 1), 0, [], note)


def test_the_largest_leaf_and_note_fit() -> None:
    leaf = bytes(2**20)
    note = SIGNER.sign(Checkpoint(ORIGIN, 1, leaf_hash(leaf)).format())
    assert check_proof(write_proof(leaf, 0, [], note), None, SIGNER.vkey, ORIGIN).size == 1
    assert read_proof(write_proof(leaf, 2**63 - 1, [bytes(32)] * 63, "x" * NOTE_CHARS_MAX)).extra == leaf


def note_of(size: int, origin: str = ORIGIN, signer: Signer = SIGNER) -> str:
    return signer.sign(checkpoint_of(size, origin).format())


def growth_of(old: int, size: int = 13) -> str:
    return write_consistency(old, consistency_proof(HASHES[:size], old), note_of(size))


def fault_of_growth(text: str | bytes, kept: str | bytes, vkey: str = SIGNER.vkey) -> str:
    with pytest.raises(ProofInvalid) as fault:
        check_consistency(text, kept, vkey)
    return fault.value.code


def test_the_consistency_file_is_the_request_to_a_witness() -> None:
    lines = growth_of(6, 8).split("\n")
    assert lines[0] == "old 6" and lines[4:7] == ["", ORIGIN, "8"]
    assert lines[1:4] == [b64encode(digest).decode() for digest in consistency_proof(HASHES[:8], 6)]
    assert growth_of(0).startswith("old 0\n\n" + ORIGIN) and growth_of(13).startswith("old 13\n\n" + ORIGIN)


@pytest.mark.parametrize("old", range(14))
def test_every_kept_checkpoint_is_a_prefix_by_file_and_key_alone(old: int) -> None:
    expected = checkpoint_of(old), checkpoint_of(13)
    assert check_consistency(growth_of(old), note_of(old), SIGNER.vkey) == expected
    assert check_consistency(growth_of(old).encode(), note_of(old).encode(), SIGNER.vkey) == expected


def test_any_bit_flipped_in_consistency_file_or_kept_checkpoint_is_found() -> None:
    files = growth_of(6, 8).encode(), note_of(6).encode()
    for which, raw in enumerate(files):
        for bit in range(len(raw) * 8):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            fault_of_growth(*(bytes(flipped) if which == place else file for place, file in enumerate(files)))


def test_a_log_that_was_rewritten_or_rolled_back_and_signed_anew_is_found() -> None:
    kept = note_of(6)
    other = [leaf_hash(b"rewritten"), *HASHES[1:]]
    tree = Frontier()
    for digest in other:
        tree.append_hash(digest)
    rewritten = SIGNER.sign(Checkpoint(ORIGIN, 13, tree.root()).format())
    for hashes in (consistency_proof(other, 6), consistency_proof(HASHES, 6)):
        assert fault_of_growth(write_consistency(6, hashes, rewritten), kept) == "not_a_prefix"
    assert fault_of_growth(write_consistency(6, [], note_of(5)), kept) == "not_a_prefix"
    assert fault_of_growth(growth_of(5), kept) == "size_differs"
    assert fault_of_growth(growth_of(6), note_of(6, "example.com/log/subject/4")) == "origin_differs"


def test_hostile_consistency_files_are_refused() -> None:
    kept, good = note_of(6), growth_of(6)
    head, _, note = good.partition("\n\n")
    line = b64encode(bytes(32)).decode()
    for text in (
        "", "old 6", note, head, "old 06\n\n" + note, "old -1\n\n" + note, "old 6\n \n\n" + note, "\n" + good,
        "old 6\n" + "\n".join([line] * 64) + "\n\n" + note, "old 6\n" + line[:-4] + "\n\n" + note, "x" * 10_000_000, b"\xff",
        "old 6 \n\n" + note,
    ):  # fmt: skip
        assert fault_of_growth(text, kept) == "proof_malformed"
    assert fault_of_growth(good, b"\xff") == "proof_malformed"
    stranger = Signer("example.com/log", bytes(32))
    assert fault_of_growth(good, note_of(6, signer=stranger)) == "signature_missing"
    assert fault_of_growth(good, kept, stranger.vkey) == "signature_missing"
    with pytest.raises(ValueError, match="63 hashes"):
        write_consistency(1, [b"short"], note)
