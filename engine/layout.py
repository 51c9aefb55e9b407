"""Where everything stands in a task partition's store: one table of key layouts, so that no two can meet.

    s owner NUL kind NUL part NUL part …    a processor's state record (msgpack)
    k owner NUL scope                       a data key, wrapped (Avro, as on the keys topic)
    a owner NUL processor NUL name          an alarm's due time and controller (msgpack)
    t due(8) owner NUL processor NUL name   the same alarm in order of time (empty)
    m                                       the frontier of the partition's audit tree
    l                                       the mark of the partition's last entry in the erasure ledger
    r controller NUL what                   how far a rotation of key-encryption keys is here (`engine/rewrapping.py`)
    u                                       up to when alarms have rung (8 octets, big-endian epoch ms; `engine/kafka/runtime.py`)
    v processor                             which settings and law its alarms rest on (`engine/reviewing.py`)
    d hash                                  an audit entry that is owed once files are cleaned (`engine/removing.py`)

Owners, kinds and parts never hold a NUL: names with control characters are refused at the door.
"""

from typing import NamedTuple

import msgspec

STATE, KEY, ALARM, DUE, FRONTIER, LEDGER, REMOVAL, REVIEWED, RUNG = b"s", b"k", b"a", b"t", b"m", b"l", b"d", b"v", b"u"
NUL = b"\0"
SEPARATOR = "\0"


class _Kinds(dict[str, bytes]):
    """What follows an owner's prefix in the key of a record without parts, by kind."""

    def __missing__(self, kind: str) -> bytes:
        made = self[kind] = kind.encode() + NUL
        return made


KINDS = _Kinds()


class DueAlarm(NamedTuple):
    """An alarm as the order of time knows it."""

    due_ms: int
    owner: str
    processor: str
    name: str


def state_prefix(owner: str) -> bytes:
    """Prefix of all state records of `owner`."""
    return STATE + owner.encode() + NUL


def state_key(owner: str, kind: str, parts: tuple[str, ...]) -> bytes:
    """Key of one state record; every part ends with NUL, so that no key is a prefix of another's parts."""
    return key_in(state_prefix(owner), kind, parts)


def key_in(prefix: bytes, kind: str, parts: tuple[str, ...]) -> bytes:
    """The same, of an owner whose `state_prefix` is at hand."""
    key = prefix + KINDS[kind]
    return key + f"{SEPARATOR.join(parts)}\0".encode() if parts else key


def parts_of(key: bytes, prefix_bytes: int) -> tuple[str, ...]:
    """The parts in a state key, after its owner and kind (`prefix_bytes` long)."""
    return tuple(key[prefix_bytes:-1].decode().split("\0"))


def data_key(owner: str, scope: str) -> bytes:
    """Key of a wrapped data key."""
    return b"k%b\0%b" % (owner.encode(), scope.encode())


def alarm_key(owner: str, processor: str, name: str) -> bytes:
    """Key of an alarm."""
    return b"a%b\0%b\0%b" % (owner.encode(), processor.encode(), name.encode())


def due_key(due_ms: int, owner: str, processor: str, name: str) -> bytes:
    """Key of an alarm in order of time."""
    return b"t%b%b\0%b\0%b" % (due_ms.to_bytes(8, "big"), owner.encode(), processor.encode(), name.encode())


def due_alarm(key: bytes) -> DueAlarm:
    """What `due_key` wrote."""
    owner, processor, name = key[9:].decode().split("\0")
    return DueAlarm(int.from_bytes(key[1:9], "big"), owner, processor, name)


def key_bytes(key: tuple[str, ...]) -> bytes:
    """A record's key: one part as it is, several as a JSON array of text."""
    return key[0].encode() if len(key) == 1 else msgspec.json.encode(key)
