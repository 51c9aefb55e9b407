"""The read model in Redis: a copy of the tasks' state that follows their changelogs, and what doors deny meanwhile.

It can be lost at any time: it is made again from the changelogs, and until then its beats stand still and doors deny.
"""

from connectors.redis.board import RedisBoard
from connectors.redis.connection import RedisConnection, RedisLife
from connectors.redis.feed import Feed
from connectors.redis.reader import RedisReader
from connectors.redis.writer import Changelog, RedisWriter

__all__ = ["Changelog", "Feed", "RedisBoard", "RedisConnection", "RedisLife", "RedisReader", "RedisWriter"]
