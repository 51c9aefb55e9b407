"""What is there to fold: one consumer per task, whose partitions are assigned by hand as units come and go."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from engine.kafka.beats import Beats
from engine.kafka.clients import Client, Clients, runs
from engine.kafka.names import RESERVED, Unit
from engine.kafka.owned import Owned
from engine.kafka.positions import PositionLost
from engine.kafka.reactions import Reaction, reaction_to
from engine.runtime import Batch, LogRecord, TaskSpec

log = logging.getLogger("consentinel.kafka")

WAIT_SECS = 0.005


class Fetcher:
    """Reads the inputs of owned units, from where they are begun. Beats are taken out, and told to `beats`."""

    def __init__(
        self, clients: Clients, worker: str, tasks: Sequence[TaskSpec], kafka: Mapping[str, str], beats: Beats
    ) -> None:
        self._kafka, self._ours, self._beats = kafka, {theirs: ours for ours, theirs in kafka.items()}, beats
        self._awaiting = frozenset(task.name for task in tasks if task.awaits)
        self._held: dict[str, list[Any]] = {task.name: [] for task in tasks}  # fetched, and not handed out yet
        self._readers: dict[str, Client] = {task.name: clients.reader(f"{worker}-{task.name}") for task in tasks}

    def begin(self, unit: Unit, positions: Mapping[str, int]) -> None:
        """Fetch a unit's inputs from these positions on."""
        places = [Place(self._kafka[topic], unit.partition, offset) for topic, offset in positions.items()]
        self._readers[unit.task].incremental_assign(places)

    def end(self, unit: Unit, topics: Iterable[str]) -> None:
        """Fetch them no more, and forget what was fetched."""
        mine = {(self._kafka[topic], unit.partition) for topic in topics}
        self._readers[unit.task].incremental_unassign([Place(*at) for at in mine])
        self._held[unit.task] = [m for m in self._held[unit.task] if (m.topic(), m.partition()) not in mine]

    def poll(self, task: str, records_max: int, owned: Mapping[Unit, Owned]) -> list[Batch]:
        """At most `records_max` records of what the client has fetched for the task's owned units."""
        held = self._held[task]
        if len(held) < records_max:
            held += self._readers[task].consume(records_max - len(held), 0)
        messages, self._held[task] = held[:records_max], held[records_max:]
        if not messages:
            return []
        batches: list[Batch] = []
        if any([m.error() for m in messages]):
            messages = list(self._without_errors(task, messages, owned))
        for (kafka, partition), fetched in runs(messages):
            mine = owned.get(Unit(task, partition))
            if mine is None:
                continue
            topic = self._ours[kafka]
            cursor = mine.cursors[topic]
            run = fetched
            if run[0].offset() < cursor:  # fetched before the unit was taken away and came back
                run = [m for m in fetched if m.offset() >= cursor]
                if not run:
                    continue
            mine.cursors[topic] = run[-1].offset() + 1
            mine.reached[topic] = max(mine.reached[topic], mine.cursors[topic])
            records = list(map(LogRecord, *_fields(run)))
            if task in self._awaiting:
                records = self._without_beats(mine.unit, records)
            if records:
                batches.append(Batch(task, topic, partition, records))
        return batches

    def _without_errors(self, task: str, messages: list[Any], owned: Mapping[Unit, Owned]) -> Iterator[Any]:
        """The records among `messages`; an end of a partition moves `reached` past what holds no record."""
        for message in messages:
            fault = message.error()
            if fault is None:
                yield message
            elif fault.code() == KafkaError._PARTITION_EOF:
                mine = owned.get(Unit(task, message.partition()))
                topic = self._ours[message.topic()]
                # Only when everything before it has been handed out: what is held back is not folded yet.
                if mine is not None:
                    mine.reached[topic] = max(mine.reached[topic], message.offset())
            elif fault.code() == KafkaError._AUTO_OFFSET_RESET:
                raise PositionLost(f"{message.topic()}/{message.partition()} does not retain what is to be read next")
            elif reaction_to(KafkaException(fault)) is Reaction.STOP:
                raise KafkaException(fault)
            else:
                log.warning("reading %s: %s", task, fault.name())

    def _without_beats(self, unit: Unit, records: list[LogRecord]) -> list[LogRecord]:
        beats = [r for r in records if r.key.startswith(RESERVED)]
        if not beats:
            return records
        for beat in beats:
            self._beats.heard(unit, beat.key, beat.value or b"")
        return [r for r in records if not r.key.startswith(RESERVED)]

    def wait(self, timeout_secs: float, owned: Mapping[Unit, Owned], ended: Callable[[], bool]) -> None:
        """Return when there may be something to poll, when `ended` says so, at the latest after `timeout_secs`."""
        deadline = time.monotonic() + timeout_secs
        while not any(self._held.values()):
            for task, reader in self._readers.items():
                self._held[task] = list(self._without_errors(task, reader.consume(1, 0), owned))
            left = deadline - time.monotonic()
            if left <= 0 or any(self._held.values()) or ended():
                return
            time.sleep(min(left, WAIT_SECS))

    def close(self) -> None:
        """Let go of the clients."""
        for reader in self._readers.values():
            reader.close()


def _fields(run: list[Any]) -> list[Iterable[Any]]:
    """The fields of `run`'s records, in the order of `LogRecord`: column by column, since a batch is cheaper that way."""
    of = type(run[0])
    keys, headers = list(map(of.key, run)), list(map(of.headers, run))
    found: list[Iterable[Any]] = [
        map(of.offset, run), map(_second, map(of.timestamp, run)), [k or b"" for k in keys] if None in keys else keys,
        map(of.value, run),
    ]  # fmt: skip
    if any(headers):
        found.append([tuple(h or ()) for h in headers])
    return found


_second = itemgetter(1)
