"""What the graph of a converter needs before it is used: opsets, names, and shapes that two runs prove."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from tilth.core.signature import BATCH
from tilth.ports.arrays import Array, Values

_FEW, _MORE = 2, 3


def merge_opsets(proto: Any) -> None:
    """Import every domain once; sklearn-onnx names the default one by both of its names."""
    found: dict[str, int] = {}
    for item in proto.opset_import:
        domain = "" if item.domain == "ai.onnx" else item.domain
        found[domain] = max(found.get(domain, 0), item.version)
    del proto.opset_import[:]
    for domain, version in found.items():
        proto.opset_import.add(domain=domain, version=version)


def rename_inputs(proto: Any, names: list[str]) -> None:
    """Give inputs the names of the columns; sklearn-onnx makes identifiers of them."""
    changed = {item.name: name for item, name in zip(proto.graph.input, names, strict=True) if item.name != name}
    taken = {item for node in proto.graph.node for item in node.output}
    changed = {old: new for old, new in changed.items() if new not in taken}
    for item in proto.graph.input:
        item.name = changed.get(item.name, item.name)
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = changed.get(name, name)


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


def flatten_label(model: Any) -> None:
    """Make the first output of `model` one value per row, where its converter promises another shape."""
    graph = model.graph
    label = graph.output[0]
    if len(label.type.tensor_type.shape.dim) == 1:
        return
    for node in graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = f"{label.name}__shaped" if name == label.name else name
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), f"{label.name}__flat"))
    inputs = [f"{label.name}__shaped", f"{label.name}__flat"]
    graph.node.append(helper.make_node("Reshape", inputs, [label.name]))
    _set(label, [BATCH])


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
