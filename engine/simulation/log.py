"""A topic partition as a broker keeps it: control records take offsets, and open transactions hold back the stable end."""

from typing import Literal

import msgspec

Outcome = Literal["open", "committed", "aborted"]
Headers = list[tuple[str, bytes]]


class Transaction:
    """One transaction. `outcome` is decided by the coordinator; markers reach each partition later, one by one."""

    __slots__ = ("began_ms", "epoch", "markers", "name", "offsets", "outcome", "places")

    def __init__(self, name: str, epoch: int, began_ms: int) -> None:
        self.name, self.epoch, self.began_ms = name, epoch, began_ms
        self.outcome: Outcome = "open"
        self.places: dict[tuple[str, int], None] = {}
        self.offsets: dict[tuple[str, int], tuple[int, str]] = {}  # input place → (next offset, metadata)
        self.markers = 0  # still to be written

    @property
    def finished(self) -> bool:
        """Whether it is decided and every marker stands."""
        return self.outcome != "open" and not self.markers


class Entry(msgspec.Struct):
    """One record as it stands. `control` records take an offset and are shown to nobody."""

    offset: int
    ts_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    transaction: Transaction | None = None
    control: bool = False


class PartitionLog:
    """Entries in offset order; offset and index are the same, for nothing is ever cut off or compacted here."""

    __slots__ = ("entries", "open")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.open: dict[Transaction, int] = {}  # transactions without a marker here → their first offset

    @property
    def end(self) -> int:
        """The high watermark."""
        return len(self.entries)

    @property
    def stable_end(self) -> int:
        """The last stable offset: the first record of the earliest transaction that has no marker yet."""
        return min(self.open.values()) if self.open else len(self.entries)

    def append(
        self, ts_ms: int, key: bytes | None, value: bytes | None, headers: Headers, transaction: Transaction | None = None
    ) -> int:
        """Append a record; returns its offset."""
        offset = len(self.entries)
        if transaction is not None and transaction not in self.open:
            self.open[transaction] = offset
        self.entries.append(Entry(offset, ts_ms, key, value, headers, transaction))
        return offset

    def mark(self, transaction: Transaction, ts_ms: int) -> None:
        """Write the transaction's control record: from here on its records are stable."""
        self.entries.append(Entry(len(self.entries), ts_ms, None, None, [], transaction, control=True))
        self.open.pop(transaction, None)

    def visible(self, start: int, limit: int, committed: bool) -> tuple[list[Entry], int]:
        """At most `limit` records from `start` on that a reader of this isolation sees, and where it reads next."""
        stop = self.stable_end if committed else len(self.entries)
        found: list[Entry] = []
        at = start
        while at < stop and len(found) < limit:
            entry = self.entries[at]
            at += 1
            if entry.control or (committed and entry.transaction is not None and entry.transaction.outcome == "aborted"):
                continue
            found.append(entry)
        return found, at

    def committed_entries(self) -> list[Entry]:
        """Everything that was decided to stand, whether its marker is written yet or not."""
        return [e for e in self.entries if not e.control and (e.transaction is None or e.transaction.outcome == "committed")]
