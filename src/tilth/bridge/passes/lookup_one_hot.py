"""Turns the product of a one-hot encoding and a table into a lookup."""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from tilth.bridge.flow import Flow, attributes
from tilth.bridge.passes.flow_pass import NodePass

_INTEGERS: dict[int, type] = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}


@dataclass(frozen=True)
class _OneHot:
    """`index` (..., 1) of integer type `kind`, compared with 0 to n-1; `nodes` compare and convert."""

    index: str
    kind: int
    nodes: list[NodeProto]


class LookupOneHot(NodePass):
    """Rewrites MatMul(Cast(Equal(index, [0 .. n-1])), table) as Gather.

    An index outside 0 to n-1 encodes as zeros; the table gets a row of zeros for it at either end.
    """

    name = "lookup-one-hot"
    ops = ("MatMul",)
    least_opset = 13  # axes of Squeeze as an input; integers in Clip came with 12

    def change(self, product: NodeProto, flow: Flow) -> bool:
        """Look up the rows of one product."""
        hot = _one_hot(product.input[0], flow)
        if hot is None or not flow.constants.is_float(product.input[1]):
            return False
        table = flow.constants.read(product.input[1])
        if table.ndim != 2 or not np.isfinite(table).all():
            return False
        result, add = product.output[0], flow.constants.add
        whole = np.pad(table, ((1, 1), (0, 0)))
        names = [flow.constants.fresh(f"{result}_{part}") for part in ("flat", "near", "row")]
        number = _INTEGERS[hot.kind]
        ends = [add(f"{result}_end", np.array(end, number)) for end in (-1, len(table))]
        made = [
            helper.make_node("Squeeze", [hot.index, add(f"{result}_axis", np.array([-1], np.int64))], names[:1]),
            helper.make_node("Clip", [names[0], *ends], names[1:2]),
            helper.make_node("Add", [names[1], add(f"{result}_one", np.array(1, number))], names[2:]),
            helper.make_node("Gather", [add(f"{result}_table", whole), names[2]], [result], axis=0),
        ]
        flow.replace([*hot.nodes, product], made)
        return True


def _one_hot(name: str, flow: Flow) -> _OneHot | None:
    cast = flow.lone_maker(name, "Cast")
    equal = flow.lone_maker(cast.input[0], "Equal") if cast is not None else None
    if cast is None or equal is None or attributes(cast)["to"] != TensorProto.FLOAT:
        return None
    for index, numbers in (tuple(equal.input), tuple(equal.input)[::-1]):
        kind, dims = flow.types.get(index, (0, None))
        if kind in _INTEGERS and dims and dims[-1] == 1 and _counts(numbers, len(dims), flow):
            return _OneHot(index, kind, [equal, cast])
    return None


def _counts(name: str, rank: int, flow: Flow) -> bool:
    """Return whether `name` is 0, 1, ... along its last axis, the only one longer than 1."""
    if name not in flow.constants:
        return False
    shape = flow.constants.shape(name)
    if not 1 <= len(shape) <= rank or any(size != 1 for size in shape[:-1]):
        return False
    return bool(np.array_equal(flow.constants.read(name).reshape(-1), np.arange(shape[-1])))
