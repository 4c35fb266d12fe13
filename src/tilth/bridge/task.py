"""The task metric on labelled data: accuracy for decisions, R2 for numbers; pure."""

import numpy as np

from tilth.core.errors import InvalidError
from tilth.ports.arrays import Array, Values

ACCURACY = "accuracy"
R2 = "R2"


def metric(outputs: Values, labels: Array) -> tuple[str, float]:
    """Return the metric's name and value, higher is better.

    Integer, boolean and text labels are decisions: the first output of the labels' shape and kind is compared with
    them, else the argmax over the last axis of the first float output. Float labels are numbers: R2, the coefficient
    of determination, of the first float output of as many elements.

    Raises:
        InvalidError: no output fits the labels.
    """
    labels = np.asarray(labels)
    arrays = [np.asarray(v) for v in outputs.values() if isinstance(v, np.ndarray)]
    if labels.dtype.kind == "f":
        return R2, _r2(arrays, labels)
    return ACCURACY, float(np.mean(_decisions(arrays, labels) == labels.ravel()))


def _decisions(arrays: list[Array], labels: Array) -> Array:
    for array in arrays:
        if array.size == labels.size and _kind(array) == _kind(labels):
            return array.ravel()
    for array in arrays:
        if array.dtype.kind == "f" and array.ndim >= 2 and array.size // max(1, array.shape[-1]) == labels.size:
            return _argmax(array)
    raise _no_fit(arrays, labels)


def _argmax(array: Array) -> Array:
    # One column is the probability or the margin of the positive class.
    if array.shape[-1] == 1:
        return (array.ravel() > 0.5).astype(np.int64)
    found: Array = np.argmax(array, axis=-1).ravel()
    return found


def _r2(arrays: list[Array], labels: Array) -> float:
    for array in arrays:
        if array.dtype.kind == "f" and array.size == labels.size:
            wanted, found = labels.ravel().astype(np.float64), array.ravel().astype(np.float64)
            total = float(np.sum((wanted - wanted.mean()) ** 2))
            return 1.0 - float(np.sum((wanted - found) ** 2)) / total if total else 0.0
    raise _no_fit(arrays, labels)


def _kind(array: Array) -> str:
    kind = str(array.dtype.kind)
    return "integer" if kind in "iub" else "text" if kind in "OUS" else kind


def _no_fit(arrays: list[Array], labels: Array) -> InvalidError:
    return InvalidError(
        "no output fits the labels",
        why=f"labels have shape {list(labels.shape)} and dtype `{labels.dtype}`; outputs have "
        + ", ".join(f"{list(a.shape)} `{a.dtype}`" for a in arrays),
        hint="give one label per row: whole numbers or text for classes, floats for a regression",
    )
