"""A record or an end-of-partition as a client hands it out: confluent-kafka's `Message`, as far as it is used."""

from typing import Any

from confluent_kafka import TIMESTAMP_CREATE_TIME

from engine.simulation.log import Headers


class Message:
    """See the module."""

    __slots__ = ("_at", "_error", "_headers", "_key", "_offset", "_ts_ms", "_value")

    def __init__(
        self, topic: str, partition: int, offset: int, key: bytes | None = None, value: bytes | None = None,
        headers: Headers | None = None, ts_ms: int = 0, error: Any = None,
    ) -> None:  # fmt: skip
        self._at, self._offset, self._key, self._value = (topic, partition), offset, key, value
        self._headers, self._ts_ms, self._error = headers, ts_ms, error

    def topic(self) -> str:
        """See confluent-kafka."""
        return self._at[0]

    def partition(self) -> int:
        """See confluent-kafka."""
        return self._at[1]

    def offset(self) -> int:
        """See confluent-kafka."""
        return self._offset

    def key(self) -> bytes | None:
        """See confluent-kafka."""
        return self._key

    def value(self) -> bytes | None:
        """See confluent-kafka."""
        return self._value

    def headers(self) -> Headers | None:
        """See confluent-kafka: None when there are none."""
        return self._headers or None

    def timestamp(self) -> tuple[int, int]:
        """See confluent-kafka."""
        return (TIMESTAMP_CREATE_TIME, self._ts_ms)

    def error(self) -> Any:
        """See confluent-kafka."""
        return self._error
