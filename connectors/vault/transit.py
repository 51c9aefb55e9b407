"""Vault's transit engine as a ring uses it: exportable AES-256 keys whose versions can be destroyed from the oldest on.

https://developer.hashicorp.com/vault/api-docs/secret/transit, the same in OpenBao. A version that was trimmed is in no store of
Vault any more; a key that was deleted is not either.
"""

from base64 import b64decode
from binascii import Error as NoBase64
from contextlib import suppress
from typing import Any, Final

import msgspec

from connectors.vault.client import Refused, Vault
from engine.keyring import RingDamaged
from engine.sealing import KEY_BYTES

TYPE: Final = "aes256-gcm96"
FIRST: Final = 1


class Versions(msgspec.Struct, frozen=True):
    """What a key says of its versions; 0 means that it was never set."""

    latest_version: int
    min_available_version: int
    min_encryption_version: int

    @property
    def minting(self) -> int:
        """The version that new things are sealed under. Vault refuses to destroy it, and everything newer."""
        return self.min_encryption_version or 1

    @property
    def living(self) -> range:
        """The versions that are not destroyed for good, up to the one that is minted under; newer ones are spare."""
        return range(max(self.min_available_version, 1), self.minting + 1)


class Transit:
    """The keys of one ring. Everything raises `RingFault`. Names are without the ring's prefix."""

    def __init__(self, vault: Vault, mount: str, prefix: str) -> None:
        self._vault, self._mount, self._prefix = vault, mount, f"{prefix}-"

    def create(self, name: str) -> None:
        """Let Vault draw a key, unless it has one of this name."""
        self._change(name, "", type=TYPE, exportable=True)

    def keys(self, name: str) -> dict[int, bytes] | None:
        """Give all versions that can still be had, with their keys; None: there is no such key."""
        try:
            found = self._vault.get(f"{self._mount}/export/encryption-key/{self._prefix}{name}")
        except Refused:
            raise RingDamaged("a key in Vault is not exportable: it was not made by a key ring") from None
        if found is None:
            return None
        try:
            keys = {int(version): b64decode(key, validate=True) for version, key in found["keys"].items()}
        except (KeyError, AttributeError, TypeError, ValueError, NoBase64):
            raise RingDamaged("a key in Vault cannot be read") from None
        if not keys or any(len(key) != KEY_BYTES for key in keys.values()):
            raise RingDamaged("a key in Vault is not of 256 bits: it was not made by a key ring")
        return keys

    def only(self, name: str) -> bytes:
        """Give a key that has one version; another may be an administrator's doing, and is never used."""
        found = (self.keys(name) or {}).get(FIRST)
        if found is None:
            raise RingDamaged("a key that the ring knows is not in Vault")
        return found

    def versions(self, name: str) -> Versions | None:
        """Look at a key without taking it out; None: there is no such key."""
        return _versions(self._vault.get(f"{self._mount}/keys/{self._prefix}{name}"))

    def rotate(self, name: str) -> None:
        """Let Vault draw another version. Asked twice, it draws two."""
        self._change(name, "/rotate")

    def mint_under(self, name: str, version: int) -> None:
        """Let new things be sealed under this version. Does nothing where others have gone further and destroyed it."""
        with suppress(Refused):
            self._post(name, "/config", min_encryption_version=version)

    def destroy_below(self, name: str, version: int) -> None:
        """Destroy all versions that are older. Vault itself refuses it for one that is minted under. Once or again: the same."""
        self._change(name, "/config", min_decryption_version=version)
        self._change(name, "/trim", min_available_version=version)

    def delete(self, name: str) -> None:
        """Destroy a key with all its versions. Once or again: the same."""
        if self.versions(name) is None:
            return
        try:
            self._post(name, "/config", deletion_allowed=True)
            self._vault.delete(f"{self._mount}/keys/{self._prefix}{name}")
        except Refused:  # Vault deletes no key that is not there: another process was faster, or an answer was lost
            if self.versions(name) is not None:
                raise RingDamaged("Vault refuses to delete a key") from None

    def names(self) -> list[str]:
        """The names of all keys of this ring."""
        found = self._vault.list(f"{self._mount}/keys")
        return [name.removeprefix(self._prefix) for name in found if name.startswith(self._prefix)]

    def _post(self, name: str, what: str, **body: Any) -> None:
        self._vault.post(f"{self._mount}/keys/{self._prefix}{name}{what}", body)

    def _change(self, name: str, what: str, **body: Any) -> None:
        try:
            self._post(name, what, **body)
        except Refused:
            raise RingDamaged("Vault refuses a change of a key: its versions are not as a key ring left them") from None


def _versions(found: Any) -> Versions | None:
    try:
        return None if found is None else msgspec.convert(found, Versions)
    except msgspec.ValidationError:
        raise RingDamaged("a key in Vault cannot be read") from None
