"""The codes of Zstandard (RFC 8878, section 4): bit streams read from their end, FSE tables, Huffman codes of literals."""

from typing import Final, NamedTuple

from engine.scan.faults import Unreadable

HELD_BYTES: Final = 32  # of a bit stream, at a time


class Table(NamedTuple):
    """A decoding table of 2^`log` states."""

    log: int
    symbols: list[int]
    bits: list[int]
    bases: list[int]


class Bits:
    """A bit stream that is read from its end (4.1): the last octet's highest set bit says where it begins."""

    def __init__(self, data: bytes) -> None:
        if not data or not data[-1]:
            raise Unreadable("a bit stream without end mark")
        self._data, self._at = data, len(data) - 1
        self.have = data[-1].bit_length() - 1
        self.held = data[-1] & (1 << self.have) - 1
        self.left = self._at * 8 + self.have

    def fill(self, count: int) -> None:
        """Hold at least `count` bits; beyond the beginning they are zeros."""
        while self.have < count:
            octets = min(self._at, HELD_BYTES)
            if not octets:
                self.held <<= HELD_BYTES * 8
                self.have += HELD_BYTES * 8
                return
            self.held = self.held << octets * 8 | int.from_bytes(self._data[self._at - octets : self._at], "little")
            self._at -= octets
            self.have += octets * 8

    def read(self, count: int) -> int:
        """The next `count` bits. `left` falls below zero when there were not so many."""
        if self.have < count:
            self.fill(count)
        self.left -= count
        self.have -= count
        found = self.held >> self.have
        self.held &= (1 << self.have) - 1
        return found


def distribution_of(data: bytes, log_max: int, symbols_max: int) -> tuple[int, list[int], int]:
    """4.1.1: (log, probabilities, octets) of a table's description, read from its beginning."""
    window = int.from_bytes(data[:512], "little")
    log, at = (window & 15) + 5, 4
    if log > log_max:
        raise Unreadable("a table that is too large")
    left, found = 1 << log, list[int]()
    while left > 0:
        if len(found) > symbols_max:
            raise Unreadable("a table with too many symbols")
        bits = (left + 1).bit_length()
        value = window >> at & ((1 << bits) - 1)
        low = (1 << bits - 1) - 1
        spare = (1 << bits) - 1 - (left + 1)
        if value & low < spare:
            value &= low
            at += bits - 1
        else:
            if value > low:
                value -= spare
            at += bits
        probability = value - 1
        left -= abs(probability)
        found.append(probability)
        while probability == 0:
            repeat = window >> at & 3
            at += 2
            found += [0] * repeat
            if repeat < 3:
                break
    octets = (at + 7) // 8
    if left < 0 or octets > len(data) or len(found) > symbols_max + 1:
        raise Unreadable("a table that does not add up")
    return log, found, octets


def table_of(log: int, probabilities: list[int]) -> Table:
    """4.1.1: the decoding table of a distribution."""
    size = 1 << log
    symbols = [0] * size
    high = size - 1
    for symbol, probability in enumerate(probabilities):
        if probability == -1:
            symbols[high] = symbol
            high -= 1
    step, at = (size >> 1) + (size >> 3) + 3, 0
    for symbol, probability in enumerate(probabilities):
        for _ in range(probability):
            symbols[at] = symbol
            at = (at + step) & (size - 1)
            while at > high:
                at = (at + step) & (size - 1)
    following = [max(1, abs(p)) for p in probabilities]
    bits, bases = [0] * size, [0] * size
    for state, symbol in enumerate(symbols):
        number = following[symbol]
        following[symbol] += 1
        bits[state] = log - number.bit_length() + 1
        bases[state] = (number << bits[state]) - size
    return Table(log, symbols, bits, bases)


def always(symbol: int) -> Table:
    """The table that gives one symbol and takes no bits."""
    return Table(0, [symbol], [0], [0])


class Huffman(NamedTuple):
    """A prefix code of at most `log` bits: for every `log` bits the symbol and how many of them it took."""

    log: int
    symbols: list[int]
    bits: list[int]


def huffman_of(data: bytes) -> tuple[Huffman, int]:
    """4.2.1: the code that literals begin with, and its octets."""
    head = data[0] if data else 0
    if head >= 128:  # direct: four bits a weight
        count = head - 127
        octets = 1 + (count + 1) // 2
        packed = data[1:octets]
        weights = [(packed[n // 2] >> 4) if n % 2 == 0 else packed[n // 2] & 15 for n in range(count)] if packed else []
    else:
        octets = 1 + head
        log, probabilities, used = distribution_of(data[1:octets], 6, 255)
        weights = _weights(Bits(data[1 + used : octets]), table_of(log, probabilities))
    if octets > len(data) or not weights or max(weights) > 11:
        raise Unreadable("a code that goes beyond its end")
    total = sum(1 << weight - 1 for weight in weights if weight)
    log = total.bit_length()
    rest = (1 << log) - total
    if not total or log > 11 or rest & rest - 1:
        raise Unreadable("a code that does not add up")
    weights.append(rest.bit_length())
    symbols, bits = [0] * (1 << log), [0] * (1 << log)
    at = 0
    for weight in range(1, log + 1):
        for symbol, own in enumerate(weights):
            if own == weight:
                span = 1 << weight - 1
                symbols[at : at + span] = [symbol] * span
                bits[at : at + span] = [log + 1 - weight] * span
                at += span
    return Huffman(log, symbols, bits), octets


def _weights(stream: Bits, table: Table) -> list[int]:
    """4.2.1.2: two states take turns until the stream is used up."""
    states = [stream.read(table.log), stream.read(table.log)]
    found: list[int] = []
    turn = 0
    while len(found) < 255:
        state = states[turn]
        found.append(table.symbols[state])
        states[turn] = table.bases[state] + stream.read(table.bits[state])
        if stream.left < 0:
            found.append(table.symbols[states[1 - turn]])
            return found
        turn = 1 - turn
    raise Unreadable("a code with too many symbols")


def huffman_text(data: bytes, code: Huffman, size: int) -> bytes:
    """The `size` literals that a bit stream holds."""
    stream, out = Bits(data), bytearray()
    log, symbols, bits = code
    mask = (1 << log) - 1
    held, have, taken = stream.held, stream.have, 0
    for _ in range(size):
        if have < log:
            stream.held, stream.have = held & (1 << have) - 1, have
            stream.fill(log)
            held, have = stream.held, stream.have
        at = held >> have - log & mask
        out.append(symbols[at])
        have -= bits[at]
        taken += bits[at]
    if taken > stream.left:
        raise Unreadable("literals beyond their end")
    return bytes(out)
