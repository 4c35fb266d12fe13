"""Removes nodes that give back what they are given."""

from onnx import NodeProto, TensorProto

from tilth.bridge.flow import Flow, attributes, is_op
from tilth.bridge.passes.flow_pass import FlowPass

#: Shape inference is silent on these; their definitions know one output type.
_FLOAT_ONLY = ("Normalizer", "Scaler")
#: With these and equal sizes every result is one input value, times one.
_EXACT = frozenset({b"half_pixel", b"pytorch_half_pixel", b"asymmetric", b"align_corners"})


class DropIdentity(FlowPass):
    """Removes Identity, Cast to the same type, Mul and Div by a scalar one, Resize, Expand, Reshape to the same size.

    Where a graph input is also an output the copy stays, because both names belong to the caller.
    """

    name = "drop-identity"

    def edit(self, flow: Flow) -> int:
        """Remove what does nothing; return how many nodes."""
        # All are found before any goes: what is known of types is of the graph as it was.
        idle = [node for node in flow.nodes if _does_nothing(node, flow)]
        return sum(map(flow.bypass, idle))


def _does_nothing(node: NodeProto, flow: Flow) -> bool:
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Cast"):
        known = flow.types.get(node.input[0], (0,))[0]
        if known == 0 and flow.maker(node.input[0], *_FLOAT_ONLY, domain="ai.onnx.ml") is not None:
            known = TensorProto.FLOAT
        return bool(known == attributes(node)["to"])
    if is_op(node, "Mul", "Div"):
        return _is_one(node.input[1], flow)
    if is_op(node, "Resize"):
        return attributes(node).get("coordinate_transformation_mode", b"half_pixel") in _EXACT and _same(node, flow)
    return is_op(node, "Expand", "Reshape") and _same(node, flow)


def _is_one(name: str, flow: Flow) -> bool:
    return name in flow.constants and flow.constants.shape(name) == () and bool(flow.constants.read(name) == 1)


def _same(node: NodeProto, flow: Flow) -> bool:
    before, after = flow.types.get(node.input[0]), flow.types.get(node.output[0])
    if before is None or after is None or before[1] is None or after[1] is None or len(before[1]) != len(after[1]):
        return False
    return before[1] == after[1] or (
        is_op(node, "Resize") and keeps_channels(node, flow) and before[1][2:] == after[1][2:]
    )


def keeps_channels(node: NodeProto, flow: Flow) -> bool:
    """Return whether a Resize leaves its first two sizes alone, whatever they are.

    Its scales are constant and start with one and one, or its sizes are the first two of its own input and a constant.
    """
    if len(node.input) < 4 or not node.input[3]:
        scales = node.input[2] if len(node.input) > 2 else ""
        return scales in flow.constants and flow.constants.read(scales)[:2].tolist() == [1, 1]
    sizes = flow.maker(node.input[3], "Concat")
    if sizes is None or len(sizes.input) != 2 or sizes.input[1] not in flow.constants:
        return False
    shape = flow.maker(sizes.input[0], "Shape")
    if shape is None or shape.input[0] != node.input[0]:
        return False
    found = attributes(shape)
    return (found.get("start", 0), found.get("end")) == (0, 2)
