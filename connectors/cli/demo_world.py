"""A whole deployment in a temporary folder, with its real doors on a loopback port and a clock that may be moved."""

import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from connectors.cli.client import Door
from connectors.cli.demo_data import CONTROLLER
from connectors.cli.demo_stage import until
from connectors.cli.faults import Unanswered
from connectors.http.app import create_app
from connectors.http.roles import Role
from connectors.http.tokens import TokenStore
from engine.clock import system_clock
from engine.sealing import Erased
from engine.service import Limits, Service
from schemas.base import Record
from schemas.codec import decode_as
from schemas.labels import labels_of
from schemas.topics import ProtectedConversation

TOKENS = "tokens.json"
ROLES: tuple[Role, ...] = ("publisher", "decider", "analyst", "auditor", "operator", "administrator")
VIEWS = "conversations.protected"
QUIET_SECS = 3_600.0  # maintenance by hand: the demonstration says when


class MovableClock:
    """Now, and as much later as the demonstration has waited."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        """Epoch milliseconds."""
        return system_clock() + self.ahead_ms

    def now(self) -> datetime:
        """The same as a time."""
        return datetime.fromtimestamp(self() / 1000, UTC)


class World:
    """The deployment, its doors by role, and looks behind the scenes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.clock = MovableClock()
        self.service = self.opened()
        store = TokenStore.open(self.data / TOKENS)
        tokens = {role: store.create(f"demo-{role}-{secrets.token_hex(2)}", (role,), ("*",)) for role in ROLES}
        self.service.start()
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(create_app(self.service, store), log_level="critical", lifespan="on", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="doors", daemon=True)
        self._thread.start()
        self.doors: dict[str, Door] = {role: Door(url, token) for role, token in tokens.items()}
        if not until(lambda: self._server.started and self.service.ready):
            raise Unanswered("the demonstration's service did not start")

    def opened(self) -> Service:
        """The deployment, not started."""
        return Service.open(self.data, clock=self.clock, limits=Limits(maintenance_secs=QUIET_SECS))

    def stores(self) -> tuple[Path, ...]:
        """Where this deployment keeps anything: the data folder, and the key ring beside it."""
        return self.data, self.data.with_name(self.data.name + ".ring")

    def stop(self) -> None:
        """Stop the doors, then the service."""
        for door in self.doors.values():
            door.close()
        self._server.should_exit = True
        self._thread.join(30)
        self.service.stop()

    def wait_until_folded(self) -> bool:
        """Wait until everything that was accepted up to now has taken effect."""
        now_ms = self.clock()
        return until(lambda: self.service.loop.beat_ms >= now_ms and not any(self.service.loop.lag().values()))

    def later(self, ms: int) -> None:
        """Let time pass."""
        self.clock.ahead_ms += ms

    def refs(self, identifiers: list[dict[str, str]]) -> list[dict[str, Any]]:
        """What a search by identifiers finds: [{subject_ref, conversations, requests}]."""
        body = {"controller": CONTROLLER, "identifiers": identifiers}
        found: list[dict[str, Any]] = self.doors["analyst"].post("/v1/subjects/search", body)["subjects"]
        return found

    def conversations(self, identifiers: list[dict[str, str]]) -> set[str]:
        """The conversations that are kept under any of the identifiers."""
        return {conversation for row in self.refs(identifiers) for conversation in row.get("conversations", ())}

    def latest(self, topic: str) -> dict[tuple[str, ...], bytes | None]:
        """A topic's last value by key, tombstones included."""
        rows: dict[tuple[str, ...], bytes | None] = {}
        for _, record in self.service.topic(topic):
            rows[_key(record.key)] = record.value
        return rows

    def views(self) -> dict[tuple[str, ...], ProtectedConversation]:
        """The protected conversations as a reader of the topic has them."""
        return {key: decode_as(ProtectedConversation, value) for key, value in self.latest(VIEWS).items() if value is not None}

    def openings(self) -> Iterator[str]:
        """The text of all that can be opened with any key that lives: raw records, and every row of the views ever written."""
        for name, topic in self.service.topology.topics.items():
            if topic.envelope:
                for _, record in self.service.topic(name):
                    data = None if record.value is None else self.service.secrets.open_raw(name, record.value)
                    yield "" if data is None else data.decode("utf-8", "replace")
        for _, record in self.service.topic(VIEWS):
            if record.value is not None:
                view = decode_as(ProtectedConversation, record.value)
                yield from (str(text) for text in self.opened_view(view) if not isinstance(text, Erased))

    def opened_view(self, view: ProtectedConversation) -> Iterator[str | Erased]:
        """Every sealed field of a protected conversation, opened or erased."""
        for field, category, token in _sealed(view, ""):
            yield self.service.open_field(view.controller, view.subject_ref, view.conversation_id, field, token, category)


def _key(key: bytes) -> tuple[str, ...]:
    text = key.decode()
    return tuple(json.loads(text)) if text.startswith("[") else (text,)


def _sealed(record: Record, prefix: str) -> Iterator[tuple[str, str, bytes]]:
    """(field, category, token) of each sealed field in a record and in the records inside it."""
    labels = labels_of(type(record))
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        label = labels.get(field.encode_name)
        if label is not None and label.sealed and isinstance(value, bytes):
            yield prefix + field.encode_name, label.category, value
        elif isinstance(value, tuple):
            for item in value:
                if isinstance(item, Record):
                    yield from _sealed(item, f"{prefix}{field.encode_name}.")


@contextmanager
def world_in(folder: Path) -> Iterator[World]:
    """A world that is stopped at the end, whatever happens."""
    world = World(folder)
    try:
        yield world
    finally:
        world.stop()
