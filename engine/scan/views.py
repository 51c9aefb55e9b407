"""What bytes say once they are unwrapped: escapes resolved; base64, hexadecimal and gzip decoded."""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from engine.scan.faults import Unreadable
from engine.scan.unpack import gzip

ENTITIES: Final = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'", b"nbsp": b" "}
# JSON and Python, URL, quoted-printable, HTML and XML: all at once, since none of them hides what another shows.
# Each alternative begins with a character of its own, so that the expression engine skips what cannot begin one.
_ESCAPE: Final = re.compile(
    rb"\\(u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*|x[0-9a-fA-F]{2}|[\"'/\\])|%([0-9a-fA-F]{2})|=([0-9a-fA-F]{2}|\r?\n)"
    rb"|&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos|nbsp);"
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_%\\-]{16,}(?:\r?\n[ \t]?[A-Za-z0-9+/_%\\-]{4,})*")
_PLAIN64: Final = re.compile(rb"[A-Za-z0-9+/]{16,}")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_HEXLIKE: Final = re.compile(rb"[0-9a-fA-F-]+")
RUN_BYTES_MIN: Final = 16
_HEX: Final = re.compile(rb"[0-9a-fA-F]{24,}")
GZIP: Final = b"\x1f\x8b\x08"


def unescaped(data: bytes) -> bytes | None:
    """`data` with every escape as what it stands for, UTF-8; None when there is none. Escapes of escapes are left."""
    changed, count = _ESCAPE.subn(_meant, data)
    return changed if count else None


def _meant(match: re.Match[bytes]) -> bytes:
    slashed, percent, printable, entity = match.groups()
    if slashed is not None:
        if slashed[:1] == b"u" and len(slashed) > 1:
            return bytes.fromhex(slashed[1:].replace(b"\\u", b"").decode()).decode("utf-16-be", "replace").encode()
        # `\xe4` is a character in Python and an octet everywhere else; as an octet Latin-1 finds it.
        return bytes.fromhex(slashed[1:].decode()) if len(slashed) == 3 else slashed
    if percent is not None:
        return bytes.fromhex(percent.decode())
    if printable is not None:
        return b"" if printable.endswith(b"\n") else bytes.fromhex(printable.decode())
    if not entity.startswith(b"#"):
        return ENTITIES[entity]
    number = int(entity[2:], 16) if entity[1:2] in b"xX" else int(entity[1:])
    return chr(number).encode("utf-8", "replace") if number < 0x110000 else b""


def decoded(data: bytes, until: int) -> Iterator[tuple[str, bytes]]:
    """(how, octets) of each run of base64 or hexadecimal that begins before `until`, at each alignment, and of gzip."""
    if len(data) < RUN_BYTES_MIN:
        return
    for match in _BASE64.finditer(data):
        if match.start() >= until:
            break
        run = match[0]
        # Names, refs, hexadecimal and UUIDs look like base64 too; of base64 this long next to none is without capitals.
        if run.islower() or run.isdigit() or _HEXLIKE.fullmatch(run):
            continue
        if b"\\" in run or b"%" in run:
            run = unescaped(run) or run
        run = run.translate(_STANDARD, b"\r\n \t")
        for part in _PLAIN64.finditer(run):
            for skip in range(4):
                text = part[0][skip:]
                with suppress(binascii.Error):
                    yield "base64", base64.b64decode(text[: len(text) // 4 * 4] + _tail(text))
    for match in _HEX.finditer(data):
        if match.start() >= until:
            break
        for skip in range(2):
            text = match[0][skip:]
            yield "hex", binascii.unhexlify(text[: len(text) // 2 * 2])
    if data.startswith(GZIP):
        with suppress(Unreadable):
            yield "gzip", gzip(data)


def _tail(text: bytes) -> bytes:
    """The last, incomplete group of four, padded."""
    rest = len(text) % 4
    return text[-rest:] + b"=" * (4 - rest) if rest > 1 else b""
