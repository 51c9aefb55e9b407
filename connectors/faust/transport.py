"""The edges' consumer: records of committed transactions only, and no fault of the brokers ends the process.

Two things that Faust has no setting for. Outside its own transactions it reads uncommitted, so an agent would see what a turn
wrote that was lost afterwards: an alert of something that never happened. And whatever goes wrong with a commit of offsets ends
the worker, while a commit that failed costs nothing here: the next one makes up for it, and what comes twice has the same key.
"""

import logging
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition as Place
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

log = logging.getLogger("consentinel.edges")


class CommittedThread(AIOKafkaConsumerThread):
    """Faust's consumer thread, with both differences."""

    def _create_worker_consumer(self, transport: Transport) -> Any:
        client = super()._create_worker_consumer(transport)
        client._isolation_level = "read_committed"  # noqa: SLF001 -- read when it starts; tests/contracts/test_faust.py pins it
        return client

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        client, ours = self._ensure_consumer(), self.assignment()
        wanted = {Place(tp.topic, tp.partition): OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in ours}
        try:
            await client.commit(wanted)
        except KafkaError as fault:  # a rebalance, a broker that is away
            log.warning("offsets of the edges were not committed, and are with the next ones: %s", type(fault).__name__)
            return False
        return True


class CommittedConsumer(Consumer):
    """Faust's consumer, on such a thread."""

    def _new_consumer_thread(self) -> CommittedThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)


class CommittedTransport(Transport):
    """Faust's transport, with such a consumer."""

    Consumer = CommittedConsumer
