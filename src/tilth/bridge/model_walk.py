"""Every graph, function body, node and tensor of an ONNX model, however deeply nested, within limits."""

from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from tilth.core.errors import UnsupportedError

MAX_NODES = 200_000
MAX_DEPTH = 32
MAX_PARTS = 1_000_000
DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Held:
    """A tensor and where it sits. A weight is an initializer or the value of a Constant node of a graph."""

    tensor: TensorProto
    weight: bool


@dataclass
class Body:
    """One list of nodes: the main graph, a subgraph or a function. `outer` is the body that it lies in.

    `inner` holds the subgraphs of its nodes, `attribute_tensors` the tensors in their attributes. `sparse` says
    whether one of them, or an initializer, is sparse.
    """

    holder: GraphProto | FunctionProto
    depth: int = 0
    outer: "Body | None" = None
    nodes: list[NodeProto] = field(default_factory=list)
    inner: list[GraphProto] = field(default_factory=list)
    attribute_tensors: list[Held] = field(default_factory=list)
    sparse: bool = False

    @property
    def function(self) -> FunctionProto | None:
        """Return the function that this body or an outer one belongs to."""
        top = self
        while top.outer is not None:
            top = top.outer
        return top.holder if isinstance(top.holder, FunctionProto) else None

    @property
    def initializers(self) -> list[Held]:
        """Return the initializers; a function has none."""
        if isinstance(self.holder, FunctionProto):
            return []
        return [Held(tensor, True) for tensor in self.holder.initializer]

    @property
    def tensors(self) -> list[Held]:
        """Return every tensor, those of nested bodies left out, in the order of the file."""
        return self.initializers + self.attribute_tensors


def bodies(model: ModelProto) -> list[Body]:
    """Return the main graph first, then functions, then everything nested in them, outermost first.

    Raises:
        UnsupportedError: there are more than 200,000 nodes, graphs or initializers in total, 32 subgraphs in one
            another, or 1,000,000 attributes, inputs and outputs.
    """
    found = [Body(model.graph), *(Body(function) for function in model.functions)]
    nodes = parts = weights = 0
    for body in found:
        nodes += len(body.holder.node)
        weights += len(body.holder.initializer) if isinstance(body.holder, GraphProto) else 0
        _within(max(nodes, len(found)), MAX_NODES, "nodes or graphs")
        _within(weights, MAX_NODES, "initializers")
        body.nodes.extend(body.holder.node)
        parts += _parts(body)
        _within(parts, MAX_PARTS, "attributes, inputs and outputs")
        _survey(body)
        parts += len(body.inner) + len(body.attribute_tensors)
        _within(parts, MAX_PARTS, "attributes, inputs and outputs")
        _within(body.depth + 1 if body.inner else 0, MAX_DEPTH, "subgraphs in one another")
        found.extend(Body(graph, body.depth + 1, body) for graph in body.inner)
    return found


def _parts(body: Body) -> int:
    holder = body.holder
    own = len(holder.input) + len(holder.output) + len(holder.value_info)
    return own + sum(len(node.input) + len(node.output) + len(node.attribute) for node in body.nodes)


def _survey(body: Body) -> None:
    holder, in_graph = body.holder, body.function is None
    if isinstance(holder, GraphProto):
        body.sparse = len(holder.sparse_initializer) > 0
    else:
        for default in holder.attribute_proto:
            _add_attribute(body, default, False)
    for node in body.nodes:
        attributes = node.attribute
        if attributes:
            constant = in_graph and node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS
            for attribute in attributes:
                _add_attribute(body, attribute, constant and attribute.name == "value")


def _add_attribute(body: Body, attribute: AttributeProto, weight: bool) -> None:
    # By presence and not by the declared type: an engine may look at either.
    for item, value in attribute.ListFields():
        match item.name:
            case "t":
                body.attribute_tensors.append(Held(value, weight))
            case "tensors":
                _within(len(value), MAX_NODES, "tensors in one attribute")
                body.attribute_tensors.extend(Held(tensor, False) for tensor in value)
            case "g":
                body.inner.append(value)
            case "graphs":
                _within(len(body.inner) + len(value), MAX_NODES, "nodes or graphs")
                body.inner.extend(value)
            case "sparse_tensor" | "sparse_tensors":
                body.sparse = True


def _within(found: int, limit: int, what: str) -> None:
    if found > limit:
        raise _too_much(what, limit)


def _too_much(what: str, limit: int) -> UnsupportedError:
    return UnsupportedError(
        f"the model has more than {limit:,} {what}",
        why="no engine here loads a graph of that size in reasonable time",
        hint="simplify the model before export, or split it",
    )
