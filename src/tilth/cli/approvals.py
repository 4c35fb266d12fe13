"""`tilth approvals`: versions that wait for a second person."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson
from tilth.cli.remote import MANY, InProject, Limit, moment, print_list, say, some
from tilth.client.client import Client

Which = Annotated[str, typer.Argument(metavar="id", help="Its id, as `tilth approvals` shows it.")]
Note = Annotated[str, typer.Option("--note", help="Why, for the history.")]


def command(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Those that are decided, too.")] = False,
    limit: Limit = MANY,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """List versions that wait for a second person, and decide.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    if ctx.invoked_subcommand:
        return
    with Client.logged_in(project) as client:
        found = some(client.approvals.list(state="" if everything else "waiting"), limit)
    columns = {
        "id": lambda one: one.id,
        "version": lambda one: f"{one.model}:{one.number}",
        "stage": lambda one: one.stage,
        "state": lambda one: one.state,
        "asked by": lambda one: one.asked_by,
        "decided by": lambda one: one.decided_by or "",
        "at (UTC)": lambda one: moment(one.created_at),
        "note": lambda one: one.note,
    }
    print_list(found, as_json, columns, right=["id"], none="nothing waits")


def accept(approval: Which, note: Note = "", project: InProject = "", as_json: AsJson = False) -> None:
    """Let a version into the stage; who asked for it cannot.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    _decide(approval, True, note, project, as_json)


def reject(approval: Which, note: Note = "", project: InProject = "", as_json: AsJson = False) -> None:
    """Keep a version out of the stage.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    _decide(approval, False, note, project, as_json)


COMMANDS = {"accept": accept, "reject": reject}


def _decide(approval: str, yes: bool, note: str, project: str, as_json: bool) -> None:
    with Client.logged_in(project) as client:
        made = client.approvals.decide(approval, accept=yes, note=note)
    say(made, as_json, f"{made.model}:{made.number} to {made.stage}: {made.state}")
