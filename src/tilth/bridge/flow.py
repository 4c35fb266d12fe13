"""Who makes and who uses each value of a main graph, and edits of it that keep both true."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, shape_inference

from tilth.bridge.constants import Constants, uses
from tilth.bridge.model_walk import DEFAULT_DOMAINS

#: Tensors above this size tell shape inference nothing; their bytes are left out of what it is given.
_TELLING_BYTES = 1 << 10


class Flow:
    """The main graph of a model as values that nodes make and use.

    A pass matches nodes, calls `replace` or `bypass`, and `write` at the end. Nodes that are gone are not matched
    again; new ones are only seen by the next `Flow`.
    """

    def __init__(self, model: ModelProto, folder: Path) -> None:
        """Look at `model`, whose external tensors lie in `folder`."""
        self._model, self._graph = model, model.graph
        self.constants = Constants(model.graph, folder)
        self.nodes = list(model.graph.node)
        self._place = {id(node): index for index, node in enumerate(self.nodes)}
        self._new: dict[int, list[NodeProto]] = {}
        self._gone: set[int] = set()
        self._outputs = {value.name for value in model.graph.output}
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        direct = {name: len(users) for name, users in self._users.items()}
        self._below = {name for name, count in uses(model.graph).items() if count > direct.get(name, 0)}

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return next((item.version for item in self._model.opset_import if item.domain in DEFAULT_DOMAINS), 0)

    @cached_property
    def types(self) -> dict[str, tuple[int, tuple[int | str, ...] | None]]:
        """Element type and dimensions of values as inferred from inputs and constants alone.

        A size that nobody knows has a name of its own; dimensions are None where even the rank is open. What the
        author declared for values in between is not believed.
        """
        try:
            inferred = shape_inference.infer_shapes(_light(self._model), data_prop=True)
        except (shape_inference.InferenceError, ValueError):
            return {}
        graph = inferred.graph
        found = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
        return found | {
            value.name: (value.type.tensor_type.elem_type, _dims(value.type, value.name))
            for value in (*graph.value_info, *graph.output, *graph.input)
            if value.type.HasField("tensor_type")
        }

    def maker(self, name: str, *ops: str, domain: str = "") -> NodeProto | None:
        """Return the node that makes `name` when it is one of `ops`, else None."""
        node: NodeProto | None = self._makers.get(name)
        if node is None or id(node) in self._gone or not is_op(node, *ops, domain=domain):
            return None
        return node

    def lone_user(self, name: str) -> NodeProto | None:
        """Return the only use of `name`; None when there are others, a subgraph uses it, or it is an output."""
        users = self._users.get(name, [])
        if len(users) != 1 or name in self._outputs or name in self._below or id(users[0]) in self._gone:
            return None
        return users[0]

    def lone_maker(self, name: str, *ops: str) -> NodeProto | None:
        """Return the node that makes `name`, one of `ops`, when nothing else uses what it makes."""
        node = self.maker(name, *ops)
        return node if node is not None and self.lone_user(name) is not None else None

    def used_beside(self, name: str, nodes: set[int]) -> bool:
        """Return whether anything uses `name` but the nodes whose `id` is in `nodes`."""
        users = self._users.get(name, [])
        return name in self._outputs or name in self._below or any(id(user) not in nodes for user in users)

    def here(self, node: NodeProto) -> bool:
        """Return whether no edit has taken `node` away."""
        return id(node) not in self._gone

    def replace(self, old: Sequence[NodeProto], new: Sequence[NodeProto]) -> None:
        """Put `new` where the last of `old` was; `new` makes what others used of `old`."""
        self._gone.update(map(id, old))
        self._new.setdefault(max(self._place[id(node)] for node in old), []).extend(new)

    def bypass(self, node: NodeProto) -> bool:
        """Remove a node whose first output equals its first input; return whether names allowed it."""
        source, result = node.input[0], node.output[0]
        if result in self._below or source in self._below:
            return False
        if result not in self._outputs:
            self._rename_uses(result, source)
        elif source in self._makers and source not in self._outputs and id(self._makers[source]) not in self._gone:
            maker = self._makers[source]
            maker.output[list(maker.output).index(source)] = result
            self._rename_uses(source, result)
            self._makers[result] = self._makers.pop(source)
        else:
            return False
        self._gone.add(id(node))
        return True

    def write(self) -> None:
        """Write the edits into the model, without what nothing uses any more."""
        kept: list[NodeProto] = []
        for index, node in enumerate(self.nodes):
            if id(node) not in self._gone:
                kept.append(node)
            kept += self._new.get(index, [])
        del self._graph.node[:]
        self._graph.node.extend(self._used(kept))
        self.constants.drop_unused()
        # A value that was made in another way may have had another shape.
        del self._graph.value_info[:]

    def _used(self, nodes: list[NodeProto]) -> list[NodeProto]:
        wanted = self._outputs | self._below
        found = []
        for node in reversed(nodes):
            if wanted.intersection(node.output) or not any(node.output):
                wanted.update(node.input)
                found.append(node)
        return found[::-1]

    def _rename_uses(self, old: str, new: str) -> None:
        for node in self._users.pop(old, []):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
            self._users.setdefault(new, []).append(node)


def is_op(node: NodeProto, *ops: str, domain: str = "") -> bool:
    """Return whether a node is one of `ops` of this domain."""
    return node.op_type in ops and (node.domain == domain or (not domain and node.domain in DEFAULT_DOMAINS))


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values; texts are bytes."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _light(model: ModelProto) -> ModelProto:
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    source, graph = model.graph, light.graph
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    for value in source.output:
        graph.output.add(name=value.name)
    for tensor in source.initializer:
        telling = tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() <= _TELLING_BYTES
        bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        graph.initializer.append(tensor if telling else bare)
    return light


def _dims(kind: TypeProto, name: str) -> tuple[int | str, ...] | None:
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{name}?{axis}"
        for axis, dim in enumerate(kind.tensor_type.shape.dim)
    )
