"""A copy of units in a Redis of the test's own: what tests of the read model share."""

from connectors.redis import Changelog, RedisBoard, RedisConnection, RedisLife, RedisReader, RedisWriter
from engine.deployment import Question
from engine.kafka.names import BEAT_KEY, Unit
from engine.layout import state_key
from tests.parts.redis import RedisServer

NOW_MS = 1_800_000_000_000
UNIT, OTHER = Unit("subject", 0), Unit("subject", 1)
LOG = Changelog("topic-1", 0, 0)


class Model:
    """Writer, reader and board of one process. `now_ms` is the test's to move."""

    def __init__(self, server: RedisServer, prefix: str = "", timeout_secs: float = 0.5) -> None:
        self.now_ms = NOW_MS
        self.life = RedisLife(RedisConnection(url=server.url, prefix=prefix), lambda: self.now_ms, timeout_secs)
        self.writer = RedisWriter(self.life, prefix)
        self.reader = RedisReader(self.life, prefix, (UNIT, OTHER))
        self.board = RedisBoard(self.life, prefix)

    def rows(self, unit: Unit = UNIT) -> dict[bytes, bytes]:
        """Everything that is in the unit's copy."""
        return {k: v for letter in (b"k", b"m", b"s") for k, v in self.reader.scan(unit.task, unit.partition, letter)}


def row(owner: str, kind: str = "permissions") -> bytes:
    return state_key(owner, kind, ())


def beat(offset: int, ms: int) -> tuple[int, bytes, bytes | None]:
    return offset, BEAT_KEY, ms.to_bytes(8, "big")


def asked(owner: str, unit: Unit = UNIT) -> Question:
    return Question(unit.task, unit.partition, owner, (row(owner),))


