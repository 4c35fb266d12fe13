"""Writes the exact GELU in the order of operations that engines know how to fuse."""

from pathlib import Path

from onnx import ModelProto, NodeProto, helper

from tilth.bridge.flow import Flow, is_op
from tilth.bridge.passes.base import Pass


class RegroupGelu(Pass):
    """Rewrites x * (0.5 * (1 + erf(...))) as (x * (1 + erf(...))) * 0.5: a half is exact in either place."""

    name = "regroup-gelu"

    def __init__(self, folder: Path) -> None:
        """Take the folder in which external weights lie."""
        self._folder = folder

    def rewrite(self, model: ModelProto) -> int:
        """Regroup every GELU; return how many."""
        flow = Flow(model, self._folder)
        changes = sum(_regroup(node, flow) for node in flow.nodes if is_op(node, "Mul") and flow.here(node))
        if changes:
            flow.write()
        return changes


def _regroup(node: NodeProto, flow: Flow) -> bool:
    for x, halved in (tuple(node.input), tuple(node.input)[::-1]):
        half = flow.lone_maker(halved, "Mul")
        found = _parts(half, flow) if half is not None else None
        if half is None or found is None or not _is_erf_of(x, found[0], flow):
            continue
        product = flow.constants.fresh(f"{node.output[0]}_twice")
        made = [helper.make_node("Mul", [x, found[0]], [product])]
        made.append(helper.make_node("Mul", [product, found[1]], [node.output[0]]))
        flow.replace([half, node], made)
        return True
    return False


def _parts(half: NodeProto, flow: Flow) -> tuple[str, str] | None:
    """Return the sum and the constant of a product with one half."""
    for value, constant in (tuple(half.input), tuple(half.input)[::-1]):
        if flow.constants.is_float(constant) and flow.constants.shape(constant) == ():
            return (value, constant) if float(flow.constants.read(constant)) == 0.5 else None
    return None


def _is_erf_of(x: str, name: str, flow: Flow) -> bool:
    """Return whether `name` is one plus erf of `x` times or over a constant."""
    add = flow.lone_maker(name, "Add")
    erf = next((made for one in add.input if (made := flow.lone_maker(one, "Erf"))), None) if add else None
    inner = flow.lone_maker(erf.input[0], "Div", "Mul") if erf is not None else None
    return inner is not None and x in inner.input
