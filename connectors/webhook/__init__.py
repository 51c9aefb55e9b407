"""A receiver over HTTP: each event is a signed POST, taken when the answer is 2xx.

    content-type: application/cloudevents+json
    idempotency-key: KEY                           the same each time this event is sent
    consentinel-signature: t=SECONDS,v1=HEX        HMAC-SHA-256 of `SECONDS.BODY` under the shared secret

A receiver computes the same over the raw body, compares in constant time, and refuses a time that is more than some minutes from
its own: then a copy that somebody caught cannot be played again later. Redirects are not followed: an event is for whom it was
signed.
"""

import hmac
import ssl
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

import httpx

ANSWER_SECS_MAX: Final = 10.0
SECRET_CHARS_MIN: Final = 16
CONTENT_TYPE: Final = "application/cloudevents+json"


class WebhookImpossible(Exception):
    """Settings of which no webhook can be made; the text names the setting, never its value."""


class NotTaken(Exception):
    """The receiver answered, and not with 2xx. Subclasses tell what kind of answer it was."""


class ReceiverRefused(NotTaken):
    """An answer that blames the sender, or sends it elsewhere (3xx, 4xx)."""


class ReceiverFailed(NotTaken):
    """An answer that blames the receiver (5xx)."""


class Webhook:
    """Posts to one URL. Use it on one event loop."""

    def __init__(
        self, url: str, secret: str, *, ca_file: Path | None = None, clock: Callable[[], float] = time.time,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        """Raise `WebhookImpossible` when it could not work."""
        try:
            found = httpx.URL(url)
        except httpx.InvalidURL:
            found = httpx.URL("")
        if found.scheme not in ("http", "https") or not found.host:
            raise WebhookImpossible("webhook.url: is http://host/path or https://host/path")
        if len(secret) < SECRET_CHARS_MIN:
            raise WebhookImpossible(f"webhook.secret: at least {SECRET_CHARS_MIN} characters, or nobody can trust what arrives")
        try:
            trust = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise WebhookImpossible("webhook.ca_file: the file cannot be read, or holds no certificate") from None
        self._url, self._secret, self._clock = found, secret.encode(), clock
        self._http = httpx.AsyncClient(
            timeout=ANSWER_SECS_MAX, transport=transport, trust_env=False, follow_redirects=False, verify=trust
        )  # fmt: skip

    async def deliver(self, key: str, document: bytes) -> None:
        """Post one event. Raises `NotTaken`, or `httpx.HTTPError` when there was no answer."""
        headers = {
            "content-type": CONTENT_TYPE, "idempotency-key": key,
            "consentinel-signature": signature(self._secret, int(self._clock()), document),
        }  # fmt: skip
        # Read as a stream and thrown away: an answer of any length must not fill our memory.
        async with self._http.stream("POST", self._url, content=document, headers=headers) as answer:
            if not answer.is_success:
                raise (ReceiverFailed if answer.is_server_error else ReceiverRefused)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._http.aclose()

    def __repr__(self) -> str:
        return "Webhook()"  # its URL may hold a secret as well


def signature(secret: bytes, at_secs: int, body: bytes) -> str:
    """The value of `consentinel-signature` for a body that is sent at this time (epoch seconds)."""
    return f"t={at_secs},v1={hmac.new(secret, f'{at_secs}.'.encode() + body, sha256).hexdigest()}"
