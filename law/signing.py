r"""Who vouches for a pack: its content hash in a note that a trusted Ed25519 key signed (C2SP signed-note, as checkpoints are).

    gdpr.yaml       the pack
    gdpr.sig        note: "consentinel-law-pack/1\n" name@version "\n" SHA-256 in hexadecimal "\n", and its signatures

The hash is over the pack's content as canonical JSON: keys in order, no blanks, what has its default left out. So a comment
or the order of keys in the YAML changes nothing, and a row, a date, a source or a note does.

A good signature shows that whoever holds the key saw exactly these rows. It does not show that the rows are the law, and for the
shipped packs it guards nothing against whoever can also change this code: the key that they are checked by stands in it.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from law.reading import PackRefused, read_pack, read_text
from law.rows import Pack

KIND = "consentinel-law-pack/1"
SUFFIX = ".sig"
RELEASE_KEY = "consentinel/law-release+e6bd6777+AcyJpMlCaNYlMZxyQAgd4iBDhVru11RcmUOGphvz5dzF"
ALGORITHM = b"\x01"  # Ed25519 in C2SP signed-note
KEY_ID_BYTES = 4
NOTE_CHARS_MAX = 65_536
VKEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")


def content_of(pack: Pack) -> bytes:
    """The pack as canonical JSON, UTF-8."""
    return msgspec.json.encode(pack, order="sorted")


def digest_of(pack: Pack) -> str:
    """SHA-256 of the content, in hexadecimal."""
    return sha256(content_of(pack)).hexdigest()


def statement_of(pack: Pack) -> str:
    """What is signed: the text of the note."""
    return f"{KIND}\n{pack.name}\n{digest_of(pack)}\n"


def read_key(vkey: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """Name, key id and key of a verifier key `name+keyid+base64(0x01 ‖ public key)`. Raises `ValueError`."""
    found = VKEY.fullmatch(vkey)
    if found is None:
        raise ValueError("not a verifier key: name+keyid+base64")
    name, hex_id, encoded = found.groups()
    key = b64decode(encoded, validate=True)
    key_id = sha256(name.encode() + b"\n" + key).digest()[:KEY_ID_BYTES]
    if key[:1] != ALGORITHM or key_id.hex() != hex_id:
        raise ValueError("not an Ed25519 verifier key")
    return name, key_id, Ed25519PublicKey.from_public_bytes(key[1:])


def verify(pack: Pack, note: str | None, vkeys: Iterable[str]) -> str:
    """The name of the trusted key that signed this pack. Raises `PackRefused`: `unsigned`, `wrong-signature`.

    Signatures of keys that are not trusted here are passed over; one wrong signature of a trusted key spoils the note.
    """
    if note is None:
        raise PackRefused(pack.name, "unsigned", "there is no note beside it")
    head, blank, tail = note.rpartition("\n\n")
    if not blank or len(note) > NOTE_CHARS_MAX or head + "\n" != statement_of(pack):
        raise PackRefused(pack.name, "wrong-signature", "the note is about another content")
    trusted = {(name, key_id): key for name, key_id, key in map(read_key, vkeys)}
    signer = ""
    for line in tail.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        try:
            signature = b64decode(encoded, validate=True)
        except ValueError:
            signature = b""
        if dash != "—" or len(signature) <= KEY_ID_BYTES or b64encode(signature).decode() != encoded:
            raise PackRefused(pack.name, "wrong-signature", "the note is malformed")
        key = trusted.get((name, signature[:KEY_ID_BYTES]))
        if key is None:
            continue
        try:
            key.verify(signature[KEY_ID_BYTES:], (head + "\n").encode())
        except InvalidSignature:
            raise PackRefused(pack.name, "wrong-signature", "not by the key that it names") from None
        signer = name
    if not signer:
        raise PackRefused(pack.name, "unsigned", "no trusted key signed it")
    return signer


def read_signed(path: Path, vkeys: Iterable[str]) -> Pack:
    """A pack whose note, beside it, a trusted key signed. Raises `PackRefused`."""
    pack, note = read_pack(path), path.with_suffix(SUFFIX)
    try:
        text = read_text(note, NOTE_CHARS_MAX) if note.exists() else None
    except (OSError, UnicodeDecodeError):
        text = ""
    verify(pack, text, vkeys)
    return pack


def read_folder(folder: Path, vkeys: Iterable[str]) -> list[Pack]:
    """Every pack of a folder: `gdpr.yaml`, and further versions as `gdpr@2025.1.yaml`. Raises `PackRefused`."""
    return [read_signed(path, vkeys) for path in sorted(folder.glob("*.yaml"))]
