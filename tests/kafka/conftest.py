"""What the tests on a real cluster share beside the parts of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.secured import SecuredBroker
from tests.kafka.whole_site import Whole, broker
from tests.parts.kafka import Broker
from tests.parts.redis import RedisServer
from tests.parts.topics import new_prefix


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A broker takes seconds to start: nothing here is a fast test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def secured(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker with TLS, SASL and an authorizer."""
    broker = SecuredBroker(tmp_path_factory.mktemp("secured"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def quick_broker(kafka_jars: None) -> Iterator[Broker]:
    """A broker that can be scanned: its files are here, hold nothing else, and are cleaned within seconds when told to."""
    with broker() as started:
        yield started


@pytest.fixture
def whole(quick_broker: Broker, redis_program: None, tmp_path: Path) -> Iterator[Whole]:
    """A whole site on a broker and a Redis of its own."""
    with RedisServer() as server:
        made = Whole(quick_broker, server, new_prefix(), tmp_path)
        yield made
        made.close()
