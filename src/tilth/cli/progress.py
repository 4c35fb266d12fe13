"""Progress of long work on standard error, where a terminal shows it; silent in pipes and with `--json`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tilth.bridge.search import Progress as Report
from tilth.cli.output import console
from tilth.cli.plain import visible


@contextmanager
def shown(as_json: bool) -> Iterator[Report]:
    """Give a report function whose stages become one line with a bar that is replaced as the work goes on."""
    with _bar(as_json, ()) as report:
        yield report


@contextmanager
def moved(as_json: bool) -> Iterator[Report]:
    """Give a report function as `shown`, for stages that count bytes: with how fast they move, and how long yet."""
    with _bar(as_json, (DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())) as report:
        yield report


@contextmanager
def _bar(as_json: bool, more: Sequence[ProgressColumn]) -> Iterator[Report]:
    screen = console(stderr=True)
    if as_json or not screen.is_terminal:
        yield _silent
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), *(more or (TimeElapsedColumn(),)))
    width = 24 if more else 60
    with Progress(*columns, console=screen, transient=True) as bar:
        task, now = bar.add_task("starting", total=1), ""

        def report(stage: str, done: int, total: int, detail: str = "") -> None:
            nonlocal now
            if stage != now and more:
                # The speed is that of one stage; what came before it would be counted in.
                bar.reset(task)
            now = stage
            text = f"{stage:<10} {visible(detail)[:width]:<{width}}" if detail else f"{stage:<10}"
            bar.update(task, description=text, completed=done, total=max(1, total))

        yield report


def _silent(*_: Any, **__: Any) -> None:
    return
