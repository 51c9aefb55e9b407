"""Calls of Vault's HTTP API: asked again while it may help, answered with what it says, or with a `RingFault`.

Every call that changes something here can be made twice with the effect of once, or is guarded by its caller (check-and-set,
versions); so a call whose answer was lost is simply made again. Statuses: developer.hashicorp.com/vault/api-docs, "HTTP status
codes"; 412 is Vault Enterprise's, 472 and 473 are those of nodes that do not serve.
"""

from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from connectors.vault.connection import VaultConnection
from connectors.vault.identity import identity_of
from engine.keyring import RingDamaged, RingExposed, RingMissing, RingUnavailable

ANSWER_SECS_MAX: Final = 5.0
PATIENCE_SECS_MAX: Final = 10.0  # a change of Vault's leader takes a few seconds; as long as the file ring waits for its file
PAUSE_SECS: Final = 0.05
PAUSE_SECS_MAX: Final = 1.0
AWAY_SECS: Final = 1.0
TOKENS_MAX: Final = 3  # that are tried in one call: the one we had, one that was renewed, one more for a race between threads
CONNECTIONS_MAX: Final = 16
AGAIN: Final = frozenset({412, 429, 472, 473})
REFUSED: Final = frozenset({401, 403})
CAS_MISMATCH: Final = "check-and-set parameter did not match"


class Refused(Exception):
    """Vault answered 400: what it was asked is not possible now. `cas`: because somebody else has written meanwhile."""

    def __init__(self, cas: bool) -> None:
        super().__init__("Vault refuses what it was asked")
        self.cas = cas


class _Away(Exception):
    """No answer that counts, and one may come yet."""


class Vault:
    """One HTTP client. Thread-safe. No error holds a path, a token or what Vault said."""

    def __init__(self, connection: VaultConnection, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"x-vault-request": "true"}
        if connection.namespace:
            headers["x-vault-namespace"] = connection.namespace
        self.patience_secs = PATIENCE_SECS_MAX
        self.calls = 0
        self._base = connection.url.rstrip("/") + "/v1/"
        self._approle = connection.approle_mount
        # Redirects are not followed: our token would go to whom an answer names.
        self._http = httpx.Client(
            timeout=ANSWER_SECS_MAX, transport=transport, trust_env=False, follow_redirects=False, verify=connection.trust(),
            headers=headers, limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
        )  # fmt: skip
        self._identity = identity_of(connection, self._login)
        self._closed = False
        self._away_until = 0.0

    def get(self, path: str, **parameters: str) -> Any:
        """Read; None when there is nothing. Raises `RingFault`."""
        return self._ask("GET", path, None, parameters)

    def list(self, path: str) -> list[str]:
        """The names below a path, none when there is nothing. Raises `RingFault`."""
        found = self.get(path, list="true")
        try:
            return [] if found is None else msgspec.convert(found["keys"], list[str])
        except (KeyError, TypeError, msgspec.ValidationError):
            raise _strange() from None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Write; None when there is nothing to write to, or nothing to tell. Raises `Refused`, `RingFault`."""
        return self._ask("POST", path, body, {})

    def delete(self, path: str) -> None:
        """Delete; once or again: the same. Raises `Refused`, `RingFault`."""
        self._ask("DELETE", path, None, {})

    def close(self) -> None:
        """Let go of every connection."""
        self._closed = True
        self._http.close()

    def __repr__(self) -> str:
        return "Vault()"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, parameters: dict[str, str]) -> Any:
        if monotonic() < self._away_until:
            raise RingUnavailable("Vault did not answer a moment ago")
        until, pause, tokens = monotonic() + self.patience_secs, PAUSE_SECS, 0
        while True:
            try:
                token = self._identity.token()
                answer = self._send(method, path, body, parameters, token)
            except _Away as away:
                if monotonic() + pause > until:
                    self._away_until = monotonic() + AWAY_SECS  # callers in a row must not wait one after the other
                    raise RingUnavailable(f"Vault {away}") from None
                sleep(pause)
                pause = min(pause * 2, PAUSE_SECS_MAX)
                continue
            if answer.status_code in REFUSED:
                tokens += 1
                if tokens < TOKENS_MAX and self._identity.refused(token):
                    continue
                raise RingExposed("Vault refuses our token: it has expired, or its policy does not allow what a key ring needs")
            return _content(answer)

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None, parameters: dict[str, str], token: str
    ) -> httpx.Response:
        if self._closed:
            raise RingUnavailable("the key ring is closed")
        self.calls += 1
        try:
            answer = self._http.request(
                method, self._base + quote(path, safe="/"), params=parameters, headers={"x-vault-token": token} if token else {},
                content=None if body is None else msgspec.json.encode(body),
            )  # fmt: skip
        except httpx.HTTPError as fault:
            raise _Away(f"cannot be reached: {type(fault).__name__}") from None
        except RuntimeError:  # closed by another thread
            raise RingUnavailable("the key ring is closed") from None
        if answer.is_redirect:
            raise RingUnavailable("Vault sends us elsewhere: keys.vault_url must name what answers by itself")
        if answer.status_code in AGAIN or answer.is_server_error:
            sealed = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            raise _Away("is sealed or under maintenance" if sealed else f"answers {answer.status_code}")
        return answer

    def _login(self, role_id: str, secret_id: str) -> tuple[str, float]:
        """https://developer.hashicorp.com/vault/api-docs/auth/approle, "Login with AppRole"."""
        answer = self._send("POST", f"auth/{self._approle}/login", {"role_id": role_id, "secret_id": secret_id}, {}, "")
        if not answer.is_success:
            raise RingExposed("Vault refuses our AppRole: keys.vault_role_id, vault_secret_id_file or vault_approle_mount")
        try:
            auth = msgspec.json.decode(answer.content)["auth"]
            return str(auth["client_token"]), float(auth["lease_duration"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise _strange() from None


def _content(answer: httpx.Response) -> Any:
    if answer.status_code == httpx.codes.NO_CONTENT or not answer.content:
        return None
    try:
        told = msgspec.json.decode(answer.content)
        errors = [str(error) for error in told.get("errors") or ()]
        data = told.get("data")
    except (msgspec.DecodeError, AttributeError, TypeError):
        raise _strange() from None
    if answer.is_success:
        return data
    if answer.status_code == httpx.codes.NOT_FOUND:
        if errors:
            raise RingMissing("Vault has no such mount: keys.vault_transit_mount, vault_kv_mount or vault_namespace")
        if data is not None:
            raise RingDamaged("what the key ring kept in Vault was deleted there")
        return None
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise Refused(any(CAS_MISMATCH in error for error in errors))
    raise _strange()


def _strange() -> RingDamaged:
    return RingDamaged("Vault answers what no version of it that we know does: is keys.vault_url a Vault or OpenBao?")
