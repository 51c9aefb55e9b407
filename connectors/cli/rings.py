"""Which key ring the settings name, opened: the file beside the data folder, or the one in Vault."""

from pathlib import Path

from connectors.cli.faults import BadUsage
from connectors.cli.settings import KeySettings
from engine.keyring import KeyRing

_VAULT = "vault_"


def ring_of(keys: KeySettings, data: Path, create: bool) -> KeyRing:
    """Open the ring of the deployment in `data`, which is made if `create`. Raises `BadUsage`, `RingFault`."""
    given = {name: value for name in keys.model_fields_set if (value := getattr(keys, name)) is not None}
    vault = {name.removeprefix(_VAULT): value for name, value in given.items() if name.startswith(_VAULT)}
    if not vault:
        from engine.filering import FileRing  # noqa: PLC0415 -- most commands need no ring

        return FileRing(keys.ring or data.with_name(data.name + ".ring"), create=create)
    if "url" not in vault:
        raise BadUsage("keys.vault_url: is needed with any other keys.vault_ setting")
    if keys.ring is not None:
        raise BadUsage("keys.ring and keys.vault_url: a deployment has one key ring")
    from connectors.vault import VaultConnection, VaultImpossible, VaultRing  # noqa: PLC0415 -- few deployments need it

    try:
        return VaultRing(VaultConnection(**vault), create)
    except VaultImpossible as wrong:
        raise BadUsage(str(wrong)) from None
