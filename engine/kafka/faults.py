"""Every way in which a cluster can refuse us, drawn once: each has a code of a closed list and a text to act on.

    RuntimeFault
    └── KafkaFault
        ├── SettingImpossible   setting-impossible   settings that exclude each other, or a file that cannot be read
        ├── BrokerUnreachable   broker-unreachable   no address answers: wrong host or port, nothing listens, too slow
        ├── NotKafka            not-kafka            something answers, but not as Kafka does on this kind of listener
        ├── TlsFailed           tls-failed           no TLS connection: certificate, authority, host name, client certificate
        ├── NotAuthenticated    not-authenticated    name, password or mechanism is wrong
        ├── BrokerTooOld        broker-too-old       older than Apache Kafka 4.0
        ├── NotAuthorised       not-authorised       an ACL is missing
        ├── TopicsMissing       topic-missing        topics that the topology names are not there
        ├── PartitionsWrong     partition-count      a topic is not cut as the topology says
        ├── PolicyWrong         cleanup-policy       a topic would lose, or never drop, what it holds
        ├── AuthorizerOff       authorizer-off       the cluster checks nobody's rights, so ACLs would mean nothing
        └── ClusterRefused      cluster-refused      the cluster did not do what it was asked

Texts name settings, topics, operations and roles; never a password, a file's content or a record's. Where several are true
at once the first in this order is told, because the later ones often only follow from it.
"""

from collections.abc import Collection
from typing import ClassVar

from engine.runtime import RuntimeFault

NAMES_TOLD_MAX = 5  # in one text; the plan shows all of them


class KafkaFault(RuntimeFault):
    """Base of the tree above."""

    code: ClassVar[str] = "cluster-refused"


class SettingImpossible(KafkaFault):
    """Settings that exclude each other, or a file that cannot be read; `setting` names the one to change."""

    code = "setting-impossible"

    def __init__(self, setting: str, why: str) -> None:
        super().__init__(f"kafka.{setting}: {why}")
        self.setting = setting


class BrokerUnreachable(KafkaFault):
    """No address answers."""

    code = "broker-unreachable"


class NotKafka(KafkaFault):
    """Something answers, but not as Kafka does on this kind of listener."""

    code = "not-kafka"


class TlsFailed(KafkaFault):
    """No TLS connection comes about."""

    code = "tls-failed"


class NotAuthenticated(KafkaFault):
    """Name, password or mechanism is wrong."""

    code = "not-authenticated"


class BrokerTooOld(KafkaFault):
    """The broker is older than Apache Kafka 4.0."""

    code = "broker-too-old"


class NotAuthorised(KafkaFault):
    """An ACL is missing."""

    code = "not-authorised"


class TopicsMissing(KafkaFault):
    """Topics that the topology names are not there."""

    code = "topic-missing"


class PartitionsWrong(KafkaFault):
    """A topic is not cut as the topology says."""

    code = "partition-count"


class PolicyWrong(KafkaFault):
    """A topic would lose, or never drop, what it holds."""

    code = "cleanup-policy"


class AuthorizerOff(KafkaFault):
    """The cluster checks nobody's rights."""

    code = "authorizer-off"


class ClusterRefused(KafkaFault):
    """The cluster did not do what it was asked."""


def told(names: Collection[str]) -> str:
    """A few of many names for a text, in order."""
    first = ", ".join(sorted(names)[:NAMES_TOLD_MAX])
    return first if len(names) <= NAMES_TOLD_MAX else f"{first} and {len(names) - NAMES_TOLD_MAX} more"
