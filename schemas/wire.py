"""Avro's primitive values, to text and from bytes; text is bytes as Latin-1 code points. Called by generated code."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
MICROS_MIN = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICRO
MICROS_MAX = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICRO
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
LOW_BITS = 13  # with the zigzag's bit, they fill two bytes
LOW_MASK = (1 << LOW_BITS) - 1
SMALL_LONGS = range(-64, 1 << LOW_BITS)  # kept ready as text: counts, indices and the lengths of nearly all strings
KEY_CHARS_KEPT_MAX = 64  # a sender's own key may be of any length, and is not worth keeping
RECENT_MAX = 4096  # upper halves of longs kept as text; of a time in ms one lasts 8 s, so these are nine hours


def varint(value: int) -> str:
    """Return the zigzag base-128 form of a whole number of 64 bits."""
    rest, text = (value << 1) ^ (value >> 63), ""
    while rest > 127:
        text += chr(rest & 127 | 128)
        rest >>= 7
    return text + chr(rest)


class Highs(dict[int, str]):
    """The text of a whole number's part above its lower 13 bits, which `LOWS` has. Raises `OverflowError` beyond 64 bits."""

    def __missing__(self, high: int) -> str:
        if high > LONG_MAX >> LOW_BITS:
            raise OverflowError
        if len(self) >= RECENT_MAX:
            self.clear()
        text = self[high] = varint((high >> 1) ^ -(high & 1))  # its zigzag is the number itself
        return text


# A long from 8192 on is put together from two halves: two times differ mostly in the lower one.
LOWS = [chr(half << 1 & 127 | 128) + chr(half >> 6 | 128) for half in range(1 << LOW_BITS)]
HIGHS = Highs()


class Longs(dict[int, str]):
    """The text of every long; small ones are kept. Raises `OverflowError` beyond 64 bits."""

    def __init__(self) -> None:
        super().__init__((value, varint(value)) for value in SMALL_LONGS)

    def __missing__(self, value: int) -> str:
        if value > 0:
            return LOWS[value & LOW_MASK] + HIGHS[value >> LOW_BITS]
        if value < LONG_MIN:
            raise OverflowError
        return varint(value)


LONGS = Longs()


def wide(value: str) -> str:
    """Return the UTF-8 bytes of a string as text."""
    return value.encode().decode("latin-1")


def string(value: str) -> str:
    """Return the text of a string: its length in bytes, then its bytes."""
    if not value.isascii():
        value = wide(value)
    return f"{LONGS[len(value)]}{value}"


class Keys(dict[str, str]):
    """The text of a map's key, as `string` makes it. A record's maps have the same few keys again and again."""

    def __missing__(self, key: str) -> str:
        text = string(key)
        if len(key) <= KEY_CHARS_KEPT_MAX:
            if len(self) >= RECENT_MAX:
                self.clear()
            self[key] = text
        return text


def bytes_(value: bytes) -> str:
    """Return the text of bytes: their length, then they themselves."""
    return f"{LONGS[len(value)]}{value.decode('latin-1')}"


def micros(value: datetime) -> int:
    """Return a time as microseconds since the epoch. Raises `OverflowError` for one that would not read back."""
    since = value - EPOCH
    found = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not MICROS_MIN <= found <= MICROS_MAX:  # an offset can push the calendar's first and last day over its edge
        raise OverflowError
    return found


def moment(since: int) -> datetime:
    """Return microseconds since the epoch as a time. Raises `OverflowError` outside the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=since)


# Upper halves of six-byte numbers by their last four bytes: nearly every long number is a time in milliseconds.
_HIGH: dict[bytes, int] = {}


def long(data: bytes, at: int) -> tuple[int, int]:
    """Read a number before its zigzag is undone; return it and where it ends. Raises `OverflowError`, `IndexError`."""
    high = _HIGH.get(data[at + 2 : at + 6])
    if high is not None and data[at] & data[at + 1] > 127:  # four bytes that end a number, after two that go on
        return data[at] & 127 | (data[at + 1] & 127) << 7 | high, at + 6
    value = shift = 0
    start = at
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise OverflowError
    if value >> 64:
        raise OverflowError
    if at - start == 6:
        if len(_HIGH) >= RECENT_MAX:
            _HIGH.clear()
        _HIGH[data[start + 2 : at]] = value >> 14 << 14
    return value, at


def length(data: bytes, at: int) -> tuple[int, int]:
    """Read a length, doubled by its zigzag; return it and where it ends. Raises `OverflowError` for a negative one."""
    value, at = long(data, at)
    if value & 1:
        raise OverflowError
    return value, at


def block(data: bytes, at: int) -> tuple[int, int, int]:
    """Read the head of a block of array or map items: their number, where they start, where they end (-1: unsaid).

    A negative number is followed by the block's size in bytes, for readers that skip it. Raises `OverflowError` for
    more items than there are bytes left, since each takes one at least, and for a block of none, which is an end.
    """
    number, at = long(data, at)
    end = -1
    if number & 1:
        number = (number >> 1) + 1
        size, at = length(data, at)
        end = at + (size >> 1)
    else:
        number >>= 1
    if not 0 < number <= len(data) - at:
        raise OverflowError
    return number, at, end
