"""The real parts that tests share, started by the first test that asks and ended with the session.

`kafka` and `redis_server` are shared by all tests of a process (with xdist each process has its own): a test that stops,
freezes or configures a server makes one of its own with `tests.parts.kafka.Broker` or `tests.parts.redis.RedisServer`.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.parts import choose
from tests.parts.kafka import Kafka
from tests.parts.process import PartMissing, is_required
from tests.parts.redis import Redis
from tests.parts.topics import drop_topics, new_prefix

Part = TypeVar("Part")


def pytest_report_header() -> list[str]:
    return choose.header()


def pytest_sessionstart(session: pytest.Session) -> None:
    """The header's lines also where `-q` leaves the header out: what a result rests on is part of the result."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not terminal.showheader:
        for line in choose.header():
            terminal.write_line(line)


def _started(name: str, start: Callable[[], Part]) -> Part:
    """What `start` gives; where the part cannot be had, tests are skipped, or fail where nothing may be skipped."""
    try:
        return start()
    except PartMissing as fault:
        if is_required():
            pytest.fail(f"{name} is required here: {fault}", pytrace=False)
        pytest.skip(f"needs {name}: {fault}")


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A broker that serves: `.bootstrap`, `.kind`."""
    broker = _started("Kafka", choose.start_kafka)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """For tests that make a `Broker` of their own: skips, or fails, where that cannot be done."""
    _started("Kafka", choose.own_kafka)


@pytest.fixture(scope="session")
def redis_program() -> None:
    """For tests that make a `RedisServer` of their own: skips, or fails, where that cannot be done."""
    _started("Redis", choose.own_redis)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis that answers: `.url`, `.kind`. Shared: a test uses keys under a prefix of its own."""
    server = _started("Redis", choose.start_redis)
    yield server
    server.stop()


@pytest.fixture
def fresh_prefix(kafka: Kafka) -> Iterator[str]:
    """A prefix for this test's topics, groups and transactional ids; its topics are deleted afterwards."""
    prefix = new_prefix()
    yield prefix
    drop_topics(kafka.bootstrap, prefix)
