"""`tilth rollback`: an endpoint serves again what it served before."""

from typing import Annotated

import typer

from tilth.cli.deploy import WAIT_S, Note, Wait, show
from tilth.cli.output import AsJson
from tilth.cli.progress import moved
from tilth.cli.remote import InProject
from tilth.client.client import Client


def command(
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
    deployment: Annotated[
        int | None,
        typer.Option("--to", min=1, help="A deployment of `tilth endpoints history`; default: the one before."),
    ] = None,
    note: Note = "",
    wait: Wait = WAIT_S,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Let an endpoint serve again what it served before.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client, moved(as_json) as report:
        wanted = client.endpoints.rollback(endpoint, deployment, note=note)
        client.endpoints.settle(wanted, wait_s=wait, progress=report)
        show(client, endpoint, as_json)
