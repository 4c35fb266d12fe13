"""The application: routes, documents, and what every answer carries."""

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tilth.client.errors import UnknownError
from tilth.client.origin import Origin
from tilth.client.shapes.shape import Problem
from tilth.control.api import problem
from tilth.control.api.desk import Desk
from tilth.core.host import HostRule
from tilth.core.version import VERSION

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MOST_PATH = 2048
#: On every answer: nothing here is to be framed, guessed at, or told where a link was followed from.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def finish(desk: Desk, ready: Callable[[], bool]) -> None:
    """Add what is no resource: health, the OpenAPI document, and errors of routing."""
    app = desk.app

    async def health(_: Request) -> Response:
        return Response(
            '{"ready":true}' if ready() else '{"ready":false}', 200 if ready() else 503, media_type="application/json"
        )

    async def openapi(request: Request) -> Response:
        try:
            with desk.database.read() as connection:
                desk.principal(connection, request)
        except UnknownError as error:
            return problem.answer(error)
        return Response(_document(app), media_type="application/json")

    app.add_route("/health", health, include_in_schema=False)
    app.add_route("/v1/openapi.json", openapi, include_in_schema=False)
    app.add_exception_handler(HTTPException, _routing)


def _document(app: Any) -> str:
    """Return the OpenAPI document as JSON, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = described(app)
    return json.dumps(app.openapi_schema)


def described(app: Any) -> dict[str, Any]:
    """Return the OpenAPI document: every route takes a bearer token."""
    made = get_openapi(
        title="Tilth control plane",
        version=VERSION,
        description="Models, endpoints, nodes and events. Errors are problem+json with what, why and hint.",
        routes=app.routes,
    )
    made.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"token": []}]
    for path in made["paths"].values():
        for operation in path.values():
            # FastAPI's own form of bad requests is never sent here.
            operation["responses"].pop("422", None) if _is_default(operation) else None
    return made


def _is_default(operation: dict[str, Any]) -> bool:
    found = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
    return "HTTPValidationError" in str(found)


async def _routing(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for these
    words = {404: "there is nothing at this path", 405: "this path does not take this method"}
    what = words.get(error.status_code, str(error.detail))
    kind = "Missing" if error.status_code == 404 else "Unsupported"
    body = Problem(
        type=f"tilth:{kind.lower()}",
        title=what,
        status=error.status_code,
        detail="",
        error=f"{kind}Error",
        what=what,
        why="",
        hint="GET /v1/openapi.json lists all paths",
    )
    return problem.problem_response(body, dict(error.headers or {}))


def guarded(app: App, rule: HostRule, more: Sequence[tuple[bytes, bytes]] = (), *, public: Origin | None = None) -> App:
    """Return the application behind what holds for every request: Host, Origin, one path for one thing.

    `public` is where browsers reach it through a proxy, which passes their Host: a request for that one came by the
    scheme that it names, whatever the proxy used. No header of the request has a say in that.
    """
    outside = str(public).partition("//")[2].encode() if public is not None else None

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if public is not None and (b"host", outside) in scope["headers"]:
            scope = {**scope, "scheme": public.scheme}
        why = _refusal(scope, rule)

        async def dressed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS, *more]
            await send(message)

        if why:
            body = Problem(
                type="tilth:refused", title="the request is refused", status=403, detail=why, error="RefusedError",
                what="the request is refused", why=why, hint="use the address that `tilth status` prints",
            )  # fmt: skip
            await problem.problem_response(body, {})(scope, receive, dressed)
            return
        await app(scope, receive, dressed)

    return guard


def _refusal(scope: Scope, rule: HostRule) -> str:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    if len(hosts) != 1 or len(origins) > 1:
        return "there is not one Host header, or more than one Origin"
    host = hosts[0].decode("latin-1")
    origin = origins[0].decode("latin-1") if origins else None
    if origin is not None and origin == f"{scope['scheme']}://{host}":
        # The console's own pages; that the Host is one of ours is asked next.
        origin = None
    path = scope.get("raw_path") or b""
    if len(path) > _MOST_PATH or b"//" in path or b"\\" in path or b"%2f" in path.lower() or b"%00" in path:
        return "the path is not one that this server has"
    return rule.refusal(host, origin)
