"""`tilth users`: people and services of an installation."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson
from tilth.cli.remote import MANY, Limit, moment, print_list, say, some
from tilth.client.client import Client

Name = Annotated[str, typer.Argument(help="The user.")]


def command(ctx: typer.Context, limit: Limit = MANY, as_json: AsJson = False) -> None:
    """List users; make, change, disable or enable one.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in() as client:
        found = some(client.users.list(), limit)
    columns = {
        "user": lambda one: one.name,
        "administrator": lambda one: "yes" if one.is_admin else "",
        "disabled": lambda one: "yes" if one.disabled else "",
        "signs in": lambda one: "identity provider" if one.external else "token",
        "made (UTC)": lambda one: moment(one.created_at),
    }
    print_list(found, as_json, columns, none="no user is there")


def add(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator of the whole installation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a user, who can do nothing before it is in a project and has a token.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        made = client.users.make(name, is_admin=admin)
    more = f"next: tilth members add {made.name} developer\n      tilth tokens add NAME --user {made.name}"
    say(made, as_json, f"user `{made.name}` is there\n{more}")


def change(
    name: Name,
    admin: Annotated[
        bool, typer.Option("--admin/--no-admin", help="Whether it is an administrator of the whole installation.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a user an administrator of the installation, or no longer.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        made = client.users.change(name, is_admin=admin)
    say(made, as_json, f"`{made.name}` is {'an' if made.is_admin else 'no'} administrator")


def disable(name: Name, as_json: AsJson = False) -> None:
    """Accept nothing of a user any more; its tokens and sessions end to work at once.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        made = client.users.change(name, disabled=True)
    say(made, as_json, f"`{made.name}` is disabled")


def enable(name: Name, as_json: AsJson = False) -> None:
    """Accept a user again.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        made = client.users.change(name, disabled=False)
    say(made, as_json, f"`{made.name}` is enabled")


COMMANDS = {"add": add, "change": change, "disable": disable, "enable": enable}
