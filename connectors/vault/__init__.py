"""The key ring in HashiCorp Vault or OpenBao: keys that never rest on our machines, and are destroyed where they are kept."""

from connectors.vault.connection import VaultConnection, VaultImpossible
from connectors.vault.ring import VaultRing

__all__ = ["VaultConnection", "VaultImpossible", "VaultRing"]
