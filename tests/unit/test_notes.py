"""A note is accepted in exactly one spelling, from exactly one key."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.notes import Checkpoint, NoteInvalid, Signer, open_checkpoint, open_note, read_vkey

# From the documentation of golang.org/x/mod/sumdb/note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)
GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}\n"

SIGNER = Signer("example.com/log", bytes(range(32)))
OTHER = Signer("example.com/witness", bytes(32))
CHECKPOINT = Checkpoint("example.com/log/subject/3", 20852163, bytes(range(32)))


def code_of(note: str, vkey: str) -> str:
    with pytest.raises(NoteInvalid) as fault:
        open_note(note, vkey)
    return fault.value.code


def test_the_note_of_the_go_documentation_opens() -> None:
    assert open_note(GO_NOTE, GO_VKEY) == GO_TEXT


def test_a_vkey_is_read_and_written_the_same() -> None:
    assert read_vkey(GO_VKEY).name == "PeterNeumann"
    assert read_vkey(GO_VKEY).key_id.hex() == "c74f20a3"
    assert read_vkey(SIGNER.vkey).name == SIGNER.name


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32)))), max_size=40)


@given(st.lists(texts, max_size=6))
def test_what_is_signed_is_what_is_read(lines: list[str]) -> None:
    text = "\n".join(lines) + "\n"
    assert open_note(SIGNER.sign(text), SIGNER.vkey) == text


def test_any_bit_flipped_in_a_note_is_found() -> None:
    raw = SIGNER.sign(CHECKPOINT.format()).encode()
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            text = flipped.decode()
        except UnicodeDecodeError:
            continue
        code_of(text, SIGNER.vkey)


def test_another_key_opens_nothing() -> None:
    note = SIGNER.sign("text\n")
    namesake = Signer(SIGNER.name, bytes(32))
    assert code_of(note, OTHER.vkey) == "signature_missing"
    assert code_of(note, namesake.vkey) == "signature_missing"
    assert code_of(GO_NOTE, SIGNER.vkey) == "signature_missing"


def test_the_signature_of_another_text_is_wrong() -> None:
    ours, theirs = SIGNER.sign("one\n"), SIGNER.sign("two\n")
    assert code_of("one\n\n" + theirs.partition("\n\n")[2], SIGNER.vkey) == "signature_wrong"
    # A right one beside it does not heal it.
    assert code_of(ours + theirs.partition("\n\n")[2], SIGNER.vkey) == "signature_wrong"


def test_signatures_of_witnesses_are_passed_over() -> None:
    ours, witness = SIGNER.sign("text\n"), OTHER.sign("text\n").partition("\n\n")[2]
    assert open_note(ours + witness, SIGNER.vkey) == "text\n"
    assert open_note(ours + witness, OTHER.vkey) == "text\n"
    assert open_note(ours + "— a.example AAAAAAA=\n" * 99, SIGNER.vkey) == "text\n"
    assert code_of(ours + "— a.example AAAAAAA=\n" * 100, SIGNER.vkey) == "note_malformed"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "text\n",
        "text\n\n",
        GO_NOTE[:-1],
        GO_NOTE + "\n",
        GO_NOTE.replace("\n\n", "\n"),
        GO_NOTE.replace("\n", "\r\n"),
        GO_NOTE.replace("—", "-"),
        GO_NOTE.replace("—", "–"),
        GO_NOTE.replace("— ", "—  "),
        GO_NOTE.replace("AM=", "AM"),
        GO_NOTE.replace("AM=", "AN="),
        GO_NOTE.replace("AM=", "AM= "),
        GO_NOTE.replace("crypto", "crypto\x00"),
        GO_NOTE.replace("crypto", "crypto\ud800"),
        GO_NOTE + "— PeterNeumann AAAA\n",
        GO_NOTE + "— Peter+Neumann AAAAAAA=\n",
        GO_NOTE + "—  AAAAAAA=\n",
        GO_NOTE + "anything\n",
        GO_NOTE + "anything",
        "x" * 1_000_001 + GO_NOTE,
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    assert code_of(note, GO_VKEY) == "note_malformed"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        GO_VKEY.replace("c7", "C7"),
        GO_VKEY.replace("c7", "c8"),
        GO_VKEY.replace("Peter", "Pieter"),
        GO_VKEY.replace("PeterNeumann", ""),
        GO_VKEY.replace("PeterNeumann", "Peter Neumann"),
        GO_VKEY.replace("PeterNeumann", "\ud800"),
        GO_VKEY.replace("+ARpc", "+ABpc"),
        GO_VKEY.replace("+ARpc", "+AhpC"),
        GO_VKEY[:-4],
        GO_VKEY + "\n",
    ],
)
def test_a_malformed_vkey_is_refused(vkey: str) -> None:
    assert code_of(GO_NOTE, vkey) == "key_malformed"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2003b", "a\tb", "a\x00b"])
def test_a_name_that_would_break_the_format_signs_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="neither spaces nor plus"):
        Signer(name, bytes(32))
    with pytest.raises(ValueError, match="neither spaces nor plus"):
        Checkpoint(name, 0, bytes(32)).format()


@pytest.mark.parametrize("text", ["", "no newline", "a\r\n", "a\x00\n", "a\ud800\n", "x" * 1_000_000 + "\n"])
def test_a_text_that_no_one_could_open_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match="newline") as fault:
        SIGNER.sign(text)
    assert "x" * 9 not in str(fault.value)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    assert CHECKPOINT.format() == (
        "example.com/log/subject/3\n20852163\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    )
    assert Checkpoint.parse(CHECKPOINT.format()) == CHECKPOINT
    assert open_checkpoint(SIGNER.sign(CHECKPOINT.format()), SIGNER.vkey) == CHECKPOINT
    assert Checkpoint.parse(Checkpoint("log", 0, bytes(32)).format()).size == 0


ROOT = b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"log\n1\n{ROOT}",
        f"log\n1\n{ROOT}\n\n",
        f"log\n1\n{ROOT}\nextension\n",
        f"\n1\n{ROOT}\n",
        f"lo g\n1\n{ROOT}\n",
        f"log\n\n{ROOT}\n",
        f"log\n01\n{ROOT}\n",
        f"log\n00\n{ROOT}\n",
        f"log\n-1\n{ROOT}\n",
        f"log\n+1\n{ROOT}\n",
        f"log\n1_0\n{ROOT}\n",
        f"log\n 1\n{ROOT}\n",
        f"log\n²\n{ROOT}\n",
        f"log\n٣\n{ROOT}\n",
        f"log\n{2**63}\n{ROOT}\n",
        f"log\n1\n{ROOT[:-2]}9=\n",
        f"log\n1\n{ROOT[:-1]}\n",
        f"log\n1\n {ROOT}\n",
        f"log\n1\n{b64encode(bytes(31)).decode()}\n",
        f"log\n1\n{b64encode(bytes(33)).decode()}\n",
    ],
)
def test_a_checkpoint_has_one_spelling(text: str) -> None:
    with pytest.raises(NoteInvalid) as fault:
        Checkpoint.parse(text)
    assert fault.value.code == "checkpoint_malformed"


def test_a_second_spelling_of_the_same_root_is_refused() -> None:
    # The case above with "9=" must be the same 32 bytes to a lax reader, or it would test nothing.
    assert b64decode(ROOT[:-2] + "9=") == b64decode(ROOT)


@pytest.mark.parametrize(("size", "root"), [(-1, bytes(32)), (2**63, bytes(32)), (1, bytes(31))])
def test_a_checkpoint_that_cannot_be_is_not_written(size: int, root: bytes) -> None:
    with pytest.raises(ValueError, match="a root is 32 bytes"):
        Checkpoint("log", size, root).format()


def test_the_seed_has_one_length_and_shows_nowhere() -> None:
    with pytest.raises(ValueError, match="32"):
        Signer("log", bytes(31))
    assert bytes(range(32)).hex() not in repr(SIGNER)
