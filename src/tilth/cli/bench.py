"""`tilth bench`: a bundle's build, measured again."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tilth import wiring
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.measure.timing import NOISY
from tilth.bridge.rebench import rebench
from tilth.cli.output import AsJson, emit, table
from tilth.cli.plain import visible
from tilth.cli.progress import shown
from tilth.cli.quantity import seconds, whole_numbers
from tilth.core.build import Build
from tilth.core.certificate import Timing
from tilth.core.record import to_json


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle that was built on this machine.")],
    batches: Annotated[str, typer.Option("--batches", help="Batch sizes to measure.")] = "1,8,32",
    time: Annotated[str, typer.Option("--time", help="How long to measure each batch size.")] = "3s",
    as_json: AsJson = False,
) -> None:
    """Measure a bundle's build again on this machine.

    The build runs in turn with the one that it was compared with when it was certified; `ratio` is the median time
    over that one's, block by block.

    Raises:
        RefusedError: no build is certified for this machine.
    """
    sizes = whole_numbers(batches)
    with shown(as_json) as progress, open_bundle(bundle) as opened:
        build, beside, timings = rebench(
            opened, wiring.this_device(), wiring.worker_command("measure"), sizes, seconds(time), progress
        )
    data = {"build": build.label, "beside": beside.label, "timings": to_json(timings)}
    emit(data, as_json, lambda: _render(build, beside, timings))


def _render(build: Build, beside: Build, timings: list[Timing]) -> Table:
    columns = ("batch", "p50 ms", "p95 ms", "p99 ms", "rows/s", "calls", "ratio", "quartiles", "noise")
    rows = [
        (
            t.batch,
            f"{t.p50_ms:.4g}",
            f"{t.p95_ms:.4g}",
            f"{t.p99_ms:.4g}",
            f"{t.rows_per_s:,.0f}",
            t.calls,
            f"{t.ratio:.3f}",
            f"{t.ratio_low:.3f} to {t.ratio_high:.3f}",
            f"{t.noise:.0%}" + (" busy" if t.noise > NOISY else ""),
        )
        for t in timings
    ]
    made = table(columns, rows, right=columns[:-2])
    made.title, made.title_justify = visible(f"{build.label}, beside {beside.label}"), "left"
    return made
