"""Which nodes of a graph may run in int8, and which tensors carry 8-bit numbers between them; pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import GraphProto, NodeProto, helper

from tilth.bridge.constants import Constants, uses
from tilth.bridge.model_walk import DEFAULT_DOMAINS

#: These move numbers and do not change them: what comes out has the scale of what went in.
MOVERS = frozenset(
    {"Concat", "DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
_SITES = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})


@dataclass(frozen=True)
class Site:
    """A node with constant weights that may run in int8; `name` is its first output.

    `axis` is the axis of the output channels in the weights.
    """

    name: str
    op: str
    data: str
    weight: str
    bias: str
    axis: int
    group: int = 1


@dataclass
class Plan:
    """What becomes 8-bit.

    `made` are the tensors that come out of 8-bit nodes: everybody reads their rounded values. The others of
    `tensors` come out of float nodes, and only 8-bit nodes, `readers`, read their rounded values. `dropped` are the
    Relu and Clip nodes, by output, that saturation replaces, with their input.
    """

    sites: Mapping[str, Site]
    tensors: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    dropped: dict[str, str] = field(default_factory=dict)
    _leader: dict[str, str] = field(default_factory=dict)

    def leader(self, name: str) -> str:
        """Return the tensor whose scale `name` shares, itself when it leads."""
        while (other := self._leader.get(name, name)) != name:
            name = other
        return name

    def make(self, name: str) -> None:
        """Note that an 8-bit node makes `name`."""
        self.tensors.add(name)
        self.made.add(name)

    def share(self, name: str, others: Iterable[str]) -> None:
        """Give `name` and `others` one scale."""
        lead = self.leader(name)
        for other in others:
            if self.leader(other) != lead:
                self._leader[self.leader(other)] = lead


def find_sites(graph: GraphProto, constants: Constants) -> list[Site]:
    """Return every node that may run in int8, in graph order."""
    return [site for node in graph.node if (site := _site(node, constants)) is not None]


def make_plan(graph: GraphProto, sites: Iterable[Site], constants: Constants) -> Plan:
    """Return what becomes 8-bit when `sites` run in int8: what they read, make, and what sums and moves that."""
    plan = Plan({site.name: site for site in sites})
    plan.readers = set(plan.sites)
    plan.tensors = {site.data for site in plan.sites.values()}
    wanted = _wanted(graph, plan.tensors)
    outputs = {value.name for value in graph.output}
    counts = uses(graph)
    lone = {name for name, count in counts.items() if count == 1 and name not in outputs}
    # A subgraph reads a value by its name, and behind a dropped node that name is the value before saturation.
    below = set(counts - Counter(name for node in graph.node for name in node.input))
    movers: set[str] = set()
    for node in graph.node:
        name = node.output[0] if node.output else ""
        if node.domain not in DEFAULT_DOMAINS or not name:
            continue
        if node.op_type == "Conv" and name in plan.sites and name not in outputs:
            # At the edge of the graph 256 steps would be all that a caller gets; there the output stays float.
            plan.make(name)
        elif node.op_type == "Add" and _sums(node, plan):
            plan.readers.add(name)
            plan.make(name)
        elif name not in below and _saturates(node, plan, lone - movers, constants):
            plan.dropped[name] = node.input[0]
            plan.tensors.remove(node.input[0])
            plan.made.remove(node.input[0])
            plan.make(name)
        elif name in wanted and plan.made.issuperset(moved := _moved(node)) and moved:
            plan.readers.add(name)
            plan.make(name)
            plan.share(name, moved)
            movers.add(name)
    return plan


def read_by_nobody(graph: GraphProto, plan: Plan) -> set[str]:
    """Return the convolutions of a plan whose 8-bit output no 8-bit node reads."""
    read = {name for node in graph.node if set(node.output) & plan.readers for name in node.input}
    behind = {before: name for name, before in plan.dropped.items()}
    return {name for name, site in plan.sites.items() if site.op == "Conv" and behind.get(name, name) not in read}


def _site(node: NodeProto, constants: Constants) -> Site | None:
    if node.op_type not in _SITES or node.domain not in DEFAULT_DOMAINS or len(node.input) < 2:
        return None
    data, weight = node.input[0], node.input[1]
    bias = node.input[2] if len(node.input) > 2 else ""
    if not constants.is_float(weight) or data in constants or (bias and not constants.is_float(bias)):
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    shape = constants.shape(weight)
    axis = _axis(node.op_type, len(shape), attributes)
    if axis is None or 0 in shape or (bias and constants.shape(bias) != (shape[axis],)):
        return None
    return Site(node.output[0], node.op_type, data, weight, bias, axis, int(attributes.get("group", 1)))


def _axis(op: str, rank: int, attributes: Mapping[str, Any]) -> int | None:
    if op == "Conv":
        return 0
    if op == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    if op == "MatMul":
        return 1 if rank == 2 else None
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    return (0 if attributes.get("transB", 0) else 1) if plain else None


def _moved(node: NodeProto) -> list[str]:
    if node.op_type not in MOVERS or len(node.output) != 1:
        return []
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]


def _wanted(graph: GraphProto, tensors: set[str]) -> set[str]:
    """Return `tensors` and what movers make them of."""
    found = set(tensors)
    for node in reversed(graph.node):
        if found.intersection(node.output):
            found.update(_moved(node))
    return found


def _sums(node: NodeProto, plan: Plan) -> bool:
    return plan.tensors.issuperset(node.input) and not plan.made.isdisjoint(node.input)


def _saturates(node: NodeProto, plan: Plan, lone: set[str], constants: Constants) -> bool:
    """Return whether the ends of the 8-bit range do what this node does.

    The range is that of the values seen behind the node, with zero in it; so the least value that it lets through
    must not be above zero.
    """
    if node.op_type not in ("Relu", "Clip") or node.input[0] not in plan.made or node.input[0] not in lone:
        return False
    low = node.input[1] if len(node.input) > 1 else ""
    return not low or (low in constants and float(constants.read(low).reshape(-1)[0]) <= 0)
