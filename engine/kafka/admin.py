"""One administrator's client per job: every answer comes within a deadline or as a fault of `faults.py`."""

from collections.abc import Mapping
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from time import monotonic, sleep
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata  # type: ignore[attr-defined]

from engine.kafka.connection import Connection
from engine.kafka.faults import (
    AuthorizerOff,
    BrokerUnreachable,
    ClusterRefused,
    KafkaFault,
    NotAuthenticated,
    NotAuthorised,
    TlsFailed,
    TopicsMissing,
)
from engine.kafka.probe import probe

T = TypeVar("T")
POLL_SECS: Final = 0.05
METADATA_SECS: Final = 1.0  # a look at what went wrong each time
GRACE_SECS: Final = 0.5
PROBE_SECS_MAX: Final = 3.0
PROBE_SHARE: Final = 0.4  # of the time: a client that connects needs the rest for its questions
FIRST_SECS_MAX: Final = 5.0  # with the probe: an address or a password that is wrong is told within 8 s


class NotYet(ClusterRefused):
    """The cluster is not ready for this question: ask again."""


_OWN: Final = {  # librdkafka's own errors, whose names in confluent_kafka look private and are not
    KafkaError._AUTHENTICATION: (NotAuthenticated, "name, password or mechanism is wrong"),
    KafkaError._SSL: (TlsFailed, "no TLS connection"),
    KafkaError._TRANSPORT: (BrokerUnreachable, "the connection to the broker broke"),
    KafkaError._ALL_BROKERS_DOWN: (BrokerUnreachable, "no broker is up"),
    KafkaError._RESOLVE: (BrokerUnreachable, "a broker tells a host name that nobody knows: see its advertised.listeners"),
    KafkaError._TIMED_OUT: (BrokerUnreachable, "the broker did not answer in time"),
}
_FINAL: Final = (KafkaError._AUTHENTICATION, KafkaError._SSL)
_NOT_YET: Final = "a coordinator or a leader is not ready"
_KINDS: Final = _OWN | {
    KafkaError.SASL_AUTHENTICATION_FAILED: (NotAuthenticated, "name, password or mechanism is wrong"),
    KafkaError.UNSUPPORTED_SASL_MECHANISM: (NotAuthenticated, "the broker does not know this sasl_mechanism"),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (NotAuthorised, "an ACL on a topic is missing"),
    KafkaError.GROUP_AUTHORIZATION_FAILED: (NotAuthorised, "an ACL on a group is missing"),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (NotAuthorised, "an ACL on the cluster is missing"),
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (NotAuthorised, "an ACL on a transactional id is missing"),
    KafkaError.NOT_COORDINATOR: (NotYet, _NOT_YET),
    KafkaError.COORDINATOR_NOT_AVAILABLE: (NotYet, _NOT_YET),
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS: (NotYet, _NOT_YET),
    KafkaError.NOT_LEADER_FOR_PARTITION: (NotYet, _NOT_YET),
    KafkaError.LEADER_NOT_AVAILABLE: (NotYet, _NOT_YET),
    KafkaError.FENCED_LEADER_EPOCH: (NotYet, _NOT_YET),
    KafkaError.UNKNOWN_LEADER_EPOCH: (NotYet, _NOT_YET),
    KafkaError.UNKNOWN_TOPIC_OR_PART: (TopicsMissing, "a topic is not there"),
    KafkaError.SECURITY_DISABLED: (AuthorizerOff, "no authorizer is on: set the brokers' authorizer.class.name"),
}


def fault_of(error: KafkaError, what: str = "") -> KafkaFault:
    """The fault that says what a client's error means. `what`: what was being done; the broker's own text is not repeated."""
    kind, text = _KINDS.get(error.code(), (ClusterRefused, f"the cluster said {error.name()}"))
    return kind(f"{what}: {text}" if what else text)


class _Ears:
    """Keeps the gravest error that a client heard of; apart from `Admin`, so that the client ends with it and is in no cycle."""

    def __init__(self) -> None:
        self.worst: KafkaError | None = None

    @property
    def final(self) -> bool:
        """Whether trying again cannot help."""
        return self.worst is not None and self.worst.code() in _FINAL

    def __call__(self, error: KafkaError) -> None:
        if self.worst is None or (error.code() in _FINAL and not self.final):
            self.worst = error


class Admin:
    """An administrator's client and the time that is left for its job."""

    def __init__(self, connection: Connection, timeout_secs: float) -> None:
        self.deadline = monotonic() + timeout_secs
        self._ears = _Ears()
        config: dict[str, Any] = {**connection.config("admin"), "error_cb": self._ears, "log_level": 0}
        self.client = AdminClient(config)

    @classmethod
    def opened(cls, connection: Connection, timeout_secs: float) -> "Admin":
        """A client of a broker that answers. Raises what `probe` and a first question raise, within 8 s."""
        deadline = monotonic() + timeout_secs
        probe(connection, min(PROBE_SECS_MAX, timeout_secs * PROBE_SHARE))
        admin = cls(connection, deadline - monotonic())
        admin.metadata(min(FIRST_SECS_MAX, admin.left_secs()))
        return admin

    def left_secs(self) -> float:
        """Time that is left. Raises `KafkaFault` when there is none."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise self.silence()
        return left

    def result(self, future: "Future[T]", what: str) -> T:
        """The answer to one question. Raises `KafkaFault`, a moment after the deadline at the latest.

        Every question is asked with `left_secs` as its own limit, so that none is open when the client goes: that would
        leave its answer to nobody.
        """
        while True:
            try:
                return future.result(POLL_SECS)
            except FutureTimeout:
                self.client.poll(0)
                if self.deadline + GRACE_SECS < monotonic():
                    raise self.silence() from None
            except KafkaException as refused:
                error = refused.args[0] if refused.args else None
                raise (fault_of(error, what) if isinstance(error, KafkaError) else ClusterRefused(what)) from None

    def results(self, futures: Mapping[str, "Future[T]"], what: str) -> dict[str, T]:
        """The answers to several questions, by what they are about. Raises `KafkaFault`, which names the first that failed."""
        wait(futures.values(), self.left_secs() + GRACE_SECS)
        return {name: self.result(future, f"{what} {name}") for name, future in futures.items()}

    def metadata(self, secs_max: float = 60.0) -> ClusterMetadata:
        """The cluster's brokers and the topics that we may see. Raises `KafkaFault`, also when it lasts too long."""
        until = min(self.deadline, monotonic() + secs_max)
        while True:
            if monotonic() > until:
                raise self.silence()
            try:
                return self.client.list_topics(timeout=min(METADATA_SECS, max(until - monotonic(), POLL_SECS)))
            except KafkaException as refused:
                self.client.poll(0)
                if self._ears.final:
                    raise self.silence() from None
                error = refused.args[0]
                if error.code() not in _OWN:
                    raise fault_of(error) from None

    def wait(self, secs: float) -> None:
        """Wait, and hear what goes wrong meanwhile."""
        self.client.poll(0)
        sleep(min(secs, self.left_secs()))

    def silence(self) -> KafkaFault:
        """Why nothing was answered: the gravest error that the client heard of, or that it heard nothing."""
        return BrokerUnreachable("no answer in time") if self._ears.worst is None else fault_of(self._ears.worst)
