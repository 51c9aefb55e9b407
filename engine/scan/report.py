"""What a scan tells: counts, kinds of places and a verdict, with no value in it, so that a receipt can carry it.

A control is the run before an erasure, in which every needle must be found: to find nothing says something only of needles that
were found before. Its file names needles by a slow hash under a salt of its own. A telephone number can still be found out
from it by trying all of them, so it is personal data, and goes once the later run is done.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from engine.scan.chunks import EXPIRING_TOPICS, KEPT_KINDS, KEPT_TOPICS, Place, Unread
from engine.scan.look import Looked
from engine.scan.needles import Needle
from engine.scan.tokens import NAMES

FORM: Final = 1
SALT_BYTES: Final = 16
CONTROL_BYTES_MAX: Final = 8 << 20
_WORK: Final = 1 << 12  # of scrypt (RFC 7914): some milliseconds a needle

Standing = Literal["outside", "kept", "expiring"]
Verdict = Literal["clean", "found", "incomplete", "uncontrolled", "all_found", "missing"]


class Where(msgspec.Struct, frozen=True):
    """A place in which a needle stands. `how`: through what one gets there. `standing`: `outside` is a finding."""

    source: str
    kind: str
    name: str
    how: tuple[str, ...]
    standing: Standing
    count: int


class OfNeedle(msgspec.Struct, frozen=True):
    """One needle, by its number and kind. `of`: the number of the identifier that a ref is of.

    `outside`, `kept`, `expiring`: how often it stands where. `control`: whether the control found it; None without one.
    """

    number: int
    kind: str
    of: int
    outside: int
    kept: int
    expiring: int
    control: bool | None
    where: list[Where]


class NotRead(msgspec.Struct, frozen=True):
    """Something that could not be read, and how often."""

    source: str
    kind: str
    name: str
    why: str
    count: int


class LookedAt(msgspec.Struct, frozen=True):
    """How much was looked at: octets by source, values and windows of files, tokens opened by form, keys that live."""

    octets: dict[str, int]
    values: int
    windows: int
    opened: dict[str, int]
    ring_keys: int
    data_keys: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A scan's result. `digest`: SHA-256 of this document without it, as deterministic JSON.

    `control`: the digest of the control's report. `epochs`: the key epochs that lived, `LOWEST-HIGHEST`.
    """

    form: int = FORM
    at_ms: int
    verdict: Verdict
    sources: list[str]
    needles: list[OfNeedle]
    looked_at: LookedAt
    not_read: list[NotRead]
    control: str | None = None
    epochs: str | None = None
    digest: str = ""

    @property
    def good(self) -> bool:
        """Whether the scan says what was hoped for."""
        return self.verdict in ("clean", "all_found")


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What a control found: whether, by hash of the needle. `report`: its report's digest."""

    form: Literal[1] = 1
    salt: str
    found: dict[str, bool]
    report: str = ""

    def knows(self, needle: Needle) -> bool:
        """Whether it found this needle."""
        return self.found.get(name_of(needle, self.salt), False)


def name_of(needle: Needle, salt: str) -> str:
    """A needle's name in a control."""
    told = f"{needle.kind}\0{needle.text.casefold()}".encode()
    return hashlib.scrypt(told, salt=bytes.fromhex(salt), n=_WORK, r=8, p=1, dklen=16).hex()


def control_of(report: Report, needles: Iterable[Needle], salt: bytes) -> Control:
    """The control that a report is."""
    found = {one.number: one.outside + one.kept + one.expiring > 0 for one in report.needles}
    named = {name_of(needle, salt.hex()): found[needle.number] for needle in needles}
    return Control(salt=salt.hex(), found=named, report=report.digest)


def standing_of(needle: Needle, place: Place) -> Standing:
    """Whether a needle may stand in a place: only a ref may, in fences and suppressions, and for a time in what expires."""
    if needle.kind != "ref":
        return "outside"
    if place.kind == "state":
        if place.name.rpartition(" ")[2] in KEPT_KINDS:
            return "kept"
    elif place.kind in ("log", "latest"):
        if place.name in KEPT_TOPICS:
            return "kept"
        if place.name in EXPIRING_TOPICS:
            return "expiring"
    return "expiring" if place.tombstone else "outside"


def report_of(
    needles: list[Needle], looked: Looked, sources: list[str], at_ms: int, control: Control | None, *, expect_all: bool = False,
    epochs: str | None = None,
) -> Report:  # fmt: skip
    """Judge what was seen. `expect_all`: this is the run before the erasure."""
    by_needle: dict[int, Counter[Where]] = {needle.number: Counter() for needle in needles}
    kinds = {needle.number: needle for needle in needles}
    for at, count in looked.found.items():
        standing = standing_of(kinds[at.needle], at.place)
        by_needle[at.needle][Where(at.place.source, at.place.kind, at.place.name, at.how, standing, 0)] += count
    told = [_told(needle, by_needle[needle.number], None if control is None else control.knows(needle)) for needle in needles]
    opener = looked.opener
    document = Report(
        at_ms=at_ms, verdict=_verdict(told, looked.unread, expect_all=expect_all), sources=sources, needles=told,
        looked_at=LookedAt(
            dict(sorted(looked.octets.items())), looked.values, looked.windows,
            {name: opener.opened[form] for form, name in NAMES.items()}, opener.ring_keys, len(opener.data_keys),
        ),
        not_read=[
            NotRead(unread.place.source, unread.place.kind, unread.place.name, unread.why, count)
            for unread, count in sorted(looked.unread.items())
        ],
        control=None if control is None else control.report or None, epochs=epochs,
    )  # fmt: skip
    return msgspec.structs.replace(document, digest=digest_of(document))


def digest_of(report: Report) -> str:
    """SHA-256 of a report without its digest, in hexadecimal."""
    bare = msgspec.structs.replace(report, digest="")
    return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def _told(needle: Needle, found: Mapping[Where, int], control: bool | None) -> OfNeedle:
    where = sorted(
        (msgspec.structs.replace(one, count=count) for one, count in found.items()),
        key=lambda one: (one.standing != "outside", one.source, one.kind, one.name, one.how),
    )
    sums: Counter[str] = Counter()
    for one in where:
        sums[one.standing] += one.count
    return OfNeedle(
        needle.number, needle.kind, needle.of, sums["outside"], sums["kept"], sums["expiring"], control, where
    )  # fmt: skip


def _verdict(told: list[OfNeedle], unread: Mapping[Unread, int], *, expect_all: bool) -> Verdict:
    if expect_all:
        return "all_found" if all(one.where for one in told) else "missing"
    if any(one.outside for one in told):
        return "found"
    if unread:
        return "incomplete"
    return "uncontrolled" if any(one.control is False for one in told) else "clean"
