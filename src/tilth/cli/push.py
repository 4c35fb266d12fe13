"""`tilth push`: a bundle on its way into the registry."""

from pathlib import Path
from typing import Annotated

import typer

from tilth.bridge.bundle_read import open_bundle
from tilth.cli.output import AsJson, emit, human_bytes
from tilth.cli.progress import moved
from tilth.cli.remote import InProject, parsed_tags, plain
from tilth.client.client import Client
from tilth.client.lineage import noted
from tilth.client.shapes.model import Lineage
from tilth.client.wire import made

Texts = list[str] | None


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as `tilth import` and `tilth build` write it.")],
    model: Annotated[str, typer.Argument(help="The model; default: the name of the bundle.")] = "",
    alias: Annotated[Texts, typer.Option("--alias", "-a", help="An alias that is to name this version.")] = None,
    tag: Annotated[Texts, typer.Option("--tag", "-t", help="NAME=VALUE, shown and kept.")] = None,
    description: Annotated[str, typer.Option("--description", help="What it is, for people.")] = "",
    run: Annotated[str, typer.Option("--run", help="The training run that it is from.")] = "",
    data: Annotated[Texts, typer.Option("--data", help="A dataset that it was trained on.")] = None,
    parent: Annotated[str, typer.Option("--parent", help="The version that it was made from.")] = "",
    code: Annotated[str, typer.Option("--code", help="The code that trained it.")] = "",
    project: InProject = "",
    as_json: AsJson = False,
) -> None:
    """Upload a bundle and register it as the next version of a model.

    Only what the project does not have yet is sent. Interrupted, run it again: it goes on where it was. What the
    bundle notes of its run, data, parent and code holds where nothing else is said.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    with open_bundle(bundle) as opened:
        name, known = opened.manifest.name, noted(opened.manifest.notes)
    told = {"run": run, "data": data, "parent": parent, "code": code}
    lineage = made(Lineage, **(known.model_dump() | {key: value for key, value in told.items() if value}))
    with Client.logged_in(project) as client, moved(as_json) as report:
        pushed = client.push(
            bundle,
            model or name,
            aliases=alias or [],
            tags=parsed_tags(tag),
            description=description,
            lineage=lineage,
            progress=report,
        )
    version = pushed.version
    names = "".join(f", {one}" for one in version.aliases)
    emit(
        {"version": plain(version), "sent_bytes": pushed.sent_bytes, "made_model": pushed.made_model},
        as_json,
        lambda: (
            f"{version.model}:{version.number}{names}  {version.digest[:12]}  "
            f"{human_bytes(version.size_bytes)}, {human_bytes(pushed.sent_bytes)} sent\n"
            f"next: tilth deploy {version.model}:{version.number}"
        ),
    )
