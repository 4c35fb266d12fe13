"""Writes the exact GELU in the order of operations that engines know how to fuse."""

from onnx import NodeProto, helper

from tilth.bridge.flow import Flow
from tilth.bridge.passes.flow_pass import NodePass


class RegroupGelu(NodePass):
    """Rewrites x * (0.5 * (1 + erf(...))) as (x * (1 + erf(...))) * 0.5: a half is exact in either place."""

    name = "regroup-gelu"
    ops = ("Mul",)

    def change(self, node: NodeProto, flow: Flow) -> bool:
        """Regroup one GELU."""
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
