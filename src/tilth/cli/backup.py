"""`tilth backup`: everything of a control plane, in a folder."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from tilth import wiring
from tilth.cli.output import AsJson, emit, human_bytes
from tilth.cli.progress import moved
from tilth.cli.store import store_address
from tilth.control.backup.take import take
from tilth.control.home import Home, default_home
from tilth.core.errors import MissingError, RefusedError


def command(
    to: Annotated[Path, typer.Argument(help="The folder, on another disk than the control plane's.")],
    home: Annotated[Path | None, typer.Option("--home", help="Folder of everything that it keeps.")] = None,
    store: Annotated[str, typer.Option("--store", help="Its database, where `tilth up` was given one.")] = "",
    blobs: Annotated[str, typer.Option("--blobs", help="Its place for blobs, where `tilth up` was given one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Copy all of a control plane into a folder, also while it runs.

    It is of one moment. A second backup into the same folder copies only blobs that are not there yet, and the one
    before stays whole until it is replaced. Interrupted, run it again.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    place = Home((home or default_home()).absolute())
    address = store_address(store, place)
    folder = to.absolute()
    if address == f"sqlite:///{place.store}" and not place.store.exists():
        raise MissingError(f"there is no store `{place.store}`", hint="name the home with `--home`")
    with contextlib.ExitStack() as stack:
        alone = _alone(stack, place) if address == f"sqlite:///{place.store}" else False
        report = stack.enter_context(moved(as_json))
        source = wiring.blob_store(blobs or str(place.blobs))
        made = take(
            address, source, folder, lambda: wiring.blob_store(str(folder / "blobs")), alone=alone, progress=report
        )
    rows = sum(one.rows for one in made.tables.values())
    told = {"folder": str(folder), "made_at": made.made_at, "rows": rows, "blobs": made.blobs, "bytes": made.blob_bytes}
    emit(
        told,
        as_json,
        lambda: (
            f"{folder}  {rows} rows, {made.blobs} blobs, {human_bytes(made.blob_bytes)}, as of {made.made_at}\n"
            f"next: tilth restore {folder} --check"
        ),
    )


def _alone(stack: contextlib.ExitStack, place: Home) -> bool:
    """Take the home where no control plane has it, and return whether it is ours."""
    try:
        stack.enter_context(place.held())
    except RefusedError:
        if not place.is_held():
            raise
        return False
    return True
