r"""Signed notes and checkpoints: a text counts only if the trusted key signed exactly these bytes.

The formats are C2SP signed-note and tlog-checkpoint, with Ed25519:

    note        text "\n" signature+            the text ends in a newline; other control characters are refused
    signature   "— " name " " base64(key id ‖ Ed25519 signature) "\n"
    key id      SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)[:4]
    vkey        name "+" key id in hexadecimal "+" base64(0x01 ‖ public key)
    checkpoint  origin "\n" size "\n" base64(root) "\n", as the text of a note

Everything has one spelling only: base64 is canonical, numbers have no leading zeros. What differs by a bit is refused.
"""

import re
from base64 import b64decode, b64encode
from functools import lru_cache
from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine.merkle import HASH_BYTES, SIZE_MAX, AuditFault

ALGORITHM = b"\x01"  # Ed25519; the other types of C2SP signed-note are other keys' signatures, which we pass over
KEY_ID_BYTES = 4
PUBLIC_KEY_BYTES = 32
# Go's sumdb/note draws the same two lines, so that a note costs bounded work before it is trusted.
NOTE_CHARS_MAX = 1_000_000
SIGNATURES_MAX = 100
NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
# Controls other than newline, and lone surrogates: the one thing in a Python text that has no UTF-8.
REFUSED = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
HEX_KEY_ID = re.compile(r"[0-9a-f]{8}")


class NoteInvalid(AuditFault):
    """Not a note that this key signed.

    Codes: `key_malformed`, `note_malformed`, `signature_missing` (none by this key), `signature_wrong`,
    `checkpoint_malformed`.
    """


class Verifier(msgspec.Struct, frozen=True):
    """A trusted key, read from its vkey text."""

    name: str
    key_id: bytes
    public: Ed25519PublicKey


def is_name(name: str) -> bool:
    """Whether `name` may name a key: not empty, no spaces, no plus (C2SP signed-note), no control characters."""
    return bool(name) and "+" not in name and not any(char.isspace() for char in name) and not REFUSED.search(name)


def strict_number(text: str) -> int | None:
    """Read a number if `text` is its only decimal spelling and it fits a tree size; else None."""
    if not NUMBER.fullmatch(text) or (number := int(text)) > SIZE_MAX:
        return None
    return number


def strict_base64(text: str) -> bytes | None:
    """Read bytes if `text` is their only spelling in base64 (RFC 4648, sections 3.5 and 4); else None."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    # The decoder forgives spare bits in the last character. A second spelling would be a change that no one sees.
    return data if b64encode(data).decode() == text else None


def key_id_of(name: str, public: bytes) -> bytes:
    """Key id of an Ed25519 key, 4 bytes (C2SP signed-note, Ed25519 signatures)."""
    return sha256(name.encode() + b"\n" + ALGORITHM + public).digest()[:KEY_ID_BYTES]


@lru_cache(maxsize=64)
def read_vkey(vkey: str) -> Verifier:
    """Read `name+keyid+base64(0x01 ‖ public key)`. Raises `NoteInvalid` (`key_malformed`)."""
    name, _, rest = vkey.partition("+")
    hex_id, _, encoded = rest.partition("+")
    key = strict_base64(encoded)
    if not is_name(name) or not HEX_KEY_ID.fullmatch(hex_id) or key is None:
        raise NoteInvalid("key_malformed")
    public = key[len(ALGORITHM) :]
    if not key.startswith(ALGORITHM) or len(public) != PUBLIC_KEY_BYTES or key_id_of(name, public).hex() != hex_id:
        raise NoteInvalid("key_malformed")
    return Verifier(name, bytes.fromhex(hex_id), Ed25519PublicKey.from_public_bytes(public))


class Signer:
    """Signs notes as `name` with the Ed25519 key of `seed` (32 bytes, RFC 8032). `vkey` is the public half, as text.

    Raises `ValueError` for a name with spaces or a plus, or a seed of another length.
    """

    __slots__ = ("_key", "_key_id", "name", "vkey")

    def __init__(self, name: str, seed: bytes) -> None:
        if not is_name(name):
            raise ValueError("a key name holds neither spaces nor plus")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._key.public_key().public_bytes_raw()
        self._key_id = key_id_of(name, public)
        self.name = name
        self.vkey = f"{name}+{self._key_id.hex()}+{b64encode(ALGORITHM + public).decode()}"

    def sign(self, text: str) -> str:
        """Make the note of `text`: text, blank line, signature line (C2SP signed-note).

        Raises `ValueError` if the text does not end in a newline, holds a control character or is too long.
        """
        if not text.endswith("\n") or REFUSED.search(text) or len(text) > NOTE_CHARS_MAX // 2:
            raise ValueError("a note's text ends in a newline and holds no other control character")
        signature = b64encode(self._key_id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {self.name} {signature}\n"


def open_note(note: str, vkey: str) -> str:
    """Answer a note's text, newline included, if `vkey` signed it (C2SP signed-note); else raise `NoteInvalid`.

    Signatures of other keys must be well formed and are passed over, as the specification demands: witnesses may sign.
    """
    verifier = read_vkey(vkey)
    if len(note) > NOTE_CHARS_MAX or REFUSED.search(note) or not note.endswith("\n"):
        raise NoteInvalid("note_malformed")
    head, blank, tail = note.rpartition("\n\n")
    lines = tail.split("\n")[:-1]
    if not blank or not 1 <= len(lines) <= SIGNATURES_MAX:
        raise NoteInvalid("note_malformed")
    text = head + "\n"
    signed = text.encode()
    seen = False
    for line in lines:
        name, signature = _read_signature(line)
        if name != verifier.name or signature[:KEY_ID_BYTES] != verifier.key_id:
            continue
        seen = True
        try:
            verifier.public.verify(signature[KEY_ID_BYTES:], signed)
        except InvalidSignature:
            # One wrong signature of a trusted key spoils the note, whatever stands beside it.
            raise NoteInvalid("signature_wrong") from None
    if not seen:
        raise NoteInvalid("signature_missing")
    return text


def _read_signature(line: str) -> tuple[str, bytes]:
    """Name and bytes (key id ‖ signature) of a signature line."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    signature = strict_base64(encoded)
    if dash != "—" or not is_name(name) or signature is None or len(signature) <= KEY_ID_BYTES:
        raise NoteInvalid("note_malformed")
    return name, signature


class Checkpoint(msgspec.Struct, frozen=True):
    """What a log is at one size: its origin, how many leaves, and the root over them, 32 bytes (C2SP tlog-checkpoint).

    The specification allows further lines but advises against them: no monitor can audit them. We take none.
    """

    origin: str
    size: int
    root: bytes

    def format(self) -> str:
        """Write the three lines to sign. Raises `ValueError` for an origin, size or root that has no such text."""
        if not is_name(self.origin) or not 0 <= self.size <= SIZE_MAX or len(self.root) != HASH_BYTES:
            raise ValueError("an origin has neither spaces nor plus, a size is a count, a root is 32 bytes")
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read what `format` wrote, exactly. Raises `NoteInvalid` (`checkpoint_malformed`)."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise NoteInvalid("checkpoint_malformed")
        origin, size, root = lines[0], strict_number(lines[1]), strict_base64(lines[2])
        if not is_name(origin) or size is None or root is None or len(root) != HASH_BYTES:
            raise NoteInvalid("checkpoint_malformed")
        return cls(origin, size, root)


def open_checkpoint(note: str, vkey: str) -> Checkpoint:
    """Read the checkpoint in a note that the key of `vkey` signed (C2SP tlog-checkpoint). Raises `NoteInvalid`."""
    return Checkpoint.parse(open_note(note, vkey))
