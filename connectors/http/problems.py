"""What the door answers instead of success: RFC 9457 problems of a closed list, naming the field and never its value.

`field` is a JSON pointer into an event's `data` or a body (`/parties/0/role`), or, without a slash, the name of a
CloudEvents attribute or of a query parameter (`controller`). It is "" where no field is at fault.
"""

from typing import Any

import msgspec
from starlette.responses import Response

URN = "urn:consentinel:problem:"
MEDIA_TYPE = "application/problem+json"
UNUSABLE = "unusable"  # stands for a code that came from inside and is not in the list: the list stays closed


class ProblemType(msgspec.Struct, frozen=True):
    """One type of problem: HTTP status, title, and what a caller can do about it."""

    status: int
    title: str
    docs: str


def _types(status: int, **titles: tuple[str, str]) -> dict[str, ProblemType]:
    return {code.replace("_", "-"): ProblemType(status, title, docs) for code, (title, docs) in titles.items()}


PROBLEMS: dict[str, ProblemType] = {
    **_types(
        400,
        not_json=("Not JSON", "The body or an event's data is no UTF-8 JSON of RFC 8259 (`NaN` is none)."),
        not_avro=("Not Avro", "The data is no single-object encoding of its schema, or not valid base64."),
        too_deep=("Nested too deeply", "No event nests deeper than a handful of levels."),
        unknown_type=("Unknown event type", "The CloudEvents `type` is none of the contract's."),
        unknown_schema=("Unknown schema", "The fingerprint in the data names no schema of this event type."),
        missing_field=("A required field is missing", "`field` says which."),
        wrong_field=("A field has a wrong value", "`field` says which; its value breaks the schema."),
        unknown_field=("A field is not known", "`field` is the object that holds it."),
        vcon_broken=("Not a vCon", "The body is no vCon of the IETF draft; `field` says where it breaks."),
    ),
    **_types(401, unauthenticated=("No valid token", "Send `Authorization: Bearer cst_...`.")),
    **_types(
        403,
        role_missing=("Not your role", "The token has no role that may do this."),
        controller_not_yours=("Not your controller", "The token is not for this controller."),
        target_not_yours=("Not your target", "A target acknowledges for itself only."),
    ),
    **_types(404, not_found=("Not found", "There is nothing here, or nothing that this token may see.")),
    **_types(405, method_not_allowed=("Method not allowed", "This call exists with another method.")),
    **_types(408, too_slow=("Too slow", "The body did not arrive in time.")),
    **_types(
        409,
        name_taken=("Name taken", "Every token has a name of its own: it is the actor of what it sends."),
        id_taken=("Id taken", "Another controller has a request or an incident of this id, or a hold has it."),
        not_retryable=("Cannot be retried", "The entry is no event from outside, or cannot be read."),
    ),
    **_types(410, gone=("Gone", "Its key was destroyed.")),
    **_types(
        413,
        event_too_large=("Event too large", "An event is at most 1 MiB."),
        body_too_large=("Body too large", "A body is at most 8 MiB; send smaller batches."),
        too_many_items=("Too many items", "The call takes fewer items at once; `field` says of what."),
    ),
    **_types(415, unsupported_content_type=("Unsupported content type", "See the call's documentation for what it reads.")),
    **_types(
        422,
        not_supported_yet=("Not supported yet", "The contract knows it; this release does not do it yet."),
        vcon_not_supported_yet=("vCon form not supported yet", "Encrypted, signed, redacted or grouped vCons are not read yet."),
        time_ahead=("Time ahead", "The time is further in the future than clocks may differ."),
        number_not_possible=("Not a phone number", "No number of this form can exist."),
        number_needs_region=("National number without a region", "Use E.164, or configure the controller's default region."),
        address_not_possible=("Not an address", "No address of this form can exist."),
        identifier_empty=("Empty identifier", "An identifier is more than space."),
        expired_already=("Expired already", "A suppression that has expired adds nothing."),
        wildcard_grant=("Consent to everything", "`*` as a purpose can refuse or withdraw, never grant."),
        never_a_subject=("Nobody", "Every identifier is the controller's own, which is never a subject."),
        empty_scope=("A scope that limits nothing", "Name conversations, a period or fields; without a scope it is everything."),
        nothing_chosen=("No fields chosen", "Neither the request nor the controller's `sealed_fields` chooses any."),
        not_a_period=("Not a period", "An ISO 8601 duration of one kind, such as P24M, P5Y or P90D; a hundred years at most."),
        unknown_law=("Unknown law pack", "The deployment has no such version; `consentinel law list` shows what it has."),
        nothing_found=("Nothing found", "The search finds no conversation, so nothing would be held."),
        reserved=("A reserved name", "Ids of holds that begin with `tag:` are those of compliance tags."),
        unusable=("Cannot be used", "The event is well formed but means nothing here."),
    ),
    **_types(
        429,
        too_many_failures=("Too many failures", "Too many calls without a valid token came from this client."),
        busy=("Busy", "Too much is being taken in right now; try again."),
    ),
    **_types(500, internal=("Internal error", "A bug. Nothing was accepted that was not answered 202.")),
    **_types(
        503,
        unavailable=("Unavailable", "The log cannot take it now. Try again: the same event twice changes nothing."),
        stale=("State too old", "Nothing is opened from state older than a minute: it may have been erased since. Try again."),
    ),
}  # fmt: skip


class Problem(Exception):
    """Ends a call with a problem. Holds a code and a field name, never a value."""

    def __init__(self, code: str, field: str = "", *, retry_after_secs: int | None = None) -> None:
        self.code = code if code in PROBLEMS else UNUSABLE
        super().__init__(self.code)
        self.field = field
        self.retry_after_secs = retry_after_secs

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.code].status

    def body(self) -> dict[str, Any]:
        """The problem as RFC 9457 wants it: type, title, status, and our extension `field`."""
        kind = PROBLEMS[self.code]
        body: dict[str, Any] = {"type": URN + self.code, "title": kind.title, "status": kind.status}
        return body | {"field": self.field} if self.field else body

    def response(self) -> Response:
        """The answer of a call that ends here."""
        headers: dict[str, str] = {}
        if self.retry_after_secs is not None:
            headers["retry-after"] = str(self.retry_after_secs)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return Response(msgspec.json.encode(self.body()), self.status, headers, MEDIA_TYPE)


def docs() -> dict[str, dict[str, Any]]:
    """The closed list as plain data, for generated documentation."""
    return {URN + code: msgspec.to_builtins(kind) for code, kind in PROBLEMS.items()}
