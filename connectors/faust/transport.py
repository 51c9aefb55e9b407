"""The edges' consumer: committed records only, no fault of the brokers ends the process, and no rebalance keeps it from ending.

Three things that Faust has no setting for. Outside its own transactions it reads uncommitted, so an agent would see what a turn
wrote that was lost afterwards: an alert of something that never happened. Whatever goes wrong with a commit of offsets ends the
worker, while a commit that failed costs nothing here: the next one makes up for it, and what comes twice has the same key. And a
worker that dies amid a rebalance waits for itself, a minute long: its consumer's thread for an answer to the rebalance, which
nobody gives any more, and the rest of it for the thread.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition as Place
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

log = logging.getLogger("consentinel.edges")

WATCH_SECS = 0.1


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

    async def threadsafe_partitions_revoked(self, receiver_loop: asyncio.AbstractEventLoop, revoked: set[TP]) -> None:
        """Faust's, and it ends with the worker."""
        await self._unless_ending(super().threadsafe_partitions_revoked(receiver_loop, revoked))

    async def threadsafe_partitions_assigned(
        self, receiver_loop: asyncio.AbstractEventLoop, assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Faust's, and it ends with the worker."""
        await self._unless_ending(super().threadsafe_partitions_assigned(receiver_loop, assigned, generation_id))

    async def _unless_ending(self, answer: Awaitable[None]) -> None:
        """Wait for the answer, which the worker's own loop gives, for as long as that loop answers."""
        asked = asyncio.ensure_future(answer)
        while not asked.done():
            if self.should_stop:
                asked.cancel()
                return
            await asyncio.wait([asked], timeout=WATCH_SECS)
        asked.result()


class CommittedTransport(Transport):
    """Faust's transport, with such a consumer."""

    Consumer = CommittedConsumer
