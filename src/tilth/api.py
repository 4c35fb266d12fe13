"""The public Python API: import a model, build it, load and run it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tilth import wiring
from tilth.bridge.agreement import Tolerance
from tilth.bridge.build import Tools, build_file
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.cache import Cache
from tilth.bridge.capture import Terms, capture
from tilth.bridge.capture_child import frontend_for, loader
from tilth.bridge.model import Model, load_model
from tilth.bridge.request import Request, evaluation
from tilth.core.bundle import Choice, Manifest
from tilth.core.version import VERSION

__all__ = ["Model", "build", "import_model", "load", "quiet"]


def import_model(
    model: object,
    sample: Any | None = None,
    *,
    out: str | Path,
    name: str = "",
    tolerance: float = 0.0,
    nonfinite: bool = False,
) -> Manifest:
    """Turn a trained model into a bundle at `out` and return its manifest.

    `model` is a path to an ONNX file or folder, or an object of a framework: a scikit-learn estimator or pipeline, a
    LightGBM or XGBoost model, a torch module. `sample` holds inputs of N rows, N at least 1: an array, a data frame,
    a tuple, or arrays by input name; ONNX models can do without. Code of the model's runs in this process.
    `tolerance` accepts a graph whose outputs differ from the framework's by that root mean square relative error
    instead of 1e-4 at most; `nonfinite` accepts NaN and infinities as golden outputs.

    Raises:
        UnsupportedError: no frontend takes the model, or its exporter refuses it.
        InvalidError: the sample does not fit the model, or the model answers NaN.
        RefusedError: the graph answers differently from the framework.
        UnavailableError: `out` cannot be written.
    """
    given = Path(model) if isinstance(model, str) else model
    frontend = frontend_for(given, wiring.frontends())
    captured = capture(
        frontend,
        given,
        sample,
        name=name or Path(out).stem,
        version=VERSION,
        load=loader(wiring.engine("ort"), wiring.this_device()),
        terms=Terms(Tolerance(rms=tolerance) if tolerance else Tolerance(), nonfinite),
    )
    write_bundle(out, captured.manifest, captured.blobs)
    return captured.manifest


def build(
    path: str | Path,
    *,
    out: str | Path | None = None,
    goal: Literal["latency", "throughput"] = "latency",
    tolerance: float | None = None,
    eval_data: Any | None = None,
    max_drop: float | None = None,
    calibrate: Any | None = None,
    budget_s: float = 30.0,
    memory_bytes: int = 0,
    batches: Sequence[int] = (1, 8, 32),
    engines: Sequence[str] = (),
    progress: Any = None,
) -> Choice:
    """Search for the fastest build on this machine's CPU that gives the same answers, and return the choice.

    The bundle at `path` is replaced by one with builds, certificates and the choice, or left alone when `out` names
    another. fp32 builds must repeat the golden outputs within a relative error of 1e-4. With `tolerance` (root mean
    square relative error, and share of decisions that may differ) lower precisions may win too. With `eval_data`
    (arrays by input name, and labels under `label` or `y`) the task metric decides: it may drop by `max_drop`,
    a share from 0 to 1. `calibrate` holds inputs by name that set the ranges for int8. `budget_s` bounds the search.

    Raises:
        RefusedError: no build agrees; the bundle holds the evidence.
        CancelledError: interrupted; a second call goes on where it stopped.
        InvalidError: the data does not fit.
        UnavailableError: no room on the disk.
    """
    request = Request(
        goal=goal,
        tolerance=Tolerance(rms=tolerance),
        budget_s=budget_s,
        memory_bytes=memory_bytes,
        batches=tuple(batches),
        engines=tuple(engines),
        calibration=calibrate,
        evaluation=None if eval_data is None else evaluation(eval_data, max_drop or 0.0),
    )
    tools = Tools(wiring.engines(), wiring.worker_command("measure"), wiring.worker_command("derive"), Cache(), VERSION)
    built = build_file(Path(path), out or path, wiring.this_device(), request, tools, progress or quiet)
    return built.check()


def load(path: str | Path) -> Model:
    """Load the build that a bundle chose for this machine; `load(path).run({"x": array})` runs it.

    Raises:
        MissingError: there is no bundle at `path`.
        UntrustedError: bytes in it are not what their digests say.
        RefusedError: no build is certified for this chip and the engines installed here.
    """
    with open_bundle(Path(path)) as bundle:
        return load_model(bundle, wiring.this_device(), wiring.engines())


def quiet(stage: str, done: int, total: int, detail: str = "") -> None:
    """Report no progress."""
