"""Where a result will be written, tried before the work that leads to it."""

from pathlib import Path

from tilth.bridge.disk import clear_errors, sibling


def check_destination(path: str | Path) -> None:
    """Make and remove an empty file beside `path`; nothing is said of whether there will be room for the result.

    Raises:
        MissingError: the folder above `path` is not there.
        UnavailableError: nothing can be written in it.
    """
    path = Path(path).resolve()
    with clear_errors(path, 0), sibling(path, folder=False):
        return
