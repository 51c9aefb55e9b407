"""Which units are ours: a member of the group over the topic `shards`, told of by callbacks between turns only."""

import logging
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from engine.kafka.clients import Clients
from engine.kafka.names import Names, Unit

log = logging.getLogger("consentinel.kafka.membership")


class Membership:
    """One group member. `tend` lets callbacks come; what they changed stands in `gained` and `lost` until it is taken."""

    def __init__(self, clients: Clients, names: Names, worker: str) -> None:
        self.units: set[Unit] = set()
        self.joined = False  # whether the group has ever given us something, be it nothing
        self._names = names
        self._gained: set[Unit] = set()
        self._lost: set[Unit] = set()
        self._member = ""  # who was given the units: a client that was expelled joins again as somebody else
        self._consumer = clients.member(worker)
        self._consumer.subscribe([names.shards], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def tend(self, timeout_secs: float = 0.0) -> tuple[set[Unit], set[Unit]]:
        """Serve the group; returns what was lost and what was gained since the last call. A unit in both was lost in between.

        Raises `KafkaException` when this client can never be a member again: another one has its name.
        """
        message = self._consumer.poll(timeout_secs)
        fault = None if message is None else message.error()
        if fault is not None:
            log.warning("group: %s", fault.name())
            if fault.code() == KafkaError._FATAL:
                raise KafkaException(fault)
        lost, gained = self._lost, self._gained
        self._lost, self._gained = set(), set()
        return lost, gained

    def metadata(self) -> Any:
        """Who we are in the group now: the transaction's offsets are refused when this is not the present generation.

        Raises `KafkaException` when the client is not the member any more that was given the units. It would send "no member",
        which the coordinator lets everybody do (`validateOffsetCommit`: such a commit comes from no group at all), or a new
        member's name for what the old one had.
        """
        found = self._consumer.consumer_group_metadata()
        if not self._member or self._consumer.memberid() != self._member:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        return found

    def close(self) -> None:
        """Leave the group."""
        self.joined = False  # first: to be given nothing is no reason to be ready
        self._consumer.close()

    def _assigned(self, _: Any, places: Sequence[Any]) -> None:
        self._member = self._consumer.memberid() or ""
        units = {self._names.units[place.partition] for place in places}
        self.units |= units
        self._gained |= units
        self.joined = True  # last: other threads ask whether what we were given is restored

    def _revoked(self, _: Any, places: Sequence[Any]) -> None:
        units = {self._names.units[place.partition] for place in places}
        self.units -= units
        self._gained -= units
        self._lost |= units
