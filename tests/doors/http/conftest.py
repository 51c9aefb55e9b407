"""A real service behind the real door: one that runs on loopback for most tests, and still ones whose clock a test holds."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from connectors.http.app import create_app
from connectors.http.door import Options
from connectors.http.roles import ROLES
from connectors.http.server import _server
from connectors.http.tokens import TokenStore
from engine.service import Service
from schemas.codec import decode_as
from schemas.routed import Envelope

STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
START_SECS_MAX = 10


def cloud_event(type_: str, data: Any, controller: str = "acme", **attributes: Any) -> dict[str, Any]:
    """A CloudEvent in JSON format; an attribute given as None is left out."""
    event = {"specversion": "1.0", "id": uuid4().hex, "source": "test", "type": type_, "controller": controller, "data": data}
    return {name: value for name, value in {**event, **attributes}.items() if value is not None}


class House:
    """A service, its tokens and clients that call it."""

    def __init__(self, service: Service, store: TokenStore, client: Callable[..., httpx.Client], url: str = "") -> None:
        self.service, self.store, self._client, self.url = service, store, client, url
        self.root = self.token("root", ["administrator"], ["*"])
        self._roles: dict[str, httpx.Client] = {}

    def token(self, name: str, roles: list[str], controllers: list[str], targets: tuple[str, ...] = ()) -> Any:
        secret = self.store.create(name, roles, controllers, targets)
        return self._client(headers={"authorization": f"Bearer {secret}"})

    def by_role(self, role: str) -> Any:
        """A client with one role, for the controller `acme` and the target `warehouse`."""
        if role not in self._roles:
            self._roles[role] = self.token(f"a-{role}", [role], ["acme"], ("warehouse",))
        return self._roles[role]

    def send(self, type_: str, data: Any, controller: str = "acme", client: Any = None, **attributes: Any) -> httpx.Response:
        body = json.dumps(cloud_event(type_, data, controller, **attributes))
        response: httpx.Response = (client or self.root).post("/v1/events", content=body, headers=STRUCTURED)
        return response

    def decide(self, number: str, controller: str = "acme", client: Any = None, **more: Any) -> dict[str, Any]:
        ask = {"controller": controller, "use": "dial", "channel": "voice", "purpose": "marketing",
               "identifiers": [{"kind": "tel", "value": number}], **more}  # fmt: skip
        response = (client or self.root).post("/v1/decisions", json=ask)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def folded(self) -> None:
        """Wait until all that was accepted is folded."""
        now = self.service.clock()
        give_up = time.monotonic() + START_SECS_MAX
        while self.service.loop.beat_ms <= now:
            assert time.monotonic() < give_up and self.service.failed is None
            time.sleep(0.01)

    def envelopes(self, topic: str) -> list[Envelope]:
        """What lies on an input topic."""
        found = []
        for _, record in self.service.topic(topic):
            opened = self.service.secrets.open_raw(topic, record.value or b"")
            assert opened is not None
            found.append(decode_as(Envelope, opened))
        return found


def consent(number: str, **more: Any) -> dict[str, Any]:
    return {"identifiers": [{"kind": "tel", "value": number}], "purposes": ["marketing"], "method": "web", "evidence": {}, **more}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service that runs, behind uvicorn on loopback."""
    folder = tmp_path_factory.mktemp("house") / "data"
    service = Service.open(folder)
    service.start()
    store = TokenStore.open(folder / "tokens.json")
    urls: list[str] = []
    server = _server(service, store, "127.0.0.1", 0, urls.append, None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    give_up = time.monotonic() + START_SECS_MAX
    while not urls or not service.ready:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    clients: list[httpx.Client] = []

    def client(**options: Any) -> httpx.Client:
        clients.append(httpx.Client(base_url=urls[0], timeout=30, **options))
        return clients[-1]

    try:
        yield House(service, store, client, urls[0])
    finally:
        for made in clients:
            made.close()
        server.should_exit = True
        thread.join()
        service.stop()


class Direct:
    """Calls an application in this thread, one loop a call."""

    def __init__(self, app: Any, headers: dict[str, str] | None = None) -> None:
        self.app, self.headers = app, headers

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=self.headers) as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


class Still(House):
    """A service whose loop only turns in `settle`, and whose clock only moves in `now_ms`."""

    now_ms = 1_800_000_000_000

    def settle(self) -> None:
        self.service.settle()


@pytest.fixture
def still(tmp_path: Any) -> Iterator[Still]:
    holder: list[Still] = []
    service = Service.open(tmp_path / "data", clock=lambda: holder[0].now_ms if holder else Still.now_ms)
    store = TokenStore.open(tmp_path / "data" / "tokens.json")
    app = create_app(service, store, Options())
    holder.append(Still(service, store, lambda **options: Direct(app, **options)))
    service._started_ms = 1
    holder[0].app = app  # type: ignore[attr-defined]
    try:
        service.settle()
        yield holder[0]
    finally:
        service.stop()


@pytest.fixture
def roles() -> tuple[str, ...]:
    return ROLES
