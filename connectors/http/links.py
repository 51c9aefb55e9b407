"""Whom an identifier is linked to, and who was on the same conversations: the latter for review, never followed by itself.

Candidates are counted when somebody asks, from the rosters of the identifier's own conversations, and kept nowhere: who leaves a
roster, by an erasure or by retention, is no candidate from then on.
"""

from collections.abc import Iterable
from typing import NamedTuple

from engine.deployment import Deployment
from engine.layout import key_bytes
from processors.link_identity import Link
from processors.roster import Roster

CANDIDATES_MAX = 100
CONVERSATIONS_MAX = 1_000  # looked through in one answer: each is a read of its own


class Linked(NamedTuple):
    """Somebody said that these are one person's; `on` False: that they are not."""

    subject_ref: str
    on: bool
    since_ms: int
    source: str
    controller: str


class Candidate(NamedTuple):
    """Somebody who was on `conversations` of the same conversations; in `as_one_party` of them named as the same party."""

    subject_ref: str
    conversations: int
    as_one_party: int


def links_of(service: Deployment, ref: str) -> list[Linked]:
    """What was said last about this identifier and others (at most `link_identity.LINKS_MAX`)."""
    found = service.records("subject", ref, Link)
    return [Linked(peer, link.on, link.since_ms, link.source, link.controller) for (peer,), link in found]


def candidates_of(
    service: Deployment, ref: str, conversations: Iterable[tuple[str, str]], known: Iterable[str]
) -> tuple[list[Candidate], bool]:  # fmt: skip
    """Who shares `conversations` (id, controller) with `ref`, most shared first, and whether there may be more.

    Customers and third parties only, and only where `ref` is one: employees share conversations with all. `known` are left out.
    """
    asked = list(conversations)
    shared: dict[str, int] = {}
    together: dict[str, int] = {}
    for name, controller in asked[:CONVERSATIONS_MAX]:
        roster = service.record("case", key_bytes(("conversation", controller, name)).decode(), Roster)
        parties = [p.refs for p in roster.parties if not p.employee] if roster is not None else []
        mine = {other for refs in parties if ref in refs for other in refs}
        if not mine:
            continue
        for other in {other for refs in parties for other in refs}:
            shared[other] = shared.get(other, 0) + 1
            together[other] = together.get(other, 0) + (other in mine)
    for other in (ref, *known):
        shared.pop(other, None)
    found = sorted((Candidate(other, n, together[other]) for other, n in shared.items()), key=lambda c: (-c.conversations, c))
    return found[:CANDIDATES_MAX], len(found) > CANDIDATES_MAX or len(asked) > CONVERSATIONS_MAX
