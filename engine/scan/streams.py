"""Compressed files, unpacked piece by piece: gzip, bzip2 and xz, as far as the standard library goes."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from engine.scan.faults import Unreadable

PIECE_BYTES: Final = 1 << 20


class _Gzip:
    """zlib's object with the face of bz2's and lzma's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` octets; what was not taken of `data` waits here."""
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.eof, self.unused_data = self._inner.eof, self._inner.unused_data
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


_MAKERS: Final[dict[bytes, Callable[[], Any]]] = {
    b"\x1f\x8b": _Gzip, b"BZh": bz2.BZ2Decompressor, b"\xfd7zXZ\0": lzma.LZMADecompressor,
}  # fmt: skip


def packed(head: bytes) -> Callable[[], Any] | None:
    """How to unpack a file that begins with `head`; None when it is not compressed in a way that is known here."""
    return next((make for magic, make in _MAKERS.items() if head.startswith(magic)), None)


def unpacked(pieces: Iterable[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """What `pieces` hold, in pieces of at most `PIECE_BYTES`. Raises `Unreadable`, after what could be read."""
    unpacker, members, begun = make(), 0, False
    for piece in pieces:
        data = piece
        while True:
            begun = begun or bool(data)
            try:
                out = unpacker.decompress(data, PIECE_BYTES)
            except (zlib.error, OSError, lzma.LZMAError):
                if members and not begun:
                    return
                raise Unreadable("damaged, or no stream of its kind") from None
            if out:
                yield out
            if unpacker.eof:
                data, unpacker, members, begun = unpacker.unused_data.lstrip(b"\0"), make(), members + 1, False
                if not data:
                    break
            elif unpacker.needs_input:
                break
            else:
                data = b""
    if begun:
        raise Unreadable("cut off")
