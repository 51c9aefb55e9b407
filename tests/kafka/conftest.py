"""What the tests on a real cluster share beside the parts of all tests."""

from collections.abc import Iterator

import pytest

from tests.kafka.secured import SecuredBroker


@pytest.fixture(scope="session")
def secured(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker with TLS, SASL and an authorizer."""
    broker = SecuredBroker(tmp_path_factory.mktemp("secured"))
    broker.start()
    yield broker
    broker.stop()
