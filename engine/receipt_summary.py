"""What the audit entries of one request say, in few words: computed from the entries alone, by whoever makes or checks a receipt.

Kinds are data: what a later release calls a new kind of entry is listed like any other. Only these are understood beyond that:
`request.opened` (what was asked), the fact `state` of `request.*` (how it stands), `erasure.ordered` (how many to wait for),
`erasure.done` and `erasure.held` (how an identifier fares), `erasure.acknowledged` (what a target answered), and for recordings
`media.ordered`, `media.deleted` and `media.kept`. Cryptographic and physical removal are told apart: `key.shredded` and the end
of older epochs (`ROTATION`, the only entries that name no request), `removal.done` and `removal.bound`. `request.scanned` is what
a scan found.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from schemas.topics import AuditEntry

FULFILLED = "fulfilled"
BOUND, SCANNED = "removal.bound", "request.scanned"
ROTATION = ("keys.rotation_began", "keys.epochs_destroyed")  # of the controller, begun after the request was closed
CLOCKS_APART_MS = 2_000  # of the hosts that write entries: one that is later by less is not taken to be later
REQUEST = "request"  # the fact that names the request
OUTCOMES = {"erasure.done": "erased", "erasure.held": "held"}
ANSWERS = ("failed", "held", "open", "done")  # the worst answer to any order of a target is the target's
ANSWERED = {"erasure.acknowledged", "media.ordered", "media.deleted", "media.kept"}  # an order is open until it is answered
PLAIN = re.compile(r"[A-Za-z0-9_.:/@*#+-]+", re.ASCII)
COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


class Happening(msgspec.Struct, frozen=True):
    """`count` entries of one kind with the same facts; when the first and the last of them were written."""

    kind: str
    facts: dict[str, str]
    count: int
    first_ms: int
    last_ms: int


class Party(msgspec.Struct, frozen=True):
    """One identifier (`name` is its place in the request) or one target, how it fares, and all that happened there.

    `subject` names an identifier in the audit log; nobody can compute it any more once the identifier's nonce is gone.
    """

    name: str
    outcome: str
    happened: tuple[Happening, ...]
    subject: str = ""


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """What can no longer be read, and what is no longer there.

    Cryptographically: `keys` shredded by `keys_ms`; at `epochs_ms` no stale copy of them can be opened either. Physically:
    `removed` is place → how often it was seen to be done, and the last time; `bounds` place → the latest moment, by settings.
    """

    keys: int = 0
    keys_ms: int | None = None
    epochs_ms: int | None = None
    removed: dict[str, tuple[int, int]] = {}
    bounds: dict[str, str] = {}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and what happened. `complete`: the request was closed as fulfilled; nothing of it is open.

    `scan` is what the last scan on record says, `rotation` how older key epochs ended.
    """

    asked: dict[str, str]
    asked_ms: int | None
    state: str
    complete: bool
    closed_ms: int | None
    identifiers_ordered: int
    identifiers_erased: int
    targets_ordered: int
    targets_done: int
    identifiers: tuple[Party, ...]
    targets: tuple[Party, ...]
    others: tuple[Happening, ...]
    gone: Gone
    scan: dict[str, str]
    rotation: tuple[Happening, ...]


def summary_of(entries: Iterable[AuditEntry]) -> Summary:
    """Summarise a request's entries, each origin's in the order of its log. The same entries always give the same summary."""
    subjects: dict[str, list[AuditEntry]] = {}
    targets: dict[str, list[AuditEntry]] = {}
    others: list[AuditEntry] = []
    told = list(entries)
    rotation = [entry for entry in told if is_rotation(entry)]
    for entry in (entry for entry in told if not is_rotation(entry)):
        if target := entry.facts.get("target"):
            targets.setdefault(target, []).append(entry)
        elif entry.subject:
            subjects.setdefault(entry.subject, []).append(entry)
        else:
            others.append(entry)
    asked = next((entry for entry in others if entry.kind == "request.opened"), None)
    orders = [entry for entry in others if entry.kind == "erasure.ordered"]  # links that turn up later are ordered later
    closed = next((entry for entry in reversed(others) if entry.kind == "request.closed"), None)
    states = [entry.facts["state"] for entry in others if entry.kind.startswith("request.") and "state" in entry.facts]
    identifiers = tuple(_identifiers(subjects))
    answers = tuple(Party(name, _answer(found), _happenings(found)) for name, found in sorted(targets.items()))
    return Summary(
        asked=_facts(asked) if asked else {}, asked_ms=asked.at_ms if asked else None,
        state=states[-1] if states else "", complete=closed is not None and closed.facts.get("state") == FULFILLED,
        closed_ms=closed.at_ms if closed else None,
        identifiers_ordered=sum(_count(order, "identifiers") for order in orders),
        targets_ordered=_count(orders[-1], "targets") if orders else 0,
        identifiers_erased=sum(party.outcome == "erased" for party in identifiers),
        targets_done=sum(party.outcome == "done" for party in answers),
        identifiers=identifiers, targets=answers, others=_happenings(others), gone=_gone(told),
        scan=next((_facts(entry) for entry in reversed(others) if entry.kind == SCANNED), {}), rotation=_happenings(rotation),
    )  # fmt: skip


def is_rotation(entry: AuditEntry) -> bool:
    """Whether an entry is of a rotation of keys, which is about all requests of a controller that were closed before."""
    return entry.kind in ROTATION and REQUEST not in entry.facts


def bound_ms(entries: Iterable[AuditEntry]) -> int | None:
    """When the request's last bounds were stated: all its keys had been shredded by then. None: it was not closed."""
    return max((entry.at_ms for entry in entries if entry.kind == BOUND), default=None)


def covers(began: AuditEntry, ended: AuditEntry, closed_ms: int) -> bool:
    """Whether these two entries are of one rotation, begun after `closed_ms`: no key of before is wrapped under what is left."""
    kinds, epochs = (began.kind, ended.kind), (began.facts.get("epoch"), ended.facts.get("before_epoch"))
    return kinds == ROTATION and epochs[0] == epochs[1] is not None and began.at_ms > closed_ms + CLOCKS_APART_MS


def _gone(entries: Iterable[AuditEntry]) -> Gone:
    keys: list[int] = []
    removed: dict[str, tuple[int, int]] = {}
    bounds: dict[str, str] = {}
    epochs_ms: int | None = None
    for entry in entries:
        match entry.kind:
            case "key.shredded":
                keys.append(entry.at_ms)
            case "removal.done":
                place = entry.facts.get("place", "")
                count, last = removed.get(place, (0, entry.at_ms))
                removed[place] = count + 1, max(last, entry.at_ms)
            case "removal.bound":
                bounds = _facts(entry)
            case "keys.epochs_destroyed" if is_rotation(entry):
                epochs_ms = entry.at_ms
    return Gone(
        keys=len(keys), keys_ms=max(keys, default=None), epochs_ms=epochs_ms, removed=dict(sorted(removed.items())), bounds=bounds
    )  # fmt: skip


def _identifiers(subjects: Mapping[str, list[AuditEntry]]) -> Iterator[Party]:
    """One party for each subject, by the fact `index` where an entry has it, else in the order in which they turn up."""
    told = {subject: next((e.facts["index"] for e in found if "index" in e.facts), "") for subject, found in subjects.items()}
    places = [(int(index) if COUNT.fullmatch(index) else len(subjects) + n, subject)
              for n, (subject, index) in enumerate(told.items())]  # fmt: skip
    for place, subject in sorted(places):
        found = subjects[subject]
        outcome = next((OUTCOMES[e.kind] for e in reversed(found) if e.kind in OUTCOMES), "open")
        if not any(entry.kind.startswith("erasure.") for entry in found):
            outcome = "reached"  # an item here went because another identifier of the same party was erased
        yield Party(told[subject] or str(place - len(subjects)), outcome, _happenings(found), subject)


def _answer(found: Iterable[AuditEntry]) -> str:
    """What a target has answered: the last answer to each order, and the worst of these. Without any it is open."""
    last = {e.facts.get("order", ""): e.facts.get("outcome", "open") for e in found if e.kind in ANSWERED}
    return next((answer for answer in ANSWERS if answer in last.values()), "open")


def _count(entry: AuditEntry, name: str) -> int:
    text = entry.facts.get(name, "")
    return int(text) if COUNT.fullmatch(text) else 0


def _facts(entry: AuditEntry) -> dict[str, str]:
    return {name: value for name, value in sorted(entry.facts.items()) if name != REQUEST}


def _happenings(entries: Iterable[AuditEntry]) -> tuple[Happening, ...]:
    """Entries of one kind with the same facts as one, in the order in which each turns up first."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[int, int, int]] = {}
    for entry in entries:
        key = entry.kind, tuple(_facts(entry).items())
        count, first, last = found.get(key, (0, entry.at_ms, entry.at_ms))
        found[key] = count + 1, min(first, entry.at_ms), max(last, entry.at_ms)
    return tuple(Happening(kind, dict(facts), *times) for (kind, facts), times in found.items())


# As text ----------------------------------------------------------------------------------------------------------------------


def word(text: str) -> str:
    """A value as one word: as it is, or as a JSON string where it has other characters than a code has."""
    return text if PLAIN.fullmatch(text) else json.dumps(text)


def moment(ms: int) -> str:
    """Epoch milliseconds as ISO time, UTC. Raises `ValueError` for what no calendar holds."""
    try:
        return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03}Z"
    except (OverflowError, OSError):
        raise ValueError("no such time") from None


def summary_lines(summary: Summary) -> Iterator[str]:
    """The summary as lines for people."""
    opened = "unknown" if summary.asked_ms is None else moment(summary.asked_ms)
    yield " ".join(["asked", opened, *_pairs(summary.asked)])
    yield f"state {word(summary.state) if summary.state else 'opened'}"
    yield f"complete {'no' if not summary.complete else 'yes'}"
    if summary.closed_ms is not None:
        yield f"closed {moment(summary.closed_ms)}"
    yield f"identifiers {summary.identifiers_erased} of {summary.identifiers_ordered} erased"
    yield f"targets {summary.targets_done} of {summary.targets_ordered} done"
    yield from _gone_lines(summary.gone)
    if summary.scan:
        names: tuple[str, ...] = ("scanned_at", "needles", "controlled", "found")
        scan = {name: summary.scan[name] for name in names if name in summary.scan}
        yield " ".join(["scan", word(summary.scan.get("verdict", "")), *_pairs(scan)])
    yield "request"
    yield from _told(summary.others)
    for kind, parties in (("identifier", summary.identifiers), ("target", summary.targets)):
        for party in parties:
            yield f"{kind} {word(party.name)} {party.outcome}"
            yield from _told(party.happened)
    if summary.rotation:
        yield "rotation"
        yield from _told(summary.rotation)


def _gone_lines(gone: Gone) -> Iterator[str]:
    if gone.keys_ms is not None:
        yield f"unreadable {gone.keys} keys shredded by {moment(gone.keys_ms)}"
    if gone.epochs_ms is not None:
        yield f"unreadable copies of keys by {moment(gone.epochs_ms)}"
    for place, (count, last_ms) in gone.removed.items():
        yield f"removed {word(place)} {count} by {moment(last_ms)}"
    for place, by in gone.bounds.items():
        yield f"bound {word(place)} {word(by)}"


def _told(happened: Iterable[Happening]) -> Iterator[str]:
    for one in happened:
        when = moment(one.first_ms) + ("" if one.first_ms == one.last_ms else f"/{moment(one.last_ms)}")
        times = [] if one.count == 1 else [f"x{one.count}"]
        yield "  " + " ".join([when, word(one.kind), *times, *_pairs(one.facts)])


def _pairs(facts: Mapping[str, str]) -> list[str]:
    return [f"{word(name)}={word(value)}" for name, value in facts.items()]
