"""Zstandard (RFC 8878), decompression only, in plain Python: slow, complete but for dictionaries, and bounded.

Section numbers in comments are the RFC's. Checksums are not looked at: what is damaged may still be read.
"""

from typing import Final

from engine.scan.faults import Unreadable
from engine.scan.unpack import UNPACKED_BYTES_MAX, copy_back
from engine.scan.zstd_codes import Bits, Huffman, Table, always, distribution_of, huffman_of, huffman_text, table_of

MAGIC: Final = b"\x28\xb5\x2f\xfd"
BLOCK_BYTES_MAX: Final = 128 << 10
REPEATS: Final = (1, 4, 8)  # 3.1.1.5: what the repeat offsets begin with

# 3.1.1.3.2.1.1: (baseline, extra bits) by code.
_LITERALS: Final = [
    *((n, 0) for n in range(16)), (16, 1), (18, 1), (20, 1), (22, 1), (24, 2), (28, 2), (32, 3), (40, 3), (48, 4), (64, 6),
    *((1 << n, n) for n in range(7, 17)),
]  # fmt: skip
_MATCHES: Final = [
    *((n + 3, 0) for n in range(32)), (35, 1), (37, 1), (39, 1), (41, 1), (43, 2), (47, 2), (51, 3), (59, 3), (67, 4), (83, 4),
    (99, 5), *(((1 << n) + 3, n) for n in range(7, 17)),
]  # fmt: skip
_OFFSETS: Final = [(1 << n, n) for n in range(32)]
# 3.1.1.3.2.2: the distributions that need no description.
_DEFAULT_LITERALS: Final = [4, 3, *[2] * 6, *[2] * 5, 1, 1, 1, *[2] * 8, 2, 3, 2, *[1] * 5, -1, -1, -1, -1]
_DEFAULT_MATCHES: Final = [1, 4, 3, *[2] * 6, *[1] * 37, *[-1] * 7]
_DEFAULT_OFFSETS: Final = [*[1] * 6, *[2] * 3, *[1] * 15, *[-1] * 5]


class _Frame:
    """What blocks of a frame share: output, the last code and tables, the repeat offsets."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.repeats = list(REPEATS)
        self._code: Huffman | None = None
        self._tables: list[Table | None] = [None, None, None]

    def block(self, data: bytes) -> None:
        """3.1.1.3: literals, then sequences of literals and copies."""
        literals, at = self._literals(data)
        count, at = _count_of_sequences(data, at)
        if not count:
            self.out += literals
            return
        modes = data[at] if at < len(data) else 0
        at += 1
        defaults = ((6, _DEFAULT_LITERALS, 9, 35), (5, _DEFAULT_OFFSETS, 8, 31), (6, _DEFAULT_MATCHES, 9, 52))
        for n, (log, distribution, log_max, symbol_max) in enumerate(defaults):
            mode = modes >> 6 - 2 * n & 3
            if mode == 0:
                self._tables[n] = table_of(log, distribution)
            elif mode == 1:
                if at >= len(data) or data[at] > symbol_max:
                    raise Unreadable("a table that is not there")
                self._tables[n] = always(data[at])
                at += 1
            elif mode == 2:
                own_log, probabilities, octets = distribution_of(data[at:], log_max, symbol_max)
                self._tables[n] = table_of(own_log, probabilities)
                at += octets
        self._sequences(Bits(data[at:]), count, literals)

    def _sequences(self, stream: Bits, count: int, literals: bytes) -> None:
        by_literal, by_offset, by_match = self._tables
        if by_literal is None or by_offset is None or by_match is None:
            raise Unreadable("a table that was never told")
        read, out, used = stream.read, self.out, 0
        one, two, three = read(by_literal.log), read(by_offset.log), read(by_match.log)
        for left in range(count - 1, -1, -1):
            base, extra = _OFFSETS[by_offset.symbols[two]]
            offset = base + read(extra)
            base, extra = _MATCHES[by_match.symbols[three]]
            match = base + read(extra)
            base, extra = _LITERALS[by_literal.symbols[one]]
            length = base + read(extra)
            if left:
                one = by_literal.bases[one] + read(by_literal.bits[one])
                three = by_match.bases[three] + read(by_match.bits[three])
                two = by_offset.bases[two] + read(by_offset.bits[two])
            if stream.left < 0 or used + length > len(literals):
                raise Unreadable("sequences beyond their end")
            out += literals[used : used + length]
            used += length
            copy_back(out, self._distance(offset, length), match)
        out += literals[used:]

    def _distance(self, offset: int, literals: int) -> int:
        """3.1.1.5: values 1 to 3 repeat one of the last three offsets."""
        last = self.repeats
        if offset > 3:
            self.repeats = [offset - 3, last[0], last[1]]
            return offset - 3
        which = offset - 1 + (literals == 0)
        distance = last[which] if which < 3 else last[0] - 1
        if which:
            self.repeats = [distance, last[0], last[1] if which > 1 else last[2]]
        return distance

    def _literals(self, data: bytes) -> tuple[bytes, int]:
        """3.1.1.3.1: (literals, where they end)."""
        head = int.from_bytes(data[:5], "little")
        kind, form = head & 3, head >> 2 & 3
        if kind < 2:
            octets, size = ((1, head >> 3 & 0x1F), (2, head >> 4 & 0xFFF), (1, head >> 3 & 0x1F), (3, head >> 4 & 0xFFFFF))[form]
            end = octets + (size if kind == 0 else 1)
            found = data[octets:end] if kind == 0 else data[octets:end] * size
            if end > len(data):
                raise Unreadable("literals beyond their end")
            return found, end
        octets, width = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
        size, packed = head >> 4 & (1 << width) - 1, head >> 4 + width & (1 << width) - 1
        end = octets + packed
        if end > len(data) or size > BLOCK_BYTES_MAX:
            raise Unreadable("literals beyond their end")
        at = octets
        if kind == 2:
            self._code, used = huffman_of(data[at:end])
            at += used
        if self._code is None:
            raise Unreadable("a code that was never told")
        if not form:
            return huffman_text(data[at:end], self._code, size), end
        sizes = [int.from_bytes(data[at + 2 * n : at + 2 * n + 2], "little") for n in range(3)]
        at += 6
        each, out = (size + 3) // 4, b""
        for part in (*sizes, end - at - sum(sizes)):
            out += huffman_text(data[at : at + part], self._code, min(each, size - len(out)))
            at += part
        return out, end


def _count_of_sequences(data: bytes, at: int) -> tuple[int, int]:
    """3.1.1.3.2.1: (count, where it ends)."""
    head = (data[at : at + 3] + b"\0\0\0")[:3]
    if at >= len(data):
        raise Unreadable("a block without sequences")
    if head[0] < 128:
        return head[0], at + 1
    if head[0] < 255:
        return (head[0] - 128 << 8) + head[1], at + 2
    return head[1] + (head[2] << 8) + 0x7F00, at + 3


def zstd(data: bytes) -> bytes:
    """All frames of `data`; skippable ones (3.1.2) are skipped. Raises `Unreadable`."""
    whole, at = bytearray(), 0
    try:
        while at < len(data):
            if data[at + 1 : at + 4] == b"\x2a\x4d\x18" and data[at] >> 4 == 5:
                at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
                continue
            frame, at = _frame(data, at)
            whole += frame
    except (IndexError, ValueError):
        raise Unreadable("no Zstandard frame, or a damaged one") from None
    return bytes(whole)


def _frame(data: bytes, at: int) -> tuple[bytearray, int]:
    if not data.startswith(MAGIC, at):
        raise Unreadable("no Zstandard frame")
    head = data[at + 4]
    single = head >> 5 & 1
    sizes = (single, 2, 4, 8)[head >> 6]
    at += 5 + (1 - single) + (0, 1, 2, 4)[head & 3] + sizes
    if head & 3 and any(data[at - sizes - (0, 1, 2, 4)[head & 3] : at - sizes]):
        raise Unreadable("it needs a dictionary")
    frame = _Frame()
    while True:
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        at += 3
        if size > BLOCK_BYTES_MAX or kind == 3 or at + (1 if kind == 1 else size) > len(data):
            raise Unreadable("a block beyond its end")
        if kind == 0:
            frame.out += data[at : at + size]
        elif kind == 1:
            frame.out += data[at : at + 1] * size
        else:
            frame.block(data[at : at + size])
        at += 1 if kind == 1 else size
        if len(frame.out) > UNPACKED_BYTES_MAX:
            raise Unreadable("larger than anything we write")
        if last:
            return frame.out, at + (4 if head & 4 else 0)
