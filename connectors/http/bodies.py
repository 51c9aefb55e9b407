"""Reads bodies within bounds: sizes, time, and how much of them this process holds at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http.problems import Problem
from schemas.decode import ambiguous

BODY_BYTES_MAX = 8 << 20  # contract, section 2
CALL_BYTES_MAX = 1 << 20  # a call that is no batch has no use for more
DRAINED_BYTES_MAX = 64 << 20  # read and thrown away, so that a client which sends first and reads later sees the 413
BODY_SECS_MAX = 30.0  # an 8 MiB batch over 2 Mbit/s; a client that is slower sends smaller ones
IN_FLIGHT_BYTES_MAX = 128 << 20  # bodies in memory at once: sixteen full batches
RETRY_SECS = 1

T = TypeVar("T")


class Bodies:
    """Counts the bytes of bodies that are being read and handled."""

    def __init__(self, bytes_max: int = IN_FLIGHT_BYTES_MAX, secs_max: float = BODY_SECS_MAX) -> None:
        self._bytes_max, self._secs_max = bytes_max, secs_max
        self._held = 0

    @asynccontextmanager
    async def of(self, request: Request, bytes_max: int = CALL_BYTES_MAX) -> AsyncIterator[bytes]:
        """The whole body, counted as held inside the block. Raises `Problem`: 408, 413 (`body-too-large`), 429."""
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told[:20]) > DRAINED_BYTES_MAX:
            raise Problem("body-too-large")
        try:
            async with asyncio.timeout(self._secs_max):
                body = await self._read(request, bytes_max)
        except TimeoutError:
            raise Problem("too-slow") from None
        try:
            yield body
        finally:
            self._held -= len(body)

    async def _read(self, request: Request, bytes_max: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        fault: Problem | None = None
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if fault is None:
                    self._held += len(chunk)
                    chunks.append(chunk)
                    if size > bytes_max:
                        fault = Problem("body-too-large")
                    elif self._held > self._bytes_max:
                        fault = Problem("busy", retry_after_secs=RETRY_SECS)
                    if fault is not None:
                        self._drop(chunks)
                elif size > DRAINED_BYTES_MAX:
                    break
        except BaseException:
            self._drop(chunks)
            raise
        if fault is not None:
            raise fault
        return b"".join(chunks)

    def _drop(self, chunks: list[bytes]) -> None:
        self._held -= sum(map(len, chunks))
        chunks.clear()


def parse(body: bytes, kind: type[T]) -> T:
    """A call's JSON body as `kind`. Raises `Problem` (400) that names the field."""
    try:
        body.decode()  # msgspec skips what it does not read, and what it skips may be no UTF-8
        found = msgspec.json.decode(body, type=kind)
        doubled = ambiguous(body)
        if doubled is None:
            return found
        fault = Problem("wrong-field", doubled)  # which of the two was meant, nobody knows
    except msgspec.ValidationError as error:
        fault = fault_of(str(error))
    except RecursionError:
        fault = Problem("too-deep")
    except (msgspec.DecodeError, UnicodeDecodeError):
        fault = Problem("not-json")
    raise fault  # outside the handlers: the context's text holds values


def fault_of(text: str) -> Problem:
    """Read code and pointer off msgspec's words. Only field names and positions are ours; the rest may quote values."""
    head, _, path = text.rpartition(" - at `$")
    pointer = ""
    for part in path.removesuffix("`").replace("[", ".[").split(".") if head else []:
        if part.startswith("[") and not part[1:-1].isdecimal():
            break  # a value of a map: its key is the sender's
        pointer += f"/{part.strip('[]')}" if part else ""
    if text.startswith("Object missing required field `"):
        return Problem("missing-field", f"{pointer}/{text.split('`')[1]}")
    if text.startswith("Object contains unknown field"):
        return Problem("unknown-field")  # its name is the sender's, and may look like a path
    return Problem("wrong-field", pointer)


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
