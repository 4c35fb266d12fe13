"""A float64 graph behind float32 inputs and outputs."""

from typing import Any

import onnx
from onnx import TensorProto, helper

_SUFFIX = "__float64"


def wrap_in_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with every float64 input and output as float32, and casts between; names stay."""
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    graph = wrapped.graph
    before = [_narrowed(item) for item in graph.input if _is_double(item)]
    after = [_narrowed(item) for item in graph.output if _is_double(item)]
    _rename(graph, {name: name + _SUFFIX for name in (*before, *after)})
    nodes = [helper.make_node("Cast", [name], [name + _SUFFIX], to=TensorProto.DOUBLE) for name in before]
    nodes += graph.node
    nodes += [helper.make_node("Cast", [name + _SUFFIX], [name], to=TensorProto.FLOAT) for name in after]
    del graph.node[:]
    graph.node.extend(nodes)
    return wrapped


def _is_double(item: onnx.ValueInfoProto) -> bool:
    return item.type.tensor_type.elem_type == TensorProto.DOUBLE


def _narrowed(item: onnx.ValueInfoProto) -> str:
    item.type.tensor_type.elem_type = TensorProto.FLOAT
    return str(item.name)


def _rename(graph: Any, names: dict[str, str]) -> None:
    # Subgraphs see the names of the graph around them.
    for node in graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, names)
