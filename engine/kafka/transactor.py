"""One transaction per turn: everything a turn changed, or nothing of it.

`transact`, by its numbered steps:

1. Check that every touched unit is ours: what was lost meanwhile is not even tried.
2. Begin the transaction.
3. Produce the outputs, in order.
4. Produce one changelog record per written key, and one per moved position.
5. Send the input offsets and a mark on each touched unit's shard, with the member's real metadata. The coordinator refuses them
   when the group has a newer generation: this is the fence that keeps a worker that was paused from committing what is
   another's by now. A turn that read nothing (alarms, beats) sends its marks all the same.
6. Commit. While the outcome is open, only the same call can settle it.
7. Only now the stores learn what was written, each with its changelog position.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.clock import Clock
from engine.kafka.clients import Client, Clients
from engine.kafka.names import Names, Unit
from engine.kafka.owned import Owned, Writes
from engine.kafka.reactions import Reaction, error_of, reaction_to
from engine.runtime import CommitLost, Output

log = logging.getLogger("consentinel.kafka")

STEPS: Final = range(1, 8)
CALL_SECS_MAX = 30.0
RETRIES_MAX = 20  # of a commit whose outcome is open: ten minutes, far beyond any transaction time-out
RENEW_WAIT_MS = 500
CLOCK_SLACK_MS = 1_000  # within it, the client's own stamp on a record is as good as the turn's time, and cheaper


class Transactor:
    """One transactional producer at a time. `step` is called before each numbered step: for tests and the simulation."""

    def __init__(self, clients: Clients, names: Names, kafka: Mapping[str, str], worker: str, clock: Clock) -> None:
        self.step: Callable[[int], None] = lambda _: None
        self.aborts: dict[str, int] = {}
        self.count = 0
        self._clients, self._names, self._kafka, self._clock = clients, names, kafka, clock
        self._txid = names.transactional_id(worker)
        self._marks = {unit: Place(names.shards, n, 0, metadata=self._txid) for unit, n in names.index.items()}
        self._renew_ms = 0
        self._producer: Client | None = self._new_producer()

    def renewed(self) -> bool:
        """Whether there is a living producer; makes a new one for one that is dead, or later when the broker is away."""
        if self._producer is None and self._clock() >= self._renew_ms:
            try:
                self._producer = self._new_producer()
            except KafkaException as fault:
                if reaction_to(fault) is Reaction.STOP:
                    raise
                self._renew_ms = self._clock() + RENEW_WAIT_MS
                log.warning("new producer: %s", error_of(fault).name())
        return self._producer is not None

    def transact(
        self, outputs: Sequence[Output], touched: Mapping[Unit, Writes], positions: Mapping[Unit, Mapping[str, int]],
        owned: Mapping[Unit, Owned], member: Callable[[], Any], now_ms: int,
    ) -> None:  # fmt: skip
        """Commit, or raise `CommitLost`: then nothing of it happened, and nothing that was read since the last commit counts."""
        step, producer = self.step, self._producer
        step(1)
        if producer is None or not touched.keys() <= owned.keys():
            self._count("not_owned")
            raise CommitLost("a unit of this commit is not owned any more")
        try:
            step(2)
            producer.begin_transaction()
            step(3)
            self._produce_outputs(producer, outputs, now_ms)
            step(4)
            for unit, writes in touched.items():
                self._produce_changelog(producer, owned[unit], writes)
            step(5)
            offsets = [self._marks[unit] for unit in touched] + [
                Place(self._kafka[topic], unit.partition, offset)
                for unit, moved in positions.items() for topic, offset in moved.items()
            ]  # fmt: skip
            producer.send_offsets_to_transaction(offsets, member(), CALL_SECS_MAX)
            step(6)
            self._settle(producer)
        except (KafkaException, BufferError) as fault:
            raise self._reset(fault) from None
        self.count += 1
        step(7)
        stamped_ms = self._clock()
        for unit, writes in touched.items():
            mine = owned[unit]
            assert mine.end is not None, "committed, but no delivery report of the changelog"
            mine.store.committed(writes, mine.end + 1, stamped_ms)
            mine.end = None
            mine.positions.update(positions.get(unit, {}))

    def _produce_outputs(self, producer: Client, outputs: Sequence[Output], now_ms: int) -> None:
        produce, names = producer.produce, self._kafka
        stamp = 0 if abs(now_ms - time.time() * 1000) <= CLOCK_SLACK_MS else now_ms
        for output in outputs:
            if stamp or output.headers or output.partition is not None:
                produce(
                    names[output.topic], output.value, output.key, -1 if output.partition is None else output.partition,
                    timestamp=stamp or now_ms, headers=list(output.headers),
                )  # fmt: skip
            else:
                produce(names[output.topic], output.value, output.key)

    def _produce_changelog(self, producer: Client, owned: Owned, writes: Writes) -> None:
        produce, partition, topic = producer.produce, owned.unit.partition, self._names.changelog(owned.unit.task)
        owned.end = None
        last, final = writes.popitem()
        for key, value in writes.items():
            produce(topic, value, key, partition)
        writes[last] = final
        produce(topic, final, last, partition, on_delivery=owned.delivered)

    def _settle(self, producer: Client) -> None:
        """Step 6: commit, again while only the same call can tell the outcome."""
        for _ in range(RETRIES_MAX):
            try:
                producer.commit_transaction(CALL_SECS_MAX)
                return
            except KafkaException as fault:
                if reaction_to(fault, committing=True) is not Reaction.RETRY:
                    raise
                log.warning("commit: %s, trying again", error_of(fault).name())
        raise KafkaException(KafkaError(KafkaError._FATAL, "the outcome of a commit stayed open", fatal=True))

    def _reset(self, fault: Exception) -> Exception:
        """The one path of every error; returns what the loop is told."""
        error = error_of(fault) if isinstance(fault, KafkaException) else KafkaError(KafkaError._QUEUE_FULL)
        reaction = reaction_to(KafkaException(error))
        self._count(error.name())
        log.warning("transaction lost: %s, %s", error.name(), reaction.value)
        if reaction is Reaction.RENEW or not self._abort():
            self._producer = None
            self._renew_ms = 0
        return fault if reaction is Reaction.STOP else CommitLost(f"the transaction was lost: {error.name()}")

    def _abort(self) -> bool:
        assert self._producer is not None
        try:
            self._producer.abort_transaction(CALL_SECS_MAX)
        except KafkaException as fault:
            log.warning("abort: %s", error_of(fault).name())
            return False
        return True

    def _new_producer(self) -> Client:
        producer = self._clients.producer(self._txid)
        producer.init_transactions(CALL_SECS_MAX)
        return producer

    def _count(self, reason: str) -> None:
        self.aborts[reason] = self.aborts.get(reason, 0) + 1
