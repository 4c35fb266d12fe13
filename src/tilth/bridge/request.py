"""What a build is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.agreement import Tolerance
from tilth.bridge.batch import rows
from tilth.bridge.check_values import checked
from tilth.bridge.choose import Goal
from tilth.core.build import Precision
from tilth.core.errors import InvalidError
from tilth.core.signature import Signature
from tilth.ports.arrays import Array, Value

#: Names under which labels are looked for in `--eval` data.
LABELS = ("label", "labels", "y", "target", "targets")


@dataclass(frozen=True)
class Evaluation:
    """Labelled data: `inputs` by name with N rows, `labels` of N rows, and how far the task metric may drop."""

    inputs: Mapping[str, Value]
    labels: Array
    max_drop: float


@dataclass(frozen=True)
class Request:
    """The terms of a search.

    `budget_s` bounds the search in seconds. `memory_bytes` bounds each child; 0 derives it from the model. `batches`
    are the batch sizes to measure where the batch may vary, the smallest decides for latency. `engines` narrows the
    engines by name; empty means all. `calibration` is inputs by name, or an `.npz` of them, which is not held in memory
    while builds are measured.
    """

    goal: Goal = "latency"
    tolerance: Tolerance = field(default_factory=Tolerance)
    budget_s: float = 30.0
    memory_bytes: int = 0
    batches: tuple[int, ...] = (1, 8, 32)
    engines: tuple[str, ...] = ()
    calibration: Mapping[str, Value] | Path | None = None
    evaluation: Evaluation | None = None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that may be built: fp32 alone until a tolerance or a task metric allows more."""
        if self.tolerance.rms is None and self.evaluation is None:
            return (Precision.FP32,)
        return tuple(Precision)


def evaluation(values: Mapping[str, Value], max_drop: float) -> Evaluation:
    """Return labelled data from named arrays: one of `LABELS`, and the inputs.

    Raises:
        InvalidError: there are no labels.
    """
    name = next((name for name in LABELS if name in values), None)
    labels: Any = values.get(name) if name else None
    if labels is None:
        raise InvalidError(
            "the evaluation data holds no labels",
            why="found " + ", ".join(f"`{key}`" for key in values),
            hint="name the array of labels `label` or `y`",
        )
    inputs = {key: value for key, value in values.items() if key != name}
    return Evaluation(inputs, np.asarray(labels), max_drop)


def checked_request(request: Request, signature: Signature) -> Request:
    """Return the request with its data as engines take it; a file is not looked into.

    Raises:
        InvalidError: the data for calibration or evaluation does not fit the signature, or has no rows.
    """
    calibration, labelled = request.calibration, request.evaluation
    if isinstance(calibration, Mapping):
        calibration = checked_data("calibration", calibration, signature)
    if labelled is not None:
        labelled = replace(labelled, inputs=checked_data("evaluation", labelled.inputs, signature))
    return replace(request, calibration=calibration, evaluation=labelled)


def checked_data(what: str, values: Mapping[str, Value], signature: Signature) -> dict[str, Value]:
    """Return inputs as engines take them; `what` they are for is said in errors.

    Raises:
        InvalidError: they do not fit the signature, or have no rows.
    """
    try:
        found = checked(values, signature)
        if rows(found, signature) == 0:
            raise InvalidError("the inputs have no rows", hint="give at least one row")
    except InvalidError as error:
        raise InvalidError(f"the {what} data does not fit: {error.what}", why=error.why, hint=error.hint) from None
    return found
