"""`POST /v1/vendors/{vendor}`: a vendor's own payload becomes events of the contract, all of them or none."""

from starlette.requests import Request
from starlette.responses import Response

from connectors.http.bodies import BODY_BYTES_MAX, answer
from connectors.http.cloudevents import Incoming, millis
from connectors.http.door import Door
from connectors.http.events import Admission
from connectors.http.problems import Problem
from connectors.vcon import VconRefused, map_vcon
from schemas.base import NAME_CHARS_MAX

CALL = "POST /v1/vendors/{vendor}"
NOT_YET = frozenset({"genesys", "amazon-connect", "twilio"})


async def post_vendor(door: Door, request: Request) -> Response:
    """Take one document; answers the ids of the events it became and its conversation."""
    token = door.caller(request, CALL)
    vendor = request.path_params["vendor"]
    if vendor != "vcon":
        raise Problem("not-supported-yet" if vendor in NOT_YET else "not-found", "vendor")
    controller = request.query_params.get("controller", "")
    if not controller:
        raise Problem("missing-field", "controller")
    if len(controller) > NAME_CHARS_MAX or not controller.isprintable():
        raise Problem("wrong-field", "controller")
    door.may_touch(token, controller, "controller")

    def take(body: bytes) -> tuple[list[str], str]:
        try:
            mapped = map_vcon(body)
        except VconRefused as refused:
            fault = Problem(refused.code, refused.field)
        else:
            admission = Admission(door, token)
            try:
                for event in mapped:
                    admission.admit(Incoming(
                        event.id, event.source, event.type, controller, millis(event.time), "application/json", event.data,
                    ))  # fmt: skip
            except BaseException:
                admission.drop()
                raise
            # Every event of a document is of one conversation, and its topic is keyed by it.
            conversation_id = admission.good[0][1] if admission.good else ""
            admission.publish()
            return [event.id for event in mapped], conversation_id
        raise fault

    async with door.bodies.of(request, BODY_BYTES_MAX) as body:
        ids, conversation_id = await door.run(lambda: take(body))
    return answer({"accepted": len(ids), "events": ids, "conversation_id": conversation_id}, 202)
