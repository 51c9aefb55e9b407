"""Who we are to Vault: a token that somebody puts into a file for us, or one that we get for an AppRole's role and secret."""

import stat
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from connectors.vault.connection import VaultConnection
from engine.keyring import RingExposed, RingUnavailable

SECRET_BYTES_MAX: Final = 65_536
LEASE_PART: Final = 2 / 3  # of its time to live a token is used; then there is time left to get another

Login = Callable[[str, str], tuple[str, float]]  # (role_id, secret_id) → (token, seconds that it lives; 0: for ever)


class Identity(Protocol):
    """Gives tokens. Thread-safe."""

    def token(self) -> str:
        """Give the token to show. Raises `RingFault`."""

    def refused(self, token: str) -> bool:
        """Vault does not take this token: whether there is another one to try."""


class TokenFile:
    """The token in a file, read anew when it is refused: whoever keeps the file renews what is in it."""

    def __init__(self, file: Path) -> None:
        self._file, self._token = file, ""

    def token(self) -> str:
        """See `Identity`."""
        self._token = self._token or secret_in(self._file)
        return self._token

    def refused(self, token: str) -> bool:
        """See `Identity`."""
        self._token = secret_in(self._file)
        return self._token != token


class AppRole:
    """Tokens of an AppRole. The secret is read at each login, so that it may be renewed under our feet."""

    def __init__(self, role_id: str, secret_id_file: Path, login: Login) -> None:
        self._role_id, self._file, self._login = role_id, secret_id_file, login
        self._lock = threading.Lock()
        self._token, self._used, self._until = "", False, float("inf")

    def token(self) -> str:
        """See `Identity`."""
        with self._lock:
            if not self._token or monotonic() >= self._until:
                self._token, lives_secs = self._login(self._role_id, secret_in(self._file))
                self._until = monotonic() + lives_secs * LEASE_PART if lives_secs else float("inf")
            return self._token

    def refused(self, token: str) -> bool:
        """See `Identity`."""
        with self._lock:
            if self._token == token:
                self._token = ""
            return True


def identity_of(connection: VaultConnection, login: Login) -> Identity:
    """What the settings say that we are."""
    if connection.token_file is not None:
        return TokenFile(connection.token_file)
    assert connection.role_id is not None and connection.secret_id_file is not None  # `VaultConnection` looked
    return AppRole(connection.role_id, connection.secret_id_file, login)


def secret_in(file: Path) -> str:
    """Read a secret that others on this machine cannot. Raises `RingExposed`, `RingUnavailable`.

    Its group may read it: Vault Agent and container engines give such files to a group.
    """
    try:
        mode = file.stat().st_mode
        data = file.read_bytes()
        text = data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise RingUnavailable("the file of the token or of the secret id for Vault cannot be read") from None
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
        raise RingExposed("the file of the token or of the secret id for Vault is open to others: chmod o= FILE")
    if not text or len(data) > SECRET_BYTES_MAX or not text.isprintable():
        raise RingUnavailable("the file of the token or of the secret id for Vault holds no secret")
    return text
