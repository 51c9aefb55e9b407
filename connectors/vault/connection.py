"""Where Vault is and how we show who we are: everything that can be wrong with it is said before the first call."""

import re
import ssl
from pathlib import Path
from typing import Final

import httpx
import msgspec

LOOPBACK: Final = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
MOUNT: Final = re.compile(r"\w[\w-]*(/\w[\w-]*)*", re.ASCII)
PREFIX: Final = re.compile(r"\w[\w-]{0,63}", re.ASCII)


class VaultImpossible(Exception):
    """Settings of which no connection can be made; the text names the setting, never its value."""


class VaultConnection(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach HashiCorp Vault or OpenBao. Raises `VaultImpossible`.

    Either `token_file` (Vault Agent's sink, for example, which is read again when the token is refused), or `role_id` and
    `secret_id_file` of an AppRole. The mounts are a transit engine and a key-value engine of version 2. `prefix` begins the names
    of all that a ring keeps there: two deployments may share mounts, never a prefix.
    """

    url: str
    token_file: Path | None = None
    role_id: str | None = None
    secret_id_file: Path | None = None
    approle_mount: str = "approle"
    transit_mount: str = "transit"
    kv_mount: str = "secret"
    namespace: str = ""
    ca_file: Path | None = None
    prefix: str = "consentinel"

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
            raise VaultImpossible("keys.vault_url: is https://host:port, with nothing secret in it")
        if url.scheme == "http" and not LOOPBACK.fullmatch(url.host):
            raise VaultImpossible("keys.vault_url: keys travel in it, so plain http is for this very machine only")
        if (self.token_file is None) == (self.role_id is None):
            raise VaultImpossible("keys.vault_token_file or keys.vault_role_id: one of the two is needed")
        if (self.role_id is None) != (self.secret_id_file is None):
            raise VaultImpossible("keys.vault_role_id and keys.vault_secret_id_file: belong together")
        for name in ("approle_mount", "transit_mount", "kv_mount"):
            if not MOUNT.fullmatch(getattr(self, name)):
                raise VaultImpossible(f"keys.vault_{name}: is a mount's path, without a slash at its ends")
        if not PREFIX.fullmatch(self.prefix):
            raise VaultImpossible("keys.vault_prefix: is at most 64 letters, digits, dashes and underscores")
        if not self.namespace.isascii() or not self.namespace.isprintable():
            raise VaultImpossible("keys.vault_namespace: is a namespace's path")

    def trust(self) -> ssl.SSLContext | bool:
        """Whose certificates are believed; False where there are none, on the loopback."""
        try:
            return self.url.startswith("https:") and ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError):
            raise VaultImpossible("keys.vault_ca_file: the file cannot be read, or holds no certificate") from None

    def __repr__(self) -> str:
        return f"VaultConnection(prefix={self.prefix!r})"
