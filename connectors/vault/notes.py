"""The notes of a ring in Vault: a document each, changed by check-and-set."""

import secrets
from base64 import b32decode, b32encode
from binascii import Error as NoBase32
from typing import Final

import msgspec

from connectors.vault.documents import Documents, many
from engine.keyring import RingUnavailable

ATTEMPTS_MAX: Final = 50  # at a note that others write too: each failure means that one of them got further


class Note(msgspec.Struct, frozen=True):
    """A note as it rests. `by` is random: it tells whether a write whose answer was lost was made."""

    value: bytes
    by: str


class VaultNotes:
    """See `engine.keyring.KeyRing`. Thread-safe."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def notes(self, prefix: str) -> dict[str, bytes]:
        """Give all notes whose names begin with `prefix`."""
        names = [name for name in map(_name, self._documents.names("notes")) if name is not None and name.startswith(prefix)]
        found = zip(names, many(self._read, names), strict=True)
        return {name: note[1].value for name, note in found if note is not None}

    def put(self, name: str, value: bytes, expected: bytes | None) -> bool:
        """Write a note if it is still `expected` (None: there is none); returns whether it was."""
        new = Note(value, secrets.token_hex(16))
        for _ in range(ATTEMPTS_MAX):
            found = self._read(name)
            if found is not None and found[1].by == new.by:
                return True
            if (None if found is None else found[1].value) != expected:
                return False
            if self._documents.write(_path(name), new, 0 if found is None else found[0]):
                return True
        raise RingUnavailable("others write a note of the key ring faster than this process can")

    def _read(self, name: str) -> tuple[int, Note] | None:
        return self._documents.read(_path(name), Note)


def _path(name: str) -> str:
    # One level deep and of few characters: a name may hold what means something in a path.
    return "notes/" + b32encode(name.encode()).decode().lower().rstrip("=")


def _name(path: str) -> str | None:
    try:
        return b32decode(path.upper() + "=" * (-len(path) % 8)).decode()
    except (NoBase32, UnicodeDecodeError):
        return None  # somebody else put it there
