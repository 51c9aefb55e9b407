"""Notes that all doors of a deployment see (`engine.deployment.Board`): a denial that is on its way to the state.

A note that nobody settled, because its door died, ends by itself. By then the state has what it stood for, or the beats are so
old that everything is denied: `NOTE_SECS_MAX` is ten times the longest freshness limit that can be set.
"""

from collections.abc import Sequence
from typing import Any, Final

from connectors.redis.connection import RedisLife, translated
from connectors.redis.layout import Keys
from engine.deployment import Note

NOTE_SECS_MAX: Final = 600
FOR_EVER: Final = b"\xff" * 8  # not settled yet: no beat is past it


class RedisBoard:
    """The board in Redis; thread-safe. Each call is one round trip."""

    def __init__(self, life: RedisLife, prefix: str) -> None:
        self._life, self._keys = life, Keys(prefix)

    def post(self, notes: Sequence[Note]) -> None:
        """See `Board`."""
        self._put(notes, FOR_EVER)

    def settle(self, notes: Sequence[Note], until_ms: int) -> None:
        """See `Board`."""
        self._put(notes, until_ms.to_bytes(8, "big"))

    def take_back(self, notes: Sequence[Note]) -> None:
        """See `Board`."""
        with translated():
            pipe: Any = self._life.client.pipeline(transaction=False)
            for note in notes:
                pipe.hdel(self._keys.board(note.owner), note.id)
            pipe.execute()

    def _put(self, notes: Sequence[Note], until: bytes) -> None:
        with translated():
            pipe: Any = self._life.client.pipeline(transaction=True)
            for note in notes:
                key = self._keys.board(note.owner)
                pipe.hset(key, note.id, until + note.text)
                pipe.expire(key, NOTE_SECS_MAX)
            pipe.execute()
