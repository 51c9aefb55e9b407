"""What the tests on a real cluster share beside the parts of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.secured import SecuredBroker


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
