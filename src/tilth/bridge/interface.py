"""The signature of an ONNX model, read from its graph and corrected by what it did."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from tilth.core.dtype import NAMES, NUMPY_DTYPES
from tilth.core.errors import UnsupportedError
from tilth.core.signature import BATCH, Container, Dim, Signature, TensorSpec
from tilth.ports.arrays import Value, Values

_CONTAINERS: tuple[tuple[str, Container], ...] = (
    ("tensor_type", "tensor"),
    ("sequence_type", "sequence"),
    ("optional_type", "optional"),
)


def read_signature(model: onnx.ModelProto, *, batched: bool) -> Signature:
    """Return the names, dtypes and shapes that the graph declares.

    With `batched`, a first dimension that nobody named is the batch. Initializers that are also inputs are left out.

    Raises:
        UnsupportedError: a value is a map or a sparse tensor, or has a dtype that arrays cannot hold.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_spec(value) for value in model.graph.input if value.name not in constants]
    outputs = [_spec(value) for value in model.graph.output]
    if batched:
        inputs = [_named_batch(spec) for spec in inputs]
    return Signature(tuple(inputs), tuple(outputs))


def fixed_batch(signature: Signature, rows: int) -> Signature:
    """Return the signature with the batch replaced by a size."""

    def fixed(spec: TensorSpec) -> TensorSpec:
        shape = spec.shape and tuple(rows if dim == BATCH else dim for dim in spec.shape)
        return replace(spec, shape=shape)

    return Signature(tuple(map(fixed, signature.inputs)), tuple(map(fixed, signature.outputs)))


def proven_outputs(signature: Signature, seen: Sequence[tuple[int, Values]]) -> Signature:
    """Return the signature with the outputs' shapes as they were seen at one or more batch sizes, (rows, outputs).

    A dimension that was always the number of rows, at two sizes, is the batch. One that never changed is its size,
    unless the graph names it, or an input has a dimension that callers choose and that was not varied. Others stay
    open.
    """
    chosen = any(isinstance(dim, str) and dim != BATCH for spec in signature.inputs for dim in spec.shape or ())
    outputs = [replace(spec, shape=_seen_shape(spec, seen, settled=not chosen)) for spec in signature.outputs]
    return Signature(signature.inputs, tuple(outputs))


def _seen_shape(spec: TensorSpec, seen: Sequence[tuple[int, Values]], *, settled: bool) -> tuple[Dim, ...] | None:
    shapes = [(rows, _shape(values.get(spec.name))) for rows, values in seen]
    first = shapes[0][1]
    if first is None or any(shape is None or len(shape) != len(first) for _, shape in shapes):
        return spec.shape
    declared = spec.shape if spec.shape is not None and len(spec.shape) == len(first) else ("?",) * len(first)
    columns = [[(rows, shape[axis]) for rows, shape in shapes if shape is not None] for axis in range(len(first))]
    return tuple(_seen_dim(dim, column, settled) for dim, column in zip(declared, columns, strict=True))


def _seen_dim(declared: Dim, column: list[tuple[int, int]], settled: bool) -> Dim:
    sizes = {size for _, size in column}
    if len(sizes) > 1:
        return BATCH if all(size == rows for rows, size in column) else "?"
    if isinstance(declared, int) or declared == BATCH or (declared == "?" and settled and len(column) > 1):
        return sizes.pop()
    return declared


def _shape(value: Value) -> tuple[int, ...] | None:
    return np.shape(value) if isinstance(value, np.ndarray | np.generic) else None


def _named_batch(spec: TensorSpec) -> TensorSpec:
    if spec.shape and spec.shape[0] == "?":
        return replace(spec, shape=(BATCH, *spec.shape[1:]))
    return spec


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind, container = value.type, "tensor"
    for field, name in _CONTAINERS:
        if kind.HasField(field):
            container = name
    if container == "optional":
        kind = kind.optional_type.elem_type
    if kind.HasField("sequence_type"):
        container = "sequence" if container != "optional" else container
        kind = kind.sequence_type.elem_type
    if not kind.HasField("tensor_type"):
        raise _unsupported(value.name, "it is a map, a sparse tensor or a nested sequence")
    dtype = NAMES.get(kind.tensor_type.elem_type, "undefined")
    if dtype not in NUMPY_DTYPES:
        raise _unsupported(value.name, f"its dtype is `{dtype}`")
    return TensorSpec(value.name, dtype, _dims(kind.tensor_type), _container(container))


def _container(name: str) -> Container:
    return next(container for _, container in _CONTAINERS if container == name)


def _dims(tensor: onnx.TypeProto.Tensor) -> tuple[Dim, ...] | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in tensor.shape.dim)


def _unsupported(name: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"`{name}` cannot cross the edge of a bundle",
        why=f"{why}; inputs and outputs are plain arrays of " + ", ".join(sorted(NUMPY_DTYPES)),
        hint="cast it inside the model to one of these, or export with `zipmap=False`",
    )
