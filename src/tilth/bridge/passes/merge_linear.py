"""Merges a matrix product with the 1x1 convolution of its result into one matrix product."""

import numpy as np
from onnx import NodeProto, helper

from tilth.bridge.flow import Flow, attributes
from tilth.bridge.passes.flow_pass import NodePass
from tilth.bridge.passes.split_concat_conv import is_pointwise
from tilth.ports.arrays import Array


class MergeLinear(NodePass):
    """Merges MatMul, Add, Transpose and Reshape into an image with a Conv1x1 behind them, where that is less work.

    Two linear maps in a row are one, whose weights are multiplied here in float64.
    """

    name = "merge-linear"
    ops = ("Conv",)

    def change(self, conv: NodeProto, flow: Flow) -> bool:
        """Merge one convolution with the product before it."""
        reshape = flow.lone_maker(conv.input[0], "Reshape")
        turn = flow.lone_maker(reshape.input[0], "Transpose") if reshape is not None else None
        if reshape is None or turn is None or attributes(turn).get("perm") != [0, 2, 1] or not is_pointwise(conv, flow):
            return False
        add = flow.lone_maker(turn.input[0], "Add")
        product = flow.lone_maker(turn.input[0] if add is None else _summed(add, flow), "MatMul")
        if product is None or not flow.constants.is_float(product.input[1]):
            return False
        first, second = flow.constants.read(product.input[1]), flow.constants.read(conv.input[1])[:, :, 0, 0].T
        shape = _image(reshape, turn, flow)
        if first.ndim != 2 or shape is None or shape[1] != len(second) or first.shape[1] != len(second):
            return False
        if len(first) * second.shape[1] > first.size + second.size:
            return False
        wide = second.astype(np.float64)
        bias = (_row(add, product, flow) @ wide) if add is not None else np.zeros(second.shape[1])
        bias = bias + (flow.constants.read(conv.input[2]) if len(conv.input) > 2 else 0)
        shape[1] = second.shape[1]
        _write(flow, [product, *([add] if add is not None else []), turn, reshape, conv], first @ wide, bias, shape)
        return True


def _summed(add: NodeProto, flow: Flow) -> str:
    """Return the input of a sum that is no constant row; empty when there is none."""
    rows = [name for name in add.input if flow.constants.is_float(name) and len(flow.constants.shape(name)) == 1]
    return next((name for name in add.input if rows and name != rows[0]), "")


def _row(add: NodeProto, product: NodeProto, flow: Flow) -> Array:
    name = next(name for name in add.input if name != product.output[0])
    width = flow.constants.shape(product.input[1])[1]
    return np.broadcast_to(flow.constants.read(name).astype(np.float64), width)


def _image(reshape: NodeProto, turn: NodeProto, flow: Flow) -> Array | None:
    """Return the target of a Reshape that only splits the last axis of (rows, channels, places)."""
    if reshape.input[1] not in flow.constants:
        return None
    shape = np.array(flow.constants.read(reshape.input[1]))
    dims = flow.types.get(turn.output[0], (0, None))[1]
    copies = shape.size > 0 and shape[0] == 0 and not attributes(reshape).get("allowzero", 0)
    if shape.shape != (4,) or not (copies or shape[0] == -1) or dims is None or len(dims) != 3:
        return None
    return shape if dims[1] == shape[1] and dims[2] == shape[2] * shape[3] else None


def _write(flow: Flow, old: list[NodeProto], weights: Array, bias: Array, shape: Array) -> None:
    product, reshape, conv = old[0], old[-2], old[-1]
    result = conv.output[0]
    names = [flow.constants.fresh(f"{result}_{part}") for part in ("product", "sum", "turned")]
    inputs = [product.input[0], flow.constants.add(f"{result}_weights", weights.astype(np.float32))]
    row = flow.constants.add(f"{result}_bias", bias.astype(np.float32))
    target = flow.constants.add(f"{result}_shape", shape)
    made = [
        helper.make_node("MatMul", inputs, names[:1]),
        helper.make_node("Add", [names[0], row], names[1:2]),
        helper.make_node("Transpose", [names[1]], names[2:], perm=[0, 2, 1]),
        helper.make_node("Reshape", [names[2], target], [result]),
    ]
    made[-1].attribute.extend(reshape.attribute)
    flow.replace(old, made)
