"""Secrets that leave whole records as they are: what the consent path costs without sealing. For benchmarks only.

A deployment has no such switch: whatever rests in its log is sealed (design, section 4). Fields under data keys stay sealed
here too.
"""

from collections.abc import Callable

from engine.keyring import RawClass
from engine.secrets import Secrets


class UnsealedSecrets(Secrets):
    """As `Secrets`, but a record under an hour's or a day's key is its plain bytes."""

    def sealing(self, topic: str, now_ms: int, class_: RawClass = "raw") -> Callable[[bytes], bytes]:
        """Give each record back as it is."""
        return bytes  # of bytes: the same object

    def is_sealed(self, value: bytes) -> bool:
        """Everything counts as sealed: nothing here comes from publishers."""
        return True

    def opening(self, topic: str, class_: RawClass = "raw") -> Callable[[bytes], bytes | None]:
        """Give each record back as it was sealed."""
        return bytes
