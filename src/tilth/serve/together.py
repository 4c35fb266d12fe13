"""Requests joined into one batch and their answers taken apart again; pure. Nothing is ever padded."""

from collections.abc import Mapping, Sequence

import numpy as np

from tilth.bridge.batch import joined
from tilth.core.signature import BATCH, Signature, TensorSpec
from tilth.ports.arrays import Value, Values


def kind_of(values: Values, signature: Signature) -> tuple[object, ...]:
    """Return what two requests must share to run together: names, and shapes but for the batch.

    Inputs without a batch hold one value for all rows, so that their bytes must be the same.
    """
    return tuple(_kind(spec, values.get(spec.name)) for spec in signature.inputs)


def _kind(spec: TensorSpec, value: Value) -> object:
    if not isinstance(value, np.ndarray):
        return id(value)
    shape = spec.shape or ()
    if spec.container != "tensor" or BATCH not in shape:
        return (value.shape, value.tobytes())
    axis = shape.index(BATCH)
    return (*value.shape[:axis], *value.shape[axis + 1 :])


def together(requests: Sequence[Values], signature: Signature) -> Mapping[str, Value]:
    """Return the rows of all requests as one batch, in order; the requests are of one kind."""
    if len(requests) == 1:
        return requests[0]
    inputs = Signature(signature.inputs, signature.inputs)  # `joined` goes by the batch axes of outputs
    varying = {spec.name for spec in signature.inputs if BATCH in (spec.shape or ())}
    pieces = [{name: value for name, value in one.items() if name in varying} for one in requests]
    whole = joined(pieces, inputs)
    return {name: whole.get(name, value) for name, value in requests[0].items()}


def apart(outputs: Values, counts: Sequence[int], signature: Signature) -> list[dict[str, Value]]:
    """Return the outputs of each request, which had so many rows; every output has a batch axis."""
    if len(counts) == 1:
        return [dict(outputs)]
    axes = {spec.name: (spec.shape or (BATCH,)).index(BATCH) for spec in signature.outputs}
    ends = np.cumsum(counts)[:-1]
    parts = {name: np.split(np.asarray(value), ends, axis=axes[name]) for name, value in outputs.items()}
    return [{name: pieces[number] for name, pieces in parts.items()} for number in range(len(counts))]
