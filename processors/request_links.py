"""Whom a request reaches: its identifiers are asked whom they are linked to, until all have told."""

from collections.abc import Generator, Iterator
from hashlib import sha256

import msgspec

from processors.kernel import Audit, Effect, Emit, Receipt
from processors.request_case import RequestCase, status_of
from schemas.routed import FollowOn, LinkProbe, LinksFound

CLOSURE_MAX = 32  # identifiers that a request reaches without a second look: families and offices are linked by mistake
CLOSURE_REVIEWED_MAX = 1_000


def with_links(case: RequestCase, event: LinksFound, at: Receipt) -> Generator[Effect, None, RequestCase]:
    """The case with what an identifier tells of; past a limit only after a review."""
    known = {*case.refs, *case.beyond, *case.erased}
    fresh = [peer for peer in dict.fromkeys(event.peers) if peer not in known]
    room = max(0, (CLOSURE_REVIEWED_MAX if case.wide else CLOSURE_MAX) - len(case.refs))
    reached, beyond = fresh[:room], [*case.beyond, *fresh[room:]]
    probing = [ref for ref in case.probing if ref != event.ref or not event.answer] + reached
    grown = msgspec.structs.replace(case, refs=[*case.refs, *reached], probing=probing, beyond=beyond[:CLOSURE_REVIEWED_MAX])
    if reached:
        facts = {"identifiers": str(len(grown.refs)), "request": case.request_id}
        yield Audit("closure.extended", at.controller, facts, named=False)
        yield from probe(case, reached)
    if beyond and not case.beyond:
        facts = {"identifiers": str(len(known) + len(fresh)), "request": case.request_id}
        yield Audit("closure.review", at.controller, facts, named=False)
        grown = msgspec.structs.replace(grown, ground="closure-review")
        yield status_of(grown)
    return grown


def probe(case: RequestCase, refs: list[str]) -> Iterator[Effect]:
    """Ask identifiers whom they are linked to."""
    for ref in refs:
        yield Emit("subject.events", (ref,), LinkProbe(request_id=case.request_id))


def open_follow_ons(case: RequestCase, event: LinksFound) -> Iterator[Effect]:
    """One per identifier, named by parent and identifier: the same link told twice opens one."""
    for peer in event.peers:
        request_id = f"{case.request_id}+{sha256(peer.encode()).hexdigest()[:8]}"
        yield Emit("case.events", ("request", request_id), FollowOn(
            request_id=request_id, parent=case.request_id, regime=case.regime, refs=(peer,), erased=(event.ref,),
            verified_by=case.verified_by, approved_by=case.approved_by, ground=case.plea,
        ))  # fmt: skip
