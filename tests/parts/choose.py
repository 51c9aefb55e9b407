"""Which Kafka and which Redis the tests run on: decided once, said in pytest's header, started by the first test that asks."""

import os
import shutil
from functools import cache

from tests.parts import containers
from tests.parts.kafka import IMAGE, VERSION, Broker, GivenKafka, Kafka, cached_jars, jars, java
from tests.parts.process import PartMissing
from tests.parts.redis import GivenRedis, Redis, RedisServer, program


@cache
def kafka_kind() -> str:
    """given, testcontainers or maven; raises PartMissing with what is missing."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        return "given"
    if containers.has_image(IMAGE):
        return "testcontainers"
    java()
    if not cached_jars().is_dir() and shutil.which("mvn") is None:
        raise PartMissing("Maven was not found, and Kafka's jars have not been fetched yet")
    return "maven"


@cache
def redis_kind() -> str:
    """given, binary or testcontainers; raises PartMissing with what is missing."""
    if os.environ.get("REDIS_URL"):
        return "given"
    if shutil.which("redis-server"):
        return "binary"
    if containers.has_image("redis:8"):
        return "testcontainers"
    raise PartMissing("neither $REDIS_URL, nor a redis-server, nor a container engine with the image redis:8")


def own_kafka() -> None:
    """Raises PartMissing where a test cannot have a `Broker` of its own."""
    java()
    jars()


def own_redis() -> None:
    """Raises PartMissing where a test cannot have a `RedisServer` of its own."""
    program()


def start_kafka() -> Kafka:
    """A broker that serves. A failure is a failure: no other kind is tried after the one that was chosen."""
    match kafka_kind():
        case "given":
            return GivenKafka(os.environ["KAFKA_BOOTSTRAP"])
        case "testcontainers":
            return containers.start_kafka()
        case _:
            return Broker().start()


def start_redis() -> Redis:
    """A Redis that answers."""
    match redis_kind():
        case "given":
            return GivenRedis(os.environ["REDIS_URL"])
        case "testcontainers":
            return containers.start_redis()
        case _:
            return RedisServer().start()


def header() -> list[str]:
    """Lines for pytest's header."""
    lines = []
    for name, kind in (("kafka", kafka_kind), ("redis", redis_kind)):
        try:
            lines.append(f"{name}: {kind()}{f' ({VERSION})' if name == 'kafka' and kind() != 'given' else ''}")
        except PartMissing as fault:
            lines.append(f"{name}: NONE: {fault}")
    return lines
