"""Folds batch normalisation with constant statistics into the convolution before it."""

import numpy as np
from onnx import NodeProto, helper

from tilth.bridge.flow import Flow, attributes, is_op
from tilth.bridge.passes.flow_pass import FlowPass


class FoldBatchNorm(FlowPass):
    """Rewrites Conv and BatchNormalization as one Conv; the same to within the rounding of float32.

    Without it a quantised convolution would round its output twice.
    """

    name = "fold-batchnorm"

    def edit(self, flow: Flow) -> int:
        """Fold every pair; return how many."""
        pairs = [(node, norm) for node in flow.nodes if (norm := _norm_behind(node, flow)) is not None]
        for node, norm in pairs:
            flow.replace([node, norm], [_folded(node, norm, flow)])
        return len(pairs)


def _norm_behind(node: NodeProto, flow: Flow) -> NodeProto | None:
    if not is_op(node, "Conv") or any(name and not flow.constants.is_float(name) for name in node.input[1:]):
        return None
    norm = flow.lone_user(node.output[0])
    if norm is None or not is_op(norm, "BatchNormalization") or norm.input[0] != node.output[0]:
        return None
    alone = len([name for name in norm.output if name]) == 1 and not attributes(norm).get("training_mode", 0)
    return norm if alone and all(flow.constants.is_float(name) for name in norm.input[1:]) else None


def _folded(node: NodeProto, norm: NodeProto, flow: Flow) -> NodeProto:
    constants = flow.constants
    gain, shift, mean, variance = (constants.read(name).astype(np.float64) for name in norm.input[1:])
    factor = gain / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
    weights = constants.read(node.input[1])
    scaled = (weights * factor.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.float32)
    bias = constants.read(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(len(factor))
    moved = np.asarray(shift + (bias - mean) * factor, np.float32)
    names = [constants.add(f"{node.input[1]}_folded", scaled), constants.add(f"{norm.output[0]}_bias", moved)]
    made = helper.make_node("Conv", [node.input[0], *names], [norm.output[0]], name=node.name)
    made.attribute.extend(node.attribute)
    return made
