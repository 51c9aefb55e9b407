"""Where recordings rest: one verb, `delete`, and the evidence of what it did. Which shelf it is follows from the address."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

ADDRESS_CHARS_MAX: Final = 4_096  # as the events that tell it (`schemas/events.py`)

Outcome = Literal["done", "held", "failed"]
Code = Literal[
    "deleted",  # it was there, and is not any more
    "missing",  # it was not there: somebody else removed it, or we did and died before we could say so
    "legal-hold", "object-lock",  # the store keeps it, and says so
    "no-address",  # the publisher never said where it is
    "unreadable",  # the address in the order cannot be opened, though its key is there
    "not-an-address",
    "unknown-place",  # no shelf takes such an address
    "outside",  # of the roots, buckets and prefixes that were configured
    "not-a-file",  # a symbolic link, a device, a folder
    "hard-linked",  # the same bytes have another name: removing this one would prove nothing
    "denied", "read-only", "no-such-bucket",
    "refused",  # the store answered with something else that trying again does not change
    "unreachable",  # it could not be had for so long and so often that we stop asking
]  # fmt: skip


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one recording: codes, counts and times.

    `removed`: files, or versions of objects; `markers`: delete markers; `uploads`: unfinished uploads that were ended, None when
    the store would not list them; `left`: versions that it keeps. `until_ms`: when the last lock that has an end ends (epoch ms).
    """

    outcome: Outcome
    code: Code
    shelf: str = ""
    removed: int = 0
    markers: int = 0
    uploads: int | None = 0
    left: int = 0
    until_ms: int | None = None


class ShelfAway(Exception):
    """It cannot be done or known now; later it may. `reason` is a code: network, busy, credentials, root, disk, unsettled."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ShelfImpossible(Exception):
    """Settings of which no shelf can be made; the text names the setting, never its value."""


class Refusal(Exception):
    """An address that this shelf does not act on; it becomes evidence before it leaves the shelf."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code: Code = code


class Shelf(Protocol):
    """One place where recordings rest."""

    def takes(self, uri: str) -> bool:
        """Whether this is an address of such a place; it may still be outside of what is configured."""
        ...

    def delete(self, uri: str) -> Evidence:
        """Remove the recording for good. Raises `ShelfAway`; doing it twice does no harm."""
        ...


class Shelves:
    """All shelves as one. What nobody takes has failed, with a code."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self._shelves = tuple(shelves)

    def delete(self, uri: str | None) -> Evidence:
        """See `Shelf`. `uri` None: nobody knows where it is."""
        if uri is None:
            return Evidence(outcome="failed", code="no-address")
        if not uri or len(uri) > ADDRESS_CHARS_MAX:
            return Evidence(outcome="failed", code="not-an-address")
        for shelf in self._shelves:
            if shelf.takes(uri):
                return shelf.delete(uri)
        return Evidence(outcome="failed", code="unknown-place")


def sidecars_of(name: str, suffixes: Sequence[str]) -> list[str]:
    """Names of what lies beside `name` because of it: `call.wav.json` and `call.json` for the suffix `.json`. Never itself."""
    folder, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0]
    found = [last + suffix for suffix in suffixes] + ([stem + suffix for suffix in suffixes] if stem else [])
    return [folder + slash + one for one in dict.fromkeys(found) if one != last]


def checked_suffixes(suffixes: Sequence[str]) -> tuple[str, ...]:
    """The suffixes. Raises `ShelfImpossible` for one that could name anything but a neighbour."""
    if any(not one.startswith(".") or len(one) < 2 or "/" in one or "\0" in one or one == ".." for one in suffixes):
        raise ShelfImpossible("media.sidecars: each begins with a dot and is part of a file's name")
    return tuple(suffixes)
