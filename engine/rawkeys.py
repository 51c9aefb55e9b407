"""The end of raw and quarantine keys: closed when their span is over, destroyed when nothing rests under them any more.

Two rules together tell that: a key goes when it was closed before the oldest record that is left or on its way, and when the
first record of every partition rests under a later key. The second holds when a clock was set back, the first when two
publishers changed places at a key's end.
"""

from collections.abc import Callable, Iterable, Iterator

from engine.effects import QUARANTINE
from engine.keyring import RAW_SPAN_MS, KeyRing, RawClass
from engine.runtime import LogRecord
from engine.sealing import form_of, raw_key_id
from engine.secrets import Secrets
from engine.topology import Topology
from schemas.codec import Malformed, SchemaUnknown, decode_as
from schemas.topics import QuarantineEntry

NO_KEY = 1 << 32  # above every number

Read = Callable[[str, int, int, int], list[LogRecord]]  # `engine.runtime.Runtime.read`


class RawKeys:
    """The raw keys of a deployment, for whoever ends its records."""

    def __init__(self, ring: KeyRing, secrets: Secrets, topology: Topology, read: Read) -> None:
        self._ring, self._secrets, self._topology, self._read = ring, secrets, topology, read
        raw = [name for name, topic in topology.topics.items() if topic.retention == "raw"]
        self.topics: dict[RawClass, list[str]] = {"raw": raw, "quarantine": [QUARANTINE]}

    def firsts(self, class_: RawClass) -> Iterator[tuple[int, int]]:
        """Time and key number of the first record of each partition; `NO_KEY` where it is not sealed."""
        for topic in self.topics[class_]:
            for partition in range(self._topology.topics[topic].partitions):
                for record in self._read(topic, partition, 0, 1):
                    yield record.ts_ms, _key_of(topic, record.value)

    def destroy(self, class_: RawClass, before_ms: int, firsts: Iterable[tuple[int, int]]) -> None:
        """Destroy the keys that were closed before `before_ms` and lie before all that `firsts` rest under."""
        first_left = min((number for _, number in firsts), default=NO_KEY)
        gone = [
            number for number, known, _, closed_ms in self._ring.raw_keys()
            if known == class_ and closed_ms is not None and closed_ms < before_ms and number < first_left
        ]  # fmt: skip
        if gone:
            self._ring.destroy_raw(gone)
            self._secrets.forget_raw(gone)

    def close_due(self, now_ms: int) -> None:
        """Close what has been open for its span: where nothing comes, nobody asks for the next one."""
        for _, class_, opened_ms, closed_ms in self._ring.raw_keys():
            if closed_ms is None and opened_ms <= now_ms - RAW_SPAN_MS[class_]:
                self._ring.close_raw(class_, now_ms)


def _key_of(topic: str, value: bytes | None) -> int:
    try:
        if topic == QUARANTINE and value is not None:
            value = decode_as(QuarantineEntry, value).original
    except (Malformed, SchemaUnknown):
        return NO_KEY
    return raw_key_id(value) if value is not None and form_of(value) == "raw" else NO_KEY
