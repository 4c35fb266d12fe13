"""`tilth tokens`: what programs present in place of a user."""

from typing import Annotated, get_args

import typer

from tilth.cli.output import AsJson
from tilth.cli.remote import MANY, Limit, moment, parsed_age_s, plain, print_list, say, some
from tilth.client.client import Client
from tilth.client.shapes.who import TokenRole


def command(ctx: typer.Context, limit: Limit = MANY, as_json: AsJson = False) -> None:
    """List tokens; make or revoke one.

    They are yours, and all of them for an administrator.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in() as client:
        found, own = some(client.tokens.list(), limit), client.me().token
    columns = {
        "id": lambda one: one.id,
        "name": lambda one: f"{one.name} (this one)" if one.id == own else one.name,
        "user": lambda one: one.user,
        "project": lambda one: one.project or "all of the user's",
        "role": lambda one: one.role or "the user's",
        "expires (UTC)": lambda one: moment(one.expires_at) or "never",
        "revoked (UTC)": lambda one: moment(one.revoked_at),
    }
    print_list(found, as_json, columns, right=["id"], none="no token is there")


def add(
    name: Annotated[str, typer.Argument(help="What it is for, such as `ci`.")],
    user: Annotated[str, typer.Option("--user", help="Whose it is; an administrator may name another user.")] = "",
    project: Annotated[str, typer.Option("--project", "-p", help="The one project that it is for.")] = "",
    role: Annotated[
        str, typer.Option("--role", help="The most that it allows: caller, viewer, developer, operator or admin.")
    ] = "",
    expires: Annotated[str, typer.Option("--expires", help="How long it holds, such as 90d, 12h or 30m.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token; its secret is shown this once.

    The secret alone is on standard output, so that it can be piped into a file or a secret store.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    known: dict[str, TokenRole] = {one: one for one in get_args(TokenRole)}
    if role and role not in known:
        raise typer.BadParameter(f"`{role}` is not a role; roles are {', '.join(known)}")
    with Client.logged_in() as client:
        made = client.tokens.make(
            name,
            user=user or None,
            project=project or None,
            role=known.get(role),
            expires_in_s=parsed_age_s(expires) if expires else None,
        )
    if not as_json:
        until = f", until {moment(made.expires_at)} UTC" if made.expires_at else ""
        typer.echo(f"token {made.id} of `{made.user}`{until}; its secret is shown this once:", err=True)
    say(plain(made), as_json, made.secret)


def revoke(
    token: Annotated[str, typer.Argument(metavar="id", help="Its id, as `tilth tokens` shows it.")],
    as_json: AsJson = False,
) -> None:
    """End a token; whoever uses it is refused at once.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in() as client:
        client.tokens.revoke(token)
    say({"revoked": token}, as_json, f"token {token} is revoked")


COMMANDS = {"add": add, "revoke": revoke}
