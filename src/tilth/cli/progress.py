"""Progress of long work on standard error, where a terminal shows it; silent in pipes and with `--json`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tilth.bridge.search import Progress as Report
from tilth.cli.output import console
from tilth.cli.plain import visible


@contextmanager
def shown(as_json: bool) -> Iterator[Report]:
    """Give a report function whose stages become one line with a bar that is replaced as the work goes on."""
    screen = console(stderr=True)
    if as_json or not screen.is_terminal:
        yield _silent
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("starting", total=1)

        def report(stage: str, done: int, total: int, detail: str = "") -> None:
            text = f"{stage:<10} {visible(detail)[:60]:<60}" if detail else f"{stage:<10}"
            bar.update(task, description=text, completed=done, total=max(1, total))

        yield report


def _silent(*_: Any, **__: Any) -> None:
    return
