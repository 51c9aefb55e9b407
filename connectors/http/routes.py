"""Every call of the door in one table: its handler, what it reads and what it answers. `roles.CALLS` says who may."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from connectors.http import (
    audits,
    decisions,
    events,
    holds,
    keys,
    operations,
    receipts,
    requests,
    retention,
    reveal,
    subjects,
    vendors,
)  # fmt: skip
from connectors.http.door import Door
from connectors.http.problems import Problem
from schemas.cloudevents import Event
from schemas.events import RequestStep

Handler = Callable[[Door, Request], Awaitable[Response]]
JSON = "application/json"
PACKAGE = "GET /v1/requests/{request_id}/package"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `reads` maps a media type to the type of its body (None: any), `query` the query parameters to required."""

    handler: Handler
    status: int = 200
    reads: dict[str, Any] = {}
    query: dict[str, bool] = {}
    answers: Any = None
    media: str = JSON

    @property
    def docs(self) -> str:
        """What the documentation says."""
        return " ".join((self.handler.__doc__ or "").split())


def _not_yet(call: str) -> Handler:
    async def answer(door: Door, request: Request) -> Response:
        """Not built yet: 422."""
        door.caller(request, call)
        raise Problem("not-supported-yet")

    return answer


_WHOSE = {"controller": False}
_EVENTS: dict[str, Any] = {
    "application/cloudevents+json": Event, "application/cloudevents-batch+json": list[Event], JSON: None,
    "application/avro": None,
}  # fmt: skip
_VCON: dict[str, Any] = {"application/vcon+json": None}

ROUTES: dict[str, Route] = {
    events.CALL: Route(handler=events.post_events, status=202, reads=_EVENTS, answers=events.Accepted),
    vendors.CALL: Route(handler=vendors.post_vendor, status=202, reads=_VCON, query={"controller": True}),
    decisions.CALL: Route(handler=decisions.post_decisions, reads={JSON: decisions.Ask}, answers=decisions.Decided),
    requests.OPEN: Route(handler=requests.post_request, status=202, reads={JSON: None}, answers=requests.Opened),
    requests.LIST: Route(handler=requests.get_requests, query=_WHOSE),
    requests.ONE: Route(handler=requests.get_request),
    requests.RETRY: Route(handler=requests.post_retry, status=202, reads={JSON: requests.Retry}),  # before ACT, which fits too
    requests.ACT: Route(handler=requests.post_action, status=202, reads={JSON: RequestStep}),
    PACKAGE: Route(handler=_not_yet(PACKAGE)),
    receipts.CALL: Route(handler=receipts.get_receipt, media="text/plain"),
    requests.ERASURES: Route(handler=requests.get_erasures, query=_WHOSE),
    subjects.SEARCH: Route(handler=subjects.post_search, reads={JSON: subjects.Search}),
    subjects.SHOW: Route(handler=subjects.get_subject, query={**_WHOSE, "reveal": False}),
    reveal.CALL: Route(handler=reveal.post_open, reads={JSON: reveal.OpenAsk}, answers=list[reveal.OpenedField]),
    holds.PLACE: Route(handler=holds.post_hold, status=202, reads={JSON: holds.HoldAsk}, answers=holds.HoldAnswer),
    operations.HOLDS: Route(handler=operations.get_holds, query=_WHOSE),
    operations.BREACHES: Route(handler=operations.get_breaches, query=_WHOSE),
    operations.QUARANTINE: Route(handler=operations.get_quarantine, query=_WHOSE),
    operations.RETRY: Route(handler=operations.post_retry, status=202),
    operations.SCHEMA: Route(handler=operations.get_schema),
    operations.LAG: Route(handler=operations.get_lag),
    operations.RETAIN: Route(handler=operations.post_retain),
    retention.RUN: Route(handler=retention.post_run, answers=retention.Ran),
    retention.PREVIEW: Route(
        handler=retention.get_preview, query={"controller": True, "before": False, "after": False}, answers=retention.Preview,
    ),
    retention.PROPOSED: Route(handler=retention.post_preview, reads={JSON: retention.PreviewAsk}, answers=retention.Preview),
    audits.REPORT: Route(handler=audits.get_report),
    audits.NOTES: Route(handler=audits.get_checkpoints),
    audits.PROOF: Route(handler=audits.get_proof, query={"origin": True, "index": False, "old": False}, media="text/plain"),
    audits.KEY: Route(handler=audits.get_key),
    audits.SIGN: Route(handler=audits.post_checkpoint),
    keys.STATUS: Route(handler=keys.get_keys, query=_WHOSE),
    keys.ROTATE: Route(handler=keys.post_rotation, status=202, reads={JSON: keys.RotateAsk}),
    operations.TOKENS: Route(handler=operations.post_token, status=201, reads={JSON: operations.NewToken}),
    operations.REVOKE: Route(handler=operations.delete_token),
}


def body_types() -> list[Any]:
    """Every type that the documentation describes."""
    found = [kind for route in ROUTES.values() for kind in (*route.reads.values(), route.answers) if kind is not None]
    return [*found, events.Mixed]
