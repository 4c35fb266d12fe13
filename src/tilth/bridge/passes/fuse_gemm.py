"""Turns a matrix product and the bias added to it into one Gemm."""

from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, helper

from tilth.bridge.flow import Flow, is_op
from tilth.bridge.passes.base import Pass

_LEAST_OPSET = 7  # from here on the bias may be one row


class FuseGemm(Pass):
    """Fuses MatMul and Add over a matrix and constants of float32; a bias of shape (1, n) is what engines miss."""

    name = "fuse-gemm"

    def __init__(self, folder: Path) -> None:
        """Take the folder in which external weights lie."""
        self._folder = folder

    def rewrite(self, model: ModelProto) -> int:
        """Fuse every pair; return how many."""
        flow = Flow(model, self._folder)
        if flow.opset < _LEAST_OPSET:
            return 0
        pairs = [(node, add) for node in flow.nodes if (add := _sum_of(node, flow)) is not None]
        for node, add in pairs:
            bias = next(name for name in add.input if name != node.output[0])
            flow.replace([node, add], [helper.make_node("Gemm", [*node.input, bias], [add.output[0]])])
        if pairs:
            flow.write()
        return len(pairs)


def _sum_of(node: NodeProto, flow: Flow) -> NodeProto | None:
    """Return the Add of a bias behind a MatMul that a Gemm can take in."""
    if not is_op(node, "MatMul") or not flow.constants.is_float(node.input[1]):
        return None
    kind, dims = flow.types.get(node.input[0], (0, None))
    add = flow.lone_user(node.output[0])
    if kind != TensorProto.FLOAT or dims is None or len(dims) != 2 or add is None or not is_op(add, "Add"):
        return None
    width = flow.constants.shape(node.input[1])[1:]
    bias = next((name for name in add.input if name != node.output[0]), "")
    if not flow.constants.is_float(bias) or len(width) != 1:
        return None
    return add if flow.constants.shape(bias) in (width, (1, *width)) else None
