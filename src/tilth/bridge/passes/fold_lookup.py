"""Applies elementwise functions to a lookup table instead of to what is looked up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from onnx import NodeProto, helper

from tilth.bridge.flow import Flow, attributes, is_op
from tilth.bridge.passes.flow_pass import NodePass
from tilth.ports.arrays import Array

#: Larger tables are vocabularies, of which a call reads a small part.
_MOST_ELEMENTS = 1 << 18
_LARGEST = float(np.finfo(np.float32).max)

_FUNCTIONS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": np.divide,
        "Tanh": np.tanh,
        "Relu": lambda x: np.maximum(x, 0),
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Exp": np.exp,
        "Neg": np.negative,
        "Sqrt": np.sqrt,
    }
)


@dataclass
class _Lookup:
    """A Gather of rows, and what of the graph is a function of those rows alone."""

    gather: NodeProto
    tables: dict[str, Array]
    nodes: list[NodeProto] = field(default_factory=list)


class FoldLookup(NodePass):
    """Folds chains of elementwise functions behind a Gather of float32 rows into its table, computed in float64.

    Only where one value of the chain is used by others, and where every step is finite.
    """

    name = "fold-lookup"
    ops = ("Gather",)

    def change(self, gather: NodeProto, flow: Flow) -> bool:
        """Fold the chain behind one Gather."""
        table, rank = gather.input[0], len(flow.types.get(gather.output[0], (0, None))[1] or ())
        if not flow.constants.is_float(table) or attributes(gather).get("axis", 0) != 0 or rank < 2:
            return False
        shape = flow.constants.shape(table)
        if len(shape) != 2 or shape[0] * shape[1] > _MOST_ELEMENTS:
            return False
        lookup = _Lookup(gather, {gather.output[0]: flow.constants.read(table).astype(np.float64)})
        for node in flow.nodes:
            with np.errstate(all="ignore"):
                values = _applied(node, lookup.tables, shape[1], rank, flow)
            if values is not None:
                lookup.tables[node.output[0]] = values
                lookup.nodes.append(node)
        return _write(lookup, flow)


def _applied(node: NodeProto, tables: Mapping[str, Array], width: int, rank: int, flow: Flow) -> Array | None:
    """Return what `node` makes of the tables; None when it reads anything else, or its result is not finite."""
    if not is_op(node, *_FUNCTIONS) or not any(name in tables for name in node.input):
        return None
    inputs = []
    for name in node.input:
        if name not in tables and not _is_row(name, width, rank, flow):
            return None
        inputs.append(tables[name] if name in tables else flow.constants.read(name).reshape(-1).astype(np.float64))
    values = _FUNCTIONS[node.op_type](*inputs)
    # What is finite in float64 and not in float32 would be infinite, or worse, in the graph itself.
    return values if np.all(np.abs(values) < _LARGEST) else None


def _is_row(name: str, width: int, rank: int, flow: Flow) -> bool:
    """Return whether a constant is the same for every row that is looked up."""
    if not flow.constants.is_float(name):
        return False
    shape = flow.constants.shape(name)
    return len(shape) <= rank and set(shape[:-1]) <= {1} and shape[-1:] in ((), (1,), (width,))


def _write(lookup: _Lookup, flow: Flow) -> bool:
    mine = set(map(id, lookup.nodes))
    makers = [lookup.gather, *lookup.nodes]
    shown = [node for node in makers if flow.used_beside(node.output[0], mine)]
    if not lookup.nodes or len(shown) != 1 or shown[0] is lookup.gather:
        return False
    result = shown[0].output[0]
    table = flow.constants.add(f"{result}_table", lookup.tables[result].astype(np.float32))
    flow.replace(makers, [helper.make_node("Gather", [table, lookup.gather.input[1]], [result], axis=0)])
    return True
