"""The receipt of a request over HTTP: a signed file that proves what became of it, to be checked without us."""

import threading

from starlette.requests import Request
from starlette.responses import Response

from connectors.http.door import Door
from connectors.http.problems import Problem
from connectors.http.tokens import Token
from engine.deployment import Deployment
from engine.evidence import LogDamaged, NotProvable, receipt_of
from engine.layout import key_bytes
from engine.receipts import Receipt, ReceiptInvalid, receipt_json
from processors.request_case import RequestCase, status_of
from schemas.topics import RequestStatus

CALL = "GET /v1/receipts/{request_id}"
AT_ONCE = 2  # each reads the whole audit log: more of them would only slow one another down
RETRY_SECS = 5
_MAKING = threading.BoundedSemaphore(AT_ONCE)


def status_in(service: Deployment, request_id: str) -> RequestStatus | None:
    """Where a request stands, as `requests.state` has it; None where there is none."""
    if "\0" in request_id:
        return None
    case = service.record("case", key_bytes(("request", request_id)).decode(), RequestCase)
    status = None if case is None else status_of(case).value
    return status if isinstance(status, RequestStatus) else None


def _seen(door: Door, token: Token, request_id: str) -> RequestStatus | None:
    status = status_in(door.service, request_id)
    return status if status is not None and token.sees(status.controller) else None


def _make(door: Door, status: RequestStatus) -> Receipt:
    if not _MAKING.acquire(blocking=False):
        raise Problem("busy", retry_after_secs=RETRY_SECS)
    try:
        return receipt_of(door.service, status)
    except NotProvable:
        fault = Problem("not-found", "request_id")
    except ReceiptInvalid:
        fault = Problem("too-many-items", "request_id")
    except LogDamaged:
        fault = Problem("internal")  # the log has faults: the report says which
    finally:
        _MAKING.release()
    raise fault


async def get_receipt(door: Door, request: Request) -> Response:
    """The receipt of a request, at any time: what was asked, what happened, and proofs of it that check offline.

    One signed text; with `Accept: application/json` the same content as JSON.
    """
    token = door.caller(request, CALL)
    request_id = request.path_params["request_id"]
    status = await door.settled(lambda: _seen(door, token, request_id))
    if status is None:
        raise Problem("not-found", "request_id")
    known = status
    receipt = await door.run(lambda: _make(door, known))
    accepted = request.headers.get("accept", "")
    if "application/json" in accepted and "text/plain" not in accepted:
        return Response(receipt_json(receipt.document()), media_type="application/json")
    return Response(receipt.text().encode(), media_type="text/plain")
