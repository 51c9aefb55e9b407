"""One table: which role may send which event type and make which call, and which calls show personal data.

A token's controllers bound all of it besides: no role sees a controller that its token is not for.
"""

from typing import Literal, get_args

import msgspec

from schemas.events import BY_TYPE

Role = Literal["publisher", "decider", "analyst", "approver", "auditor", "operator", "target", "administrator"]
ROLES: tuple[Role, ...] = get_args(Role)
Access = Literal["view", "search", "reveal", "export"]

# Contract, section 2. The administrator may send everything. A target acknowledges for itself only: `events.py` looks
# at who it says it is. The most specific entry stands: a type before the family it belongs to.
_SENDERS: dict[str, tuple[Role, ...]] = {
    "call": ("publisher",),
    "consent": ("publisher",),
    "request": ("analyst",),
    "request.approved": ("analyst", "approver"),
    "request.refused": ("analyst", "approver"),
    "request.scanned": ("analyst", "auditor"),
    "identity": ("analyst",),
    "suppression": ("analyst",),
    "hold": ("analyst",),
    "hold.released": ("analyst", "approver"),
    "breach": ("analyst",),
    "erasure": ("target",),
    "data": ("operator",),
    "controller": (),
    "retention": (),
    "law": (),
}
SENDERS: dict[str, frozenset[Role]] = {
    type_: frozenset({*_SENDERS.get(type_, _SENDERS[type_.partition(".")[0]]), "administrator"}) for type_ in BY_TYPE
}


class Call(msgspec.Struct, frozen=True):
    """Who may make a call besides the administrator, and what kind of access it leaves on record (None: shows nobody)."""

    roles: frozenset[Role]
    access: Access | None = None


def _call(*roles: Role, access: Access | None = None) -> Call:
    return Call(frozenset({*roles, "administrator"}), access)


_ANY = _call(*ROLES)
_READERS: tuple[Role, ...] = ("analyst", "approver", "auditor")

CALLS: dict[str, Call] = {
    "POST /v1/events": _ANY,  # SENDERS decides, event by event
    "POST /v1/vendors/{vendor}": _call("publisher"),
    "POST /v1/decisions": _call("decider"),
    "POST /v1/requests": _call("analyst"),
    "GET /v1/requests": _call(*_READERS, access="view"),
    "GET /v1/requests/{request_id}": _call(*_READERS, access="view"),
    "POST /v1/requests/{request_id}/retry": _call("analyst"),
    "POST /v1/requests/{request_id}/{action}": _call("analyst", "approver"),  # and SENDERS, by the event it becomes
    "GET /v1/requests/{request_id}/package": _call("analyst", access="export"),
    "GET /v1/receipts/{request_id}": _call(*_READERS),
    "GET /v1/erasures": _call(*_READERS, "operator", access="view"),
    "POST /v1/subjects/search": _call("analyst", "auditor", access="search"),
    "GET /v1/subjects/{subject_ref}": _call("analyst", "auditor", access="view"),  # to reveal takes REVEALERS
    "POST /v1/open": _call("analyst", access="reveal"),
    "POST /v1/holds": _call("analyst", access="search"),
    "GET /v1/holds": _call(*_READERS, access="view"),
    "GET /v1/breaches": _call(*_READERS, access="view"),
    "GET /v1/quarantine": _call("operator", "auditor"),
    "POST /v1/quarantine/{partition}/{offset}/retry": _call("operator"),
    "GET /v1/schemas/{fingerprint}": _ANY,
    "GET /v1/lag": _call("operator", "auditor"),
    "POST /v1/admin/retention/raw": _call(),
    "POST /v1/admin/retention/now": _call("operator"),
    "GET /v1/retention/preview": _call(*_READERS, "operator", access="view"),
    "POST /v1/retention/preview": _call(*_READERS, "operator", access="view"),
    "GET /v1/audit/report": _call("auditor", "operator"),
    "GET /v1/audit/checkpoints": _call("auditor", "operator"),
    "GET /v1/audit/proof": _call("auditor"),
    "GET /v1/audit/key": _call("auditor", "operator"),
    "POST /v1/audit/checkpoint": _call("auditor", "operator"),
    "GET /v1/keys": _call("auditor", "operator"),
    "POST /v1/keys/rotations": _call(),
    "POST /v1/tokens": _call(),
    "DELETE /v1/tokens/{name}": _call(),
}
REVEALERS: frozenset[Role] = frozenset({"analyst", "administrator"})  # an auditor sees that there is data, not the data


def allows(roles: tuple[Role, ...], allowed: frozenset[Role]) -> bool:
    """Whether one of the caller's roles is among those allowed."""
    return not allowed.isdisjoint(roles)
