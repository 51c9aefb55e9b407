"""What the end-to-end and property tests share: events as the gateway writes them, and what a deployment shows, opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, NamedTuple

import msgspec

from engine.layout import data_key
from engine.runtime import Output, partition_of
from schemas.codec import decode, decode_as, encode
from schemas.routed import Envelope
from schemas.topics import ProtectedConversation, WrappedKey

TOPIC_OF = {"call": "calls", "consent": "consents", "request": "requests"}
COMPACTED = ("conversations.protected", "keys.wrapped", "consent.state", "suppression.state", "controllers", "requests.state")
TURNS_MAX = 100_000
EVERYTHING = 1_000_000


class Told(NamedTuple):
    """One event: CloudEvents type and id, its time, its data."""

    type: str
    id: str
    time_ms: int
    data: dict[str, Any]


def topic_of(type_: str) -> str:
    """The topic that the gateway writes a type to."""
    return TOPIC_OF.get(type_.partition(".")[0], "controls")


def envelope(told: Told, receipt_ms: int, controller: str = "acme", actor: str = "tester") -> Envelope:
    """`told` as the gateway wraps it."""
    return Envelope(
        id=told.id, source="test", type=told.type, controller=controller, time_ms=told.time_ms, receipt_ms=receipt_ms,
        actor=actor, content_type="application/json", data=msgspec.json.encode(told.data),
    )  # fmt: skip


def put(world: Any, events: Iterable[Told], now_ms: int, *, rng: Random | None = None, controller: str = "acme") -> None:
    """Append events in one batch, without folding them; with `rng` under free keys, so that partitions mix their order."""
    outputs = []
    for told in events:
        topic = topic_of(told.type)
        key = str(rng.randrange(64) if rng else told.data.get("conversation_id") or told.data.get("request_id") or told.id)
        outputs.append(
            Output(topic, key.encode(), world.secrets.seal_raw(topic, encode(envelope(told, now_ms, controller)), now_ms))
        )
    world.runtime.append(outputs, now_ms)


def split(rng: Random, events: list[Told], most: int = 4) -> Iterator[list[Told]]:
    """`events` cut into batches of random size."""
    at = 0
    while at < len(events):
        size = rng.randint(1, most)
        yield events[at : at + size]
        at += size


def turn_all(world: Any, rng: Random | None = None, crash: float = 0.0) -> None:
    """Turn until nothing is left; with `crash`, that share of the turns loses its commit."""
    for _ in range(TURNS_MAX):
        if rng is not None and rng.random() < crash:
            world.runtime.fail_next_commit()
        if not world.loop.turn() and not world.runtime._failures:
            return
        world.runtime._failures = 0
    raise AssertionError("the loop did not come to rest")


def records(world: Any, topic: str) -> Iterator[tuple[int, Any]]:
    """(partition, record) of everything that the log of a topic still has."""
    for partition in range(world.topology.topics[topic].partitions):
        offset = 0
        while found := world.runtime.read(topic, partition, offset, 1_000):
            for record in found:
                yield partition, record
            offset = found[-1].offset + 1


def latest(world: Any, topic: str) -> dict[str, Any]:
    """A compacted topic as it stands: key to record, without what is tombstoned."""
    found: dict[str, Any] = {}
    for _, record in records(world, topic):
        found[record.key.decode()] = None if record.value is None else decode(record.value)
    return {key: value for key, value in found.items() if value is not None}


def opened(world: Any, row: ProtectedConversation) -> dict[str, Any]:
    """A protected conversation with its sealed fields as text; what has no key stands as None."""
    owner, scope = row.subject_ref, row.conversation_id
    home = partition_of(owner.encode(), world.topology.tasks["subject"].partitions)
    data = world.runtime.get("subject", home, data_key(owner, scope))
    key = None if data is None else world.secrets.unwrap(decode_as(WrappedKey, data), owner, scope)

    def text(token: bytes | None, field: str) -> str | None:
        if token is None or key is None:
            return None
        found = world.secrets.open_field(key, token, field, "")
        return found if isinstance(found, str) else None

    shown = msgspec.structs.asdict(row)
    for field in ("name", "identifiers", "metadata"):
        shown[field] = text(shown[field], field)
    shown["lines"] = [(x.party, x.employee, x.kind, text(x.text, "lines.text"), x.offset_ms, x.tag) for x in row.lines]
    shown["recordings"] = sorted((x.recording_id, x.state, x.confirmed, text(x.uri, "recordings.uri")) for x in row.recordings)
    return shown


def views(world: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Every party's view of every conversation, opened, by (subject_ref, conversation_id)."""
    rows = latest(world, "conversations.protected").values()
    return {(row.subject_ref, row.conversation_id): opened(world, row) for row in rows}


def state(world: Any, task: str) -> Iterator[tuple[bytes, bytes]]:
    """Every committed pair of a task's stores."""
    for partition in range(world.topology.tasks[task].partitions):
        yield from world.runtime.scan(task, partition, b"")


def where_in_state(world: Any, needle: str) -> list[str]:
    """In which kinds of state a text (a ref) stands, as `task key-kind`, both in keys and in values."""
    found = []
    wanted = needle.encode()
    for task in world.topology.tasks:
        for key, value in state(world, task):
            if wanted in key or wanted in value:
                start = 9 if key[:1] == b"t" else 1
                parts = key[start:].split(b"\0")
                whose = "own" if wanted in parts[0] else "other"
                found.append(f"{task} {key[:1].decode()} {whose} {b' '.join(parts[1:3]).decode()}".strip())
    return sorted(found)


def codes(world: Any) -> list[str]:
    """The codes of everything in quarantine."""
    return sorted(decode(record.value).code for _, record in records(world, "quarantine"))


def request(request_id: str, time_ms: int, *identifiers: tuple[str, str], right: str = "erasure") -> list[Told]:
    """A request by these identifiers, opened and verified at once."""
    named = [{"kind": kind, "value": value} for kind, value in identifiers]
    opened_ = {"request_id": request_id, "right": right, "regime": "gdpr", "identifiers": named, "received_via": "web"}
    return [
        Told("request.opened", f"{request_id}/opened", time_ms, opened_),
        Told("request.identity_verified", f"{request_id}/verified", time_ms, {"request_id": request_id}),
    ]


def request_states(world: Any) -> dict[str, str]:
    """Where each request stands."""
    return {key: row.state for key, row in latest(world, "requests.state").items()}
