"""Signing in and out, the theme, static files, and what is at no page's address."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tilth.client.errors import ForbiddenError, UnknownError
from tilth.control import secret as secrets
from tilth.control.access import Principal
from tilth.control.api import problem
from tilth.control.api.desk import Call, Identify
from tilth.control.clock import now_us
from tilth.control.console import assets, cookie, form, proof, view
from tilth.control.console.door import PUBLIC, Door, bare
from tilth.control.console.frame import Ask, Page, home
from tilth.control.console.words import at
from tilth.control.records import principals, sessions
from tilth.core.errors import InvalidError, MissingError, TilthError

_SIGN_IN = f"{proof.ROOT}/sign-in"


@dataclass(frozen=True)
class SignIn:
    """Another way to sign in than by a token: what its button says, and the address that begins it with a GET.

    The address gets `next`, the page to come back to. Whoever handles it ends with `welcome`.
    """

    label: str
    path: str


def declare(door: Door, ways: Sequence[SignIn]) -> None:
    """Declare the routes; `ways` are the other ways to sign in."""
    _sign_in(door, ways)
    _leaving(door)
    _static(door)


def welcome(request: Request, secret: str, to: str) -> Response:
    """Return a page that signs a browser in with the secret of a new session, and goes on to `to`.

    It is a page and no redirect: after a redirect from another site a browser would not send the new cookie along.
    """
    made = bare("welcome", {"to": proof.own_path(to), "theme": cookie.preference(request.cookies).theme})
    cookie.sign_in(made, secret, request.url.scheme == "https")
    return made


def _sign_in(door: Door, ways: Sequence[SignIn]) -> None:
    async def show(request: Request) -> Response:
        ask = door.ask(request)
        to = proof.own_path(ask.query.get("next", ""))
        try:
            await door.desk.shows(door.who(ask), "me.read", None, lambda _: None)
        except UnknownError:
            return _page(ask, ways, to)
        except TilthError as error:
            return _page(ask, ways, to, error)
        return RedirectResponse(to, 303, headers=view.HEADERS)

    async def enter(request: Request) -> Response:
        ask, to = door.ask(request), proof.ROOT
        try:
            door.check_origin(request)
            sent = await form.read(request)
            to = proof.own_path(sent.text("next"))
            made = await door.desk.does(_by_token(sent.text("token")), "me.read", None, _begun)
        except TilthError as error:
            return _page(ask, ways, to, error)
        await _end(door, ask)
        answer = RedirectResponse(to, 303, headers=view.HEADERS)
        cookie.sign_in(answer, made, ask.https)
        return answer

    door.add("GET", _SIGN_IN, PUBLIC, show)
    door.add("POST", _SIGN_IN, PUBLIC, enter)


def failed(ask: Ask, error: TilthError) -> Response:
    """Return the page for signing in with why another way failed; a token still is one."""
    return _page(ask, (), proof.ROOT, error)


def _page(ask: Ask, ways: Sequence[SignIn], to: str, error: TilthError | None = None) -> Response:
    values = {
        "error": error,
        "next": to if to != proof.ROOT else "",
        "theme": ask.preference.theme,
        "ways": [(one.label, f"{one.path}?{at(next=to).partition('?')[2]}") for one in ways],
    }
    return bare("sign_in", values, problem.status(error) if error else 200)


def _by_token(token: str) -> Identify:
    hashed = secrets.hashed(token)
    if hashed is None:
        raise InvalidError(
            "this is not a token" if token else "the field is empty",
            why="a token begins with `tilth_`, and has 43 letters and digits behind it",
            hint="copy it whole; `tilth up --new-token` makes another one for the administrator",
        )

    def find(connection: sa.Connection) -> Principal:
        return principals.of_token(connection, hashed, now_us())

    return find


def _begun(call: Call) -> str:
    return sessions.begin(call.change, "token")


async def _end(door: Door, ask: Ask) -> None:
    """End a session; one that is none is no error."""
    hashed = secrets.hashed(ask.secret)
    if hashed is None:
        return
    try:
        await door.desk.does(door.who(ask), "me.read", None, lambda call: sessions.end(call.change, hashed))
    except UnknownError:
        return


def _leaving(door: Door) -> None:
    async def leave(request: Request) -> Response:
        ask = door.ask(request)
        try:
            door.check_origin(request)
            sent = await form.read(request)
            _check_mark(ask, sent)
            await _end(door, ask)
        except TilthError as error:
            return await door.refused(request, ask, error)
        answer = RedirectResponse(_SIGN_IN, 303, headers=view.HEADERS | {"Clear-Site-Data": '"cache"'})
        cookie.sign_out(answer, ask.https)
        return answer

    async def theme(request: Request) -> Response:
        ask = door.ask(request)
        try:
            door.check_origin(request)
            sent = await form.read(request)
            _check_mark(ask, sent)
            if sent.text("theme") not in cookie.THEMES:
                raise InvalidError("there is no such theme", hint=f"choose one of {', '.join(cookie.THEMES)}")
        except TilthError as error:
            return await door.refused(request, ask, error)
        answer = RedirectResponse(proof.own_path(sent.text("next")), 303, headers=view.HEADERS)
        cookie.prefer(answer, ask.https, theme=sent.text("theme"))
        return answer

    door.add("POST", f"{proof.ROOT}/sign-out", PUBLIC, leave)
    door.add("POST", f"{proof.ROOT}/theme", PUBLIC, theme)


def _check_mark(ask: Ask, sent: form.Form) -> None:
    if ask.secret and not proof.is_marked(ask.secret, sent.text("_csrf")):
        raise ForbiddenError("this form is not from a page of your session", hint="load the page again")


def _static(door: Door) -> None:
    known = {one.address: one for one in assets.load().values()}

    async def static(request: Request) -> Response:
        found = known.get(request.scope["path"])
        if found is None:
            return Response("there is no such file", 404, view.HEADERS, "text/plain")
        headers = view.HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.body, 200, headers, found.kind)

    async def root(_: Request) -> Response:
        return RedirectResponse(proof.ROOT, 303, headers=view.HEADERS)

    async def begin(request: Request) -> Response:
        ask = door.ask(request)
        try:
            to = await door.desk.shows(door.who(ask), "me.read", None, lambda call: home(call, ask))
        except TilthError as error:
            return await door.refused(request, ask, error)
        return RedirectResponse(to, 303, headers=view.HEADERS)

    door.add("GET", f"{proof.ROOT}/static/{{name}}", PUBLIC, static)
    door.add("GET", "/", PUBLIC, root)
    door.add("GET", proof.ROOT, "me.read", begin)


def declare_last(door: Door) -> None:
    """Declare what is at no page's address, behind everything else."""

    @door.page(f"{proof.ROOT}/{{rest:path}}", "me.read")
    def nothing(call: Call, ask: Ask) -> Page:
        raise MissingError("there is no such page", hint="choose one on the left")
