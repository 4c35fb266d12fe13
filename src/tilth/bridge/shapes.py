"""The shapes of inputs and outputs as two runs at different batch sizes prove them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tilth.core.signature import BATCH
from tilth.ports.arrays import Array, Values

_FEW, _MORE = 2, 3


def settle_shapes(model: Any, sample: Mapping[str, Array], run: Callable[[Values], Values]) -> None:
    """Write into `model` the output shapes that `run` gives; a dimension that follows the rows is called `batch`.

    `sample` holds at least one row per input, rows first. Inputs become (batch, ...). A dimension that changes in
    another way than the rows do is left without a name.
    """
    few, more = (run({name: _taken(array, rows) for name, array in sample.items()}) for rows in (_FEW, _MORE))
    for item in model.graph.input:
        _set(item, [BATCH, *sample[item.name].shape[1:]])
    for item in model.graph.output:
        _set(item, [_dim(a, b) for a, b in zip(*(np.asarray(v[item.name]).shape for v in (few, more)), strict=True)])


def _taken(array: Array, rows: int) -> Array:
    return np.ascontiguousarray(array[np.arange(rows) % len(array)])


def _dim(few: int, more: int) -> int | str:
    if few == more:
        return few
    return BATCH if (few, more) == (_FEW, _MORE) else ""


def _set(item: Any, dims: list[int | str]) -> None:
    shape = item.type.tensor_type.shape
    del shape.dim[:]
    for dim in dims:
        if isinstance(dim, int):
            shape.dim.add().dim_value = dim
        elif dim:
            shape.dim.add().dim_param = dim
        else:
            shape.dim.add()
    if not dims:
        shape.SetInParent()
