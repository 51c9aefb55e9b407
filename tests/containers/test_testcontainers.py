"""testcontainers against whatever engine answers: the same Kafka and Redis that the fixtures take where there is one."""

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.parts.containers import ApacheKafkaContainer, RedisContainer
from tests.parts.topics import make_topics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("engine")]

READ_SECS_MAX = 30.0


def test_kafka_in_a_container_keeps_a_transaction() -> None:
    with ApacheKafkaContainer(log_retention_ms=3_600_000) as kafka:
        make_topics(kafka.bootstrap, {"events": 1})
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": "a"})
        producer.init_transactions(READ_SECS_MAX)
        for value, kept in ((b"never", False), (b"kept", True)):
            producer.begin_transaction()
            producer.produce("events", value)
            if kept:
                producer.commit_transaction(READ_SECS_MAX)
            else:
                assert producer.flush(READ_SECS_MAX) == 0
                producer.abort_transaction(READ_SECS_MAX)
        consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "a", "isolation.level": "read_committed"})
        consumer.assign([TopicPartition("events", 0, 0)])
        (message,) = consumer.consume(1, READ_SECS_MAX)
        consumer.close()
        assert message.value() == b"kept"


def test_redis_in_a_container_answers() -> None:
    with RedisContainer() as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
        assert str(client.info("server")["redis_version"]).startswith("8.")
