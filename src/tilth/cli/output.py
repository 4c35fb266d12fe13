"""How every command prints its result: one JSON document for programs, or text for people."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tilth.cli.plain import print_json, visible

#: The `--json` option of every command: `def command(as_json: AsJson = False) -> None`.
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

#: Columns where the width of the reader is not known: a pipe or a file.
PIPE_WIDTH = 120

#: A line under the head, and nothing between columns but the padding.
_HEAD = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def emit(data: Any, as_json: bool, render: Callable[[], RenderableType]) -> None:
    """Print `data`, made of JSON types, as JSON on stdout, or what `render` returns.

    Raises:
        ValueError: `data` holds NaN or an infinity, which JSON cannot say.
    """
    if as_json:
        print_json(data)
    else:
        console().print(render())


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes text as it is: no markup, no emoji, no colour where `NO_COLOR` is set."""
    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(file=stream, markup=False, emoji=False, highlight=False, width=None if known else PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """Return a table without borders; the columns named in `right` are aligned to the right and not folded.

    Cells are shown by `str`, on as many lines as they need, with control characters made visible.
    """
    made = Table(box=_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in columns:
        number = name in right
        made.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        made.add_row(*(Text(visible(str(cell))) for cell in row))
    return made


def human_bytes(size_bytes: int) -> str:
    """Return a size for people, in powers of 1024 with three digits: `15.6 GiB`."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
