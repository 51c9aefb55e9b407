"""What one identifier's owner has allowed, refused and objected to: one record per dossier, and how its rows resolve.

A row is purpose × channel × brand; `*` stands for all of them. Rows never overwrite each other: each holds its own last
event, and what holds for a cell is the last event over all rows that cover it. So the order in which events arrive
cannot matter.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec

from processors.kernel import Sealed, State
from processors.terms import SEEN_MS
from schemas.base import Record
from schemas.topics import ConsentState, ConsentStatus

ANY = "*"
PART = "\x1f"  # joins a row's key; a `Name` holds no control characters, so a key splits in one way only
GRANTS = frozenset({"given", "renewed"})
CONSENT_EXPIRY = "expire_consent"  # the alarm of `keep_consent`
EVIDENCE_SCOPE = "\x1fevidence"  # the data key of a dossier's evidence: shredded with the dossier, not with a conversation

CELLS_MAX = 512  # some 20 purposes on 5 channels for 5 brands; the record is read and written whole at each event
CELLS_FOR_DENIALS = 256  # room that only denials may use (one event has at most 32 × 8 rows): grants fail first
EVIDENCE_MAX = 256  # sealed proofs kept per dossier: five years of monthly renewals, and many a replay
SEEN_MAX = 4096  # event ids remembered: a storm of events on one number must not grow its record without end
SEEN_UNPRUNED = 64  # fewer than this are not worth a pass over them
CALLS = frozenset({"voice", "video", "sms", ANY})  # a text is a call (47 CFR 64.1200(a)(12)); channel `*` may become one
NO_CALLS = frozenset({"recording", "training"})  # purposes of this house that are about what was said, not about calling
ADULT_YEARS = 18  # no row of a law pack asks for a higher age
ALWAYS_MS = 1 << 53  # later than any receipt: see `remember`


class Cell(msgspec.Struct, array_like=True, frozen=True):
    """The winning event of one row. `emitted` and `emitted_by`: the status and the winner that readers were last told.

    `age` is a minor's, in years when the event happened; whoever is of age has none here, since no rule asks for more.
    Fields are only ever appended, with a default.
    """

    status: ConsentStatus
    effective_ms: int
    event_id: str
    evidence_ref: str
    method: str
    valid_until_ms: int | None = None
    jurisdiction: str | None = None
    notice_version: str | None = None
    emitted: str = ""
    emitted_by: str = ""
    age: int | None = None
    by_guardian: bool = False


Resolved = Cell  # what holds for a cell is the winning event of one of the rows that cover it


class Suppressed(msgspec.Struct, array_like=True, frozen=True):
    """The last event about one list. `on` False is the memory of a removal: a late, older addition stays out."""

    on: bool
    effective_ms: int
    event_id: str
    source: str
    expires_ms: int | None = None

    def blocks(self, now_ms: int) -> bool:
        """Whether the identifier stands on the list at `now_ms`."""
        return self.on and (self.expires_ms is None or now_ms < self.expires_ms)


class Permissions(State):
    """All consents and suppressions of one identifier: one read and one write per event.

    `epoch` counts the distinct events that were folded. `cells` are keyed by `row_key`, `suppressions` by list, `seen`
    maps an event id to its receipt (ms). `evidence` counts the `ConsentEvidence` records; `expiry_ms` is the alarm that
    is set, or None. `revoked_ms`: when consent to some call was last withdrawn, whatever was granted since.
    """

    KIND: ClassVar[str] = "permissions"
    controller: str = ""
    epoch: int = 0
    cells: dict[str, Cell] = msgspec.field(default_factory=dict)
    suppressions: dict[str, Suppressed] = msgspec.field(default_factory=dict)
    seen: dict[str, int] = msgspec.field(default_factory=dict)
    evidence: int = 0
    expiry_ms: int | None = None
    revoked_ms: int | None = None


class ConsentEvidence(State):
    """The personal part of what proves a consent event (GDPR Art. 7(1)); its parts are (event id).

    `sealed` opens to a JSON object of `agent`, `uri`, `guardian` and `identifier` (kind and value as sent), those that
    were given.
    """

    KIND: ClassVar[str] = "evidence"
    SEALED: ClassVar[dict[str, str]] = {"sealed": "evidence"}
    SEALED_IN: ClassVar[type[Record] | None] = ConsentState
    controller: str
    effective_ms: int
    sealed: Sealed = None


def row_key(purpose: str, channel: str, brand: str) -> str:
    """Join the key of a row in `Permissions.cells`."""
    return f"{purpose}{PART}{channel}{PART}{brand}"


def about_calls(purposes: Iterable[str], channels: Iterable[str]) -> bool:
    """Whether a withdrawal is one of consent to calls."""
    return not NO_CALLS.issuperset(purposes) and not CALLS.isdisjoint(channels)


def outranks(new: Cell, old: Cell) -> bool:
    """Whether `new` wins over `old`: later, then denial before grant, then the greater event id.

    A total order over events, so a maximum over any sequence of them is independent of order and repetition.
    """
    if new.effective_ms != old.effective_ms:
        return new.effective_ms > old.effective_ms
    new_denies, old_denies = new.status not in GRANTS, old.status not in GRANTS
    if new_denies != old_denies:
        return new_denies
    return new.event_id > old.event_id


def winner(cells: dict[str, Cell], purpose: str, channel: str, brand: str) -> Resolved | None:
    """Do as `resolve`, over bare cells."""
    best = cells.get(f"{purpose}{PART}{channel}{PART}{brand}")
    if len(cells) == (best is not None):
        return best  # the commonest dossier has one row
    for p in (purpose, ANY) if purpose != ANY else (ANY,):
        for c in (channel, ANY) if channel != ANY else (ANY,):
            for b in (brand, ANY) if brand != ANY else (ANY,):
                cell = cells.get(f"{p}{PART}{c}{PART}{b}")
                if cell is not None and cell is not best and (best is None or outranks(cell, best)):
                    best = cell
    return best


def resolve(permissions: Permissions, purpose: str, channel: str, brand: str) -> Resolved | None:
    """Find the event that governs a cell: the winner over all rows whose components are equal or `*`. None: unknown."""
    return winner(permissions.cells, purpose, channel, brand)


def status_at(resolved: Resolved, now_ms: int) -> ConsentStatus:
    """Give the status at `now_ms`: a grant whose time is up has expired. Denials do not expire."""
    until_ms = resolved.valid_until_ms
    if until_ms is not None and until_ms <= now_ms and resolved.status in GRANTS:
        return "expired"
    return resolved.status


def grants_everything(type_: str, purposes: Iterable[str]) -> bool:
    """Whether an event would grant `*`: as a purpose it can refuse or withdraw, never grant (contract, section 2)."""
    return type_ in ("consent.given", "consent.renewed") and ANY in purposes


def covered(cells: Iterable[str], rows: Iterable[str]) -> Iterator[str]:
    """Yield the keys of `cells` that at least one of `rows` covers, in the order of `cells`."""
    patterns = [row.split(PART) for row in rows]
    for key in cells:
        purpose, channel, brand = key.split(PART)
        for p, c, b in patterns:
            if (p in (purpose, ANY)) and (c in (channel, ANY)) and (b in (brand, ANY)):
                yield key
                break


def remember(seen: dict[str, int], event_id: str, time_ms: int, receipt_ms: int) -> dict[str, int]:
    """Add `event_id` to `seen`, without what is past its 8 days, bounded by SEEN_MAX (the newest stay).

    An event from a fast clock (time after receipt) is remembered for good: were it published again later, its effective
    time would no longer be capped by its first receipt, and an old grant could outrank the withdrawal that followed it.
    """
    kept = dict(seen)
    kept[event_id] = receipt_ms if time_ms <= receipt_ms else ALWAYS_MS
    if len(kept) > SEEN_UNPRUNED and (len(kept) > SEEN_MAX or min(kept.values()) <= receipt_ms - SEEN_MS):
        kept = {known: ms for known, ms in kept.items() if ms > receipt_ms - SEEN_MS}
        if len(kept) > SEEN_MAX:
            by_age = sorted(kept.items(), key=lambda entry: entry[1])  # stable: among equals the last to come stay
            kept = dict(by_age[-SEEN_MAX:])
    return kept
