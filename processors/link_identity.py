"""Keeps which identifiers are one person's, at both ends, and tells an open erasure of them.

A link is somebody's statement (`identity.linked`: a CRM, a verified request). That two identifiers stood on one call is none:
families and offices share numbers. Denials travel over links, grants never do (design, section 4).
"""

from collections.abc import Iterator
from typing import Any, ClassVar, assert_never

import msgspec

from processors.fence import Fence, refuses
from processors.kernel import Audit, Delete, Effect, Emit, Put, Quiet, Receipt, Refuse, State, View
from processors.permissions import Permissions
from schemas.base import Record
from schemas.events import ConsentChanged, SuppressionChanged
from schemas.routed import LinkProbe, LinksFound, LinkTold, ProbeEnded

LINKS_MAX = 1_000  # of one identifier; more is no person
ERASED = "erasure"  # source of the word that the other end was erased
CARRIED = ("consent.refused", "consent.withdrawn", "suppression.added")


class Link(State):
    """What was said last about this identifier and another one. `on` False: they are not one person's."""

    KIND: ClassVar[str] = "link"
    on: bool
    since_ms: int
    source: str = ""
    controller: str = ""  # a dossier of links alone would not say whose it is


class Probed(State):
    """A request that asked for the links and is not closed: it is told of every link that comes."""

    KIND: ClassVar[str] = "probed"
    since_ms: int = 0


class LinkIdentity(Quiet):
    """Folds links by effective time; at the same time unlinking wins. What the fence refuses is reported to its request."""

    name = "link_identity"
    READS: ClassVar[tuple[type[Record], ...]] = (LinkTold, LinkProbe, ProbeEnded, ConsentChanged, SuppressionChanged)
    STATE: ClassVar[tuple[type[State], ...]] = (Link, Probed)

    def fold(self, view: View, event: Any, at: Receipt) -> Iterator[Effect]:
        """Yield the link's new state, what a request must know, and denials for the other ends."""
        match event:
            case ConsentChanged() | SuppressionChanged():
                return _carry(view, event, at) if at.envelope.type in CARRIED else iter(())
            case LinkTold():
                return _told(view, event, at)
            case LinkProbe():
                return _probe(view, event, at)
            case ProbeEnded():
                return iter((Delete(Probed, (event.request_id,)),))
            case _:
                assert_never(event)


def linked(view: View) -> list[str]:
    """The other ends of all links that hold."""
    return [peer for (peer,), link in view.scan(Link) if link.on]


def unlink_all(view: View) -> Iterator[Effect]:
    """Forget all links here, and have them forgotten at their other ends."""
    for (peer,), _ in list(view.scan(Link)):
        yield Delete(Link, (peer,))
        yield Emit("subject.events", (peer,), LinkTold(peer=view.owner, on=False, link_source=ERASED))


def _told(view: View, event: LinkTold, at: Receipt) -> Iterator[Effect]:
    old = view.get(Link, event.peer)
    if event.link_source == ERASED:
        if old is not None:
            yield Delete(Link, (event.peer,))
        return
    if event.on:
        asking = [request_id for (request_id,), _ in view.scan(Probed)]
        fence = view.get(Fence)
        late = refuses(view, at.effective_ms, at.event_id)
        if late and not asking and fence is not None:
            asking = fence.requests[-1:]  # closed: it opens a follow-on
        for request_id in asking:
            found = LinksFound(request_id=request_id, ref=view.owner, peers=(event.peer,), answer=False)
            yield Emit("case.events", ("request", request_id), found)
        if late:
            yield Audit("event.refused", at.controller, {"reason": "fenced"}, named=False)
            return
    elif refuses(view, at.effective_ms, at.event_id):
        return
    if old is not None and (at.effective_ms, not event.on) <= (old.since_ms, not old.on):
        return
    if old is None and sum(1 for _ in view.scan(Link)) >= LINKS_MAX:
        yield Refuse("too-many-links", "b")
        return
    yield Put(Link(event.on, at.effective_ms, event.link_source, at.controller), (event.peer,))
    facts = {"on": "yes" if event.on else "no", "source": event.link_source}
    yield Audit("identity.linked" if event.on else "identity.unlinked", at.controller, facts)


def _probe(view: View, event: LinkProbe, at: Receipt) -> Iterator[Effect]:
    yield Put(Probed(at.receipt_ms), (event.request_id,))
    found = LinksFound(request_id=event.request_id, ref=view.owner, peers=tuple(linked(view)), answer=True)
    yield Emit("case.events", ("request", event.request_id), found)


def _carry(view: View, event: ConsentChanged | SuppressionChanged, at: Receipt) -> Iterator[Effect]:
    """To the other ends, once: they know the event by its id when it comes back. Proofs and addresses stay where they are."""
    peers = linked(view)
    if not peers or refuses(view, at.effective_ms, at.event_id) or at.event_id in (view.get(Permissions) or Permissions()).seen:
        return
    bare = msgspec.structs.replace(event, identifiers=())
    if isinstance(bare, ConsentChanged):
        bare = msgspec.structs.replace(bare, evidence=None, guardian=None)
    for peer in peers:
        yield Emit("subject.events", (peer,), bare, refs=(peer,))
