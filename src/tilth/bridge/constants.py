"""The constant tensors of a main graph as numpy arrays, wherever their bytes lie."""

from collections import Counter
from pathlib import Path

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from tilth.bridge.external import external_of, opened_below
from tilth.bridge.model_walk import DEFAULT_DOMAINS
from tilth.bridge.tensor_bytes import byte_count
from tilth.core.blob import read_all
from tilth.ports.arrays import Array


class Constants:
    """Reads and writes the initializers of a graph, and reads its Constant nodes; one tensor at a time."""

    def __init__(self, graph: GraphProto, folder: Path) -> None:
        """Look at `graph`, whose external tensors lie in `folder`."""
        self._graph, self._folder = graph, folder
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._tensors |= {node.output[0]: held for node in graph.node if (held := _held(node)) is not None}
        # A constant that is also an input is only a default: a caller may give another value.
        for value in graph.input:
            self._tensors.pop(value.name, None)
        self._names = _names(graph)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a constant without reading it."""
        return tuple(self._tensors[name].dims)

    def is_float(self, name: str) -> bool:
        """Return whether `name` is a constant of float32."""
        return name in self._tensors and self._tensors[name].data_type == TensorProto.FLOAT

    def kind(self, name: str) -> int:
        """Return the number of the element type, as ONNX counts them."""
        return int(self._tensors[name].data_type)

    def read(self, name: str) -> Array:
        """Return the values of a constant; the array may be read-only.

        Raises:
            MissingError: its external file is not there.
            UntrustedError: its external file is a link.
        """
        tensor = self._tensors[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor))
        ref = external_of(tensor, byte_count(tensor))
        with opened_below(self._folder, ref.location) as handle:
            data = read_all(handle, ref.offset, ref.length, ref.location)
        inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
        return np.asarray(numpy_helper.to_array(inline))

    def add(self, hint: str, values: Array) -> str:
        """Add an initializer under a fresh name that starts with `hint`; return the name."""
        name = self.fresh(hint)
        self.fill(name, values)
        return name

    def fill(self, name: str, values: Array) -> None:
        """Add an initializer under a name that nothing else makes."""
        tensor = self._graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, order="C"), name))
        self._tensors[name] = tensor

    def fresh(self, hint: str) -> str:
        """Return a value name that nothing in the graph or below it uses; the same graph gives the same names."""
        name, number = hint, 1
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def drop_unused(self) -> None:
        """Remove initializers that no node, subgraph or output uses."""
        used = {value.name for value in (*self._graph.input, *self._graph.output)} | uses(self._graph).keys()
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        if len(kept) < len(self._graph.initializer):
            gone = [i for i, tensor in enumerate(self._graph.initializer) if tensor.name not in used]
            for index in reversed(gone):
                self._tensors.pop(self._graph.initializer[index].name, None)
                del self._graph.initializer[index]
            self._tensors |= {tensor.name: tensor for tensor in self._graph.initializer}


def _held(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
        return None
    return next((item.t for item in node.attribute if item.name == "value" and item.HasField("t")), None)


def _subgraphs(node: NodeProto) -> list[GraphProto]:
    return [item.g for item in node.attribute if item.HasField("g")] + [
        g for item in node.attribute for g in item.graphs
    ]


def uses(graph: GraphProto) -> Counter[str]:
    """Return how often each name is an input of a node of the graph, or is used in the subgraphs below it."""
    found: Counter[str] = Counter()
    for node in graph.node:
        found.update(node.input)
        for inner in _subgraphs(node):
            found += uses(inner) + Counter(value.name for value in inner.output)
    return found


def _names(graph: GraphProto) -> set[str]:
    found = {value.name for value in (*graph.input, *graph.output)} | {item.name for item in graph.initializer}
    for node in graph.node:
        found.update((*node.input, *node.output))
        for inner in _subgraphs(node):
            found |= _names(inner)
    return found
