"""`tilth logout`: the address and token of `tilth login`, forgotten."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit
from tilth.client.client import Client
from tilth.client.login import forget_login, kept_login, login_place
from tilth.core.errors import MissingError


def command(
    revoke: Annotated[bool, typer.Option("--revoke", help="End the token at the control plane, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget the control plane that `tilth login` keeps.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    place = login_place()
    login = kept_login(place)
    if login is None:
        raise MissingError("you are not logged in", why=f"there is no `{place}`")
    if revoke:
        with Client(login.url, login.token, ca=login.ca or None, insecure=login.insecure) as client:
            client.tokens.revoke(client.me().token)
    forget_login(place)
    ended = "; its token has ended" if revoke else ""
    emit({"url": login.url, "revoked": revoke}, as_json, lambda: f"logged out of {login.url}{ended}")
