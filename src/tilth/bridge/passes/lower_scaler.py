"""Turns ai.onnx.ml Scaler into arithmetic, inside the weights that follow it where that keeps the digits."""

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tilth.bridge.flow import Flow, attributes, is_op
from tilth.bridge.passes.flow_pass import FlowPass
from tilth.ports.arrays import Array

#: (x - offset) * scale loses nothing to a far mean; x * scale - offset * scale loses as many bits as this has.
_MOST_SHIFT = 16.0
_LARGEST = float(np.finfo(np.float32).max)


class LowerScaler(FlowPass):
    """Folds a Scaler into the MatMul or Gemm behind it; where it cannot, writes Sub and Mul.

    Only float32 inputs of two dimensions; others are converted by the operator itself in a way of its own.
    """

    name = "lower-scaler"
    least_opset = 7  # from here on arithmetic broadcasts by itself

    def edit(self, flow: Flow) -> int:
        """Lower every Scaler of float32; return how many."""
        scalers = [node for node in flow.nodes if is_op(node, "Scaler", domain="ai.onnx.ml") and _is_table(node, flow)]
        for node in scalers:
            if not _fold(node, flow):
                _lower(node, flow)
        return len(scalers)


def _is_table(node: NodeProto, flow: Flow) -> bool:
    kind, dims = flow.types.get(node.input[0], (0, None))
    return kind == TensorProto.FLOAT and dims is not None and len(dims) == 2


def _parameters(node: NodeProto) -> tuple[Array, Array]:
    found = attributes(node)
    return (np.asarray(found.get("offset", [0.0]), np.float32), np.asarray(found.get("scale", [1.0]), np.float32))


def _lower(node: NodeProto, flow: Flow) -> None:
    offset, scale = _parameters(node)
    shifted = flow.constants.fresh(f"{node.output[0]}_shifted")
    subtract = [node.input[0], flow.constants.add(f"{node.output[0]}_offset", offset)]
    multiply = [shifted, flow.constants.add(f"{node.output[0]}_scale", scale)]
    made = [helper.make_node("Sub", subtract, [shifted]), helper.make_node("Mul", multiply, [node.output[0]])]
    flow.replace([node], made)


def _fold(node: NodeProto, flow: Flow) -> bool:
    product = flow.lone_user(node.output[0])
    if product is None or not is_op(product, "MatMul", "Gemm") or product.input[0] != node.output[0]:
        return False
    bias = _bias(product, flow)
    if bias is None or not flow.constants.is_float(product.input[1]) or not _plain(product):
        return False
    turned = bool(attributes(product).get("transB", 0))
    weights = flow.constants.read(product.input[1])
    weights = weights.T if turned else weights
    offset, scale = (item.astype(np.float64) for item in _parameters(node))
    shift = offset * scale
    if weights.ndim != 2 or shift.size not in (1, len(weights)) or np.abs(shift).max() > _MOST_SHIFT:
        return False
    inner = np.broadcast_to(scale, len(weights))[:, None] * weights
    moved = np.broadcast_to(shift, len(weights)) @ weights.astype(np.float64)
    summed, name = bias
    values = (flow.constants.read(name) if name else np.float32(0)) - moved
    if not all((np.abs(found) <= _LARGEST).all() for found in (inner, values)):
        return False
    new = [
        node.input[0],
        flow.constants.add(f"{product.input[1]}_scaled", inner.astype(np.float32)),
        flow.constants.add(f"{product.output[0]}_bias", values.astype(np.float32).reshape(-1)),
    ]
    _write(flow, [node, product, *([summed] if summed is not None else [])], new)
    return True


def _write(flow: Flow, old: list[NodeProto], new: list[str]) -> None:
    result = old[-1].output[0]
    if is_op(old[1], "Gemm"):
        flow.replace(old, [helper.make_node("Gemm", new, [result])])
        return
    product = flow.constants.fresh(f"{result}_product")
    made = [helper.make_node("MatMul", new[:2], [product]), helper.make_node("Add", [product, new[2]], [result])]
    flow.replace(old, made)


def _plain(product: NodeProto) -> bool:
    found = attributes(product)
    return not found.get("transA", 0) and found.get("alpha", 1.0) == found.get("beta", 1.0) == 1.0


def _bias(product: NodeProto, flow: Flow) -> tuple[NodeProto | None, str] | None:
    """Return the Add behind a MatMul, if any, and the constant that is added; None when it is not one row."""
    if is_op(product, "Gemm"):
        name = product.input[2] if len(product.input) > 2 else ""
        return (None, name) if not name or _is_row(name, flow) else None
    summed = flow.lone_user(product.output[0])
    if summed is None or not is_op(summed, "Add"):
        return None, ""
    name = next((one for one in summed.input if one != product.output[0]), "")
    return (summed, name) if _is_row(name, flow) else (None, "")


def _is_row(name: str, flow: Flow) -> bool:
    if not flow.constants.is_float(name):
        return False
    shape = flow.constants.shape(name)
    return shape != () and shape[:-1] in ((), (1,))
