"""The web application: the table of routes, problems for everything that goes wrong, and no value in any answer or log."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.http import problems
from connectors.http.bodies import answer
from connectors.http.door import Door, Options
from connectors.http.events import Mixed
from connectors.http.metrics import CONTENT_TYPE
from connectors.http.problems import Problem
from connectors.http.roles import CALLS
from connectors.http.routes import ROUTES, Route, body_types
from connectors.http.tokens import TokenStore
from engine.deployment import Board, Deployment

log = logging.getLogger("consentinel.door")
SWEEP_SECS = 0.02  # how finely the time from a withdrawal to its fold is measured
VERSION = "0.1.0"
CALL_KEY = "consentinel.call"
SCHEMAS = "#/components/schemas/{name}"


class Edge:
    """Outermost: counts calls, and answers a bug with a problem. A traceback goes to the log without its message."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = status or 499  # nobody is there to answer
        except Exception as bug:
            bare = RuntimeError("details withheld: they may hold values")
            log.error("a call failed: %s", type(bug).__name__, exc_info=(RuntimeError, bare, bug.__traceback__))
            if not status:
                await Problem("internal").response()(scope, receive, watched)
        finally:
            self._door.metrics.calls.labels(scope.get(CALL_KEY, "other"), str(status)).inc()


def create_app(
    service: Deployment, tokens: TokenStore, options: Options | None = None, board: Board | None = None
) -> FastAPI:  # fmt: skip
    """Make the application over an open deployment. `app.state.door` is its door; `board` is what several doors share."""
    door = Door(service, tokens, options or Options(), board)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(door))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping

    app = FastAPI(
        title="Consentinel", version=VERSION, lifespan=lifespan, redirect_slashes=False, redoc_url=None,
        description="Privacy compliance for contact centres. Every error is an RFC 9457 problem of a closed list.",
    )  # fmt: skip
    app.state.door = door
    app.add_middleware(Edge, door=door)
    bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer cst_...`")
    for call, route in ROUTES.items():
        method, path = call.split(" ")
        app.add_api_route(
            path, _endpoint(door, call, route), methods=[method], status_code=route.status, response_model=None,
            summary=call, description=route.docs, dependencies=[Security(bearer)], openapi_extra=_documented(call, route),
            operation_id=re.sub(r"\W+", "_", call).strip("_"), response_class=Response,
        )  # fmt: skip
    for path, endpoint in _watched(door).items():
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None, response_class=Response)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _sweep(door: Door) -> None:
    while True:
        door.sweep()
        await asyncio.sleep(SWEEP_SECS)


def _endpoint(door: Door, call: str, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request.scope[CALL_KEY] = call
        return await route.handler(door, request)

    return endpoint


def _watched(door: Door) -> dict[str, Callable[[], Awaitable[Response]]]:
    """The calls of those who watch: no token, no personal data."""
    service = door.service

    async def healthz() -> Response:
        """200 while the engine lives; 503 with the reason's code when it must be restarted."""
        if service.failed is not None:
            return answer({"status": "failed", "reason": service.failed}, 503)
        return answer({"status": "ok"})

    async def readyz() -> Response:
        """200 once everything that was there at the start is folded and the state is fresh."""
        reason = "failed" if service.failed is not None else "starting" if not service.ready else ""
        if not reason and door.state_age_ms() > door.options.fresh_secs * 1000:
            reason = "stale"
        return answer({"status": "not-ready", "reason": reason}, 503) if reason else answer({"status": "ready"})

    async def metrics() -> Response:
        """Prometheus text."""
        return Response(await asyncio.to_thread(door.metrics.text), headers={"content-type": CONTENT_TYPE})

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


# Problems ---------------------------------------------------------------------------------------------------------------------


async def _problem(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, Problem)
    return fault.response()


async def _http(_: Request, fault: Exception) -> Response:
    """What the framework refuses by itself: unknown paths and methods."""
    assert isinstance(fault, HTTPException)
    otherwise = "internal" if fault.status_code >= 500 else "unusable"
    code = {404: "not-found", 405: "method-not-allowed"}.get(fault.status_code, otherwise)
    response = Problem(code).response()
    if fault.headers and "Allow" in fault.headers:
        response.headers["allow"] = fault.headers["Allow"]
    return response


async def _invalid(_: Request, fault: Exception) -> Response:
    """The framework would echo what was sent; we name nothing, since no route leaves validation to it."""
    return Problem("wrong-field").response()


# Documentation ----------------------------------------------------------------------------------------------------------------


def _documented(call: str, route: Route) -> dict[str, Any]:
    _, path = call.split(" ")
    text = {"schema": {"type": "string"}}
    parameters = [{"name": name, "in": "path", "required": True, **text} for name in re.findall(r"{(\w+)}", path)]
    parameters += [{"name": name, "in": "query", "required": needed, **text} for name, needed in route.query.items()]
    problem = {"description": "A problem", "content": {problems.MEDIA_TYPE: {"schema": {"$ref": SCHEMAS.format(name="Problem")}}}}
    done: dict[str, Any] = {"description": "Done"}
    if route.answers is not None:
        done["content"] = {route.media: {"schema": _schema(route.answers)}}
    extra: dict[str, Any] = {"responses": {str(route.status): done, "default": problem}, "x-roles": sorted(CALLS[call].roles)}
    if call == "POST /v1/events":
        extra["responses"]["207"] = {"description": "Some were refused", "content": {route.media: {"schema": _schema(Mixed)}}}
    if parameters:
        extra["parameters"] = parameters
    if route.reads:
        content = {media: {"schema": {} if kind is None else _schema(kind)} for media, kind in route.reads.items()}
        extra["requestBody"] = {"content": content}
    return extra


def _schema(kind: Any) -> dict[str, Any]:
    (found,), _ = msgspec.json.schema_components([kind], ref_template=SCHEMAS)
    return found


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, components = msgspec.json.schema_components(body_types(), ref_template=SCHEMAS)
        components["Problem"] = {
            "type": "object", "required": ["type", "title", "status"],
            "properties": {
                "type": {"type": "string", "enum": list(problems.docs())}, "title": {"type": "string"},
                "status": {"type": "integer"}, "field": {"type": "string"},
            },
        }  # fmt: skip
        document.setdefault("components", {}).setdefault("schemas", {}).update(components)
        app.openapi_schema = document
    return app.openapi_schema
