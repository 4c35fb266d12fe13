"""`tilth login`: an address and a token, tried and kept."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit
from tilth.client.client import DEFAULT_PROJECT, Client
from tilth.client.login import Login, keep_login, login_place
from tilth.client.shapes.who import Me
from tilth.control.home import Home, default_home
from tilth.core.errors import InvalidError, MissingError

_MOST_CHARACTERS = 4096


def command(
    url: Annotated[str, typer.Argument(help="Its address; default: the control plane of this machine.")] = "",
    token_file: Annotated[
        str, typer.Option("--token-file", help="A file that holds the token, `-` for standard input.")
    ] = "",
    project: Annotated[str, typer.Option("--project", "-p", help="The project of commands that name none.")] = "",
    ca: Annotated[
        Path | None, typer.Option("--ca", help="PEM file of the authority that its certificate is from.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Send the token to another machine without TLS.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Keep the address and token of a control plane.

    The commands that talk to one use them: push, pull, deploy, models and the others.

    The token is asked for, or comes from --token-file, from `TILTH_TOKEN` or through a pipe; it is never an argument,
    which others on the machine could read. It is tried before it is kept, in a file that only you can read.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    url = url or _running()
    token = _token(token_file, url)
    authority = str(ca.absolute()) if ca is not None else ""
    with Client(url, token, ca=authority or None, insecure=insecure) as client:
        me = client.me()
        chosen = project or default_project(me)
        if project:
            client.projects.get(project)
    place = login_place()
    keep_login(place, Login(url, token, chosen, authority, insecure))
    told = {"url": url, "user": me.user, "is_admin": me.is_admin, "project": chosen, "file": str(place)}
    who = f"{me.user}, an administrator" if me.is_admin else me.user
    emit(told, as_json, lambda: f"logged in at {url} as {who}; project `{chosen}`")


def default_project(me: Me) -> str:
    """Return the project that commands are about until another is chosen: the token's, `default`, or the first."""
    if me.project:
        return me.project
    if me.is_admin or DEFAULT_PROJECT in me.roles or not me.roles:
        return DEFAULT_PROJECT
    return min(me.roles)


def _running() -> str:
    told = Home(default_home().absolute()).told() or {}
    if isinstance(found := told.get("address"), str):
        return found
    raise MissingError(
        "no address is named",
        why="no control plane of yours runs on this machine",
        hint="run `tilth login https://HOST:8750`, or start one with `tilth up`",
    )


def _token(file: str, url: str) -> str:
    if file and file != "-":
        with open(file, encoding="utf-8", errors="replace") as opened:
            text = opened.read(_MOST_CHARACTERS)
    elif not file and (found := os.environ.get("TILTH_TOKEN")):
        text = found
    elif not file and sys.stdin.isatty():
        text = typer.prompt(f"token for {url}", hide_input=True, err=True)
    else:
        text = sys.stdin.read(_MOST_CHARACTERS)
    if not text.strip():
        raise InvalidError("no token came", hint="give it with --token-file, through a pipe, or at the prompt")
    return text.strip()
