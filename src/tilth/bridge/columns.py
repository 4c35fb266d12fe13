"""Samples as people keep them, arrays and tables, turned into what a graph takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilth.core.errors import InvalidError
from tilth.ports.arrays import Array


def is_table(sample: object) -> bool:
    """Return whether `sample` has named columns: a data frame, or a mapping from name to column."""
    return isinstance(sample, Mapping) or (hasattr(sample, "columns") and hasattr(sample, "to_numpy"))


def columns_of(sample: Any) -> dict[str, Array]:
    """Return a table's columns as arrays of shape (rows, 1): float32, int64, bool, or `str` objects.

    Floats become float32 and all whole numbers int64.

    Raises:
        InvalidError: there is no row, the lengths differ, or a column holds several values, dates or missing text.
    """
    names = list(sample) if isinstance(sample, Mapping) else list(sample.columns)
    found = {str(name): _column(str(name), sample[name]) for name in names}
    lengths = {len(column) for column in found.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise InvalidError(
            f"the columns of the sample have {', '.join(map(str, sorted(lengths))) or 'no'} rows",
            why="every column needs the same number of rows, at least one",
            hint="give a data frame, or one array per column, all of one length",
        )
    return found


def matrix_of(sample: Any, width: int | None, *, names: tuple[str, ...] = ()) -> Array:
    """Return a sample as one float32 array of shape (rows, `width`).

    A table's columns are taken in the order of `names` when it has them all. Float64 is rounded to float32.

    Raises:
        InvalidError: the sample has no row, another width, another rank, or is not numeric.
    """
    if isinstance(sample, Mapping) and len(sample) == 1:
        sample = next(iter(sample.values()))
    elif is_table(sample):
        found = columns_of(sample)
        order = names if names and set(names) <= set(found) else tuple(found)
        sample = np.concatenate([_numeric(name, found[name]) for name in order], axis=1)
    array = _numeric("sample", np.asarray(sample))
    if array.ndim != 2 or array.shape[0] == 0 or (width is not None and array.shape[1] != width):
        wanted = "?" if width is None else width
        raise InvalidError(
            f"the sample has shape {list(array.shape)}, not [rows, {wanted}]",
            why=f"the model takes rows of {wanted} numbers",
            hint="give one row per example, for example the first hundred rows that the model was tested on",
        )
    return np.ascontiguousarray(array)


def _numeric(name: str, array: Array) -> Array:
    if array.dtype.kind not in "fiub":
        raise InvalidError(
            f"`{name}` holds {'text' if array.dtype.kind in 'OSUT' else array.dtype}, not numbers",
            why="the model takes one matrix of numbers",
            hint="give numbers, encoded as they were in training",
        )
    return array.astype(np.float32)


def _column(name: str, values: Any) -> Array:
    array = np.asarray(values)
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise InvalidError(
            f"column `{name}` has shape {list(array.shape)}, not [rows] or [rows, 1]",
            why="a column holds one value per row",
            hint="give every column as an array of its own",
        )
    if array.dtype.kind == "O" and all(isinstance(item, int | float | np.number) for item in array.flat):
        array = array.astype(np.float64)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind in "iu":
        array = array.astype(np.int64)
    elif array.dtype.kind != "b":
        array = _text(name, array)
    return array.reshape(-1, 1)


def _text(name: str, array: Array) -> Array:
    found = array.astype(object)
    if array.dtype.kind not in "OSUT" or not all(isinstance(item, str) for item in found.flat):
        raise InvalidError(
            f"column `{name}` holds {array.dtype} values that are neither numbers nor text",
            why="a graph takes numbers and text; dates, objects and missing text have no form in it",
            hint="turn dates into numbers, and missing text into a word such as `missing`",
        )
    return found
