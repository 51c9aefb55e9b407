"""A running service, asked over HTTP: refusals come back as codes, waits are bounded, and no value is ever repeated."""

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from connectors.cli.faults import Refused, Unanswered

TIMEOUT_SECS = 60.0
ATTEMPTS_MAX = 6  # with the waits below some 16 seconds: a restart of the service fits in
WAIT_SECS = 0.5
WAIT_SECS_MAX = 10.0
RETRIED = frozenset({429, 503})
SOURCE = "consentinel/cli"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


class Door:
    """The service at `url`, as the holder of `token` sees it."""

    def __init__(self, url: str, token: str, *, sleep: Callable[[float], None] = time.sleep,
                 transport: httpx.BaseTransport | None = None) -> None:  # fmt: skip
        self.url, self._sleep = url.rstrip("/"), sleep
        try:
            self._http = httpx.Client(
                base_url=self.url, timeout=TIMEOUT_SECS, transport=transport, trust_env=False,
                headers={"authorization": f"Bearer {token}"},
            )  # fmt: skip
        except (httpx.InvalidURL, ValueError, TypeError):
            raise Unanswered("the service's URL or the token has a wrong form") from None

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The answer to a GET. Raises `Refused` and `Unanswered`."""
        return self.answer(self.send("GET", path, params={k: v for k, v in params.items() if v is not None}))

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        """The answer to a POST of JSON; fields that are None are left out. Raises `Refused` and `Unanswered`."""
        if isinstance(body, dict):
            body = {k: v for k, v in body.items() if v is not None}
        return self.answer(self.send("POST", path, json={} if body is None else body, params=params))

    def event(self, type_: str, controller: str, data: Mapping[str, Any]) -> str:
        """Publish one event of now, as the holder of the token; returns its id."""
        event_id = str(uuid.uuid4())
        event = {
            "specversion": "1.0", "id": event_id, "source": SOURCE, "type": type_, "controller": controller,
            "time": datetime.now(UTC).isoformat(), "datacontenttype": "application/json",
            "data": {k: v for k, v in data.items() if v is not None},
        }  # fmt: skip
        self.take(event)
        return event_id

    def take(self, event: Mapping[str, Any]) -> None:
        """Publish one CloudEvent as it is. Raises `Refused` and `Unanswered`."""
        self.answer(self.send("POST", "/v1/events", json=event, headers={"content-type": STRUCTURED}))

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call, repeated while the service says "later" (429, 503). Raises `Unanswered`."""
        for attempt in range(ATTEMPTS_MAX):
            try:
                response = self._http.request(method, path, **options)
            except httpx.HTTPError:
                raise Unanswered("the service does not answer at its URL") from None
            if response.status_code not in RETRIED:
                return response
            if attempt + 1 < ATTEMPTS_MAX:
                self._sleep(_wait_secs(response, attempt))
        return response

    @staticmethod
    def answer(response: httpx.Response) -> Any:
        """The answer's document. Raises `Refused` for 4xx, `Unanswered` for what is no answer."""
        if response.is_success:
            try:
                return response.json()
            except ValueError:
                return {"text": response.text}
        code, field = problem_of(_document(response), response.status_code)
        if response.status_code in RETRIED or response.status_code >= 500:
            raise Unanswered(f"the service cannot answer now: {code}")
        place = f", at {field}" if field else ""
        raise Refused(f"refused: {code}{place}", code, field, response.status_code)


def problem_of(document: Any, status: int) -> tuple[str, str]:
    """(code, field) of an RFC 9457 problem: its type is a URI that ends in the code. The detail may say more than we show."""
    if not isinstance(document, dict):
        return f"http-{status}", ""
    kind = str(document.get("code") or document.get("type") or "")
    code = kind.rstrip("/").rpartition("/")[2].rpartition(":")[2].rpartition("#")[2]
    return code if code not in ("", "blank") else f"http-{status}", str(document.get("field") or "")


def _document(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _wait_secs(response: httpx.Response, attempt: int) -> float:
    asked = response.headers.get("retry-after", "")
    wait = float(asked) if asked.isdecimal() else WAIT_SECS * 2**attempt
    return min(wait, WAIT_SECS_MAX)
