"""From settings to shelves: what `up` and `worker` host to delete recordings; nothing, where settings name no place of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.cli.faults import BadUsage
from connectors.cli.settings import MediaSettings
from connectors.media import (
    Clerk,
    FolderShelf,
    Follower,
    MediaSink,
    S3Shelf,
    Shelf,
    ShelfImpossible,
    Shelves,
    Store,
)  # fmt: skip
from connectors.media.clerk import TOPIC
from engine.runtime import Output
from engine.secrets import Secrets
from schemas.codec import encode
from schemas.routed import Envelope

if TYPE_CHECKING:
    from engine.kafka.worker import Worker
    from engine.service import Service


def shelves_of(settings: MediaSettings, kept: list[Path]) -> Shelves | None:
    """The shelves that settings name, if any. Raises `BadUsage`.

    `kept`: folders and files of ours; none may lie where a publisher's address could reach it.
    """
    found: list[Shelf] = []
    inside = [path.resolve() for path in kept]
    if any(path.is_relative_to(root.resolve()) for root in settings.roots for path in inside):
        raise BadUsage("media.roots: the data folder or the key ring lies in one of them, and could be deleted as a recording")
    if settings.s3_buckets and settings.s3_endpoint is None:
        raise BadUsage("media.s3_endpoint: is needed with media.s3_buckets")
    try:
        if settings.roots:
            found.append(FolderShelf(settings.roots, settings.sidecars))
        if settings.s3_endpoint is not None:
            found.append(S3Shelf(Store(
                endpoint=settings.s3_endpoint, buckets=tuple(settings.s3_buckets), region=settings.s3_region,
                access_key=settings.access_key(), secret_key=settings.secret_key(), ca_file=settings.s3_ca_file,
                sidecars=tuple(settings.sidecars),
            )))  # fmt: skip
    except ShelfImpossible as wrong:
        raise BadUsage(str(wrong)) from None
    return Shelves(found) if found else None


def follower_of(shelves: Shelves, settings: MediaSettings, service: "Service") -> Follower:
    """What follows `media.orders` on the embedded runtime."""

    def publish(topic: str, key: str, event: Envelope) -> None:
        service.publish([(topic, key, event)])

    def opened(token: bytes) -> bytes | None:
        return service.secrets.open_raw(TOPIC, token)

    clerk = Clerk(
        shelves, opened, publish, _source(service.ring.deployment()), service.clock, give_up_secs=settings.give_up_secs
    )  # fmt: skip
    partitions = service.topology.topics[TOPIC].partitions
    return Follower(service, partitions, lambda n: service.runtime.end(TOPIC, n), clerk, service.folder)


def sink_of(shelves: Shelves, settings: MediaSettings, worker: "Worker") -> MediaSink:
    """What the worker's edge agent hands orders to."""
    secrets = Secrets(worker.ring, os.urandom)

    def publish(topic: str, key: str, event: Envelope) -> None:
        now_ms = worker.clock()
        worker.runtime.edge.append([Output(topic, key.encode(), secrets.seal_raw(topic, encode(event), now_ms))], now_ms)

    def opened(token: bytes) -> bytes | None:
        return secrets.open_raw(TOPIC, token)

    source = _source(worker.ring.deployment())
    return MediaSink(Clerk(shelves, opened, publish, source, worker.clock, give_up_secs=settings.give_up_secs))


def _source(deployment: str) -> str:
    return f"consentinel/{deployment}/media"
