"""Who may call: bearer tokens kept as hashes only, compared in constant time; who fails too often is told to wait."""

import hmac
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Annotated

import msgspec

from connectors.http.problems import Problem
from connectors.http.roles import Role
from schemas.base import Name

PREFIX = "cst_"
SECRET_BYTES = 32  # nobody guesses 256 bits: a plain hash is enough, there is nothing to stretch
HEADER_CHARS_MAX = 256
TOKENS_MAX = 10_000
FAILURES_PER_MINUTE_MAX = 20  # enough for a wrong setting that retries, too few for a log full of noise
WINDOW_SECS = 60.0
CLIENTS_MAX = 10_000  # clients whose failures are remembered; past it the window starts over
ALL = "*"
FIRST_NAME = "administrator"

Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=1_000)]


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A caller: `name` is the actor of all it sends, `controllers` bounds all it sees (`*`: all of them)."""

    name: Name
    roles: tuple[Role, ...]
    controllers: Names = ()
    targets: Names = ()

    def sees(self, controller: str) -> bool:
        """Whether this caller may touch anything of the controller."""
        return controller in self.controllers or ALL in self.controllers

    @property
    def sees_all(self) -> bool:
        """Whether this caller is for every controller."""
        return ALL in self.controllers


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: Token
    sha256: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: tuple[_Kept, ...] = ()


class TokensUnusable(Exception):
    """The token file cannot be trusted: damaged, or open to others than its owner."""


class TokenStore:
    """The tokens of one deployment, in a file of mode 0600 that holds no secret."""

    def __init__(self, path: Path, kept: Iterable[_Kept], seconds: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._by_hash = {entry.sha256: entry for entry in kept}
        self._lock = threading.Lock()
        self._seconds = seconds
        self._window = 0.0
        self._failures: dict[str, int] = {}
        self.failed = 0  # all failures since the start, for the metrics

    @classmethod
    def open(cls, path: Path, seconds: Callable[[], float] = monotonic) -> "TokenStore":
        """Open the store at `path`; a file that is not there is a store without tokens. Raises `TokensUnusable`."""
        try:
            with path.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise TokensUnusable("the token file is open to others: chmod 600")
                kept = msgspec.json.decode(file.read(), type=_File).tokens
        except FileNotFoundError:
            kept = ()
        except msgspec.DecodeError:
            raise TokensUnusable("the token file is damaged") from None
        return cls(path, kept, seconds)

    def create(self, name: str, roles: Iterable[Role], controllers: Iterable[str] = (), targets: Iterable[str] = ()) -> str:
        """Make a token and return its secret, which is kept nowhere. Raises `Problem` (`name-taken`, `wrong-field`)."""
        plain = {"name": name, "roles": list(roles), "controllers": list(controllers), "targets": list(targets)}
        try:
            token = msgspec.convert(plain, Token)
        except msgspec.ValidationError:
            token = None
        if token is None or not token.roles:  # outside the handler: its context would quote the value
            raise Problem("wrong-field")
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        with self._lock:
            if any(kept.token.name == name for kept in self._by_hash.values()):
                raise Problem("name-taken", "/name")
            if len(self._by_hash) >= TOKENS_MAX:
                raise Problem("too-many-items", "/name")
            digest = sha256(secret.encode()).hexdigest()
            self._save({**self._by_hash, digest: _Kept(token, digest)})
        return secret

    def first_token(self) -> str | None:
        """Make the first administrator of an empty store and return its secret; None when there are tokens."""
        if self._by_hash:
            return None
        return self.create(FIRST_NAME, ("administrator",), (ALL,), (ALL,))

    def revoke(self, name: str) -> bool:
        """End a token at once; False when there is none of that name."""
        with self._lock:
            left = {digest: kept for digest, kept in self._by_hash.items() if kept.token.name != name}
            if len(left) == len(self._by_hash):
                return False
            self._save(left)
            return True

    def authenticate(self, header: str | None, client: str = "") -> Token:
        """The caller whose secret stands in an `Authorization` header. Raises `Problem` (401; 429 after many failures).

        A valid token always passes: a stranger behind the same proxy must not lock its neighbours out, and guessing 256
        bits is no danger that a slower answer would lessen.
        """
        if header is not None and len(header) <= HEADER_CHARS_MAX:
            scheme, _, secret = header.partition(" ")
            digest = sha256(secret.strip().encode("utf-8", "replace")).hexdigest()
            kept = self._by_hash.get(digest)
            if kept is not None and scheme.lower() == "bearer" and hmac.compare_digest(kept.sha256, digest):
                return kept.token
        raise self._failure(client)

    def _failure(self, client: str) -> Problem:
        with self._lock:
            self.failed += 1
            now = self._seconds()
            if now - self._window >= WINDOW_SECS or len(self._failures) >= CLIENTS_MAX:
                self._window = now
                self._failures.clear()
            count = self._failures[client] = self._failures.get(client, 0) + 1
            if count > FAILURES_PER_MINUTE_MAX:
                return Problem("too-many-failures", retry_after_secs=max(1, round(self._window + WINDOW_SECS - now)))
        return Problem("unauthenticated")

    def _save(self, by_hash: dict[str, _Kept]) -> None:
        """Write the file whole beside the old one and put it in its place, so that a crash leaves one of the two."""
        data = msgspec.json.format(msgspec.json.encode(_File(tuple(by_hash.values()))))
        beside = self._path.with_name(self._path.name + ".new")
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._by_hash = by_hash
