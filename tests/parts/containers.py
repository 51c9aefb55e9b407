"""Kafka and Redis as containers, through testcontainers: Docker's API, be it Docker's or podman's."""

import os
import socket
from functools import cache
from typing import Any, Self
from urllib.parse import urlsplit

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.parts.kafka import IMAGE

API_SECS_MAX = 10
START_SECS_MAX = 90
START = "/tmp/start.sh"


def _listens() -> bool:
    """Whether anything is there at all. Docker's client leaves its socket open when nothing is, and warnings are errors here."""
    where = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if where.scheme not in {"unix", "http+unix"}:
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(API_SECS_MAX)
        return probe.connect_ex(where.path) == 0


@cache
def client() -> Any | None:
    """Docker's client when an engine answers, else None."""
    if not _listens():
        return None
    try:
        found = docker.from_env(timeout=API_SECS_MAX)
    except (docker.errors.DockerException, OSError):
        return None
    try:
        found.ping()
    except (docker.errors.DockerException, OSError):
        found.close()
        return None
    return found


def has_image(name: str) -> bool:
    """Whether an engine answers and has the image; nothing is pulled."""
    engine = client()
    if engine is None:
        return False
    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


class ApacheKafkaContainer(DockerContainer):
    """The image apache/kafka as one KRaft node. testcontainers' own KafkaContainer is made for another vendor's image.

    The port that clients are told to use is known only when the container runs: the container waits for a script that names it.
    """

    kind = "testcontainers"

    def __init__(self, image: str = IMAGE, **config: object) -> None:
        super().__init__(image)
        self.with_exposed_ports(9092)
        self.with_command(["bash", "-c", f"until [ -s {START} ]; do sleep 0.1; done; . {START}"])
        settings = {
            "node.id": 1,
            "process.roles": "broker,controller",
            "listeners": "PLAINTEXT://:9092,INTERNAL://:9094,CONTROLLER://:9093",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": "1@localhost:9093",
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "auto.create.topics.enable": "false",
            **{name.replace("_", "."): value for name, value in config.items()},
        }
        for name, value in settings.items():
            self.with_env(f"KAFKA_{name.upper().replace('.', '_')}", str(value))

    @property
    def bootstrap(self) -> str:
        return f"{self.get_container_host_ip()}:{self.get_exposed_port(9092)}"

    def start(self) -> Self:
        """Start it and wait until it serves; a container that does not is removed."""
        super().start()
        try:
            told = f"PLAINTEXT://{self.bootstrap},INTERNAL://localhost:9094"
            # Written beside and renamed, so that the container never reads half of it.
            script = f"export KAFKA_ADVERTISED_LISTENERS={told}; exec /etc/kafka/docker/run"
            self.exec(["bash", "-c", f"echo '{script}' > {START}.new && mv {START}.new {START}"])
            LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(START_SECS_MAX).wait_until_ready(self)
        except BaseException:
            self.stop()
            raise
        return self


class RedisContainer(DockerContainer):
    """The image redis:8."""

    kind = "testcontainers"

    def __init__(self, image: str = "redis:8") -> None:
        super().__init__(image)
        self.with_exposed_ports(6379)

    @property
    def url(self) -> str:
        return f"redis://{self.get_container_host_ip()}:{self.get_exposed_port(6379)}/0"

    def start(self) -> Self:
        """Start it and wait until it serves; a container that does not is removed."""
        super().start()
        try:
            LogMessageWaitStrategy("Ready to accept connections").with_startup_timeout(START_SECS_MAX).wait_until_ready(self)
        except BaseException:
            self.stop()
            raise
        return self


def start_kafka() -> ApacheKafkaContainer:
    """The session's broker."""
    return ApacheKafkaContainer().start()


def start_redis() -> RedisContainer:
    """The session's Redis."""
    return RedisContainer().start()
