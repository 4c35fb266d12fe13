"""Boosted trees of any library as one ONNX graph whose float32 comparisons decide as the library's own do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = {"": 18, "ai.onnx.ml": 3}
IR_VERSION = 9

_NODE_KEYS = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_modes",
    "nodes_featureids",
    "nodes_values",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
)
_LEAF_KEYS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")


class Link(StrEnum):
    """What turns the sum of leaves into the answer."""

    NONE = "none"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    EXP = "exp"
    SOFTPLUS = "softplus"
    SIGNED_SQUARE = "signed_square"
    STEP = "step"


@dataclass
class Forest:
    """Trees over `features` float32 inputs, summed into `outputs` scores per row, built node by node.

    A branch compares with `BRANCH_LEQ`, `BRANCH_LT` or `BRANCH_EQ`. Node 0 is the root of its tree.
    """

    features: int
    outputs: int
    nodes: dict[str, list[Any]] = field(default_factory=lambda: {key: [] for key in _NODE_KEYS})
    leaves: dict[str, list[Any]] = field(default_factory=lambda: {key: [] for key in _LEAF_KEYS})

    def branch(
        self, tree: int, node: int, mode: str, feature: int, threshold: float, yes: int, no: int, missing_yes: bool
    ) -> None:
        """Add a comparison; `threshold` is float32 already, see `at_most`."""
        self._node(tree, node, mode, feature, threshold, yes, no, int(missing_yes))

    def leaf(self, tree: int, node: int, output: int, weight: float) -> None:
        """Add a leaf that adds `weight` to `output`."""
        self._node(tree, node, "LEAF", 0, 0.0, 0, 0, 0)
        for key, value in zip(_LEAF_KEYS, (tree, node, output, float(weight)), strict=True):
            self.leaves[key].append(value)

    def member(
        self,
        tree: int,
        node: int,
        feature: int,
        values: Sequence[float],
        yes: int,
        no: int,
        fresh: int,
        missing_yes: bool = False,
    ) -> int:
        """Add "is one of `values`" as a chain of equalities; return the next free node id from `fresh` on."""
        for index, value in enumerate(values):
            last = index == len(values) - 1
            after = no if last else fresh
            self.branch(tree, node, "BRANCH_EQ", feature, value, yes, after, missing_yes)
            if not last:
                node, fresh = fresh, fresh + 1
        return fresh

    def _node(self, *values: Any) -> None:
        for key, value in zip(_NODE_KEYS, values, strict=True):
            self.nodes[key].append(value)


def at_most(threshold: float) -> float:
    """Return the float32 `w` for which `x <= threshold` and `x <= w` are the same for every float32 `x`."""
    with np.errstate(over="ignore"):
        rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)


def classifier(forest: Forest, base: Sequence[float], link: Link, classes: Sequence[Any]) -> onnx.ModelProto:
    """Return a graph from `X` (batch, features) to `label` (batch) and `probabilities` (batch, classes).

    With one score per row there are two classes, and the score is that of the second.
    """
    nodes = [*_scores(forest, base), *_linked(link, "positive" if forest.outputs == 1 else "probabilities")]
    constants = []
    if forest.outputs == 1:
        constants.append(numpy_helper.from_array(np.float32(1).reshape(1), "one"))
        nodes.append(helper.make_node("Sub", ["one", "positive"], ["negative"]))
        nodes.append(helper.make_node("Concat", ["negative", "positive"], ["probabilities"], axis=1))
    text = isinstance(classes[0], str)
    labels = np.asarray(classes, dtype=object if text else np.int64)
    constants.append(numpy_helper.from_array(labels, "classes"))
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0))
    nodes.append(helper.make_node("Gather", ["classes", "index"], ["label"], axis=0))
    kind = TensorProto.STRING if text else TensorProto.INT64
    outputs = [
        helper.make_tensor_value_info("label", kind, ["batch"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(classes)]),
    ]
    return _model(forest, nodes, outputs, constants)


def regressor(forest: Forest, base: Sequence[float], link: Link) -> onnx.ModelProto:
    """Return a graph from `X` (batch, features) to `variable` (batch, outputs)."""
    outputs = [helper.make_tensor_value_info("variable", TensorProto.FLOAT, ["batch", forest.outputs])]
    return _model(forest, [*_scores(forest, base), *_linked(link, "variable")], outputs, [])


def _scores(forest: Forest, base: Sequence[float]) -> list[onnx.NodeProto]:
    attributes: dict[str, Any] = {
        "n_targets": forest.outputs,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "base_values": [float(np.float32(value)) for value in base],
        **forest.nodes,
        **forest.leaves,
    }
    return [helper.make_node("TreeEnsembleRegressor", ["X"], ["score"], domain="ai.onnx.ml", **attributes)]


def _linked(link: Link, name: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    chains = {
        Link.NONE: [node("Identity", ["score"], [name])],
        Link.SIGMOID: [node("Sigmoid", ["score"], [name])],
        Link.SOFTMAX: [node("Softmax", ["score"], [name], axis=1)],
        Link.EXP: [node("Exp", ["score"], [name])],
        Link.SOFTPLUS: [node("Softplus", ["score"], [name])],
        Link.SIGNED_SQUARE: [
            node("Abs", ["score"], ["size"]),
            node("Mul", ["score", "size"], [name]),
        ],
        Link.STEP: [
            node("Sub", ["score", "score"], ["zero"]),
            node("Greater", ["score", "zero"], ["above"]),
            node("Cast", ["above"], [name], to=TensorProto.FLOAT),
        ],
    }
    return chains[link]


def _model(
    forest: Forest,
    nodes: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", forest.features])
    graph = helper.make_graph(nodes, "trees", [given], outputs, constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tilth")
