"""`tilth build`: from a bundle to measured, certified builds."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tilth import wiring
from tilth.bridge.agreement import Tolerance
from tilth.bridge.build import Built, Tools, build_file
from tilth.bridge.cache import Cache
from tilth.bridge.request import Request, evaluation
from tilth.bridge.value_file import read_values
from tilth.cli.explain import report
from tilth.cli.output import AsJson, emit
from tilth.cli.progress import shown
from tilth.cli.quantity import seconds, share, size_bytes, whole_numbers
from tilth.core.errors import InvalidError
from tilth.core.record import to_json
from tilth.core.version import VERSION


class Goal(StrEnum):
    """What the fastest is judged by."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle; it is replaced by one with builds.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Write the result here instead.")] = "",
    goal: Annotated[Goal, typer.Option("--goal", help="What the fastest is judged by.")] = Goal.LATENCY,
    budget: Annotated[str, typer.Option("--budget", help="Longest time of the search.")] = "30s",
    tolerance: Annotated[str, typer.Option("--tolerance", help="Allow lower precision up to this error: 2%.")] = "",
    eval_data: Annotated[Path | None, typer.Option("--eval", help="An .npz with inputs and `label`s.")] = None,
    max_drop: Annotated[str, typer.Option("--max-drop", help="How far the task metric may drop: 0.5%.")] = "",
    calibrate: Annotated[Path | None, typer.Option("--calibrate", help="An .npz of inputs for int8 ranges.")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", help="Only this engine; may be repeated.")] = None,
    batches: Annotated[str, typer.Option("--batches", help="Batch sizes to measure.")] = "1,8,32",
    memory: Annotated[str, typer.Option("--memory", help="Most memory that one candidate may take.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the cache knows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the fastest build that gives the same answers.

    Every candidate runs in a child process of its own: those that crash, hang or answer differently are recorded with
    the reason, the others are timed in turn until one is left. Interrupt it at any time and run it again to go on.
    Lower precisions are tried only with --tolerance, or with --eval and --max-drop.

    Raises:
        TilthError: see docs/reference/exit-codes.md.
    """
    request = Request(
        goal=goal.value,
        tolerance=Tolerance(rms=share(tolerance) if tolerance else None),
        budget_s=seconds(budget),
        memory_bytes=size_bytes(memory) if memory else 0,
        batches=whole_numbers(batches),
        engines=tuple(engine or ()),
        calibration=calibrate,
        evaluation=_evaluation(eval_data, max_drop),
    )
    cache = Cache(fresh=fresh)
    target = out or str(bundle)
    built = _built(bundle, target, request, cache, as_json)
    choice = built.check()
    data: dict[str, Any] = {
        "bundle": target,
        "choice": to_json(choice),
        "cached": built.result.cached,
        "builds": to_json(built.result.builds),
        "certificates": to_json(built.result.certificates),
        "refused": to_json(built.result.refused),
    }
    emit(data, as_json, lambda: report(built.manifest, target, cached=built.result.cached))


def _built(bundle: Path, target: str, request: Request, cache: Cache, as_json: bool) -> Built:
    tools = Tools(wiring.engines(), wiring.worker_command("measure"), wiring.worker_command("derive"), cache, VERSION)
    with shown(as_json) as progress:
        return build_file(bundle, target, wiring.this_device(), request, tools, progress)


def _evaluation(path: Path | None, max_drop: str) -> Any:
    if path is None and max_drop:
        raise InvalidError(
            "`--max-drop` needs labelled data", why="there is nothing to measure a drop on", hint="add --eval data.npz"
        )
    return None if path is None else evaluation(read_values(path), share(max_drop) if max_drop else 0.0)
