"""Signing in through an identity provider: away to it, and back."""

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tilth.control.access import Principal
from tilth.control.console import cookie, proof, view
from tilth.control.console.door import PUBLIC, Door
from tilth.control.console.pages.sign_in import SignIn, failed, welcome
from tilth.control.oidc import CALLBACK, Oidc
from tilth.control.records import sessions
from tilth.core.errors import TilthError

_BEGIN = f"{CALLBACK}/begin"
_CONSOLE = Principal("system", "system")


def way(label: str) -> SignIn:
    """Return the button that begins it."""
    return SignIn(label, _BEGIN)


def declare(door: Door, oidc: Oidc) -> None:
    """Declare the routes. The provider sends browsers back to `CALLBACK`."""

    async def begin(request: Request) -> Response:
        try:
            address, browser = await oidc.begin(proof.own_path(request.query_params.get("next", "")))
        except TilthError as error:
            return failed(door.ask(request), error)
        answer = RedirectResponse(address, 303, headers=view.HEADERS)
        cookie.tie(answer, browser, request.url.scheme == "https")
        return answer

    async def back(request: Request) -> Response:
        https = request.url.scheme == "https"
        try:
            identity, to = await oidc.finish(request.query_params, cookie.tied(request.cookies, https))
            made = await door.desk.does(
                _console, "me.read", None, lambda call: sessions.of_external(call.change, identity)
            )
        except TilthError as error:
            return failed(door.ask(request), error)
        answer = welcome(request, made, to)
        cookie.untie(answer, https)
        return answer

    door.add("GET", _BEGIN, PUBLIC, begin)
    door.add("GET", CALLBACK, PUBLIC, back)


def _console(_: sa.Connection) -> Principal:
    """Return on whose behalf somebody becomes a user at the first sign-in."""
    return _CONSOLE
