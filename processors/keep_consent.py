"""Keeps what a person allows: folds consent and suppression events so that order, repetition and batches cannot matter.

Withdrawal is as easy as giving and not retroactive (GDPR Art. 7(3)); what proves a consent is kept, sealed (Art. 7(1)).
"""

from collections.abc import Generator, Iterable, Iterator
from datetime import datetime
from typing import ClassVar, assert_never

import msgspec

from processors.fence import Fence, refuses
from processors.kernel import (
    Alarm,
    Asked,
    Audit,
    Delete,
    Effect,
    Emit,
    Instant,
    Mint,
    Nonce,
    Put,
    Receipt,
    Refuse,
    State,
    View,
    Wake,
)
from processors.permissions import (
    ADULT_YEARS,
    ANY,
    CELLS_FOR_DENIALS,
    CELLS_MAX,
    CONSENT_EXPIRY,
    EVIDENCE_MAX,
    EVIDENCE_SCOPE,
    GRANTS,
    PART,
    Cell,
    ConsentEvidence,
    Permissions,
    Suppressed,
    about_calls,
    covered,
    grants_everything,
    outranks,
    remember,
    row_key,
    status_at,
    winner,
)
from schemas.base import Record
from schemas.events import ConsentChanged, Evidence, SuppressionChanged
from schemas.topics import ConsentState, ConsentStatus, SuppressionState

NO_EVIDENCE = Evidence()
STATUS_OF: dict[str, ConsentStatus] = {
    "consent.given": "given",
    "consent.refused": "refused",
    "consent.withdrawn": "withdrawn",
    "consent.renewed": "renewed",
}


class KeepConsent:
    """Keeps the consents and suppressions of one identifier.

    * What holds for a purpose × channel × brand is the last event by effective time over all rows that cover it; at the
      same time a denial wins, then the greater event id. `*` as a purpose refuses or withdraws, never grants
      (`wildcard-grant`).
    * Each row whose state changes is emitted on `consent.state`, with one `consent.changed` audit entry beside it. A
      wildcard row is a row of its own and re-emits every row that it changes. All rows of an event leave in one commit,
      however many (at most CELLS_MAX + CELLS_FOR_DENIALS): half a withdrawal is none.
    * A grant with `valid_until` expires by itself; nothing older comes back in its place.
    * A suppression is the last event of its list; at the same time the addition wins. A removal is remembered.
    * An event that was seen changes nothing at all. One at or before the fence of an erased dossier is refused:
      withdrawals too, for there is nothing left to withdraw and even a refusal would be a record about someone who is
      forgotten.
    """

    name = "keep_consent"
    READS: ClassVar[tuple[type[Record], ...]] = (ConsentChanged, SuppressionChanged)
    STATE: ClassVar[tuple[type[State], ...]] = (Permissions, ConsentEvidence)
    EMPTY: ClassVar[Permissions] = Permissions()

    def fold(self, view: View, event: ConsentChanged | SuppressionChanged, at: Receipt) -> Iterator[Effect]:
        """Give the rows changed by `event`; refusals `wildcard-grant` and `too-many-cells`."""
        fence = view.get(Fence)
        known = view.get(Permissions) or (self.EMPTY if fence is None else Permissions(epoch=fence.epoch))
        if at.event_id in known.seen:
            return iter(())
        if fence is not None and refuses(view, at.effective_ms, at.event_id):
            return iter((Audit("event.refused", at.controller, {"reason": "fenced"}, named=False),))
        match event:
            case ConsentChanged():
                return _consent(view, known, event, at)
            case SuppressionChanged():
                return _suppression(view, known, event, at)
            case _:
                assert_never(event)

    def asks(self, event: ConsentChanged | SuppressionChanged, event_id: str) -> Asked:
        """See `Processor`."""
        return ((Permissions, ()), (Fence, ()), (Nonce, ()))

    def wake(self, view: View, alarm: Alarm, now: Instant) -> Iterator[Effect]:
        """Yield the rows that expired by now. The epoch stays: it counts events, and expiry follows from its event."""
        known = view.get(Permissions)
        if known is None:
            return  # erased since the alarm was set
        cells = dict(known.cells)
        changed, expiry_ms = _mark(cells, known.cells, known.cells, now.now_ms)
        over = [name for name, entry in known.suppressions.items() if entry.on and not entry.blocks(now.now_ms)]
        off = {name: msgspec.structs.replace(known.suppressions[name], on=False) for name in over}
        suppressions = {**known.suppressions, **off}
        expiry_ms = _first(expiry_ms, *(entry.expires_ms for entry in suppressions.values() if entry.on))
        yield Put(msgspec.structs.replace(known, cells=cells, suppressions=suppressions, expiry_ms=expiry_ms))
        yield from _tell(view.owner, known.controller, known.epoch, changed)
        for name in over:
            yield Audit("suppression.changed", known.controller, {"list": name, "on": "no", "epoch": str(known.epoch)})
            yield Emit("suppression.state", (view.owner, name), None)
        yield Wake(CONSENT_EXPIRY, expiry_ms)


Row = tuple[str, str, str]  # purpose, channel, brand
Changed = list[tuple[Row, Cell, ConsentStatus]]  # a row, the event that governs it now, its status


def _consent(view: View, known: Permissions, event: ConsentChanged, at: Receipt) -> Iterator[Effect]:
    status = STATUS_OF[at.envelope.type]
    if grants_everything(at.envelope.type, event.purposes):
        yield Refuse("wildcard-grant", "purposes")
        return
    event_id, proof = at.event_id, event.evidence or NO_EVIDENCE
    fresh = Cell(
        status, at.effective_ms, event_id, at.envelope.id, event.method, _ms(event.valid_until), event.jurisdiction,
        proof.notice_version, age=_minors_age(status, event), by_guardian=event.by_guardian or event.guardian is not None,
    )  # fmt: skip
    cells = dict(known.cells)
    won: list[str] = []
    for purpose in event.purposes:
        for channel in event.channels:
            key = row_key(purpose, channel, event.brand)
            held = cells.get(key)
            if held is None or outranks(fresh, held):
                cells[key] = fresh
                won.append(key)
    cells_max = CELLS_MAX if status in GRANTS else CELLS_MAX + CELLS_FOR_DENIALS
    if len(cells) > max(cells_max, len(known.cells)):
        if status in GRANTS:
            yield Refuse("too-many-cells")
            return
        # A denial is never lost for want of room: it takes the one row that is always there, and denies everything.
        everything = row_key(ANY, ANY, ANY)
        cells, held = dict(known.cells), known.cells.get(everything)
        won = [everything] if held is None or outranks(fresh, held) else []
        if won:
            cells[everything] = fresh
        yield Audit("consent.widened", at.controller, {"status": status})
    touched: Iterable[str] = won
    if len(cells) > 1 and any(ANY in key for key in won):
        touched = list(covered(cells, won))
    changed, until_ms = _mark(cells, known.cells, touched, at.receipt_ms)
    expiry_ms = known.expiry_ms
    if until_ms is not None and (expiry_ms is None or until_ms < expiry_ms):
        expiry_ms = until_ms
        yield Wake(CONSENT_EXPIRY, until_ms)
    evidence = known.evidence
    if proof.agent or proof.uri or event.guardian:
        evidence += yield from _keep_evidence(view, known, cells, event, at)
    epoch = known.epoch + 1
    seen = remember(known.seen, event_id, at.time_ms, at.receipt_ms)
    revoked_ms = known.revoked_ms
    if status == "withdrawn" and about_calls(event.purposes, event.channels):
        revoked_ms = max(revoked_ms or 0, at.effective_ms)
    yield Put(Permissions(at.controller, epoch, cells, known.suppressions, seen, evidence, expiry_ms, revoked_ms))
    yield from _tell(view.owner, at.controller, epoch, changed)


def _minors_age(status: ConsentStatus, event: ConsentChanged) -> int | None:
    """The age that a grant may turn on: no other is kept."""
    return event.age if status in GRANTS and event.age is not None and event.age < ADULT_YEARS else None


def _mark(cells: dict[str, Cell], before: dict[str, Cell], keys: Iterable[str], now_ms: int) -> tuple[Changed, int | None]:
    """Mark in `cells` what readers will be told of `keys`; return changed rows, and when the first grant expires.

    `before` are the rows as readers know them.
    """
    changed: Changed = []
    first_ms: int | None = None
    for key in keys:
        cell, held = cells[key], before.get(key)
        purpose, channel, brand = key.split(PART)
        best = winner(cells, purpose, channel, brand) or cell
        status = status_at(best, now_ms)
        told = held.emitted if held is not None and held.emitted_by == best.event_id else None
        if told == "expired":
            status = "expired"  # an event with an older receipt than the alarm's does not turn time back
        until_ms = best.valid_until_ms
        if until_ms is not None and status in GRANTS:
            first_ms = until_ms if first_ms is None else min(first_ms, until_ms)
        if told != status:
            changed.append(((purpose, channel, brand), best, status))
        elif cell is held:
            continue
        cells[key] = Cell(
            cell.status, cell.effective_ms, cell.event_id, cell.evidence_ref, cell.method, cell.valid_until_ms,
            cell.jurisdiction, cell.notice_version, status, best.event_id, cell.age, cell.by_guardian,
        )  # fmt: skip
    return changed, first_ms


def _tell(owner: str, controller: str, epoch: int, changed: Changed) -> Iterator[Effect]:
    """Yield one audit entry and one row for each change, so that the two can never disagree."""
    for (purpose, channel, brand), best, status in changed:
        facts = {
            "purpose": purpose, "channel": channel, "brand": brand, "status": status,
            "effective_ms": str(best.effective_ms), "epoch": str(epoch),
        }  # fmt: skip
        yield Audit("consent.changed", controller, facts)
        row = ConsentState(
            subject_ref=owner, purpose=purpose, channel=channel, brand=brand, controller=controller, status=status,
            effective_ms=best.effective_ms, method=best.method, evidence_ref=best.evidence_ref, epoch=epoch,
            valid_until_ms=best.valid_until_ms, jurisdiction=best.jurisdiction, notice_version=best.notice_version,
        )  # fmt: skip
        yield Emit("consent.state", (owner, purpose, channel, brand), row)


def _keep_evidence(
    view: View, known: Permissions, cells: dict[str, Cell], event: ConsentChanged, at: Receipt
) -> Generator[Effect, None, int]:
    """Seal what is personal about the proof; return by how much the dossier's evidence grew (0: another had to go)."""
    if view.get(ConsentEvidence, at.event_id) is not None:
        return 0  # published again after its 8 days
    as_sent = event.identifiers[0]
    evidence = event.evidence or NO_EVIDENCE
    told = {"agent": evidence.agent, "uri": evidence.uri, "guardian": event.guardian}
    proof: dict[str, str | dict[str, str]] = {field: text for field, text in told.items() if text}
    proof["identifier"] = {"kind": as_sent.kind, "value": as_sent.value}
    yield Mint(EVIDENCE_SCOPE, at.controller)
    record = ConsentEvidence(at.controller, at.effective_ms, msgspec.json.encode(proof).decode())
    yield Put(record, (at.event_id,), scope=EVIDENCE_SCOPE)
    if known.evidence < EVIDENCE_MAX:
        return 1
    in_force = {cell.event_id for cell in cells.values()}
    kept = ((parts[0] in in_force, kept.effective_ms, parts[0]) for parts, kept in view.scan(ConsentEvidence))
    governs, _, oldest = min(kept)  # the oldest that governs no row; else the oldest
    yield Delete(ConsentEvidence, (oldest,))
    yield Audit("evidence.dropped", at.controller, {"reason": "too-many", "in_force": "yes" if governs else "no"})
    return 0


def _suppression(view: View, known: Permissions, event: SuppressionChanged, at: Receipt) -> Iterator[Effect]:
    on, held = at.envelope.type == "suppression.added", known.suppressions.get(event.list)
    fresh = Suppressed(on, at.effective_ms, at.event_id, event.source, _ms(event.expires))
    wins = held is None or _rank(fresh) > _rank(held)
    epoch = known.epoch + 1
    suppressions = {**known.suppressions, event.list: fresh} if wins else known.suppressions
    seen = remember(known.seen, at.event_id, at.time_ms, at.receipt_ms)
    expiry_ms = _first(known.expiry_ms, fresh.expires_ms if wins and on else None)
    yield Put(Permissions(at.controller, epoch, known.cells, suppressions, seen, known.evidence, expiry_ms, known.revoked_ms))
    if not wins:
        return
    if expiry_ms is not None and expiry_ms != known.expiry_ms:
        yield Wake(CONSENT_EXPIRY, expiry_ms)
    facts = {"list": event.list, "on": "yes" if on else "no", "effective_ms": str(at.effective_ms), "epoch": str(epoch)}
    yield Audit("suppression.changed", at.controller, facts)
    key = (view.owner, event.list)
    if on:
        row = SuppressionState(
            subject_ref=view.owner, list=event.list, controller=at.controller, since_ms=fresh.effective_ms,
            source=event.source, epoch=epoch, expires_ms=fresh.expires_ms,
        )  # fmt: skip
        yield Emit("suppression.state", key, row)
    elif held is not None and held.on:
        yield Emit("suppression.state", key, None)


def _rank(entry: Suppressed) -> tuple[int, bool, str]:
    """Rank by effective time; at the same time the addition wins, then the greater event id."""
    return (entry.effective_ms, entry.on, entry.event_id)


def _first(*times_ms: int | None) -> int | None:
    return min((ms for ms in times_ms if ms is not None), default=None)


def _ms(moment: datetime | None) -> int | None:
    return round(moment.timestamp() * 1000) if moment else None
