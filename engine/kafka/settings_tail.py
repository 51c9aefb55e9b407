"""Every controller's settings in force, for who folds nothing: the compacted topic `controllers`, read whole and followed."""

import logging
import threading
from typing import Final

from confluent_kafka import KafkaException

from engine.context import take_settings
from engine.kafka.clients import Clients
from engine.kafka.edge import BrokerAway
from engine.kafka.names import Names
from engine.kafka.reactions import error_of
from engine.kafka.tail import Tail
from schemas.topics import ControllerState

log = logging.getLogger("consentinel.door")

CONTROLLERS: Final = "controllers"  # it has one partition
READ_MAX: Final = 1_000
POLL_SECS: Final = 0.1
TROUBLE_SECS: Final = 1.0  # before the reader is made anew


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
            except (KafkaException, BrokerAway) as fault:
                name = error_of(fault).name() if isinstance(fault, KafkaException) else str(fault)
                log.warning("controllers' settings cannot be followed: %s", name)
                stopping.wait(TROUBLE_SECS)

    def _read(self, stopping: threading.Event) -> None:
        """Read from the beginning, into a table of its own until it is whole: what is gone is gone from it as well."""
        tail = Tail(self._clients, self._at)
        table: dict[str, ControllerState] = {}
        read = 0
        try:
            while not stopping.is_set():
                news = tail.read(read, READ_MAX, POLL_SECS if self._settings is table else 0)
                for record in news:
                    take_settings(table, record)
                    read = record.offset + 1
                if len(news) < READ_MAX:
                    self._settings = table
                    self.known.set()
        finally:
            tail.close()
