"""The one way to a tracking server: below a prefix of the control plane's port, behind its login.

For each request the door

1. finds out who asks, by bearer token or by the console's session (401; a page sends to the sign-in instead),
2. looks up what is asked in the tracker's rules: what is in none does not pass (404), and what is closed never (403),
3. asks `access.check` about `tracking.read`, `tracking.write` or `tracking.rule` (403),
4. reads a JSON body, refuses what names a place outside the artifacts (422), and writes it anew; other bytes stream,
5. leaves an event of what changes something,
6. passes on what it knows of headers, and of the answer's headers what it knows, too.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tilth.client.errors import ForbiddenError, UnknownError
from tilth.control import secret
from tilth.control.access import Principal
from tilth.control.api import body as request_body
from tilth.control.api import problem
from tilth.control.api.desk import Desk, Route
from tilth.control.clock import now_us
from tilth.control.console import cookie
from tilth.control.records import principals
from tilth.control.tracking import screen
from tilth.control.tracking.ledger import Ledger
from tilth.control.tracking.server import TrackingServer
from tilth.control.tracking.wire import Answer, Headers
from tilth.core.errors import InvalidError, RefusedError, TilthError, UnavailableError
from tilth.ports.tracker import Rule

_WAIT_S = 5.0
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,300}")
_RANGE = re.compile(r"bytes=[0-9]{0,20}-[0-9]{0,20}(,[0-9]{0,20}-[0-9]{0,20}){0,3}")
#: What is passed on of a request's headers, and of an answer's. Credentials, cookies, `Forwarded` and CORS are not.
_UP = frozenset((b"accept", b"accept-language", b"content-type", b"if-modified-since", b"if-none-match", b"user-agent"))
_DOWN = frozenset(
    (b"accept-ranges", b"content-disposition", b"content-length", b"content-range", b"content-type", b"etag",
     b"last-modified", b"retry-after")
)  # fmt: skip
#: What somebody has uploaded is shown as what it is at most, and runs nothing.
_STILL = b"default-src 'none'; sandbox; frame-ancestors 'none'"


class Door:
    """Lets requests below `/NAME/` of a desk's application through to a tracking server.

    `sign_in` is the path of the console's sign-in.
    """

    def __init__(self, desk: Desk, server: TrackingServer, sign_in: str) -> None:
        self._desk, self._server, self._sign_in = desk, server, sign_in
        self._tracker = server.tracker
        self._prefix = f"/{self._tracker.name}/"
        self._up = _UP | {name.encode() for name in self._tracker.headers}
        self._rules = screen.Rules(self._tracker.rules())
        self.ledger = Ledger(desk.changed, f"tracking/{self._tracker.name}")

    def declare(self) -> None:
        """Add the routes, and what each of them needs."""
        app = self._desk.app
        app.add_route(self._prefix[:-1], self._to_page, methods=["GET"], include_in_schema=False)
        app.add_route(self._prefix + "{rest:path}", self.answer, methods=_METHODS, include_in_schema=False)
        for rule in self._tracker.rules():
            if rule.right != "closed":
                self._desk.routes.append(Route(rule.method, self._prefix + rule.path, f"tracking.{rule.right}"))

    async def _to_page(self, _: Request) -> Response:
        return RedirectResponse(self._prefix, 307)

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            return await self._answered(request)
        except UnknownError as error:
            if request.method == "GET" and request.url.path == self._prefix and not _bearer(request):
                return RedirectResponse(f"{self._sign_in}?next={quote(self._prefix)}", 303)
            return problem.answer(error)
        except Exception as error:
            return problem.answer(error)

    async def _answered(self, request: Request) -> Response:
        path, rule, failed = "", None, None
        try:
            path = screen.path_of(request.scope["raw_path"], self._prefix)
            rule = self._rules.find(request.method, path)
        except TilthError as error:
            failed = error
        action = f"tracking.{rule.right}" if rule is not None else "tracking.read"

        def who(connection: sa.Connection) -> Principal:
            return self._who(connection, request, rule)

        principal: Principal = await self._desk.shows(who, action, None, lambda call: call.principal)
        if rule is None:
            assert failed is not None  # noqa: S101 - one of them is there
            raise failed
        query = screen.query_of(request.scope["query_string"])
        body = await self._body(request, rule, path)
        if rule.right != "read":
            run = self._tracker.run_of(path, query, body)
            await self.ledger.note(principal, action, request.method, path, run)
        await self._await_server()
        return await self._passed(request, rule, path, body)

    # -- who asks

    def _who(self, connection: sa.Connection, request: Request, rule: Rule | None) -> Principal:
        sent = "" if _bearer(request) else cookie.secret_of(request.cookies, request.url.scheme == "https")
        if not sent:
            return self._desk.principal(connection, request)
        _check_same_origin(request, rule)
        return principals.of_session(connection, secret.hashed(sent) or "", now_us())

    # -- there

    async def _body(self, request: Request, rule: Rule, path: str) -> Any:
        """Return what a JSON body says once it may pass, None where there is none or where bytes stream."""
        if request.method == "GET":
            if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
                raise RefusedError(
                    "a GET has no body here", why="the tracking server could read another question in it"
                )
            return None
        if rule.carries == "bytes":
            return None
        data = await request_body.gathered(request, screen.MOST_JSON_BYTES)
        headers = request.headers
        body = screen.json_of(headers.get("content-type", ""), headers.get("content-encoding", ""), data)
        if why := self._tracker.refusal(path, body):
            raise RefusedError(
                "the request would make the tracking server use another place than its own",
                why=why,
                hint="leave it out: artifacts go to the place that the control plane has for them",
            )
        return body

    async def _await_server(self) -> None:
        if self._server.ready.is_set():
            return
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._server.ready.wait()
        except TimeoutError:
            raise UnavailableError(
                "the tracking server does not answer", why=self._server.why, hint="try again in a moment"
            ) from None

    async def _passed(self, request: Request, rule: Rule, path: str, body: Any) -> Response:
        headers = self._upward(request, rule)
        content: bytes | AsyncIterator[bytes] = b""
        if rule.carries == "bytes" and request.method != "GET":
            length = request.headers.get("content-length", "")
            headers.append(
                (b"content-length", length.encode()) if length.isdigit() else (b"transfer-encoding", b"chunked")
            )
            content = request.stream()
        elif request.method != "GET":
            content = screen.written(body)
            headers.append((b"content-length", str(len(content)).encode()))
        target = screen.target_of(path, request.scope["query_string"])
        answer = await self._server.wire.send(request.method, target, headers, content)
        return _Passed(answer, self._downward(request, rule, answer))

    def _upward(self, request: Request, rule: Rule) -> Headers:
        made = [(name, value) for name, value in request.headers.raw if name in self._up]
        if rule.carries == "bytes" and (packed := request.headers.get("content-encoding")):
            made.append((b"content-encoding", packed.encode("latin-1")))
        wanted = request.headers.get("range", "")
        if rule.carries == "file" and _RANGE.fullmatch(wanted):
            made.append((b"range", wanted.encode()))
        return made

    # -- and back

    def _downward(self, request: Request, rule: Rule, answer: Answer) -> Headers:
        made = [(name.lower(), value) for name, value in answer.headers if name.lower() in _DOWN]
        policy = _STILL
        if rule.carries == "page":
            policy = self._tracker.page_policy(self._base(request)).encode()
        if rule.carries == "file":
            made = [(name, value) for name, value in made if name != b"content-disposition"]
            made.append((b"content-disposition", b"attachment"))
        made.append((b"content-security-policy", policy))
        keep = b"private, max-age=86400" if rule.carries == "asset" and answer.status < 400 else b"no-store"
        made.append((b"cache-control", keep))
        if 300 <= answer.status < 400 and answer.status != 304:
            made.append((b"location", self._location(dict(answer.headers))))
        return made

    def _base(self, request: Request) -> str:
        """Return the origin and prefix that its own pages are at.

        Raises:
            InvalidError: the Host could say something else in a policy.
        """
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise InvalidError("the Host of the request is not understood")
        return f"{request.url.scheme}://{host}{self._prefix}"

    def _location(self, headers: Mapping[bytes, bytes]) -> bytes:
        """Return where a redirect leads, which is below the prefix, or nowhere.

        Raises:
            UnavailableError: it leads to another place.
        """
        told = next((value for name, value in headers.items() if name.lower() == b"location"), b"")
        found = urlsplit(told.decode("latin-1"))
        if found.netloc not in ("", "localhost") or not found.path.startswith("/") or "\\" in found.path:
            raise UnavailableError(
                "the tracking server sends elsewhere", why="redirects that leave it are not passed on"
            )
        path = found.path.lstrip("/") + (f"?{found.query}" if found.query else "")
        return (self._prefix + path).encode("latin-1")


class _Passed(StreamingResponse):
    """An answer on its way through, let go of however the way ends."""

    def __init__(self, answer: Answer, headers: Headers) -> None:
        super().__init__(answer.blocks(), answer.status)
        self.raw_headers = headers
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._answer.close())


def _bearer(request: Request) -> bool:
    return "authorization" in request.headers


def _check_same_origin(request: Request, rule: Rule | None) -> None:
    """Return when a request with a cookie was made by a page of this origin, or by a person who opens a page.

    Raises:
        ForbiddenError: a page of another site, or what tells nothing of where it comes from, has made it.
    """
    site = request.headers.get("sec-fetch-site", "")
    if request.method == "GET":
        opened = site == "none" and rule is not None and rule.carries == "page"
        if site == "same-origin" or opened:
            return
    elif request.headers.get("origin", "") == f"{request.url.scheme}://{request.headers.get('host', '')}":
        if site in ("", "same-origin"):
            return
    raise ForbiddenError(
        "a session is for the pages of this control plane",
        why="the request does not say that it was made by one of them",
        hint="send `Authorization: Bearer` with a token instead",
    )
