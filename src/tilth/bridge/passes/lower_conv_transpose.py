"""Turns a strided transposed convolution into a small convolution whose channels are then spread over space."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from tilth.bridge.flow import Flow, attributes, is_op
from tilth.bridge.passes.flow_pass import NodePass
from tilth.ports.arrays import Array

_FAR = np.iinfo(np.int64).max
#: Work on single values, that may as well be done before they are spread.
_POINTWISE = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu")


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: `taps` of the small kernel per output phase, and what is cut off at both ends."""

    taps: int
    before: int
    after: int


class LowerConvTranspose(NodePass):
    """Rewrites ConvTranspose of 2 dimensions and equal strides as Conv, DepthToSpace and Slice.

    With stride s, output s*m+p is the sum over j of input m-j times weight p+s*j. So the s*s phases of the output
    are channels of a convolution with a kernel s times smaller, which has as many products and a faster kernel in
    every engine. A pointwise function behind it moves in front of the spreading, where engines fuse it.
    """

    name = "lower-conv-transpose"
    ops = ("ConvTranspose",)
    least_opset = 11  # the mode of DepthToSpace, and inputs of Clip that are not attributes

    def change(self, node: NodeProto, flow: Flow) -> bool:
        """Lower one transposed convolution."""
        axes = _axes(node, flow)
        bias = node.input[2] if len(node.input) > 2 else ""
        if axes is None or (bias and bias not in flow.constants):
            return False
        stride = attributes(node)["strides"][0]
        hint = node.output[0]
        kernel = _phases(flow.constants.read(node.input[1]), stride, axes)
        inputs = [node.input[0], flow.constants.add(f"{node.input[1]}_phases", kernel)]
        if bias:
            inputs.append(flow.constants.add(f"{bias}_phases", np.tile(flow.constants.read(bias), stride * stride)))
        last = flow.lone_user(hint)
        last = last if last is not None and is_op(last, *_POINTWISE) else None
        names = [flow.constants.fresh(f"{hint}_{part}") for part in ("phases", "done", "spread")]
        pads = [axis.taps - 1 for axis in axes]
        made = [helper.make_node("Conv", inputs, names[:1], kernel_shape=kernel.shape[2:], pads=pads * 2)]
        if last is not None:
            made.append(helper.make_node(last.op_type, names[:1], names[1:2]))
            made[-1].attribute.extend(last.attribute)
        made.append(helper.make_node("DepthToSpace", [made[-1].output[0]], names[2:], blocksize=stride, mode="DCR"))
        ends = [-axis.after if axis.after else _FAR for axis in axes]
        bounds = [[axis.before for axis in axes], ends, [2, 3]]
        cuts = [flow.constants.add(f"{hint}_cut", np.array(one, np.int64)) for one in bounds]
        made.append(helper.make_node("Slice", [names[2], *cuts], [hint if last is None else last.output[0]]))
        flow.replace([node] if last is None else [node, last], made)
        return True


def _axes(node: NodeProto, flow: Flow) -> list[_Axis] | None:
    """Return both axes, or None when the node is not of the kind that is lowered."""
    weight = node.input[1]
    if not flow.constants.is_float(weight) or len(shape := flow.constants.shape(weight)) != 4:
        return None
    found: dict[str, Any] = {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "output_padding": [0, 0]}
    found |= attributes(node)
    stride = found["strides"][0]
    plain = found.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in found
    plain = plain and found.get("group", 1) == 1 and list(found["dilations"]) == [1, 1]
    if not plain or stride < 2 or list(found["strides"]) != [stride, stride]:
        return None
    axes = []
    for axis in (0, 1):
        size, begin, end = shape[2 + axis], found["pads"][axis], found["pads"][2 + axis]
        taps = -(-size // stride)
        axes.append(_Axis(taps, begin, stride * taps - size + end - found["output_padding"][axis]))
    return axes if all(axis.after >= 0 for axis in axes) else None


def _phases(weights: Array, stride: int, axes: list[_Axis]) -> Array:
    """Return (stride * stride * out, in, taps, taps) of transposed weights (in, out, rows, columns)."""
    high, wide = (axis.taps for axis in axes)
    into, out, rows, columns = weights.shape
    whole = np.zeros((into, out, high * stride, wide * stride), weights.dtype)
    whole[:, :, :rows, :columns] = weights
    split = whole.reshape(into, out, high, stride, wide, stride)[:, :, ::-1, :, ::-1]
    return np.ascontiguousarray(split.transpose(3, 5, 1, 0, 2, 4).reshape(stride * stride * out, into, high, wide))
