"""Does work on constants beforehand, so that passes which need constant weights find them."""

from math import prod
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tilth.bridge.constants import Constants
from tilth.bridge.model_walk import DEFAULT_DOMAINS
from tilth.bridge.passes.base import Pass
from tilth.ports.arrays import Array

#: These and the movers below give the same bits wherever they are computed.
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Neg", "Sub"})
_MOVERS = frozenset({"Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
#: Larger weights stay as they are: what is folded lies in memory, and no exporter was seen to compute larger ones.
_MOST_ELEMENTS = 1 << 24
_TYPES = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32)


class FoldConstants(Pass):
    """Replaces nodes of which every input is a constant by what they give, up to 2^24 elements at a time."""

    name = "fold-constants"

    def __init__(self, folder: Path) -> None:
        """Take the folder in which external weights lie."""
        self._folder = folder

    def rewrite(self, model: ModelProto) -> int:
        """Fold every node that can be; return how many."""
        graph = model.graph
        constants = Constants(graph, self._folder)
        outputs = {value.name for value in graph.output}
        kept: list[NodeProto] = []
        for node in graph.node:
            if outputs.isdisjoint(node.output) and _folds(node, constants):
                constants.fill(node.output[0], _result(node, constants, model))
            else:
                kept.append(node)
        changes = len(graph.node) - len(kept)
        if changes:
            del graph.node[:]
            graph.node.extend(kept)
            constants.drop_unused()
        return changes


def _folds(node: NodeProto, constants: Constants) -> bool:
    plain = node.op_type in _ARITHMETIC | _MOVERS and node.domain in DEFAULT_DOMAINS and len(node.output) == 1
    inputs = [name for name in node.input if name]
    if not plain or not inputs or any(name not in constants for name in inputs):
        return False
    if any(constants.kind(name) not in _TYPES for name in inputs):
        return False
    sizes = [prod(constants.shape(name)) for name in inputs]
    # Sums and products may spread one input over the other.
    most = prod(sizes) if node.op_type in _ARITHMETIC else sum(sizes)
    return most <= _MOST_ELEMENTS


def _result(node: NodeProto, constants: Constants, model: ModelProto) -> Array:
    inputs = {name: constants.read(name) for name in node.input if name}
    kinds = [helper.make_tensor_value_info(name, constants.kind(name), value.shape) for name, value in inputs.items()]
    output = helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "fold", kinds, [output])
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    outputs: Any = ReferenceEvaluator(single).run(None, inputs)
    found: Array = outputs[0]
    return found
