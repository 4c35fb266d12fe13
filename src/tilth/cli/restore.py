"""`tilth restore`: a backup, checked and put back."""

from pathlib import Path
from typing import Annotated

import typer

from tilth import wiring
from tilth.cli.output import AsJson, emit, human_bytes
from tilth.cli.progress import moved
from tilth.cli.store import store_address
from tilth.control.backup.restore import check, restore
from tilth.control.home import Home, default_home


def command(
    backup: Annotated[Path, typer.Argument(help="The folder that `tilth backup` wrote.")],
    only_check: Annotated[bool, typer.Option("--check", help="Read every byte, and change nothing.")] = False,
    home: Annotated[Path | None, typer.Option("--home", help="The folder to put it into, which has no store.")] = None,
    store: Annotated[str, typer.Option("--store", help="An empty database, e.g. postgresql://...")] = "",
    blobs: Annotated[str, typer.Option("--blobs", help="A place for blobs: a folder, s3://bucket/prefix ...")] = "",
    as_json: AsJson = False,
) -> None:
    """Put a backup back into an empty home, or check it.

    The digest of every file and every blob is checked, and the chain of the audit log. Interrupted, run it again: what
    is not whole is never taken for a store.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    folder = backup.absolute()
    source = wiring.blob_store(str(folder / "blobs")) if (folder / "blobs").is_dir() else wiring.blob_store("memory://")
    place = Home((home or default_home()).absolute())
    address = store_address(store, place)
    with moved(as_json) as report:
        if only_check:
            made = check(folder, source, progress=report)
        else:
            with place.held():
                target = wiring.blob_store(blobs or str(place.blobs))
                made = restore(folder, source, place, address, target, progress=report)
    rows = sum(one.rows for one in made.tables.values())
    told = {"checked": True, "restored": not only_check, "made_at": made.made_at, "rows": rows, "blobs": made.blobs}
    size = human_bytes(made.blob_bytes)
    what = f"{rows} rows and {made.blobs} blobs ({size}) as of {made.made_at}"
    done = f"sound: {what}" if only_check else f"restored: {what}\nnext: tilth up --home {place.folder}"
    emit(told | ({} if only_check else {"home": str(place.folder)}), as_json, lambda: done)
