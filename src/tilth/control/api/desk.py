"""The desk that every request passes: who asks, may it, is the request sound; then one transaction, then the answer.

A route is a handler with an *action* from `control.access`; there is no other way to add one. For each request the desk

1. finds out who presents the credential (401),
2. asks `access.check` about the action, in the project that the path names (404, 403),
3. reads and checks the body (413, 415, 400), which nobody gets to who may not,
4. opens the transaction, asks 1 and 2 again in it when that was more than a second ago, and looks for an answer to the
   same idempotency key,
5. runs the handler, keeps the answer for the key, and commits before anything is sent.
"""

import asyncio
import hashlib
import inspect
import json
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeVar, cast

import sqlalchemy as sa
from fastapi import FastAPI, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tilth.client.errors import ConflictError, UnknownError
from tilth.client.shapes.shape import Problem
from tilth.control import access, secret
from tilth.control.access import Principal
from tilth.control.api import body, problem
from tilth.control.change import Change
from tilth.control.clock import now_us
from tilth.control.etag import same
from tilth.control.records import principals, projects, repeats
from tilth.control.store.database import Database
from tilth.control.store.paging import DEFAULT, MOST
from tilth.core.errors import InvalidError, TilthError, UnavailableError

Cursor = Annotated[str, Query(max_length=512, description="The `next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows on a page.")]
DEFAULT_LIMIT = DEFAULT

_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9_-]{1,100})")
_KEY = re.compile(r"[!-~]{1,128}")
_HELD = re.compile(r"\{(\w+)\}")
_RULES = {401: "no credential, or none that is accepted", 403: "not allowed", 404: "not there, or not for you"}
Handler = Callable[..., Any]
T = TypeVar("T")
_READERS = 8
_MOMENT_S = 1.0
Prepare = Callable[..., Awaitable[dict[str, Any]]]
#: Finds out who asks, or raises UnknownError.
Identify = Callable[[sa.Connection], Principal]


@dataclass
class Call:
    """A request that may be answered: who asks, and the transaction. `project` is the row that the path names."""

    connection: sa.Connection
    principal: Principal
    project: sa.RowMapping
    match: str | None = None
    _change: Change | None = None

    @property
    def change(self) -> Change:
        """The change that this request makes."""
        assert self._change is not None  # noqa: S101 - the desk gives one to every handler of a mutating method
        return self._change


@dataclass(frozen=True)
class Route:
    """A route as it was declared, for those who check that each one is guarded."""

    method: str
    path: str
    action: str


class _DeskRoute(APIRoute):
    """FastAPI's route for what it documents, answered by the desk."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Return the desk's own handler: the body is not looked at before who sends it is known."""
        return cast("Callable[[Request], Any]", self.endpoint.answer)  # type: ignore[attr-defined]


class Desk:
    """The one door to a store, for the API and the console."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # Apart, so that who reads does not wait behind those who wait for their turn to write.
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self._writers = ThreadPoolExecutor(database.writers, "writer")
        self.routes: list[Route] = []
        self.app = FastAPI(title="Tilth control plane", version="1", openapi_url=None, docs_url=None, redoc_url=None)
        self.app.router.route_class = _DeskRoute
        self.app.router.redirect_slashes = False
        #: Told after a change was kept, with its events; must return at once.
        self.listeners: list[Callable[[Change], None]] = []

    # -- declaring

    def read(self, path: str, action: str, *, summary: str, method: str = "GET") -> Callable[[Handler], Handler]:
        """Declare what is asked: a handler `(call, ...) -> Shape` in a transaction that only reads.

        With POST the question is in the body.
        """
        return self._declared(method, path, action, summary, 200, self._reading)

    def change(
        self,
        method: str,
        path: str,
        action: str,
        *,
        summary: str,
        status: int = 200,
        once: bool = False,
        prepare: Prepare | None = None,
        match: bool | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare a change: a handler `(call, ...) -> Shape | None` that uses `call.change`.

        The answer to `once` is not kept for who repeats it, as it holds a secret. What takes long comes before the
        transaction: `prepare` gets what the handler gets, and returns more arguments for it. `match` says whether the
        handler looks at `call.match`; None: it does where it changes or removes what has an ETag.
        """
        more = {"once": once, "prepare": prepare, "match": match}
        return self._declared(method, path, action, summary, status, self._changing, **more)

    def stream(
        self, method: str, path: str, action: str, *, summary: str, status: int = 200, kind: str = "application/json"
    ) -> Callable[[Handler], Handler]:
        """Declare a handler `async (call, request, ...) -> Response` that reads or writes what is too long for memory.

        Its call has a connection that is closed; it opens what it needs at the desk.
        """
        return self._declared(method, path, action, summary, status, self._streaming, kind=kind)

    def _declared(
        self, method: str, path: str, action: str, summary: str, status: int, serve: Any, **more: Any
    ) -> Callable[[Handler], Handler]:
        def declare(handler: Handler) -> Handler:
            form = _Form(handler, path)
            kind, match = more.pop("kind", "application/json"), more.pop("match", None)

            async def answer(request: Request) -> Response:
                return await self._answered(request, lambda: serve(request, action, form, status, **more))

            def endpoint() -> None:
                """Never called: it carries what FastAPI documents."""

            endpoint.__signature__ = form.signature  # type: ignore[attr-defined]
            endpoint.__doc__ = inspect.getdoc(handler)
            endpoint.__name__ = handler.__name__
            endpoint.answer = answer  # type: ignore[attr-defined]
            shape = form.answers
            code = 204 if shape is None else status
            self.app.add_api_route(
                path,
                endpoint,
                methods=[method],
                status_code=code,
                summary=summary,
                response_model=shape if inspect.isclass(shape) and issubclass(shape, BaseModel) else None,
                responses=_documented(method, code, kind),
                operation_id=handler.__name__,
                tags=[action.partition(".")[0]],
                openapi_extra=_headers(method, _matches(method, status, shape) if match is None else match),
            )
            self.routes.append(Route(method, path, action))
            return handler

        return declare

    # -- answering

    async def _answered(self, request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
        try:
            return await work()
        except ClientDisconnect:
            # Nobody is there to be told.
            return Response(status_code=400)
        except Exception as error:
            return problem.answer(_told(error))

    async def _reading(self, request: Request, action: str, form: "_Form", status: int) -> Response:
        if form.takes_body:
            await self._aside(self._readers, partial(self.admit, request, action))
        query = form.query(request) | form.body(await body.read(request) if form.takes_body else b"")

        def run() -> Response:
            with self.database.read() as connection:
                call = self._admitted(connection, request, action)
                return _response(form.run(call, request, query), status, request)

        return await self._aside(self._readers, run)

    async def _changing(
        self,
        request: Request,
        action: str,
        form: "_Form",
        status: int,
        *,
        once: bool = False,
        prepare: Prepare | None = None,
    ) -> Response:
        first, began = await self._aside(self._readers, partial(self.admit, request, action)), time.monotonic()
        query = form.query(request) | form.body(await body.read(request) if form.takes_body else b"")
        asked = hashlib.sha256(f"{request.method} {request.url.path}\n".encode() + form.raw(query)).hexdigest()
        key = _key(request) if request.method == "POST" else None
        more = {}
        if prepare is not None:
            # What it looked at when the request came first may be gone by now.
            kept = await self._aside(self._readers, partial(self._kept, first, key, asked))
            if kept is not None:
                return _repeated(*kept)
            more = await prepare(first, **form.path(request), **query)

        def run() -> Response:
            with self.database.write() as connection:
                # Who was let in a moment ago is let in; after a long body or check, who asks may be nobody any more.
                call = replace(first, connection=connection)
                if time.monotonic() - began > _MOMENT_S:
                    call = self._admitted(connection, request, action)
                change = call._change = Change(connection, call.principal)
                if key is not None:
                    kept = repeats.find(connection, call.principal.user_id, key, asked, change.at_us)
                    if kept is not None:
                        return _repeated(*kept)
                answer = _response(form.run(call, request, query | more), status, request)
                if key is not None:
                    body = "" if once else bytes(answer.body).decode()
                    repeats.keep(connection, call.principal.user_id, key, asked, answer.status_code, body, change.at_us)
            self._tell(change)
            return answer

        return await self._aside(self._writers, run)

    def _kept(self, call: Call, key: str | None, asked: str) -> tuple[int, str] | None:
        if key is None:
            return None
        with self.database.read() as connection:
            return repeats.find(connection, call.principal.user_id, key, asked, now_us())

    async def _streaming(self, request: Request, action: str, form: "_Form", status: int) -> Response:
        call = await self._aside(self._readers, partial(self.admit, request, action))
        found: Response = await form.run(call, request, form.query(request) | {"request": request})
        return found

    @staticmethod
    def _aside(pool: ThreadPoolExecutor, work: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(pool, work)

    def admit(self, request: Request, action: str) -> Call:
        """Return the call of a request that may be answered, its connection closed.

        Raises:
            UnknownError: nobody that is known asks.
            MissingError: the project is not there, or not for who asks.
            ForbiddenError: who asks may not do this.
        """
        with self.database.read() as connection:
            return self._admitted(connection, request, action)

    def _admitted(self, connection: sa.Connection, request: Request, action: str) -> Call:
        name = request.path_params.get("project")
        if name is None:
            principal = self.principal(connection, request)
            access.check(principal, action)
            return Call(connection, principal, cast("sa.RowMapping", {}), request.headers.get("if-match"))
        principal, project = principals.of_token_in(connection, _presented(request), now_us(), name)
        if project is None:
            raise access.no_project()
        access.check(principal, action, project["id"])
        return Call(connection, principal, cast("sa.RowMapping", project), request.headers.get("if-match"))

    def principal(self, connection: sa.Connection, request: Request) -> Principal:
        """Return who asks by the request's bearer token.

        Raises:
            UnknownError: there is none, or it is not accepted.
        """
        return principals.of_token(connection, _presented(request), now_us())

    async def shows(self, who: Identify, action: str, project: str | None, work: Callable[[Call], T]) -> T:
        """Return what `work` makes of a call that only reads, for whom `who` finds, as far as it may do `action`.

        For those who show who they are other than by a bearer token: the console.

        Raises:
            TilthError: as `admit`, and what `work` raises.
        """

        def run() -> T:
            with self.database.read() as connection:
                return work(self._let_in(connection, who(connection), action, project))

        return await self._aside(self._readers, partial(_in_our_words, run))

    async def does(self, who: Identify, action: str, project: str | None, work: Callable[[Call], T]) -> T:
        """Return what `work` makes of a call that changes something, in one transaction; else as `shows`."""

        def run() -> T:
            with self.database.write() as connection:
                call = self._let_in(connection, who(connection), action, project)
                call._change = change = Change(connection, call.principal)
                found = work(call)
            self._tell(change)
            return found

        return await self._aside(self._writers, partial(_in_our_words, run))

    def _let_in(self, connection: sa.Connection, asks: Principal, action: str, name: str | None) -> Call:
        project = projects.found(connection, name) if name is not None else cast("sa.RowMapping", {})
        access.check(asks, action, project["id"] if name is not None else None)
        return Call(connection, asks, project)

    def changed(self, principal: Principal, work: Callable[[Change], Any]) -> Any:
        """Run `work` in a transaction on behalf of `principal`, tell who listens, and return what it returned."""
        with self.database.write() as connection:
            change = Change(connection, principal)
            found = work(change)
        self._tell(change)
        return found

    def _tell(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)


def _in_our_words(work: Callable[[], T]) -> T:
    """Return what `work` returns; a database's errors become ours."""
    try:
        return work()
    except Exception as error:
        told = _told(error)
        if told is error:
            raise
        raise told from error


def _presented(request: Request) -> str:
    """Return the hash of the bearer token of a request.

    Raises:
        UnknownError: there is none, more than one, or one of another form.
    """
    sent = request.headers.getlist("authorization")
    found = _BEARER.fullmatch(sent[0]) if len(sent) == 1 else None
    hashed = secret.hashed(found[1]) if found else None
    if hashed is None:
        raise UnknownError(
            "a credential is needed",
            why="there is no `Authorization: Bearer` header with a token of this control plane",
            hint="`tilth login`, or send the header",
        )
    return hashed


class _Form:
    """What a handler takes: path, query and body, told by its signature."""

    def __init__(self, handler: Handler, path: str) -> None:
        self._handler = handler
        names = _HELD.findall(path)
        found = inspect.signature(handler)
        self.answers = found.return_annotation
        self._path = [name for name in names if name in found.parameters]
        self._body: tuple[str, type[BaseModel]] | None = None
        self._query: dict[str, tuple[TypeAdapter[Any], Any]] = {}
        shown = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=str) for name in names]
        for name, parameter in found.parameters.items():
            prepared = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            if name in (*names, "call", "request") or prepared:
                continue
            kind = parameter.annotation
            if inspect.isclass(kind) and issubclass(kind, BaseModel):
                self._body = (name, kind)
            else:
                self._query[name] = (TypeAdapter(kind), parameter.default)
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        self.signature = inspect.Signature(shown)

    @property
    def takes_body(self) -> bool:
        """Whether there is a body to read."""
        return self._body is not None

    def query(self, request: Request) -> dict[str, Any]:
        """Return the values of the query.

        Raises:
            InvalidError: one is unknown, there twice, or out of range.
        """
        made, sent = {}, request.query_params
        for name in sent:
            if name not in self._query or len(sent.getlist(name)) > 1:
                raise InvalidError(
                    f"`{problem.shown(name)}` in the query is not understood",
                    why="it is given twice, or not known here",
                    hint=f"known: {', '.join(self._query) or 'none'}",
                )
        for name, (kind, default) in self._query.items():
            try:
                made[name] = kind.validate_python(sent[name]) if name in sent else default
            except ValidationError as error:
                raise problem.not_understood([{**one, "loc": (name,)} for one in error.errors()]) from None
        return made

    def body(self, data: bytes) -> dict[str, Any]:
        """Return the body by the name that the handler has for it.

        Raises:
            InvalidError: it is not what is described.
        """
        if self._body is None:
            return {}
        name, kind = self._body
        body.check(data)
        try:
            return {name: kind.model_validate_json(data)}
        except ValidationError as error:
            raise problem.not_understood(cast("list[dict[str, Any]]", error.errors())) from None

    def raw(self, given: dict[str, Any]) -> bytes:
        """Return what was asked in one form, whatever spaces the client put between."""
        texts = [value.model_dump_json() if isinstance(value, BaseModel) else repr(value) for value in given.values()]
        return "\n".join(texts).encode()

    def path(self, request: Request) -> dict[str, str]:
        """Return what the handler wants of the path."""
        return {name: request.path_params[name] for name in self._path}

    def run(self, call: Call, request: Request, given: dict[str, Any]) -> Any:
        """Call the handler."""
        return self._handler(call, **self.path(request), **given)


def _key(request: Request) -> str | None:
    sent = request.headers.get("idempotency-key")
    if sent is not None and not _KEY.fullmatch(sent):
        raise InvalidError("the idempotency key is not understood", why="it has 1 to 128 visible ASCII characters")
    return sent


def _response(made: Any, status: int, request: Request) -> Response:
    headers = {"Cache-Control": "no-store"}
    if made is None:
        return Response(status_code=204 if status == 200 else status, headers=headers)
    tag = getattr(made, "etag", None)
    if tag is not None:
        headers["ETag"] = tag
        if request.method == "GET" and same(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
    return Response(made.model_dump_json(), status, headers=headers, media_type="application/json")


def _repeated(status: int, body: str) -> Response:
    if not body and status == 201:
        raise ConflictError(
            "this was made by an earlier request with the same idempotency key",
            why="its answer held a secret, which is not kept",
            hint="if you do not have the secret, revoke it and make another",
        )
    headers = {"Cache-Control": "no-store", "Idempotency-Replayed": "true"}
    tag = json.loads(body).get("etag") if body else None
    if tag is not None:
        headers["ETag"] = tag
    return Response(body, status, headers=headers, media_type="application/json" if body else None)


def _told(error: Exception) -> Exception:
    """Return a database's errors as ours; what is unexpected stays as it is."""
    if isinstance(error, TilthError):
        return error
    if isinstance(error, IntegrityError):
        return ConflictError(
            "it collides with what was made at the same time", hint="read again what is there, and decide anew"
        )
    if isinstance(error, sa.exc.DataError):
        return InvalidError("the request is not understood", why="the store cannot hold one of its values")
    if isinstance(error, OperationalError | DBAPIError) and not isinstance(error, sa.exc.ProgrammingError):
        words = str(error.orig).strip().splitlines()[:1]
        return UnavailableError("the store cannot be used", why=(words or [""])[0][:300], hint="is its disk full?")
    return error


def _documented(method: str, status: int, kind: str) -> dict[int | str, dict[str, Any]]:
    made: dict[int | str, dict[str, Any]] = {}
    codes = dict(_RULES)
    codes |= {400: "not understood", 422: "a rule says no", 503: "not possible at this time"}
    if method != "GET":
        codes |= {409: "it collides with what is there", 412: "changed meanwhile", 413: "too large"}
        codes |= {415: "not of the kind that is taken"}
    for code, words in codes.items():
        made[code] = {"description": words, "content": {"application/problem+json": {}}, "model": Problem}
    if method == "GET":
        made[304] = {"description": "you have it"}
    if kind != "application/json":
        made[status] = {"content": {kind: {}}}
    return made


def _matches(method: str, status: int, shape: Any) -> bool:
    """Return whether a handler that answers `shape` changes what has an ETag: what is made (201) was not there."""
    has_tag = shape is None or "etag" in getattr(shape, "model_fields", ())
    return method != "GET" and has_tag and (method != "POST" or status == 200)


def _headers(method: str, match: bool) -> dict[str, Any]:
    def header(name: str, words: str) -> dict[str, Any]:
        return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": words}

    made = []
    if method == "POST":
        made.append(
            header("Idempotency-Key", "Names this request, so that it can be sent again without a second effect.")
        )
    if match:
        made.append(header("If-Match", "The ETag that you read; when it is another meanwhile, nothing is changed."))
    if method == "GET":
        made.append(header("If-None-Match", "The ETag that you have; when it is still that, the answer is 304."))
    return {"parameters": made}
