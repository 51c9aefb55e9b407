"""A unit's changelog, applied to Redis in log order: never backwards, never twice, and safe when two writers overlap.

A batch says at which offset it begins, and a script in the server compares that with the offset that the copy stands at. What is
behind it has been applied already and is left out; a batch that begins after it would leave a gap and is refused. So two
writers, one of which lost the unit without knowing it, do the same work in the same order, and a server that came back with an
older copy is caught up from where that copy stands.

What cannot be continued is wiped and made anew (`begin`): a copy that is missing, is of another changelog (the topic was made
anew), stands outside its retained range, or was away so long that compaction may have removed tombstones it has not seen. Such a
copy would bring an erased person back. Until it has reached the end that the changelog had at the beginning, no beat counts: in
a compacted log a record may stand behind a beat that spoke of it.

Threat: wrapped data keys are copied too, for doors that open fields. A tombstone deletes them here; whoever kept a copy of Redis
holds keys that are wrapped under a key-encryption key, which is worth nothing once that key's epoch is destroyed.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from connectors.redis.connection import RedisLife, translated
from connectors.redis.layout import KEPT, Keys
from engine.kafka.names import BEAT_KEY, Unit

Change = tuple[int, bytes, bytes | None]  # changelog offset, key, value; None deletes
FOREIGN: Final = -1
# Half of the 24 hours for which a compacted topic keeps its tombstones.
AWAY_MS_MAX: Final = 12 * 3_600_000

# KEYS unit, order. ARGV id, first, next, beat's offset or -1, beat, number of puts, puts (offset, key, value), deletes (offset,
# key). Returns the offset that the copy stands at then, or -1 when it is no copy of this changelog.
APPLY: Final = """
local known = redis.call('HMGET', KEYS[1], '\\0id', '\\0next', '\\0goal')
if known[1] ~= ARGV[1] then return -1 end
local at, first, upto = tonumber(known[2]), tonumber(ARGV[2]), tonumber(ARGV[3])
if at < first or at >= upto then return at end
local beat, puts = tonumber(ARGV[4]), tonumber(ARGV[6])
local n = 7
for _ = 1, puts do
  if tonumber(ARGV[n]) >= at then
    if redis.call('HSET', KEYS[1], ARGV[n + 1], ARGV[n + 2]) == 1 then redis.call('ZADD', KEYS[2], 0, ARGV[n + 1]) end
  end
  n = n + 3
end
while n <= #ARGV do
  if tonumber(ARGV[n]) >= at then
    if redis.call('HDEL', KEYS[1], ARGV[n + 1]) == 1 then redis.call('ZREM', KEYS[2], ARGV[n + 1]) end
  end
  n = n + 2
end
if beat >= at and beat >= tonumber(known[3]) then redis.call('HSET', KEYS[1], '\\0beat', ARGV[5]) end
redis.call('HSET', KEYS[1], '\\0next', ARGV[3])
return upto
"""

# KEYS unit, order. ARGV id, first retained offset, end, now, longest time away. Returns the offset to read from.
BEGIN: Final = """
local known = redis.call('HMGET', KEYS[1], '\\0id', '\\0next', '\\0beat', '\\0since')
local whole = redis.call('ZSCORE', KEYS[2], '\\0')
if known[1] == ARGV[1] and whole then
  local at, seen = tonumber(known[2]), math.max(tonumber(known[3] or '0'), tonumber(known[4]))
  if at >= tonumber(ARGV[2]) and at <= tonumber(ARGV[3]) and tonumber(ARGV[4]) - seen <= tonumber(ARGV[5]) then return at end
end
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], '\\0id', ARGV[1], '\\0next', ARGV[2], '\\0goal', ARGV[3], '\\0since', ARGV[4])
redis.call('ZADD', KEYS[2], 0, '\\0')
return tonumber(ARGV[2])
"""


class Changelog(msgspec.Struct, frozen=True):
    """A unit's changelog as the broker describes it now: which one it is, its first retained offset, and its end."""

    id: str
    first: int
    end: int


class RedisWriter:
    """Writes units. One writer may serve many units; only one thread uses it."""

    def __init__(self, life: RedisLife, prefix: str) -> None:
        self._life, self._keys = life, Keys(prefix)
        self._apply: Any = life.client.register_script(APPLY)
        self._begin: Any = life.client.register_script(BEGIN)

    def begin(self, unit: Unit, changelog: Changelog, now_ms: int) -> int:
        """The offset to read on from, after a wipe if there is nothing that can be continued. Raises `Unreachable`."""
        given = [changelog.id, changelog.first, changelog.end, now_ms, AWAY_MS_MAX]
        with translated():
            return int(self._begin(keys=self._names(unit), args=given))

    def apply(self, unit: Unit, id_: str, first: int, changes: Sequence[Change], upto: int) -> int:
        """Apply what the changelog `id_` holds in [first, upto), in one round trip.

        Returns the offset that the copy stands at now; it is `upto` or later when all is well. Smaller than `first`: there is a
        gap, read again from it. `FOREIGN`: it is no copy of this changelog, `begin` again. Raises `Unreachable`.
        """
        last: dict[bytes, tuple[int, bytes | None]] = {}
        beat_offset, beat_ms = -1, 0
        for offset, key, value in changes:
            if key[:1] in KEPT:
                last[key] = offset, value  # of several changes of a key only the last is written
            elif key == BEAT_KEY and value is not None:
                beat_offset, beat_ms = offset, int.from_bytes(value, "big")
        puts = [part for key, (offset, value) in last.items() if value is not None for part in (offset, key, value)]
        gone = [part for key, (offset, value) in last.items() if value is None for part in (offset, key)]
        with translated():
            return int(self._apply(
                keys=self._names(unit), args=[id_, first, upto, beat_offset, beat_ms, len(puts) // 3, *puts, *gone]
            ))  # fmt: skip

    def _names(self, unit: Unit) -> list[str]:
        return [self._keys.unit(unit), self._keys.order(unit)]
