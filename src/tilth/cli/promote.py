"""`tilth promote`: one version answers everything."""

from typing import Annotated

import typer

from tilth.cli.deploy import WAIT_S, Note, Wait, show
from tilth.cli.output import AsJson
from tilth.cli.progress import moved
from tilth.cli.remote import InProject
from tilth.client.client import Client
from tilth.client.shapes.endpoint import Wanted
from tilth.core.errors import RefusedError


def command(
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
    version: Annotated[
        str, typer.Argument(help="The version; default: the newest that has a part of the traffic or looks on.")
    ] = "",
    note: Note = "",
    wait: Wait = WAIT_S,
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Let one version answer everything at an endpoint.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with Client.logged_in(project) as client, moved(as_json) as report:
        found = client.endpoints.get(endpoint)
        # What somebody else wanted meanwhile is not overwritten.
        wanted = client.endpoints.promote(
            endpoint,
            version or challenger(endpoint, found.wanted),
            note=note,
            match=found.etag if not version else None,
        )
        client.endpoints.settle(wanted, wait_s=wait, progress=report)
        show(client, endpoint, as_json)


def challenger(endpoint: str, wanted: Wanted) -> str:
    """Return the newest version that has not all of the traffic.

    Raises:
        RefusedError: there is none.
    """
    found = [
        number for number, part in {**wanted.shadow, **wanted.traffic}.items() if wanted.traffic.get(number) != 100
    ]
    if not found:
        raise RefusedError(
            f"there is nothing to promote at `{endpoint}`",
            why="no version has only a part of its traffic, and none looks on",
            hint=f"name one: `tilth promote {endpoint} VERSION`",
        )
    return max(found, key=int)
