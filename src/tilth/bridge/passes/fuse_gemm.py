"""Turns a matrix product and the bias added to it into one Gemm."""

from onnx import NodeProto, TensorProto, helper

from tilth.bridge.flow import Flow, is_op
from tilth.bridge.passes.flow_pass import FlowPass


class FuseGemm(FlowPass):
    """Fuses MatMul and Add over a matrix and constants of float32; a bias of shape (1, n) is what engines miss."""

    name = "fuse-gemm"
    least_opset = 7  # from here on the bias may be one row

    def edit(self, flow: Flow) -> int:
        """Fuse every pair; return how many."""
        pairs = [(node, add) for node in flow.nodes if (add := _sum_of(node, flow)) is not None]
        for node, add in pairs:
            bias = next(name for name in add.input if name != node.output[0])
            flow.replace([node, add], [helper.make_node("Gemm", [*node.input, bias], [add.output[0]])])
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
