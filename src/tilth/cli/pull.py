"""`tilth pull`: a bundle on its way out of the registry."""

from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit, human_bytes
from tilth.cli.progress import moved
from tilth.cli.remote import InProject, plain
from tilth.client.client import Client
from tilth.client.reference import parse_reference


def command(
    model: Annotated[str, typer.Argument(help="MODEL or MODEL:VERSION; a number, an alias or `latest`.")],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The bundle to write: a .tilth file, or a folder with `/`.")
    ] = "",
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Fetch the bundle of a model's version.

    Every byte is checked. Interrupted, run it again: it goes on where it was.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    named = parse_reference(model)
    with Client.logged_in(project) as client, moved(as_json) as report:
        pulled = client.pull(model, out or f"{named.model}.tilth", progress=report)
    told = {"version": plain(pulled.version), "path": str(pulled.path), "came_bytes": pulled.came_bytes}
    found = pulled.version
    came = human_bytes(pulled.came_bytes)
    emit(told, as_json, lambda: f"{pulled.path}  {found.model}:{found.number}  {found.digest[:12]}  {came} fetched")
