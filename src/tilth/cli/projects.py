"""`tilth projects`: name spaces of models and endpoints."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson
from tilth.cli.remote import MANY, Limit, moment, print_list, say, some
from tilth.client.client import Client

Name = Annotated[str, typer.Argument(help="The project.")]


def command(ctx: typer.Context, limit: Limit = MANY, as_json: AsJson = False) -> None:
    """List projects; make or remove one.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in() as client:
        found = some(client.projects.list(), limit)
    columns = {
        "project": lambda one: one.name,
        "you are its": lambda one: one.role or "",
        "description": lambda one: one.description,
        "made (UTC)": lambda one: moment(one.created_at),
    }
    print_list(found, as_json, columns, none="you are in no project; an administrator can add you to one")


def add(
    name: Name,
    description: Annotated[str, typer.Option("--description", help="What it is, for people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a project; you become its admin.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        made = client.projects.make(name, description)
    say(made, as_json, f"project `{made.name}` is there")


def remove(name: Name, as_json: AsJson = False) -> None:
    """Remove a project in which there is nothing.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        client.projects.remove(name)
    say({"removed": name}, as_json, f"project `{name}` is removed")


COMMANDS = {"add": add, "remove": remove}
