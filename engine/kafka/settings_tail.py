"""Every controller's settings in force, for who folds nothing: the compacted topic `controllers`, read whole and followed."""

import logging
import threading
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.clients import Clients
from engine.kafka.names import Names
from engine.kafka.reactions import error_of
from schemas.codec import decode_as
from schemas.topics import ControllerState

log = logging.getLogger("consentinel.door")

CONTROLLERS: Final = "controllers"  # it has one partition
READ_MAX: Final = 1_000
POLL_SECS: Final = 0.1
TROUBLE_SECS: Final = 1.0  # before the reader is made anew
PASSING: Final = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE})


class SettingsTail:
    """`known` is set once everything that was there at the start has been read."""

    def __init__(self, clients: Clients, names: Names) -> None:
        self.known = threading.Event()
        self._clients, self._at = clients, (names.topic(CONTROLLERS), 0)
        self._settings: dict[str, ControllerState] = {}

    def of(self, controller: str) -> ControllerState:
        """The controller's settings in force; the defaults when it was never configured."""
        return self._settings.get(controller) or ControllerState(controller=controller)

    def follow(self, stopping: threading.Event) -> None:
        """Read and go on until stopped. While Kafka is away what is known stays in force; nothing is allowed then anyway."""
        while not stopping.is_set():
            try:
                self._read(stopping)
            except (KafkaException, TimeoutError) as fault:
                name = error_of(fault).name() if isinstance(fault, KafkaException) else "no answer in time"
                log.warning("controllers' settings cannot be followed: %s", name)
                stopping.wait(TROUBLE_SECS)

    def _read(self, stopping: threading.Event) -> None:
        """Read from the beginning, into a table of its own until it is whole: what is gone is gone from it as well."""
        start = self._clients.starts([self._at])[self._at]
        reader = self._clients.reader("door-settings")
        table: dict[str, ControllerState] = {}
        try:
            reader.assign([Place(*self._at, start)])
            while not stopping.is_set():
                for message in reader.consume(READ_MAX, POLL_SECS):
                    if self._is_end(message):
                        self._settings = table
                        self.known.set()
                    elif message.error() is None:
                        self._take(message, table)
        finally:
            reader.close()

    @staticmethod
    def _is_end(message: Any) -> bool:
        fault = message.error()
        if fault is None or fault.code() in PASSING or fault.retriable():
            return False
        if fault.code() == KafkaError._PARTITION_EOF:
            return True
        raise KafkaException(fault)

    @staticmethod
    def _take(message: Any, table: dict[str, ControllerState]) -> None:
        controller = (message.key() or b"").decode()
        if message.value() is None:
            table.pop(controller, None)
        else:
            table[controller] = decode_as(ControllerState, message.value())
