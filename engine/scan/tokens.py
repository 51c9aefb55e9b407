"""Sealed tokens, found by their first octets and opened by every living key, wherever and however broken they stand.

They are opened as AES-CTR, which GCM is underneath, so neither their place nor their length nor their tag needs to be right: what
is left of a token in slack opens as well. A data key lives when any copy of it, anywhere, unwraps under a living key.
"""

import hmac
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from engine.sealing import KEY_BYTES, NONCE_BYTES

FIELD, RAW, WRAPPED = 1, 2, 3
NAMES: Final = {FIELD: "field", RAW: "raw", WRAPPED: "wrapped"}
# Octets before the commitment, by form: mark and schema id; mark and key id; mark, epoch and shard.
HEAD_BYTES: Final = {FIELD: 10, RAW: 6, WRAPPED: 8}
COMMITMENT_BYTES: Final = 32
BODY_BYTES_MIN: Final = 6  # less than a needle
CUT_BYTES_MAX: Final = 64 << 10  # of a token whose end is not known, in raw bytes
_TOKEN: Final = re.compile(rb"\xc5[\x01\x02\x03]")
_CLASSES: Final = ("kek", "raw", "quarantine")  # what keys in the ring tokens rest under


def commitment_of(key: bytes) -> bytes:
    """How a token names the key that it is sealed under."""
    return hmac.digest(key, b"consentinel/1/commit\x01", "sha256")


class Opener:
    """The keys that live, by commitment, and what was opened with them. `met` is told each commitment that stands anywhere."""

    def __init__(self, alive: Iterable[tuple[str, bytes]], met: Callable[[bytes], object] | None = None) -> None:
        ring = [key for what, key in alive if what.partition("/")[0] in _CLASSES]
        self._secrets = {commitment_of(key): _expanded(key) for key in ring}
        self.ring_keys = len(self._secrets)
        self.data_keys: set[bytes] = set()  # their commitments
        self.opened: Counter[int] = Counter()
        self._met = met

    def learn(self, key: bytes) -> None:
        """Take a data key that was unwrapped. What is not one opens nothing, since no token names it."""
        named = commitment_of(key)
        self.data_keys.add(named)
        self._secrets[named] = _expanded(key)

    def open(self, data: bytes, until: int, cut: int | None) -> Iterator[tuple[int, bytes]]:
        """(form, plain text) of each token that begins before `until`; `cut`: octets of one at most, None for all there are."""
        named = [(match.start(), data[match.start() + 1]) for match in _TOKEN.finditer(data)]
        known = []
        for start, form in named:
            at = start + HEAD_BYTES[form]
            commitment = data[at : at + COMMITMENT_BYTES]
            if self._met is not None and start < until:
                self._met(commitment)
            if commitment in self._secrets:
                known.append((start, form, self._secrets[commitment]))
        if not known:
            return
        # A field ends where the next token that is one begins; garbage after its own end does no harm, only time.
        ends = [start for start, _, _ in known[1:]] + [len(data)]
        for (start, form, secret), following in zip(known, ends, strict=True):
            at = start + HEAD_BYTES[form] + COMMITMENT_BYTES
            body = at + NONCE_BYTES
            end = following if cut is None else min(following, body + cut)
            if form == WRAPPED:
                end = min(end, body + KEY_BYTES)
            if start >= until or end - body < (KEY_BYTES if form == WRAPPED else BODY_BYTES_MIN):
                continue
            self.opened[form] += 1
            # The counter of GCM starts at 2 for the text (NIST SP 800-38D, 7.1).
            cipher = Cipher(algorithms.AES(secret), modes.CTR(data[at:body] + b"\0\0\0\2"))
            yield form, cipher.decryptor().update(data[body:end])


def _expanded(key: bytes) -> bytes:
    return hmac.digest(key, b"consentinel/1/encrypt\x01", "sha256")
