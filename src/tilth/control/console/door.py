"""The console's door: every page, form and stream is declared here with its action, and passes the desk.

For each form the door

1. asks whether a page of this address sends it (403),
2. finds out by the session's cookie who does, and asks `access.check` about the action (401, 404, 403),
3. reads the form, which nobody gets to who may not (413, 415, 400),
4. checks the mark that the session's own pages put into their forms (403),
5. asks 2 again in the transaction that keeps the change.

The cookie opens nothing but the console: the API looks at the `Authorization` header alone, and the console never does.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tilth.client.errors import ForbiddenError, UnknownError
from tilth.control import secret as secrets
from tilth.control.access import Principal
from tilth.control.api import problem
from tilth.control.api.desk import Call, Desk, Route
from tilth.control.clock import now_us
from tilth.control.console import cookie, form, proof, view
from tilth.control.console.frame import Ask, Go, Page, Trouble, around
from tilth.control.console.words import at
from tilth.control.records import principals
from tilth.core.errors import TilthError

_LOG = logging.getLogger("tilth.control")
#: The action of what everybody may ask for: signing in, and static files.
PUBLIC: Final = "public"
PROJECT: Final = "/console/p/{project}"
Show = Callable[[Call, Ask], Page]
Do = Callable[[Call, Ask], "Go | Page"]
Answer = Callable[[Request], Awaitable[Response]]


class Door:
    """Where routes of the console are declared."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        #: Every route, for those who check that each one is guarded.
        self.routes: list[Route] = []
        self._actions: dict[Show, str] = {}

    # -- declaring

    def page(self, path: str, action: str) -> Callable[[Show], Show]:
        """Declare a page: `(call, ask) -> Page`, in a transaction that only reads."""

        def declare(handler: Show) -> Show:
            async def answer(request: Request) -> Response:
                return await self._page(request, action, handler)

            self._actions[handler] = action
            self.add("GET", path, action, answer)
            return handler

        return declare

    def form(self, path: str, action: str, name: str, back: Show) -> Callable[[Do], Do]:
        """Declare a form: `(call, ask) -> Go`, with `call.change`.

        When it is refused, the page `back` is shown again with the reason and with what was typed into form `name`.
        """

        def declare(handler: Do) -> Do:
            async def answer(request: Request) -> Response:
                return await self._form(request, action, name, handler, back)

            self.add("POST", path, action, answer)
            return handler

        return declare

    def add(self, method: str, path: str, action: str, answer: Answer) -> None:
        """Add a route with an answer that asks by itself who may, or is for everybody."""
        self.routes.append(Route(method, path, action))
        self.desk.app.add_route(path, answer, methods=[method], include_in_schema=False)

    # -- who asks

    @staticmethod
    def ask(request: Request) -> Ask:
        """Return a request as handlers see it."""
        https = request.url.scheme == "https"
        return Ask(
            path=dict(request.path_params),
            query=dict(request.query_params),
            secret=cookie.secret_of(request.cookies, https),
            https=https,
            here=_here(request),
            base=f"{request.url.scheme}://{request.headers.get('host', '')}",
            is_part="hx-request" in request.headers,
            preference=cookie.preference(request.cookies),
        )

    @staticmethod
    def who(ask: Ask) -> Callable[[sa.Connection], Principal]:
        """Return what finds out who is signed in."""
        hashed = secrets.hashed(ask.secret)

        def find(connection: sa.Connection) -> Principal:
            if hashed is None:
                raise UnknownError("you are not signed in")
            return principals.of_session(connection, hashed, now_us())

        return find

    # -- answering

    async def _page(self, request: Request, action: str, handler: Show) -> Response:
        ask = self.ask(request)
        try:
            return await self._shown(ask, action, handler)
        except Exception as error:
            return await self.refused(request, ask, error)

    async def _shown(self, ask: Ask, action: str, handler: Show, status: int | None = None) -> Response:
        def work(call: Call) -> Response:
            page = handler(call, ask)
            return _response(call, ask, page, status or page.status)

        return await self.desk.shows(self.who(ask), action, ask.path.get("project"), work)

    async def _form(self, request: Request, action: str, name: str, handler: Do, back: Show) -> Response:
        ask = self.ask(request)
        try:
            self.check_origin(request)
            await self.desk.shows(self.who(ask), action, ask.path.get("project"), lambda _: None)
            ask = replace(ask, form=await form.read(request))
            if not proof.is_marked(ask.secret, ask.form.text("_csrf")):
                raise ForbiddenError(
                    "this form is not from a page of your session",
                    why="you signed in anew since the page was loaded, or it is another's",
                    hint="load the page again, and send the form from there",
                )
        except Exception as error:
            return await self.refused(request, ask, error)
        try:
            return await self._done(ask, action, handler)
        except UnknownError as error:
            return await self.refused(request, ask, error)
        except TilthError as error:
            return await self._again(request, ask, name, back, error)
        except Exception as error:
            return await self.refused(request, ask, error)

    async def _done(self, ask: Ask, action: str, handler: Do) -> Response:
        def work(call: Call) -> Response:
            call.match = ask.form.text("etag") or None
            made = handler(call, ask)
            if isinstance(made, Go):
                return RedirectResponse(made.address, 303, headers=view.HEADERS)
            return _without_address(_response(call, ask, made, made.status))

        return await self.desk.does(self.who(ask), action, ask.path.get("project"), work)

    async def _again(self, request: Request, ask: Ask, name: str, back: Show, error: TilthError) -> Response:
        """Show the page again with why its form was refused; when there is no such page any more, say that alone."""
        again = replace(ask, trouble=Trouble(name, error, ask.form))
        try:
            return _without_address(await self._shown(again, self._actions[back], back, problem.status(error)))
        except TilthError:
            return await self.refused(request, ask, error)

    @staticmethod
    def check_origin(request: Request) -> None:
        """Return when a page of this address sends the request.

        Raises:
            ForbiddenError: another one does, or none that is known.
        """
        why = proof.foreign(request.headers, request.url.scheme)
        if why:
            raise ForbiddenError(
                "this form is not from this console", why=why, hint="open the console, and send it there"
            )

    async def refused(self, request: Request, ask: Ask, error: Exception) -> Response:
        """Return a page that says why there is no other; who is not signed in is sent to do that."""
        if isinstance(error, UnknownError):
            return _to_sign_in(request, ask)
        if not isinstance(error, TilthError):
            _LOG.error("a page failed", exc_info=error)
            error = TilthError(
                "the console failed", why="this is a defect in Tilth", hint="the log of `tilth up` says more"
            )
        status, told = problem.status(error), error
        values = {"what": told.what, "why": told.why, "hint": told.hint, "status": status}

        def work(call: Call) -> Response:
            return _response(call, ask, Page("error", values=values), status)

        try:
            return await self.desk.shows(self.who(ask), "me.read", None, work)
        except UnknownError:
            return bare("error_bare", values | {"theme": ask.preference.theme}, status)
        except TilthError:
            return bare("error_bare", values | {"theme": ask.preference.theme}, status)


def _here(request: Request) -> str:
    """Return the address of the page that is asked for, or that a form is on; a form's own address is no page."""
    if request.method in ("GET", "HEAD"):
        query = request.url.query
        return proof.own_path(quote(request.scope["path"]) + (f"?{query}" if query else ""))
    try:
        sent = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return proof.ROOT
    return proof.own_path(sent.path + (f"?{sent.query}" if sent.query else ""))


def bare(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """Return a page without anything around it, for who is not signed in."""
    return Response(view.rendered(template, dict(values)), status, view.HEADERS, "text/html; charset=utf-8")


def _response(call: Call, ask: Ask, page: Page, status: int) -> Response:
    text = view.rendered(page.template, around(call, ask, page.section) | dict(page.values))
    made = Response(text, status, view.HEADERS, "text/html; charset=utf-8")
    name = call.project["name"] if call.project else ""
    if name and name != ask.preference.project:
        cookie.prefer(made, ask.https, project=name)
    return made


def _without_address(page: Response) -> Response:
    """Return a page that answers a form: there is no address from which a browser could load it."""
    page.headers["HX-Push-Url"] = "false"
    return page


def _to_sign_in(request: Request, ask: Ask) -> Response:
    to = at("sign-in", next=ask.here if request.method == "GET" and ask.here != proof.ROOT else "")
    if ask.is_part:
        return Response(status_code=401, headers=view.HEADERS | {"HX-Redirect": to})
    return RedirectResponse(to, 303, headers=view.HEADERS)
