"""The erasure ledger in Vault: entries in segments of a fixed number, so that a mark tells where its entry stands.

A segment is a document that only grows, by check-and-set; long entries stand in documents of their own, which never change.
"""

import secrets
from typing import Final

import msgspec

from connectors.vault.documents import Documents, many
from engine.keyring import RingDamaged, RingUnavailable

ENTRIES_PER_SEGMENT: Final = 32
INLINE_BYTES_MAX: Final = 8_192  # with 32 of them and base64 a segment has 350 KB; Vault's own store takes at most 1 MiB
CHUNK_BYTES_MAX: Final = 262_144
READ_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 50  # at a segment that others write too: each failure means that one of them got further


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An entry as it stands in its segment. `by` is random: it tells whether a write whose answer was lost was made."""

    by: str
    data: bytes = b""
    chunks: int = 0  # where it is too long: documents `long/BY-0` and so on


class VaultLedger:
    """See `engine.keyring.Keys`. Thread-safe. Marks count from 1."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._mark = 0  # the ledger has at least that many

    def append(self, data: bytes) -> int:
        """Keep an entry for ever; give its mark."""
        entry = self._entry(data)
        for _ in range(ATTEMPTS_MAX):
            number, version, segment = self._tail()
            mark = number * ENTRIES_PER_SEGMENT + len(segment) + 1
            if self._documents.write(_name(number), [*segment, entry], version) or self._written(number, entry):
                self._mark = max(self._mark, mark)
                return mark
        raise RingUnavailable("others write to the erasure ledger faster than this process can")

    def mark(self) -> int:
        """Give the mark of the last entry, 0 when there is none. Raises `RingDamaged` when it has fallen."""
        known = self._mark
        number, _, segment = self._tail(for_writing=False)
        mark = number * ENTRIES_PER_SEGMENT + len(segment)
        if mark < known:
            raise RingDamaged("the erasure ledger in Vault has lost entries")
        self._mark = max(self._mark, mark)
        return mark

    def since(self, mark: int) -> list[tuple[int, bytes]]:
        """List at most 1,000 (mark, entry) after `mark`, in order."""
        last = min(self.mark(), mark + READ_MAX)
        if last <= mark:
            return []
        numbers = range(mark // ENTRIES_PER_SEGMENT, (last - 1) // ENTRIES_PER_SEGMENT + 1)
        found: list[tuple[int, bytes]] = []
        for number, segment in zip(numbers, many(self._segment, numbers), strict=True):
            for at, entry in enumerate(segment, number * ENTRIES_PER_SEGMENT + 1):
                if mark < at <= last:
                    found.append((at, self._data(entry)))
        if len(found) != last - mark:
            raise RingDamaged("the erasure ledger in Vault has lost entries")
        return found

    def _entry(self, data: bytes) -> Entry:
        by = secrets.token_hex(16)
        if len(data) <= INLINE_BYTES_MAX:
            return Entry(by, data)
        chunks = [data[at : at + CHUNK_BYTES_MAX] for at in range(0, len(data), CHUNK_BYTES_MAX)]
        for number, chunk in enumerate(chunks):
            # False: it was written, and the answer was lost.
            self._documents.write(f"long/{by}-{number}", chunk, 0)
        return Entry(by, chunks=len(chunks))

    def _data(self, entry: Entry) -> bytes:
        if not entry.chunks:
            return entry.data
        chunks = [self._documents.read(f"long/{entry.by}-{number}", bytes) for number in range(entry.chunks)]
        if None in chunks:
            raise RingDamaged("the erasure ledger in Vault has lost entries")
        return b"".join(chunk[1] for chunk in chunks if chunk is not None)

    def _tail(self, for_writing: bool = True) -> tuple[int, int, list[Entry]]:
        """The last segment as (number, version, entries); for writing, one that has room."""
        number = (self._mark or self._listed()) // ENTRIES_PER_SEGMENT
        version, segment = self._read(number)
        while len(segment) == ENTRIES_PER_SEGMENT:
            following = self._read(number + 1)
            if not following[0] and not for_writing:
                break
            number, (version, segment) = number + 1, following
        return number, version, segment

    def _listed(self) -> int:
        names = self._documents.names("ledger")
        return int(names[-1]) * ENTRIES_PER_SEGMENT if names else 0

    def _written(self, number: int, entry: Entry) -> bool:
        return any(known.by == entry.by for known in self._read(number)[1])

    def _segment(self, number: int) -> list[Entry]:
        return self._read(number)[1]

    def _read(self, number: int) -> tuple[int, list[Entry]]:
        return self._documents.read(_name(number), list[Entry]) or (0, [])


def _name(number: int) -> str:
    return f"ledger/{number:09}"
