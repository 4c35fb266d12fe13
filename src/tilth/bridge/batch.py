"""The batch of named values: how many rows there are, the same rows at another batch size, and in pieces."""

from collections.abc import Sequence

import numpy as np

from tilth.core.errors import InvalidError
from tilth.core.signature import BATCH, Signature, TensorSpec
from tilth.ports.arrays import Array, Value, Values


def rows(values: Values, signature: Signature) -> int:
    """Return the batch size of `values`, 1 when the graph has none.

    Raises:
        InvalidError: two inputs have different batch sizes.
    """
    sizes = {
        spec.name: _size(values[spec.name], axis)
        for spec in signature.inputs
        if (axis := _axis(spec)) is not None and spec.name in values
    }
    if len(set(sizes.values())) > 1:
        raise InvalidError(
            "the inputs have different numbers of rows",
            why=", ".join(f"`{name}` has {size}" for name, size in sizes.items()),
            hint="give every input the same batch size",
        )
    return next(iter(sizes.values()), 1)


def resized(values: Values, signature: Signature, wanted: int) -> dict[str, Value]:
    """Return `wanted` rows, taken round and round from `values`; inputs without a batch stay as they are.

    Raises:
        InvalidError: there are no rows, or the inputs have different numbers of them.
    """
    have = rows(values, signature)
    if have == 0:
        raise InvalidError("the inputs have no rows", why="their batch size is 0", hint="give at least one row")
    return _picked(values, signature.inputs, np.arange(wanted) % have)


def row_of(values: Values, signature: Signature, row: int) -> dict[str, Value]:
    """Return one row of `values`, as a batch of one."""
    return _picked(values, signature.inputs, np.array([row]))


def resized_outputs(values: Values, signature: Signature, wanted: int) -> dict[str, Value]:
    """Return the outputs for `resized` inputs of `wanted` rows, from those for the rows that these were taken from."""
    axes = _axes(signature.outputs)
    sizes = [_size(values[name], axis) for name, axis in axes.items() if axis is not None and name in values]
    return _picked(values, signature.outputs, np.arange(wanted) % max([1, *sizes]))


def tells_rows_apart(signature: Signature) -> bool:
    """Return whether every output has one part per row of the inputs."""
    return signature.dynamic_batch and all(_axis(spec) is not None for spec in signature.outputs)


def in_pieces(values: Values, signature: Signature, most: int) -> list[dict[str, Value]]:
    """Return `values` as pieces of at most `most` rows; as one where rows of the outputs cannot be told apart."""
    count = rows(values, signature)
    if not tells_rows_apart(signature) or count <= most:
        return [dict(values)]
    groups = [np.arange(start, min(start + most, count)) for start in range(0, count, most)]
    return [_picked(values, signature.inputs, group) for group in groups]


def joined(pieces: Sequence[Values], signature: Signature) -> dict[str, Value]:
    """Return outputs of `in_pieces` as those of all rows.

    Raises:
        InvalidError: an output has another shape in one piece than in the others, or is no array.
    """
    if len(pieces) == 1:
        return dict(pieces[0])
    axes = _axes(signature.outputs)
    try:
        return {
            name: np.concatenate([np.asarray(piece[name]) for piece in pieces], axis=axes.get(name) or 0)
            for name in pieces[0]
        }
    except (KeyError, ValueError) as error:
        raise InvalidError("outputs of several batches do not fit together", why=str(error)) from None


def _size(value: Value, axis: int) -> int:
    return int(value.shape[axis]) if isinstance(value, np.ndarray) and value.ndim > axis else 1


def size_bytes(values: Values) -> int:
    """Return what the arrays among `values` take."""
    return sum(value.nbytes for value in values.values() if isinstance(value, np.ndarray))


def _picked(values: Values, specs: Sequence[TensorSpec], index: Array) -> dict[str, Value]:
    axes = _axes(specs)
    return {name: _taken(value, axes.get(name), index) for name, value in values.items()}


def _taken(value: Value, axis: int | None, index: Array) -> Value:
    if axis is None or not isinstance(value, np.ndarray):
        return value
    return np.ascontiguousarray(np.take(value, index, axis=axis))


def _axes(specs: Sequence[TensorSpec]) -> dict[str, int | None]:
    return {spec.name: _axis(spec) for spec in specs}


def _axis(spec: TensorSpec) -> int | None:
    shape = spec.shape or ()
    return shape.index(BATCH) if spec.container == "tensor" and BATCH in shape else None
