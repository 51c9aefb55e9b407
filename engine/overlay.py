"""What a task partition's store holds once this turn is committed: committed records, a cache of them, and the turn's writes.

Processors see records as objects; bytes are made once per record and turn, at the commit. Every write since `mark` can be taken
back, so that a fold that fails leaves nothing. What is known of a key is its newest value, committed or of this turn: one look-up
tells it. A turn that is lost takes everything known with it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from engine.layout import DUE, KEY, STATE, parts_of, state_key
from engine.runtime import Runtime
from processors.kernel import State

S = TypeVar("S", bound=State)
MISSING: Final = object()
KNOWN_MAX = 20_000  # records of one partition in memory, some 20 MB at 1 KB, a dozen partitions; past it the cache starts over

# A wrapped key is known for no longer than its turn: what is shredded must not be found here by a later bug. An alarm's place in
# the order of time is never asked for by its key.
PASSING: Final = (KEY, DUE)

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[type[State], msgspec.msgpack.Decoder[Any]] = {}



def decode_state(kind: type[S], data: bytes) -> S:
    """A state record from its bytes."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    record: S = decoder.decode(data)
    return record


class Overlay:
    """One task partition's state during a turn: `State` objects under state keys (`put`), bytes under all others (`set`)."""

    def __init__(self, runtime: Runtime, task: str, partition: int) -> None:
        self.task, self.partition = task, partition
        self.known: dict[bytes, Any] = {}  # newest value of what was read or written, None: there is none; to be read only
        self._runtime = runtime
        self._dirty: dict[bytes, Any] = {}
        self._passing: list[bytes] = []  # keys written in this turn that are not to be known beyond it
        self._owners: dict[bytes, dict[bytes, None]] | None = None  # owner's prefix → its dirty state keys, once a fold scans
        self._undo: list[tuple[bytes, Any, Any]] = []

    @property
    def size(self) -> int:
        """How many keys the turn has written."""
        return len(self._dirty)

    def mark(self) -> None:
        """Begin what `undo` would take back."""
        self._undo.clear()

    def undo(self) -> None:
        """Take back every write since `mark`."""
        for key, known, dirty in reversed(self._undo):
            for table, before in ((self.known, known), (self._dirty, dirty)):
                if before is MISSING:
                    del table[key]
                else:
                    table[key] = before
        self._undo.clear()

    def put(self, key: bytes, record: State | None) -> None:
        """Write a state record (None deletes)."""
        self._undo.append((key, self.known.get(key, MISSING), self._dirty.get(key, MISSING)))
        self.known[key] = self._dirty[key] = record
        if self._owners is not None:
            self._index(self._owners, key)

    def set(self, key: bytes, value: bytes | None) -> None:
        """Write what is not a state record (None deletes)."""
        self._undo.append((key, self.known.get(key, MISSING), self._dirty.get(key, MISSING)))
        self.known[key] = self._dirty[key] = value
        if key[:1] in PASSING:
            self._passing.append(key)

    def get_bytes(self, key: bytes) -> bytes | None:
        """What is not a state record: a wrapped key, an alarm, the frontier."""
        value = self.known.get(key, MISSING)
        if value is MISSING:
            value = self._runtime.get(self.task, self.partition, key)
            if key[:1] not in PASSING:
                self.known[key] = value
        found: bytes | None = value
        return found

    def warm(self, wanted: Mapping[bytes, type[State]]) -> None:
        """Read these state records, none of them known, in one go, so that single reads find them."""
        if wanted:
            read = self._runtime.get_many(self.task, self.partition, list(wanted))
            for (key, kind), data in zip(wanted.items(), read, strict=True):
                self.known[key] = None if data is None else decode_state(kind, data)

    def get(self, kind: type[S], key: bytes) -> S | None:
        """The state record at `key`."""
        value = self.known.get(key, MISSING)
        if value is MISSING:
            data = self._runtime.get(self.task, self.partition, key)
            value = self.known[key] = None if data is None else decode_state(kind, data)
        found: S | None = value
        return found

    def scan(self, kind: type[S], owner: str, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], S]]:
        """State records of `owner` in key order; writes made while the caller iterates may or may not be seen."""
        base = len(state_key(owner, kind.KIND, ()))
        start = state_key(owner, kind.KIND, prefix)
        if self._owners is None:
            self._owners = {}
            for key in self._dirty:
                self._index(self._owners, key)
        mine = [k for k in self._owners.get(start[: start.index(0) + 1], ()) if k.startswith(start)]
        if not mine:
            for key, data in self._runtime.scan(self.task, self.partition, start):
                yield parts_of(key, base), decode_state(kind, data)
            return
        found: dict[bytes, S | None] = {k: decode_state(kind, v) for k, v in self._runtime.scan(self.task, self.partition, start)}
        found |= {k: self._dirty[k] for k in mine if k in self._dirty}
        for key in sorted(found):
            record = found[key]
            if record is not None:
                yield parts_of(key, base), record

    @staticmethod
    def _index(owners: dict[bytes, dict[bytes, None]], key: bytes) -> None:
        if key[:1] == STATE:
            owners.setdefault(key[: key.index(0) + 1], {})[key] = None

    def writes(self) -> dict[bytes, bytes | None]:
        """Everything this turn wrote, as bytes."""
        return {k: v if v is None or type(v) is bytes else _encode(v) for k, v in self._dirty.items()}

    def committed(self) -> None:
        """The turn is durable: what was written is in the store."""
        for key in self._passing:
            self.known.pop(key, None)
        if len(self.known) > KNOWN_MAX:
            self.known.clear()
        self._reset()

    def forget(self) -> None:
        """The turn is lost: trust only the store."""
        self.known.clear()
        self._reset()

    def _reset(self) -> None:
        self._dirty.clear()
        self._passing.clear()
        self._owners = None
        self._undo.clear()
