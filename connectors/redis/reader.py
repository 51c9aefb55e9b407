"""State as doors read it: a question about many people is one round trip and one moment, and what is not sure is not fresh."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from connectors.redis.connection import RedisLife, translated
from connectors.redis.layout import BEAT, SINCE, WHOLE, Keys
from engine.deployment import CLOCKS_APART_MS, Question, RawLook, Unreachable
from engine.kafka.names import Unit

PAGE: Final = 1_000  # keys of one step of a scan

# KEYS unit, order. ARGV from, to, count. Returns the keys in that range and their values; nothing when the copy is not whole.
PAGE_OF: Final = """
if not redis.call('ZSCORE', KEYS[2], '\\0') or redis.call('HEXISTS', KEYS[1], '\\0next') == 0 then return false end
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
if #keys == 0 then return {keys, keys} end
return {keys, redis.call('HMGET', KEYS[1], unpack(keys))}
"""


class RedisReader:
    """Reads units; thread-safe. See `engine.deployment.ReadModel`."""

    def __init__(self, life: RedisLife, prefix: str, units: Sequence[Unit]) -> None:
        self._life, self._keys, self._units = life, Keys(prefix), tuple(units)
        self._page: Any = life.client.register_script(PAGE_OF)

    def get(self, task: str, partition: int, key: bytes) -> bytes | None:
        """The value of one key. Raises `Unreachable`, also when the unit's copy is missing."""
        with translated():
            found: Any = self._life.client.hmget(self._keys.unit(Unit(task, partition)), [key, SINCE])
        value: bytes | None = found[0]
        if found[1] is None:
            raise Unreachable("the read model is being made")
        return value

    def scan(
        self, task: str, partition: int, prefix: bytes, after: bytes = b"", limit: int = 1_000_000
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) pairs whose key begins with `prefix` and is greater than `after`; each page of them is of one moment."""
        names = [self._keys.unit(Unit(task, partition)), self._keys.order(Unit(task, partition))]
        start, end = b"(" + after if after > prefix else b"[" + prefix, b"(" + beyond(prefix)
        while limit > 0:
            step = min(limit, PAGE)
            with translated():
                found = self._page(keys=names, args=[start, end, step])
            if found is None:
                raise Unreachable("the read model is being made")
            keys, values = found
            yield from ((key, value) for key, value in zip(keys, values, strict=True) if value is not None)
            if len(keys) < step:
                return
            limit -= step
            start = b"(" + keys[-1]

    def look(self, questions: Sequence[Question]) -> list[RawLook]:
        """Answer all questions as of one moment, in one round trip: state, its age, and the notes on the board."""
        with translated():
            pipe: Any = self._life.client.pipeline(transaction=True)
            for asked in questions:
                pipe.hmget(self._keys.unit(Unit(asked.task, asked.partition)), [BEAT, SINCE, *asked.keys])
                pipe.hvals(self._keys.board(asked.owner))
            answers = pipe.execute()
        met_ms = self._life.met_ms  # after the answers: the connection they came by has been met by now
        return [_look(answers[n], answers[n + 1], met_ms) for n in range(0, len(answers), 2)]

    def beats(self) -> dict[tuple[str, int], int]:
        """The beat of each unit; 0 where there is none."""
        with translated():
            pipe: Any = self._life.client.pipeline(transaction=False)
            for unit in self._units:
                pipe.hget(self._keys.unit(unit), BEAT)
            found = pipe.execute()
        return {(unit.task, unit.partition): int(beat or 0) for unit, beat in zip(self._units, found, strict=True)}

    def close(self) -> None:
        """Let go of the connections."""
        self._life.close()


def _look(values: list[bytes | None], notes: list[bytes], met_ms: int) -> RawLook:
    beat_ms, since_ms = int(values[0] or 0), int(values[1] or 0)
    denials = tuple(note[8:] for note in notes if int.from_bytes(note[:8], "big") >= beat_ms)
    # A copy that was begun anew, or a server that started anew, has lost the notes of before: a later beat makes up for them.
    whole = beat_ms > max(met_ms, since_ms) + CLOCKS_APART_MS
    return RawLook(beat_ms, tuple(values[2:]), denials, whole)


def beyond(prefix: bytes) -> bytes:
    """The first key that comes after every key that begins with `prefix`."""
    cut = prefix.rstrip(b"\xff")
    assert cut != WHOLE and cut, "every prefix that is asked for begins with a letter"
    return cut[:-1] + bytes([cut[-1] + 1])
