"""Plain JSON rows in, plain JSON predictions out: what an application developer tries first; pure.

`{"instances": [row, ...]}` or a bare list of rows. A row is an object by input name, or the value itself where the
model has one input, or a list with one value per input where every input has one column.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.core.signature import BATCH, Signature, TensorSpec
from tilth.ports.arrays import Array, Value
from tilth.serve.datatypes import DATATYPES, from_json

_ROWS = ("instances", "rows", "inputs", "data")
_EXAMPLE = 'send {"instances": [row, ...]}'


def inputs_of(document: Any, signature: Signature) -> dict[str, Array]:
    """Return the inputs that rows make.

    Raises:
        InvalidError: there are no rows, or one does not fit the signature.
        UnsupportedError: the model does not take rows.
    """
    rows = _rows(document)
    specs = signature.inputs
    for spec in specs:
        if spec.container != "tensor" or spec.shape is None or not spec.shape or spec.shape[0] != BATCH:
            raise UnsupportedError(
                f"this model does not take rows: `{spec.name}` has no batch in front",
                why=f"it takes {spec}",
                hint="use POST /v2/models/NAME/infer",
            )
    return {
        spec.name: _column(spec, [_cell(row, spec, index, specs) for row in rows]) for index, spec in enumerate(specs)
    }


def _rows(document: Any) -> list[Any]:
    rows = document
    if type(document) is dict:
        rows = next((document[name] for name in _ROWS if name in document), None)
    if type(rows) is not list or not rows:
        raise InvalidError("the body holds no rows", hint=_EXAMPLE)
    return rows


def _cell(row: Any, spec: TensorSpec, index: int, specs: Sequence[TensorSpec]) -> Any:
    if type(row) is dict:
        unknown = [name for name in row if name not in {one.name for one in specs}]
        if spec.name not in row or unknown:
            names = ", ".join(f"`{one.name}`" for one in specs)
            what = (
                f"a row has no `{spec.name}`" if spec.name not in row else f"a row has an unknown `{unknown[0][:80]}`"
            )
            raise InvalidError(what, why=f"the model takes {names}")
        return row[spec.name]
    if len(specs) == 1:
        return row
    if type(row) is not list or len(row) != len(specs):
        raise InvalidError(
            "a row is neither an object nor a list with one value per input",
            why="the model takes " + ", ".join(f"`{one.name}`" for one in specs[:20]),
            hint='send {"instances": [{"name": value, ...}]}',
        )
    return row[index]


def _column(spec: TensorSpec, cells: list[Any]) -> Array:
    inner = list((spec.shape or ())[1:])
    named = [dim for dim in inner if not isinstance(dim, int)]
    sizes = _sizes(cells[0]) if named else [dim for dim in inner if isinstance(dim, int)]
    wrapped = [cell if isinstance(cell, list) else [cell] for cell in cells]
    shape = [len(cells), *sizes]
    if any(_count(cell) != math.prod(sizes) for cell in wrapped):
        raise InvalidError(f"a row does not fit `{spec.name}`", why=f"it takes {spec}", hint=_EXAMPLE)
    return from_json(spec.name, DATATYPES[spec.dtype], shape, [item for cell in wrapped for item in _flat(cell)])


def _sizes(cell: Any) -> list[int]:
    sizes = []
    while isinstance(cell, list):
        sizes.append(len(cell))
        cell = cell[0] if cell else None
    return sizes


def _count(cell: list[Any]) -> int:
    return len(_flat(cell))


def _flat(cell: list[Any]) -> list[Any]:
    flat = cell
    while any(isinstance(item, list) for item in flat):
        flat = [inner for item in flat for inner in (item if isinstance(item, list) else [item])]
    return flat


def predictions(outputs: Mapping[str, Value], signature: Signature) -> list[Any]:
    """Return one prediction per row: the value where there is one output, else an object by output name.

    Raises:
        UnsupportedError: an output does not have one part per row.
    """
    columns = {}
    for spec in signature.outputs:
        value = outputs.get(spec.name)
        if not isinstance(value, np.ndarray) or not value.ndim:
            raise UnsupportedError(f"`{spec.name}` has no part per row", hint="use POST /v2/models/NAME/infer")
        columns[spec.name] = [_told(item) for item in value.tolist()]
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _told(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_told(item) for item in value]
    return value
