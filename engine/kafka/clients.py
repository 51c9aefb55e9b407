"""The Kafka clients that the engine uses, each made here and nowhere else; the simulation brings its own maker."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka._model import TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from engine.kafka.connection import Connection
from engine.kafka.names import Names
from engine.kafka.reactions import error_of

Client = Any  # a confluent-kafka client, or the simulation's: what is used of it stands in the calls
At = tuple[str, int]  # Kafka's topic name, partition

QUEUE_MAX = 1_000_000  # records a producer holds: far more than one turn makes
FETCH_WAIT_MS = 100
ADMIN_SECS_MAX = 10.0
GRACE_SECS = 1.0  # what a call may take beyond the time it was given
NO_RECORD = -1  # the offset of "none is that late"; what is below it is no answer
EARLIEST, LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
PUBLISH_MS_MAX = 5_000  # who waits for an answer waits no longer; what is not delivered by then never is: raw keys rely on it
HEARTBEATS_PER_SESSION = 6


class Clients(Protocol):
    """Makes clients. Everything here may raise `KafkaException`."""

    def producer(self, transactional_id: str) -> Client:
        """A transactional producer, not yet initialised."""
        ...

    def publisher(self) -> Client:
        """An idempotent producer for the edges."""
        ...

    def member(self, worker: str) -> Client:
        """A consumer that joins the group."""
        ...

    def reader(self, name: str, *, committed: bool = True, wait_ms: int = FETCH_WAIT_MS) -> Client:
        """A consumer that is assigned by hand, tells of ends, and never commits; at an end the broker waits `wait_ms`."""
        ...

    def starts(self, places: Iterable[At]) -> dict[At, int]:
        """The first retained offset of each partition."""
        ...

    def ends(self, places: Iterable[At], *, committed: bool) -> dict[At, int]:
        """The last stable offset of each partition, or else its high watermark."""
        ...

    def since(self, places: Iterable[At], ms: int) -> dict[At, int]:
        """The first offset of each partition whose record is of `ms` (epoch) or later; the end where there is none."""
        ...

    def committed(self, places: Iterable[At]) -> dict[At, int]:
        """The group's offsets, where it has any."""
        ...

    def delete_before(self, offsets: Mapping[At, int]) -> None:
        """Delete the records before these offsets."""
        ...

    def incarnations(self, topics: Iterable[str]) -> dict[str, str]:
        """The id of each topic: another one when it was deleted and made anew."""
        ...


class Transactional(Producer):
    """A transactional producer whose `send_offsets_to_transaction` keeps to its time.

    librdkafka's waits without end for a group coordinator that has gone (its issues 5456 and 5511), so it is called on a thread
    of its own. A call that does not come back is left behind, and its producer with it: the next of the same name fences it.
    """

    def __init__(self, open_secs_max: float, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._open_secs_max = open_secs_max  # by then the coordinator has ended the transaction anyway

    def send_offsets_to_transaction(self, positions: list[Place], group_metadata: Any, timeout: float = -1.0) -> None:
        """Raises `KafkaException`; a fatal one when the call does not come back."""
        secs = self._open_secs_max if timeout < 0 else min(timeout, self._open_secs_max)
        done: SimpleQueue[BaseException | None] = SimpleQueue()
        call = partial(super().send_offsets_to_transaction, positions, group_metadata, secs)
        threading.Thread(target=_report, args=(call, done), name="offsets", daemon=True).start()
        try:
            fault = done.get(timeout=secs + GRACE_SECS)
        except Empty:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer about the offsets", fatal=True)) from None
        if fault is not None:
            raise fault


def _report(call: Callable[[], Any], done: SimpleQueue[BaseException | None]) -> None:
    try:
        call()
    except BaseException as fault:
        done.put(fault)
    else:
        done.put(None)


class ConfluentClients:
    """Clients of a real cluster."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection, self._names = connection, names
        self._admin: AdminClient | None = None

    def producer(self, transactional_id: str) -> Client:
        """See `Clients`."""
        c = self._connection
        return Transactional(c.transaction_timeout_ms / 1_000, {
            **c.config(transactional_id), "transactional.id": transactional_id,
            "transaction.timeout.ms": c.transaction_timeout_ms, "acks": "all", "linger.ms": 20,
            "queue.buffering.max.messages": QUEUE_MAX, "partitioner": "consistent",
        })  # fmt: skip

    def publisher(self) -> Client:
        """See `Clients`."""
        return Producer({
            **self._connection.config("publisher"), "enable.idempotence": True, "acks": "all", "linger.ms": 2,
            "partitioner": "consistent", "message.timeout.ms": PUBLISH_MS_MAX,
        })  # fmt: skip

    def member(self, worker: str) -> Client:
        """See `Clients`."""
        c = self._connection
        config = {
            **c.config(worker), "group.id": self._names.group, "enable.auto.commit": False, "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 1_000,
        }  # fmt: skip
        if c.group_instance:
            config["group.instance.id"] = worker
        if c.group_protocol == "consumer":  # KIP-848: session and assignor are the broker's settings
            config["group.protocol"] = "consumer"
        else:
            config["partition.assignment.strategy"] = "cooperative-sticky"
            config["session.timeout.ms"] = c.session_timeout_ms
            config["heartbeat.interval.ms"] = c.session_timeout_ms // HEARTBEATS_PER_SESSION
        return Consumer(config)

    def reader(self, name: str, *, committed: bool = True, wait_ms: int = FETCH_WAIT_MS) -> Client:
        """See `Clients`."""
        return Consumer({
            **self._connection.config(name), "group.id": self._names.group, "enable.auto.commit": False,
            "enable.auto.offset.store": False, "auto.offset.reset": "error", "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted", "fetch.wait.max.ms": wait_ms,
            "queued.max.messages.kbytes": 65_536,
        })  # fmt: skip

    def starts(self, places: Iterable[At]) -> dict[At, int]:
        """See `Clients`."""
        return self._offsets(places, EARLIEST, IsolationLevel.READ_UNCOMMITTED)

    def ends(self, places: Iterable[At], *, committed: bool) -> dict[At, int]:
        """See `Clients`."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(places, LATEST, level)

    def since(self, places: Iterable[At], ms: int) -> dict[At, int]:
        """See `Clients`."""
        asked = list(places)
        found = self._offsets(asked, OffsetSpec.for_timestamp(ms), IsolationLevel.READ_UNCOMMITTED)
        none = [at for at, offset in found.items() if offset < 0]
        return found | self.ends(none, committed=False)

    def committed(self, places: Iterable[At]) -> dict[At, int]:
        """See `Clients`."""
        asked = ConsumerGroupTopicPartitions(self._names.group, [Place(*at) for at in places])
        futures = self._admin_client().list_consumer_group_offsets([asked], request_timeout=ADMIN_SECS_MAX)
        found = _answer(futures[self._names.group]).topic_partitions
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def delete_before(self, offsets: Mapping[At, int]) -> None:
        """See `Clients`."""
        wanted = [Place(*at, offset) for at, offset in offsets.items()]
        futures = self._admin_client().delete_records(wanted, request_timeout=ADMIN_SECS_MAX)
        for future in futures.values():
            _answer(future)

    def incarnations(self, topics: Iterable[str]) -> dict[str, str]:
        """See `Clients`."""
        futures = self._admin_client().describe_topics(TopicCollection(list(topics)), request_timeout=ADMIN_SECS_MAX)
        return {name: str(_answer(future).topic_id) for name, future in futures.items()}

    def _offsets(self, places: Iterable[At], spec: OffsetSpec, level: IsolationLevel) -> dict[At, int]:
        asked = {Place(*at): spec for at in places}
        if not asked:
            return {}
        try:
            return self._asked(asked, level)
        except KafkaException as fault:
            # After a broker's restart this client would ask with the old leader's epoch for ever.
            self._admin = None
            if error_of(fault).code() not in (KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH):
                raise
        return self._asked(asked, level)

    def _asked(self, asked: dict[Place, OffsetSpec], level: IsolationLevel) -> dict[At, int]:
        futures = self._admin_client().list_offsets(asked, isolation_level=level, request_timeout=ADMIN_SECS_MAX)
        found = {(at.topic, at.partition): int(_answer(future).offset) for at, future in futures.items()}
        if any(offset < NO_RECORD for offset in found.values()):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # no broker answered, and the client does not say so
        return found

    def _admin_client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient({**self._connection.config("admin")})
        return self._admin


def runs(messages: Sequence[Any]) -> Iterator[tuple[At, list[Any]]]:
    """Consecutive messages of one partition, without a call of Python's per message. None of them is an error."""
    if messages:
        of = type(messages[0])
        for topic, same in groupby(messages, of.topic):
            for partition, run in groupby(same, of.partition):
                yield (topic, partition), list(run)


def _answer(future: Any) -> Any:
    """What an admin call found. Raises `KafkaException`, also where the client itself says nothing in time."""
    try:
        return future.result(ADMIN_SECS_MAX + GRACE_SECS)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
