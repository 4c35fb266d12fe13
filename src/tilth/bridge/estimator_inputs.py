"""The sample of an estimator as inputs by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilth.bridge.columns import columns_of, is_table, matrix_of
from tilth.bridge.estimators import parts
from tilth.core.errors import InvalidError
from tilth.ports.arrays import Array


def estimator_inputs(model: Any, sample: Any | None) -> dict[str, Array]:
    """Return `sample` as the inputs of a fitted estimator, by name; two rows of zeros where there is none.

    Columns have shape (rows, 1), a matrix is `X` of shape (rows, features), texts are `X` of shape (rows).

    Raises:
        InvalidError: it does not fit the estimator, or the estimator needs one and there is none.
    """
    names = tuple(str(name) for name in getattr(model, "feature_names_in_", ()))
    width = getattr(model, "n_features_in_", None)
    by_name = any(hasattr(part, "transformers_") for part in parts(model)) and bool(names)
    if sample is None:
        return _zeros(model, width, by_name)
    if is_table(sample) and names:
        return _chosen(columns_of(sample), names)
    if isinstance(sample, Mapping) and list(sample) == ["X"]:
        sample = sample["X"]
    array = sample if is_table(sample) else np.asarray(sample)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OSUT":
        return {"X": _texts(array, width)}
    if by_name:
        matrix = np.asarray(array)
        matrix_of(matrix, width)
        return columns_of({name: matrix[:, index] for index, name in enumerate(names)})
    return {"X": _matrix(array, width, names)}


def _zeros(model: Any, width: int | None, by_name: bool) -> dict[str, Array]:
    if width is None or by_name:
        raise InvalidError(
            f"a {type(model).__name__} of this kind needs a sample",
            why="the types of its columns are not known without one" if by_name else "the shape of its input is open",
            hint="give some rows that the model was tested on",
        )
    return {"X": np.zeros((2, width), np.float32)}


def _chosen(columns: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    absent = [name for name in names if name not in columns]
    if absent:
        raise InvalidError(
            f"the sample has no column {', '.join(f'`{name}`' for name in absent[:8])}",
            why=f"the model was fitted on {len(names)} named columns",
            hint="give a table with the columns of training",
        )
    return {name: columns[name] for name in names}


def _texts(array: Array, width: int | None) -> Array:
    if not all(isinstance(item, str) for item in array.flat):
        return matrix_of(array, width)
    if array.ndim == 2 and width is not None and array.shape[1] == width:
        return array.astype(object)
    if array.ndim == 1 and width is None and array.size:
        return array.astype(object)
    return matrix_of(array, width)


def _matrix(array: Any, width: int | None, names: tuple[str, ...]) -> Array:
    found = matrix_of(array, width, names=names)
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and not np.array_equal(found, array):
        return array.astype(np.int64)
    return found
