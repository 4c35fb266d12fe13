"""Trees of other libraries as plain records, with thresholds that float32 can say."""

from typing import Any

import numpy as np

from tilth.bridge.trees import at_most
from tilth.ports.arrays import Array


class PlainTrees:
    """What sklearn-onnx reads of a histogram tree, in Python's own numbers."""

    def __init__(self, nodes: Array) -> None:
        self.nodes = [_plain_node(node) for node in nodes]


def _plain_node(node: Any) -> dict[str, Any]:
    return {
        "value": np.float64(node["value"]),
        "is_leaf": bool(node["is_leaf"]),
        "feature_idx": int(node["feature_idx"]),
        "threshold": at_most(float(node["num_threshold"])),
        "left": int(node["left"]),
        "right": int(node["right"]),
        "missing_go_to_left": int(node["missing_go_to_left"]),
    }


class RoundedDump:
    """A LightGBM model as its dump alone, with thresholds that float32 can say."""

    is_mock = True

    def __init__(self, booster: Any) -> None:
        self._dump = booster.dump_model()
        for tree in self._dump["tree_info"]:
            _round_down(tree["tree_structure"])

    def dump_model(self) -> dict[str, Any]:
        """Return the dump, as LightGBM lays it out."""
        found: dict[str, Any] = self._dump
        return found


def _round_down(node: dict[str, Any]) -> None:
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if item.get("decision_type") == "<=":
            item["threshold"] = at_most(float(item["threshold"]))
        waiting += [item[key] for key in ("left_child", "right_child") if key in item]
