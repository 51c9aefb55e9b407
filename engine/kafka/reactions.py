"""Every error of a Kafka client has one reaction, named here.

RETRY    the same call again: the outcome is open and only the call can settle it
ABORT    abort the transaction, forget the turn, take every unit again from the broker
RENEW    this producer is dead (fenced, or fatal) or knows a cluster that is no more: as ABORT, with a new producer
STOP     nothing here can mend it: end the worker, with the reason
"""

from enum import Enum
from typing import Final

from confluent_kafka import KafkaError, KafkaException


class Reaction(Enum):
    """See the module."""

    RETRY = "retry"
    ABORT = "abort"
    RENEW = "renew"
    STOP = "stop"


STOPS: Final = frozenset({
    KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION, KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._INVALID_ARG, KafkaError.INVALID_TIMESTAMP,
})  # fmt: skip
# After the last five the client goes on with numbers that the broker does not expect, or asks a coordinator that has gone.
RENEWS: Final = frozenset({
    KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError._STATE,
    KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError._INCONSISTENT,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
})  # fmt: skip


def error_of(fault: KafkaException) -> KafkaError:
    """The error that an exception carries."""
    found = fault.args[0] if fault.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL)


def reaction_to(fault: KafkaException, *, committing: bool = False) -> Reaction:
    """How to react; `committing`: it was raised by a commit, whose retriable errors leave the outcome open."""
    error = error_of(fault)
    code = error.code()
    if committing and error.retriable():
        return Reaction.RETRY
    if code in STOPS:
        return Reaction.STOP
    if error.fatal() or code in RENEWS:
        return Reaction.RENEW
    return Reaction.ABORT
