"""What must hold in every state, asked of the state itself and of what was published, never of the processors that made it.

Each invariant yields complaints: text without end for people who debug, since everybody in the model is invented.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from engine.overlay import decode_state
from engine.scan.tokens import _TOKEN, COMMITMENT_BYTES, FIELD, HEAD_BYTES, WRAPPED, commitment_of
from engine.sealing import KEY_BYTES, NONCE_BYTES
from processors.erase_subject import Erasure
from processors.fence import Fence, Fenced, mark_of
from processors.home_erasures import Waiting
from processors.item import HeldBy, Item
from processors.order_media import MediaTask
from processors.permissions import Permissions
from processors.request_case import RequestCase
from tests.model.actions import A, open_orders
from tests.model.world import Looked, Row, World

NUMBER, WORDS, RECORDING = A[2:].encode(), (b"c1: a speaks", b"c1: g speaks"), b"file:///c1.wav"
PERSON = (NUMBER, b"Ann Example", b"ann@example.com", b"proof.example.com")
MAY_NAME = ("fence", "fenced")  # design, section 6.3
SUPPRESSION = ("permissions", "nonce")  # of a suppression that stands, which survives as a keyed hash

Complaint = str
Invariant = Callable[[World, Looked], Iterator[Complaint]]


def records(looked: Looked, kind: type[Any]) -> Iterator[tuple[Row, Any]]:
    for row in looked.rows:
        if row.family == "s" and row.kind == kind.KIND:
            yield row, decode_state(kind, row.data)


def is_over(world: World, looked: Looked) -> bool:
    """Whether A was forgotten and is nobody again: every request is closed, nothing new was said, and no hold names A."""
    cases = [case for _, case in records(looked, RequestCase)]
    erased = any(case.ordered and case.closed_ms is not None for case in cases)
    waiting = any(case.closed_ms is None for case in cases) or "h2" in world.ghost.holds
    return erased and not waiting and world.ghost.spoke_ms <= world.ghost.ordered_ms


class Opened:
    """Plain texts of all tokens that some living key opens. What a token holds never changes, so it is opened once."""

    def __init__(self) -> None:
        self._keys: dict[bytes, bytes] = {}  # commitment → expanded key, of every key that was ever met
        self._wrapped: dict[bytes, list[bytes]] = {}
        self._texts: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def texts(self, world: World, looked: Looked) -> Iterator[tuple[str, bytes]]:
        """(where, text) of everything in stores and compacted topics, tokens opened, and of what stands open."""
        for key in world.kept_ring._keys.values():
            self._keys.setdefault(commitment_of(key), _expanded(key))
        blobs = [(f"{r.task} {r.kind}", blob) for r in looked.rows for blob in (r.key, r.data) if blob]
        blobs += [(topic, data) for topic, table in looked.tables.items() for data in table.values()]
        alive = {named for _, blob in blobs for named in self._unwrapped(blob)}
        for where, blob in blobs:
            yield where, blob
            for named, text in self._within(blob):
                if named in alive:
                    yield f"{where}, opened", text

    def _unwrapped(self, blob: bytes) -> list[bytes]:
        found = self._wrapped.get(blob)
        if found is None:
            found = self._wrapped[blob] = []
            for _, key in self._tokens(blob, WRAPPED):
                named = commitment_of(key[:KEY_BYTES])
                self._keys[named] = _expanded(key[:KEY_BYTES])
                found.append(named)
        return found

    def _within(self, blob: bytes) -> list[tuple[bytes, bytes]]:
        found = self._texts.get(blob)
        if found is None:
            found = self._texts[blob] = list(self._tokens(blob, FIELD))
        return found

    def _tokens(self, blob: bytes, form: int) -> Iterator[tuple[bytes, bytes]]:
        """(commitment, plain text); text runs on into garbage after its end, which hides nothing."""
        for match in _TOKEN.finditer(blob):
            at = match.start() + HEAD_BYTES[form]
            named, body = blob[at : at + COMMITMENT_BYTES], at + COMMITMENT_BYTES + NONCE_BYTES
            if blob[match.start() + 1] == form and named in self._keys:
                counter = blob[at + COMMITMENT_BYTES : body] + b"\0\0\0\2"
                cipher = Cipher(algorithms.AES(self._keys[named]), modes.CTR(counter))
                yield named, cipher.decryptor().update(blob[body:])


def _expanded(key: bytes) -> bytes:
    return hmac.digest(key, b"consentinel/1/encrypt\x01", "sha256")


_OPENED = Opened()


# The invariants -----------------------------------------------------------------------------------------------------------------


def nothing_of_a_forgotten_person_opens(world: World, looked: Looked) -> Iterator[Complaint]:
    """Art. 17: neither what A said, nor what the agent repeated, nor A's name and numbers, nor where A's voice is."""
    if "verify" not in world.ghost.done or not any(c.closed_ms for _, c in records(looked, RequestCase) if c.ordered):
        return
    if any(case.closed_ms is None for _, case in records(looked, RequestCase)):
        return
    needles = (*WORDS, *PERSON) if is_over(world, looked) else WORDS
    if not (world.own_media and any(task.outcome != "done" for _, task in records(looked, MediaTask))):
        needles = (*needles, RECORDING)
    for where, text in _OPENED.texts(world, looked):
        for needle in needles:
            if needle in text:
                yield f"{needle.decode()} stands in {where}"


def each_request_erases_an_identifier_once(world: World, looked: Looked) -> Iterator[Complaint]:
    """One fence per identifier and request, and one open erasure at most, also after the ledger gave an order again."""
    open_ = Counter((row.owner, row.parts) for row, _ in records(looked, Erasure))
    yield from (f"{n} erasures are open at one identifier for {at[1]}" for at, n in open_.items() if n > 1)
    fenced = Counter((e.facts["request"], e.facts["index"]) for e in world.records("audit.entries") if e.kind == "erasure.fenced")
    yield from (f"{request} fenced its identifier {index} {n} times" for (request, index), n in fenced.items() if n > 1)


def no_request_ends_with_something_open(world: World, looked: Looked) -> Iterator[Complaint]:
    """Fulfilled: every notice and every media order was answered `done` by the model, and nothing is held, open or unasked."""
    closed = {case.request_id for _, case in records(looked, RequestCase) if case.state == "fulfilled"}
    shown = {row.request_id for row in map(world.value, looked.tables["requests.state"].values()) if row.state == "fulfilled"}
    for request_id in closed | shown:
        told = {n.order_id for n in world.records("erasure.notices") if n.request_id == request_id}
        yield from (f"{request_id} is fulfilled, {order} is not answered" for order, _ in open_orders(world) if order in told)
        for row, kind in [*records(looked, Erasure), *records(looked, Waiting)]:
            if request_id in (*row.parts, getattr(kind, "request_id", "")):
                yield f"{request_id} is fulfilled, and an erasure of it goes on"
        for _, task in records(looked, MediaTask):
            if task.outcome != "done" and (request_id in task.requests or not world.own_media):
                yield f"{request_id} is fulfilled, and a recording waits for its end"
    for _, case in records(looked, RequestCase):
        unfinished = [held for _, held, final in case.reports.values() if held or not final]
        if case.state == "fulfilled" and (case.probing or case.beyond or unfinished):
            yield f"{case.request_id} is fulfilled with something held or unasked"


def no_key_lives_behind_a_fence(world: World, looked: Looked) -> Iterator[Complaint]:
    """No data key of an erased conversation, and no old item without a hold or an erasure that waits for it."""
    fences = {row.owner: fence for row, fence in records(looked, Fence)}
    erased = {(row.owner, row.parts[0]) for row, _ in records(looked, Fenced)}
    keys = [(r.owner, r.kind) for r in looked.rows if r.family == "k" and r.task == "subject"]
    keys += [tuple(msgspec.json.decode(key)) for key in looked.tables["keys.wrapped"]]
    yield from (f"a key of {scope} lives behind its fence" for owner, scope in keys if (owner, mark_of(owner, scope)) in erased)
    waits = {row.owner for row, _ in records(looked, Erasure)} | {row.owner for row, _ in records(looked, Waiting)}
    for row, item in records(looked, Item):
        fence = fences.get(row.owner)
        if fence is not None and item.effective_ms <= fence.at_ms and row.owner not in waits:
            yield f"{row.parts[0]} stands behind the fence, and nothing waits for it"


def a_denial_is_never_undone(world: World, looked: Looked) -> Iterator[Complaint]:
    """What A withdrew is not given again by an older word, a replay or an erasure; what A objected to survives all of them."""
    ghost, ref = world.ghost, world.ref(A)
    for row in map(world.value, looked.tables["consent.state"].values()):
        granted = ghost.consent == "given" and ghost.consent_ms > ghost.ordered_ms
        before_order = ghost.consent == "given" and not any(row.owner == ref for row, _ in records(looked, Fence))
        if row.subject_ref == ref and row.status in ("given", "renewed") and not (granted or before_order):
            yield "a grant stands that was withdrawn or forgotten"
    if ghost.suppressed:
        if not any(row.subject_ref == ref for row in map(world.value, looked.tables["suppression.state"].values())):
            yield "a suppression is gone from its topic"
        if not any(r.kind == "permissions" and b"company_dnc" in r.data for r in looked.rows if r.owner == ref):
            yield "a suppression is gone from its dossier"


def a_forgotten_ref_stands_only_in_the_fence(world: World, looked: Looked) -> Iterator[Complaint]:
    """And in suppressions that stand. Notices, tombstones and raw logs have periods of their own."""
    if not is_over(world, looked):
        return
    may = (*MAY_NAME, *SUPPRESSION) if world.ghost.suppressed else MAY_NAME
    ref = world.ref(A).encode()
    for row in looked.rows:
        if (ref in row.key or ref in row.data) and not (row.owner.encode() == ref and row.kind in may):
            yield f"A is named in {row.task} {row.family} {row.kind}"
    for topic, table in looked.tables.items():
        if topic != "suppression.state" and any(ref in key.encode() or ref in data for key, data in table.items()):
            yield f"A is named on {topic}"


def held_items(looked: Looked) -> set[tuple[str, str]]:
    """(owner, conversation) of every item that a legal hold keeps."""
    standing = {(row.owner, row.parts[0]) for row, held in records(looked, HeldBy) if held.holds}
    items = {(row.owner, row.parts[0]) for row, _ in records(looked, Item)}
    return {(owner, scope) for owner, scope in items if (owner, scope) in standing or (owner, "*") in standing}


def what_is_held_stays(before: Looked, after: Looked, action: str) -> Iterator[Complaint]:
    """Only a release lifts a hold: neither a request nor time does. (A backup knows nothing of a later hold.)"""
    if not action.startswith("release") and action != "restore":
        left = {(row.owner, row.parts[0]) for row, _ in records(after, Item)}
        yield from (f"{scope} was destroyed under its hold" for _, scope in held_items(before) - left)


def a_voice_that_is_held_stays(before: Looked, after: Looked, sent: set[str], action: str) -> Iterator[Complaint]:
    """While a hold keeps anybody's part in a conversation, none of its recordings is ordered away; `sent`: where one was."""
    if action != "restore":
        still = {scope for _, scope in held_items(before)} & {scope for _, scope in held_items(after)}
        yield from (f"a recording of {scope} was ordered away under a hold" for scope in still & sent)


def what_is_refused_is_on_record(world: World, looked: Looked, action: str, entries: int) -> Iterator[Complaint]:
    """An event about A that took no effect left an audit entry or stands in quarantine; `entries`: how many there were before."""
    ref = world.ref(A)
    items = {row.parts[0] for row, _ in records(looked, Item) if row.owner == ref}
    known = next((str(decode_state(Permissions, r.data)) for r in looked.rows if r.owner == ref and r.kind == "permissions"), "")
    took = {"call": "c1" in items, "again": "c1" in items, "old call": "c0" in items, "returns": "c2" in items}
    took |= dict.fromkeys(("given", "old grant", "withdrawn"), "marketing" in known)
    if not took.get(action, True) and count_refusals(world) == entries:
        yield f"{action} was refused, and nothing says so"


def count_refusals(world: World) -> int:
    """Entries about refused events, and quarantined events."""
    return len(world.records("quarantine")) + len([e for e in world.records("audit.entries") if e.kind == "event.refused"])


def no_processor_fails(world: World, looked: Looked) -> Iterator[Complaint]:
    """A fault is quarantined and nothing is lost by it, but it is a bug."""
    yield from (f"a fault in task {q.task}" for q in world.records("quarantine") if q.code == "processor-fault")
    yield from (f"{name} failed" for (what, *name) in world.shared.counts if what == "processor_faults")


BETWEEN: tuple[Invariant, ...] = (
    each_request_erases_an_identifier_once, no_request_ends_with_something_open, no_processor_fails,
)  # fmt: skip
AT_REST: tuple[Invariant, ...] = (
    *BETWEEN, nothing_of_a_forgotten_person_opens, no_key_lives_behind_a_fence, a_denial_is_never_undone,
    a_forgotten_ref_stands_only_in_the_fence,
)  # fmt: skip
