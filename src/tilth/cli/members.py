"""`tilth members`: who is in a project, and as what."""

from typing import Annotated, get_args

import typer

from tilth.cli.output import AsJson
from tilth.cli.remote import MANY, InProject, Limit, moment, print_list, say, some
from tilth.client.client import Client
from tilth.client.shapes.who import Role

User = Annotated[str, typer.Argument(help="The user.")]


def command(ctx: typer.Context, limit: Limit = MANY, project: InProject = "", as_json: AsJson = False) -> None:
    """List who is in a project; add, change or remove somebody.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in(project) as client:
        found = some(client.members.list(), limit)
    columns = {
        "user": lambda one: one.user,
        "role": lambda one: one.role,
        "since (UTC)": lambda one: moment(one.created_at),
    }
    print_list(found, as_json, columns, none="nobody is in this project")


def add(
    user: User,
    role: Annotated[str, typer.Argument(help="viewer, developer, operator or admin.")],
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Make a user a member, or give it another role.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    known: dict[str, Role] = {one: one for one in get_args(Role)}
    if role not in known:
        raise typer.BadParameter(f"`{role}` is not a role; roles are {', '.join(known)}")
    with Client.logged_in(project) as client:
        made = client.members.put(user, known[role])
        where = client.project
    say(made, as_json, f"`{made.user}` is {made.role} in project `{where}`")


def remove(user: User, project: InProject = "", as_json: AsJson = False) -> None:
    """Take a user out of a project.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client:
        client.members.remove(user)
        where = client.project
    say({"removed": user}, as_json, f"`{user}` is out of project `{where}`")


COMMANDS = {"add": add, "remove": remove}
