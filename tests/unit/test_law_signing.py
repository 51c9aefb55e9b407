"""Signed packs: what a trusted key signed is read, and what differs from it by one row is refused by name."""

from pathlib import Path

import msgspec
import pytest

from engine.notes import Signer, open_note
from law.book import SHIPPED, shipped
from law.reading import PackRefused, read_pack
from law.rows import Pack
from law.signing import RELEASE_KEY, content_of, digest_of, read_folder, read_signed, statement_of, verify

ACME, OTHER = Signer("acme.example/law", bytes(32)), Signer("acme.example/law", b"\1" * 32)


def note(pack: Pack, *signers: Signer) -> str:
    notes = [signer.sign(statement_of(pack)) for signer in signers]
    return notes[0] + "".join(text.rpartition("\n\n")[2] for text in notes[1:])


def test_every_shipped_pack_is_signed_by_the_release_key() -> None:
    assert len(shipped().packs) >= 9
    for path in sorted(SHIPPED.glob("*.yaml")):
        assert read_signed(path, [RELEASE_KEY]).pack == path.stem


def test_a_note_of_the_house_and_one_of_a_pack_are_one_format() -> None:
    pack = shipped().packs[0]
    assert verify(pack, note(pack, ACME), [ACME.vkey]) == ACME.name
    assert open_note(note(pack, ACME), ACME.vkey) == statement_of(pack)
    assert verify(pack, note(pack, OTHER, ACME), [RELEASE_KEY, ACME.vkey]) == ACME.name


def test_a_comment_changes_no_pack_and_a_word_of_a_note_does() -> None:
    path = SHIPPED / "pci.yaml"
    text = path.read_text()
    assert digest_of(read_pack("# seen\n" + text)) == digest_of(read_pack(path))
    assert digest_of(read_pack(text.replace("audio", "ink"))) != digest_of(read_pack(path))
    assert content_of(read_pack(path)).startswith(b'{"pack":"pci","rows":[{"absolute":true,')


@pytest.mark.parametrize("fault", ["row", "version", "key", "bit", "absent", "text"])
def test_a_pack_whose_signature_does_not_hold_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "pci.yaml"
    path.write_text((SHIPPED / "pci.yaml").read_text())
    signed = note(read_pack(path), ACME)
    if fault == "row":
        path.write_text(path.read_text().replace("absolute: true", "absolute: false"))
    elif fault == "version":
        path.write_text(path.read_text().replace("2026.1", "2026.2"))
    elif fault == "bit":
        signed = signed[:-3] + ("A" if signed[-3] != "A" else "E") + signed[-2:]
    elif fault == "text":
        signed = "not a note"
    if fault != "absent":
        (tmp_path / "pci.sig").write_text(signed)
    with pytest.raises(PackRefused, match=r"pci@2026\.[12]: (unsigned|wrong-signature)"):
        read_folder(tmp_path, [OTHER.vkey if fault == "key" else ACME.vkey])


def test_a_field_that_a_later_release_adds_changes_no_hash() -> None:
    class Later(Pack, frozen=True, kw_only=True, omit_defaults=True):
        colour: str = ""

    pack = shipped().packs[0]
    later = Later(**{name: getattr(pack, name) for name in Pack.__struct_fields__})
    assert msgspec.json.encode(later, order="sorted") == content_of(pack)
