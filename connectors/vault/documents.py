"""Vault's key-value engine, version 2: small documents that change only from the version that one has seen (check-and-set).

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2. A document is one JSON text in one field: OpenBao limits how many
strings a body may hold. None holds a key: old versions of documents stay until Vault drops them.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec

from connectors.vault.client import Refused, Vault
from engine.keyring import RingDamaged, RingUnavailable

A = TypeVar("A")
T = TypeVar("T")

AT_ONCE: Final = 8  # calls of one walk: more only wait for one another at the server
FIELD: Final = "document"


class Documents:
    """The documents of one ring. Everything raises `RingFault`."""

    def __init__(self, vault: Vault, mount: str, prefix: str) -> None:
        self._vault, self._mount, self._prefix = vault, mount, prefix

    def read(self, path: str, kind: type[T]) -> tuple[int, T] | None:
        """Give (version, document), None when there is none."""
        try:
            found = self._vault.get(f"{self._mount}/data/{self._prefix}/{path}")
            if found is None:
                return None
            return int(found["metadata"]["version"]), msgspec.json.decode(found["data"][FIELD], type=kind)
        except (Refused, KeyError, TypeError, ValueError):
            raise RingDamaged("a document in Vault cannot be read: keys.vault_kv_mount must be of version 2") from None

    def write(self, path: str, document: Any, seen: int) -> bool:
        """Write if the version is still the one that was seen (0: there is none); returns whether it was."""
        body = {"data": {FIELD: msgspec.json.encode(document).decode()}, "options": {"cas": seen}}
        try:
            written = self._vault.post(f"{self._mount}/data/{self._prefix}/{path}", body)
        except Refused as refused:
            if refused.cas:
                return False
            raise RingDamaged("Vault refuses to keep a document of the key ring") from None
        try:
            if written["deletion_time"]:
                raise RingUnavailable("Vault is set to delete what keys.vault_kv_mount holds: set delete_version_after to 0s")
            return int(written["version"]) == seen + 1
        except (KeyError, TypeError, ValueError):
            raise RingDamaged("a document was not kept: keys.vault_kv_mount must be of version 2") from None

    def names(self, folder: str) -> list[str]:
        """The documents of a folder, in order."""
        found = self._vault.list(f"{self._mount}/metadata/{self._prefix}/{folder}")
        return sorted(name for name in found if not name.endswith("/"))


def many(ask: Callable[[A], T], of: Iterable[A]) -> list[T]:
    """Ask for several things at once, answered in order."""
    asked = list(of)
    if len(asked) < 2:
        return [ask(one) for one in asked]
    with ThreadPoolExecutor(AT_ONCE, "vault") as pool:
        return list(pool.map(ask, asked))
