"""A sealed value opens only under its own key, in its own place, unchanged; without its key it opens to a typed marker.

    field   = %xC5 %x01 schema_id    commitment nonce ciphertext tag ;   (* one value, under a data key *)
    raw     = %xC5 %x02 key_id       commitment nonce ciphertext tag ;   (* a record, under an hour's or a day's key *)
    wrapped = %xC5 %x03 epoch shard  commitment nonce 32OCTET    tag ;   (* a data key, under a key-encryption key *)
    schema_id = 8OCTET ; key_id = 4OCTET ; epoch = 4OCTET ; shard = 2OCTET ;             (* numbers are big-endian *)
    commitment = 32OCTET ; nonce = 12OCTET ; ciphertext = *OCTET ; tag = 16OCTET ;

The second byte is form and version in one: a changed form takes a new number, and no number is used twice.

    part(x)     = (length of x, 4 octets, big-endian) x ;        (* no two lists of parts share an encoding *)
    field AAD   = part(controller) part(owner) part(scope) part(field) part(schema_id) part(%xC5 %x01) ;
    raw AAD     = part(label) part(topic) part(key_id) part(%xC5 %x02) ;
    wrapped AAD = part(controller) part(owner) part(scope) part(shard) part(epoch) part(%xC5 %x03) ;

A key is 32 random octets, expanded once by HKDF-Expand-SHA-256 (RFC 5869; being uniform, it needs no extraction):

    encryption key = HKDF-Expand(key, "consentinel/1/encrypt", 32)
    commitment     = HKDF-Expand(key, "consentinel/1/commit", 32)

AES-256-GCM alone does not commit to its key: one ciphertext can be made to open under two (Albertini et al., "How to
Abuse and Fix Authenticated Encryption Without Key Commitment", USENIX Security 2022). So the commitment travels along
and is compared before anything is decrypted, as in the AWS Encryption SDK. It shows which tokens share a key; so do
their places. Nonces are random, never derived from offsets: after a crash the same offset is sealed again with other
bytes. 96 bits are good for 2^32 tokens a key (NIST SP 800-38D, 8.3): an hour at 1.2 million records a second.
"""

import hmac
import os
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NewType, NoReturn
from zlib import crc32

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.markers import marker_for

Place = NewType("Place", bytes)  # encoded (controller, owner, scope); made once per data key
FieldName = NewType("FieldName", bytes)  # encoded field name; made once per field
RawPlace = NewType("RawPlace", bytes)  # encoded (purpose label, topic); made once per topic
NonceSource = Callable[[], bytes]
Form = Literal["field", "raw", "wrapped"]

KEY_BYTES = 32
NONCE_BYTES = 12
NONCES_PER_DRAW = 256  # 3 KiB for one system call, which costs as much as three tokens
SHARDS = 4096  # key-encryption keys per controller and epoch (design, section 4)

_FIELD, _RAW, _WRAPPED = b"\xc5\x01", b"\xc5\x02", b"\xc5\x03"
_FIELD_BYTES_MIN = 2 + 8 + 32 + 12 + 16
_RAW_BYTES_MIN = 2 + 4 + 32 + 12 + 16
_WRAPPED_BYTES = 2 + 4 + 2 + 32 + 12 + KEY_BYTES + 16


class SealingFault(Exception):
    """Base of what opening a token raises.

    SealingFault
    ├── TokenMalformed    not a token of this form: wrong first bytes or length
    └── TokenForeign      not sealed by this key for this place, or changed since
        └── KeyForeign    its commitment names another key: whoever keeps one key per scope knows that one as gone
    """


class TokenMalformed(SealingFault):
    """Not a token of this form: wrong first bytes or length."""


class TokenForeign(SealingFault):
    """Not sealed by this key for this place, or changed since."""


class KeyForeign(TokenForeign):
    """Its commitment names another key: whoever keeps one key per scope knows that one as gone."""


def _part(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _parts(*values: str) -> bytes:
    return b"".join(_part(value.encode()) for value in values)


# What stands around parts of a fixed length, so that the hot path only concatenates.
_LEN2, _LEN4, _LEN8 = b"\0\0\0\2", b"\0\0\0\4", b"\0\0\0\x08"
_FIELD_END, _RAW_END, _WRAPPED_END = _part(_FIELD), _part(_RAW), _part(_WRAPPED)


def place_of(controller: str, owner: str, scope: str) -> Place:
    """Encode where a data key belongs: `owner` is a subject_ref or a request, `scope` a conversation id or the like."""
    return Place(_parts(controller, owner, scope))


@lru_cache(maxsize=1024)
def field_name(field: str) -> FieldName:
    """Encode the public name of a sealed field."""
    return FieldName(_parts(field))


def raw_place_of(label: str, topic: str) -> RawPlace:
    """Encode where a record rests: `label` (`raw`, `quarantine`) keeps one purpose from passing for another."""
    return RawPlace(_parts(label, topic))


class Sealer:
    """One key, expanded; seals and opens. Thread-safe. A nonce is 12 octets that were never used before.

    Opening raises `TokenMalformed` or `TokenForeign`; an argument of a wrong length is a bug and raises `ValueError`.
    """

    __slots__ = ("_commitment", "_decrypt", "_encrypt")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError("a key has 32 octets")
        aead = AESGCM(hmac.digest(key, b"consentinel/1/encrypt\x01", "sha256"))
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._commitment = hmac.digest(key, b"consentinel/1/commit\x01", "sha256")

    def seal_field(self, plaintext: bytes, place: Place, field: FieldName, schema_id: bytes, nonce: bytes) -> bytes:
        """Make a field token. `schema_id` is the 8-octet Avro fingerprint of the record that declares the field."""
        if len(nonce) != NONCE_BYTES or len(schema_id) != 8:
            raise ValueError("a nonce has 12 octets, a schema id 8")
        aad = place + field + _LEN8 + schema_id + _FIELD_END
        return _FIELD + schema_id + self._commitment + nonce + self._encrypt(nonce, plaintext, aad)

    def open_field(self, token: bytes, place: Place, field: FieldName) -> bytes:
        """Open a field token. The schema id is the token's own, so that tokens outlive a schema version."""
        if token[:2] != _FIELD or len(token) < _FIELD_BYTES_MIN:
            _malformed()
        return self._open(token, 10, place + field + _LEN8 + token[2:10] + _FIELD_END)

    def seal_raw(self, plaintext: bytes, place: RawPlace, key_id: int, nonce: bytes) -> bytes:
        """Make a raw token; `key_id` is the key ring's number of this key."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError("a nonce has 12 octets")
        number = key_id.to_bytes(4, "big")
        aad = place + _LEN4 + number + _RAW_END
        return _RAW + number + self._commitment + nonce + self._encrypt(nonce, plaintext, aad)

    def open_raw(self, token: bytes, place: RawPlace) -> bytes:
        """Open a raw token; ask `raw_key_id` for which key."""
        if token[:2] != _RAW or len(token) < _RAW_BYTES_MIN:
            _malformed()
        return self._open(token, 6, place + _LEN4 + token[2:6] + _RAW_END)

    def wrap(self, data_key: bytes, place: Place, epoch: int, shard: int, nonce: bytes) -> bytes:
        """Make a wrapped key, 100 octets; this sealer holds the key-encryption key of (`epoch`, `shard`)."""
        if len(nonce) != NONCE_BYTES or len(data_key) != KEY_BYTES:
            raise ValueError("a nonce has 12 octets, a data key 32")
        at_epoch, at_shard = epoch.to_bytes(4, "big"), shard.to_bytes(2, "big")
        aad = place + _LEN2 + at_shard + _LEN4 + at_epoch + _WRAPPED_END
        return _WRAPPED + at_epoch + at_shard + self._commitment + nonce + self._encrypt(nonce, data_key, aad)

    def unwrap(self, token: bytes, place: Place) -> bytes:
        """Open a wrapped key; ask `wrapped_under` for which key-encryption key."""
        if token[:2] != _WRAPPED or len(token) != _WRAPPED_BYTES:
            _malformed()
        return self._open(token, 8, place + _LEN2 + token[6:8] + _LEN4 + token[2:6] + _WRAPPED_END)

    def _open(self, token: bytes, at: int, aad: bytes) -> bytes:
        if not hmac.compare_digest(token[at : at + 32], self._commitment):
            raise KeyForeign("sealed under another key")
        try:
            return self._decrypt(token[at + 32 : at + 44], token[at + 44 :], aad)
        except InvalidTag:
            raise TokenForeign("sealed for another place, or changed") from None


def _malformed() -> NoReturn:
    raise TokenMalformed("not a token of this form")


def form_of(token: bytes) -> Form | None:
    """Tell a token's form by its first bytes and length; None when it is no token."""
    if token[:2] == _FIELD:
        return "field" if len(token) >= _FIELD_BYTES_MIN else None
    if token[:2] == _RAW:
        return "raw" if len(token) >= _RAW_BYTES_MIN else None
    return "wrapped" if token[:2] == _WRAPPED and len(token) == _WRAPPED_BYTES else None


def raw_key_id(token: bytes) -> int:
    """Read the key's number that a raw token claims. Only opening it proves the claim."""
    return int.from_bytes(token[2:6], "big") if form_of(token) == "raw" else _malformed()


def wrapped_under(token: bytes) -> tuple[int, int]:
    """Read the (epoch, shard) that a wrapped key claims. Only opening it proves the claim."""
    if form_of(token) != "wrapped":
        _malformed()
    return int.from_bytes(token[2:6], "big"), int.from_bytes(token[6:8], "big")


class Nonces:
    """A `NonceSource` that draws many at a time from `source`: the system's randomness, or the simulation's seeded one.

    Thread-safe. A forked child throws away what its parent drew: one nonce twice under one key breaks AES-GCM.
    """

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._drawn: list[bytes] = []
        _NONCES.add(self)

    def __call__(self) -> bytes:
        """Take the next nonce, 12 octets."""
        try:
            return self._drawn.pop()
        except IndexError:
            drawn = self._source(NONCE_BYTES * NONCES_PER_DRAW)
            batch = [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]
            nonce = batch.pop()  # before the others are shared: another thread could empty the list first
            self._drawn.extend(batch)
            return nonce

    def forget(self) -> None:
        """Throw away what was drawn and not used."""
        self._drawn.clear()


def _forget_nonces() -> None:
    for nonces in list(_NONCES):
        nonces.forget()


_NONCES: "weakref.WeakSet[Nonces]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_nonces)


class Erased(msgspec.Struct, frozen=True):
    """What a value opens to without its key: its fideslang `category`, and an identifier's `kind` where known."""

    category: str
    kind: str = ""

    @property
    def marker(self) -> str:
        """What people see in its place (contract, section 3)."""
        return marker_for(self.category, self.kind)


Opened = str | Erased


def open_text(sealer: Sealer | None, token: bytes, place: Place, field: FieldName, erased: Erased) -> Opened:
    """Open a field token to its text, or to `erased` when there is no key (`sealer` None), whatever the token is."""
    return erased if sealer is None else str(sealer.open_field(token, place, field), "utf-8", "replace")


_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_B = [high + low for high in _DIGITS for low in _DIGITS]  # ten bits a look-up: a third of what base64.b32encode takes


def subject_ref(pepper: bytes, kind: str, normal: str) -> str:
    """Name a person: `sub_` + 128 bits of HMAC-SHA-256(pepper, part(kind) part(normal)) as 26 base32 characters."""
    digest = hmac.digest(pepper, _part(kind.encode()) + _part(normal.encode()), "sha256")
    n = int.from_bytes(digest[:16], "big") << 2
    return (
        f"sub_{_B[n >> 120]}{_B[n >> 110 & 1023]}{_B[n >> 100 & 1023]}{_B[n >> 90 & 1023]}{_B[n >> 80 & 1023]}"
        f"{_B[n >> 70 & 1023]}{_B[n >> 60 & 1023]}{_B[n >> 50 & 1023]}{_B[n >> 40 & 1023]}{_B[n >> 30 & 1023]}"
        f"{_B[n >> 20 & 1023]}{_B[n >> 10 & 1023]}{_B[n & 1023]}"
    )


def actor_hash(pepper: bytes, actor: str) -> str:
    """Name an actor: `act_` + 80 bits as 16 characters. Hashes three parts, where a subject_ref hashes two."""
    digest = hmac.digest(pepper, _parts("consentinel", "actor", actor), "sha256")
    n = int.from_bytes(digest[:10], "big")
    return "act_" + "".join(_B[n >> shift & 1023] for shift in range(70, -1, -10))


def shard_of(owner: str) -> int:
    """Choose the owner's shard, 0 to 4,095: CRC-32 as for partitions, so that a shard's keys share a partition."""
    return crc32(owner.encode()) % SHARDS
