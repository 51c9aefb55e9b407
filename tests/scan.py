"""Looks for what must be gone: opens every sealed value with every living key and searches it, all plain text and all raw bytes.

It trusts nothing of the system under test but the grammar of tokens (`engine/sealing.py`) and the ring's list of living keys:
tokens are found by their first bytes and their commitment anywhere in any bytes, live, superseded, in a WAL or in slack. They are
opened as AES-CTR, which GCM is underneath, so neither their place nor their length nor their tag needs to be right. A data key
counts as living when any copy of it, anywhere, unwraps under a living key-encryption key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import phonenumbers
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

NEEDLE_BYTES_MIN = 6
PREFIX_BYTES = 6  # of a spelling, by which a place is found; the rest is compared there
TOKEN = re.compile(rb"\xc5[\x01\x02\x03]")
# Octets before the commitment, by form: mark and schema id; mark and key id; mark, epoch and shard.
HEAD_BYTES = {1: 10, 2: 6, 3: 8}
COMMITMENT_BYTES, NONCE_BYTES, KEY_BYTES = 32, 12, 32
RAW_FILE_TOKEN_BYTES_MAX = 4_096  # in a file a longer token goes on elsewhere, on an overflow page
DEPTH_MAX = 5  # a token in an opened token in a quarantined record in …
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}={0,2}")  # what rests as base64 inside what was opened


class Chunk(NamedTuple):
    """Some bytes and where they stood. `whole`: they are one value, not a file."""

    where: str
    data: bytes
    whole: bool = True


class Report(NamedTuple):
    """`found`: needle to where it stands. `opened`: tokens opened, by form. Keys are named by their commitment.

    `keys`: data keys that live. `sealed_under`: keys that some token is sealed under, whether or not it can be opened.
    """

    found: dict[str, list[str]]
    opened: dict[int, int]
    keys: frozenset[bytes]
    sealed_under: frozenset[bytes]
    octets: int


def spellings(needle: str) -> set[bytes]:
    """Every way in which a needle may be written, 6 bytes or longer."""
    texts = {needle, needle.casefold(), needle.upper()}
    if re.fullmatch(r"\+?[0-9][0-9 ().-]{6,}", needle):
        texts |= _numbers(needle)
    if not needle.isascii():
        texts.add(needle.encode("unicode_escape").decode())
    found: set[bytes] = set()
    for text in texts:
        plain = text.encode()
        found |= {plain, text.encode("utf-16-le"), text.encode("utf-16-be"), plain.hex().encode(), plain.hex().upper().encode()}
    for text in {needle, needle.casefold()}:
        found |= _base64(text.encode())
    return {form for form in found if len(form) >= NEEDLE_BYTES_MIN}


def _numbers(needle: str) -> set[str]:
    digits = re.sub(r"[^0-9]", "", needle)
    try:
        number = phonenumbers.parse("+" + digits, None)
    except phonenumbers.NumberParseException:
        return {digits}
    formats = phonenumbers.PhoneNumberFormat
    all_ = (formats.E164, formats.NATIONAL, formats.INTERNATIONAL, formats.RFC3966)
    return {digits, str(number.national_number), *(phonenumbers.format_number(number, f) for f in all_)}


def _base64(data: bytes) -> set[bytes]:
    """The octets that stand in base64 for `data` at each alignment, without those that its neighbours decide."""
    found = set()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + data)
        start = -(-before * 8 // 6)
        coded = coded[start : (before + len(data)) * 8 // 6]
        found |= {coded, coded.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


class Needles:
    """Many needles, found in one pass."""

    def __init__(self, needles: Iterable[str]) -> None:
        self.needles = sorted(set(needles))
        short = [n for n in self.needles if len(n.encode()) < NEEDLE_BYTES_MIN]
        assert not short, f"{len(short)} needles are too short to mean anything"
        self._forms: dict[bytes, list[tuple[bytes, str]]] = {}
        for needle in self.needles:
            for form in spellings(needle):
                self._forms.setdefault(form[:PREFIX_BYTES], []).append((form, needle))
        self._pattern = re.compile(b"(?=(" + _trie(list(self._forms)) + b"))", re.DOTALL) if self._forms else None

    def within(self, data: bytes) -> set[str]:
        """The needles that stand in `data`, however they are written."""
        if self._pattern is None:
            return set()
        return {
            needle for match in self._pattern.finditer(data) for form, needle in self._forms[match[1]]
            if data.startswith(form, match.start())
        }  # fmt: skip


def _trie(words: list[bytes]) -> bytes:
    """A regular expression for one of `words`, all of one length, that looks at each octet once."""
    if not words[0]:
        return b""
    by_first: dict[int, list[bytes]] = {}
    for word in words:
        by_first.setdefault(word[0], []).append(word[1:])
    parts = [re.escape(bytes([first])) + _trie(rest) for first, rest in sorted(by_first.items())]
    return b"(?:" + b"|".join(parts) + b")" if len(parts) > 1 else parts[0]


def commitment(key: bytes) -> bytes:
    """How a token names the key that it is sealed under."""
    return hmac.digest(key, b"consentinel/1/commit\x01", "sha256")


def _decrypt(key: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
    """What AES-256-GCM would give if the tag were right: its counter starts at 2."""
    secret = hmac.digest(key, b"consentinel/1/encrypt\x01", "sha256")
    return Cipher(algorithms.AES(secret), modes.CTR(nonce + b"\0\0\0\2")).decryptor().update(ciphertext)


def chunks_of_runtime(world: Any) -> Iterator[Chunk]:
    """Everything a deployment's runtime gives back: keys, values and headers of the log, keys and values of the state."""
    for topic, spec in world.topology.topics.items():
        for partition in range(spec.partitions):
            offset = 0
            while records := world.runtime.read(topic, partition, offset, 1_000):
                for record in records:
                    headers = b"".join(name.encode() + value for name, value in record.headers)
                    yield Chunk(f"log {topic}", record.key + b"\0" + headers)
                    if record.value:
                        yield Chunk(f"log {topic}", record.value)
                offset = records[-1].offset + 1
    for task, plan in world.topology.tasks.items():
        for partition in range(plan.partitions):
            for key, value in world.runtime.scan(task, partition, b""):
                kind = key.split(b"\0")[1].decode(errors="replace") if key[:1] == b"s" else key[:1].decode(errors="replace")
                yield Chunk(f"state {task} {kind}", key)
                yield Chunk(f"state {task} {kind}", value)


def chunks_of_folder(folder: Path) -> Iterator[Chunk]:
    """Every cell of every SQLite database, by the test's own eyes, and the raw bytes of every file."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield Chunk(f"file {path.name}", data, whole=False)
        if data.startswith(b"SQLite format 3\0"):
            yield from _cells(path)


def _cells(path: Path) -> Iterator[Chunk]:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            for row in db.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    if isinstance(cell, bytes | str) and cell:
                        yield Chunk(f"table {table}", cell if isinstance(cell, bytes) else cell.encode())
    finally:
        db.close()


def scan(needles: Iterable[str], ring: Any, folder: Path | None = None, world: Any = None) -> Report:
    """Look for `needles` in a data folder, in a deployment, or in both, with all keys that live in `ring`."""
    chunks = [*(chunks_of_runtime(world) if world is not None else ()), *(chunks_of_folder(folder) if folder is not None else ())]
    return look(Needles(needles), dict(ring.all_keys_alive()), chunks)


def look(needles: Needles, alive: dict[str, bytes], chunks: list[Chunk]) -> Report:
    """Look for `needles` in `chunks` and in whatever can be opened of them."""
    known = {commitment(key): key for what, key in alive.items() if what.split("/")[0] in ("kek", "raw", "quarantine")}
    keys: dict[bytes, bytes] = {}
    opened = {1: 0, 2: 0, 3: 0}
    # First the records under raw keys, then every wrapped key anywhere, then every field.
    inside = list(chunks)
    for form in (2, 3, 1):
        fresh = list(inside)
        for _ in range(DEPTH_MAX):
            fresh = [Chunk(f"{c.where} opened", data) for c in fresh for data in _open(c, form, known, opened)]
            fresh += [Chunk(f"{c.where} base64", data) for c in fresh for data in _decoded(c.data)]
            if form == 3:
                keys |= {commitment(c.data[:KEY_BYTES]): c.data[:KEY_BYTES] for c in fresh}
            if not fresh:
                break
            inside += fresh
        known |= keys
    found: dict[str, set[str]] = {}
    for where, data, _ in inside:
        for needle in needles.within(data):
            found.setdefault(needle, set()).add(where)
    places = {needle: sorted(wheres) for needle, wheres in sorted(found.items())}
    sealed_under = frozenset(_sealed_under(inside))
    return Report(places, opened, frozenset(keys), sealed_under, sum(len(c.data) for c in inside))


def _sealed_under(chunks: list[Chunk]) -> Iterator[bytes]:
    for _, data, _ in chunks:
        for match in TOKEN.finditer(data):
            at = match.start() + HEAD_BYTES[data[match.start() + 1]]
            yield data[at : at + COMMITMENT_BYTES]


def _open(chunk: Chunk, form: int, known: dict[bytes, bytes], opened: dict[int, int]) -> Iterator[bytes]:
    data = chunk.data
    for match in TOKEN.finditer(data):
        if data[match.start() + 1] != form:
            continue
        at = match.start() + HEAD_BYTES[form]
        key = known.get(data[at : at + COMMITMENT_BYTES])
        nonce = data[at + COMMITMENT_BYTES : at + COMMITMENT_BYTES + NONCE_BYTES]
        if key is None or len(nonce) < NONCE_BYTES:
            continue
        start = at + COMMITMENT_BYTES + NONCE_BYTES
        end = len(data) if chunk.whole else start + RAW_FILE_TOKEN_BYTES_MAX
        after = TOKEN.finditer(data, start, end)
        # A field ends where the next token that is one begins; garbage after its own end does no harm, only time.
        for other in after:
            next_at = other.start() + HEAD_BYTES[data[other.start() + 1]]
            if data[next_at : next_at + COMMITMENT_BYTES] in known:
                end = other.start()
                break
        opened[form] += 1
        yield _decrypt(key, nonce, data[start : min(end, start + KEY_BYTES) if form == 3 else end])


def _decoded(data: bytes) -> Iterator[bytes]:
    for match in BASE64.finditer(data):
        text = match[0].rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            yield base64.b64decode(text[: len(text) // 4 * 4])
        except binascii.Error:
            continue
