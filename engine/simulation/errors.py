"""Kafka's errors as librdkafka's clients raise them, and the codes that are its own."""

from typing import Final

from confluent_kafka import KafkaError, KafkaException

TIMED_OUT: Final = int(KafkaError._TIMED_OUT)
STATE: Final = int(KafkaError._STATE)
CONFLICT: Final = int(KafkaError._CONFLICT)
FENCED: Final = int(KafkaError._FENCED)
INVALID_ARG: Final = int(KafkaError._INVALID_ARG)
MSG_TIMED_OUT: Final = int(KafkaError._MSG_TIMED_OUT)
PURGE_QUEUE: Final = int(KafkaError._PURGE_QUEUE)
PARTITION_EOF: Final = int(KafkaError._PARTITION_EOF)
AUTO_OFFSET_RESET: Final = int(KafkaError._AUTO_OFFSET_RESET)


def kafka_fault(
    code: int, reason: str = "", *, fatal: bool = False, retriable: bool = False, abort: bool = False
) -> KafkaException:
    """What a client raises."""
    return KafkaException(KafkaError(code, reason or None, fatal, retriable, abort))
