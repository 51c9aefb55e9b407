"""A key ring in memory, its keys drawn from the seed. One ring serves all workers, as one file does."""

from collections.abc import Callable

from engine.keyring import RAW_SPAN_MS, RawClass

KEY_BYTES = 32


class SeededRing:
    """See `engine.keyring.Keys`."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._keys: dict[tuple[str, ...], bytes] = {}
        self._raw: list[tuple[RawClass, int, bytes]] = []
        self._ledger: list[bytes] = []

    def pepper(self, controller: str) -> bytes:
        """See `Keys`."""
        return self._key("pepper", controller)

    def kek(self, controller: str, shard: int) -> tuple[int, bytes]:
        """See `Keys`."""
        return 1, self._key("kek", controller, str(shard))

    def kek_at(self, controller: str, shard: int, epoch: int) -> bytes | None:
        """See `Keys`."""
        return self._keys.get(("kek", controller, str(shard))) if epoch == 1 else None

    def raw_key(self, class_: RawClass, now_ms: int) -> tuple[int, bytes]:
        """See `Keys`."""
        for number in range(len(self._raw), 0, -1):
            known, opened_ms, key = self._raw[number - 1]
            if known == class_ and now_ms - opened_ms < RAW_SPAN_MS[class_]:
                return number, key
        key = self._random(KEY_BYTES)
        self._raw.append((class_, now_ms, key))
        return len(self._raw), key

    def raw_key_by_id(self, number: int) -> bytes | None:
        """See `Keys`."""
        return self._raw[number - 1][2] if 0 < number <= len(self._raw) else None

    def deployment(self) -> str:
        """See `Keys`."""
        return self._key("deployment")[:16].hex()

    def ledger_append(self, entry: bytes) -> int:
        """See `Keys`."""
        self._ledger.append(entry)
        return len(self._ledger)

    def ledger_mark(self) -> int:
        """See `Keys`."""
        return len(self._ledger)

    def ledger_since(self, mark: int) -> list[tuple[int, bytes]]:
        """See `Keys`."""
        return list(enumerate(self._ledger, 1))[mark : mark + 1_000]

    def _key(self, *name: str) -> bytes:
        if name not in self._keys:
            self._keys[name] = self._random(KEY_BYTES)
        return self._keys[name]
