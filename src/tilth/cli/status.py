"""`tilth status`: whether a control plane runs here, and how it is."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from tilth.cli.output import AsJson, emit
from tilth.cli.remote import some
from tilth.client.client import Client
from tilth.client.login import current_login
from tilth.control.home import Home, default_home
from tilth.core.errors import TilthError

_PATIENCE_S = 3.0
_MOST = 1000


def command(
    home: Annotated[Path | None, typer.Option("--home", help="Folder of everything that it keeps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show whether a control plane runs on this machine, and how it is.

    Where you are logged in, the endpoints of your project are shown, too.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    place = Home((home or default_home()).absolute())
    told = place.told()
    local: dict[str, Any] = {"home": str(place.folder), "running": told is not None, "answers": False}
    if told is not None:
        local |= {"pid": place.holder(), "address": told.get("address", "")}
        local["answers"] = _answers(local["address"])
    remote = _remote()
    emit({"here": local, "login": remote}, as_json, lambda: "\n".join([*_here(local), *_there(remote)]))


def _answers(address: str) -> bool:
    """Return whether it says that it is ready."""
    # Its certificate may name another host than the address that it listens on; nothing is sent and nothing kept.
    asked: dict[str, Any] = {"timeout": _PATIENCE_S, "trust_env": False, "verify": False}
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        return httpx.get(f"{address}/health", **asked).status_code == 200
    return False


def _remote() -> dict[str, Any]:
    """Return who you are where you are logged in, with the endpoints there; `why` when that cannot be said."""
    try:
        login = current_login()
        with Client(
            login.url,
            login.token,
            project=login.project,
            ca=login.ca or None,
            insecure=login.insecure,
            timeout_s=_PATIENCE_S,
        ) as client:
            me = client.me()
            found = {"url": login.url, "user": me.user, "project": login.project, "version": me.version, "why": ""}
            endpoints = some(client.endpoints.list(), _MOST)
    except TilthError as error:
        return {"url": "", "why": error.what}
    states = {one.name: one.standing.state if one.standing is not None else "" for one in endpoints}
    return found | {"serving": me.serving, "endpoints": states}


def _here(local: dict[str, Any]) -> list[str]:
    if not local["running"]:
        return [f"no control plane runs on `{local['home']}`"]
    how = "is ready" if local["answers"] else "does not answer"
    return [f"control plane {local['address']} {how}; process {local['pid']}, home `{local['home']}`"]


def _there(remote: dict[str, Any]) -> list[str]:
    if remote["why"]:
        return [f"login: {remote['why']}"]
    who = f"{remote['user']}, project `{remote['project']}`"
    lines = [f"login: {remote['url']}, Tilth {remote['version']}, as {who}"]
    return [*lines, *(f"  {name}  {state}" for name, state in remote["endpoints"].items())]
