"""Turns the chain that looks up a class label into ArgMax and at most one Gather."""

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tilth.bridge.flow import Flow, attributes, is_op
from tilth.bridge.passes.flow_pass import NodePass

_INTEGERS = (TensorProto.INT64, TensorProto.INT32)


class LowerLabel(NodePass):
    """Rewrites ArgMax, ArrayFeatureExtractor, Reshape to one dimension and Cast; classes 0 to n-1 need no lookup."""

    name = "lower-label"
    ops = ("ArrayFeatureExtractor",)
    domain = "ai.onnx.ml"

    def change(self, lookup: NodeProto, flow: Flow) -> bool:
        """Lower one label."""
        classes, index = lookup.input
        best = flow.lone_maker(index, "ArgMax")
        flat = flow.lone_user(lookup.output[0])
        if best is None or flat is None or classes not in flow.constants or not _flattens(flat, flow):
            return False
        found = attributes(best)
        dims = flow.types.get(best.input[0], (0, None))[1]
        if dims is None or len(dims) != 2 or found.get("axis", 0) not in (1, -1) or not found.get("keepdims", 1):
            return False
        labels, kind, last = np.asarray(flow.constants.read(classes)).reshape(-1), _type(classes, flow), flat
        cast = flow.lone_user(flat.output[0])
        if kind in _INTEGERS and cast is not None and is_op(cast, "Cast") and attributes(cast)["to"] in _INTEGERS:
            kind, last = attributes(cast)["to"], cast
            labels = labels.astype(helper.tensor_dtype_to_np_dtype(kind))
        made = helper.make_node("ArgMax", [best.input[0]], [last.output[0]], **(found | {"keepdims": 0}))
        nodes = [made]
        if kind != TensorProto.INT64 or not np.array_equal(labels, np.arange(len(labels))):
            made.output[0] = flow.constants.fresh(f"{index}_flat")
            table = flow.constants.add(f"{classes}_table", labels)
            nodes.append(helper.make_node("Gather", [table, made.output[0]], [last.output[0]], axis=0))
        flow.replace([best, lookup, flat, *([cast] if last is cast and cast is not None else [])], nodes)
        return True


def _type(name: str, flow: Flow) -> int:
    return int(flow.types.get(name, (0,))[0])


def _flattens(node: NodeProto, flow: Flow) -> bool:
    if not is_op(node, "Reshape") or len(node.input) != 2 or node.input[1] not in flow.constants:
        return False
    return bool(flow.constants.read(node.input[1]).tolist() == [-1])
