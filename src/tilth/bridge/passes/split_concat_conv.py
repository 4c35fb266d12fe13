"""Runs a 1x1 convolution over concatenated feature maps on each of them, before it is enlarged."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

from onnx import NodeProto, helper

from tilth.bridge.flow import Flow, attributes
from tilth.bridge.passes.drop_identity import keeps_channels
from tilth.bridge.passes.flow_pass import NodePass

#: Interpolation weights add up to one here, so that a bias may be added before or after.
_FAIR = frozenset({b"half_pixel", b"pytorch_half_pixel", b"asymmetric", b"align_corners"})
#: A convolution that makes more channels than this times what it reads would make the enlarging dearer.
_MOST_GROWTH = 2


@dataclass(frozen=True)
class _Branch:
    """What is concatenated: `channels` of it, enlarged by `resize` when that is not None."""

    value: str
    channels: int
    resize: NodeProto | None


class SplitConcatConv(NodePass):
    """Rewrites Conv1x1(Concat(Resize(a), b, ...)) as Resize(Conv1x1(a)) + Conv1x1(b) + ...

    A 1x1 convolution mixes channels and Resize mixes places, so their order is free; the heads of segmentation
    networks do both at the largest size.
    """

    name = "split-concat-conv"
    ops = ("Conv",)
    least_opset = 11  # the inputs of Resize

    def change(self, node: NodeProto, flow: Flow) -> bool:
        """Split one convolution."""
        concat = flow.lone_maker(node.input[0], "Concat")
        if concat is None or attributes(concat)["axis"] != 1 or not is_pointwise(node, flow):
            return False
        branches = [_branch(name, flow) for name in concat.input]
        found = [branch for branch in branches if branch is not None]
        kernel = flow.constants.read(node.input[1])
        out = len(kernel)
        moved = [branch for branch in found if branch.resize is not None]
        if len(found) < len(branches) or not moved or any(out > _MOST_GROWTH * branch.channels for branch in moved):
            return False
        made: list[NodeProto] = []
        sums = []
        ends = [0, *accumulate(branch.channels for branch in found)]
        for number, (branch, (start, end)) in enumerate(zip(found, pairwise(ends), strict=True)):
            inputs = ["", flow.constants.add(f"{node.input[1]}_{number}", kernel[:, start:end])]
            inputs += node.input[2:] if number == 0 else []
            sums.append(_convolved(branch, inputs, f"{node.output[0]}_{number}", flow, made))
        _add_up(sums, node.output[0], flow, made)
        flow.replace([*(b.resize for b in moved if b.resize is not None), concat, node], made)
        return True


def _branch(name: str, flow: Flow) -> _Branch | None:
    dims = flow.types.get(name, (0, None))[1]
    if dims is None or len(dims) != 4 or not isinstance(dims[1], int):
        return None
    resize = flow.lone_maker(name, "Resize")
    return _Branch(name, dims[1], resize if resize is not None and _enlarges(resize, flow) else None)


def _enlarges(node: NodeProto, flow: Flow) -> bool:
    before, after = (flow.types.get(name, (0, None))[1] for name in (node.input[0], node.output[0]))
    if before is None or after is None or not keeps_channels(node, flow):
        return False
    sizes = [*before[2:], *after[2:]]
    known = all(isinstance(size, int) for size in sizes) and len(sizes) == 4
    mode = attributes(node).get("coordinate_transformation_mode", b"half_pixel")
    return known and mode in _FAIR and all(a <= b for a, b in zip(sizes[:2], sizes[2:], strict=True))  # type: ignore[operator]


def is_pointwise(node: NodeProto, flow: Flow) -> bool:
    """Return whether a Conv has a constant 1x1 kernel and nothing beside it: no stride, padding or groups."""
    found = attributes(node)
    bare = set(found.get("pads", [0])) == {0} and set(found.get("strides", [1])) == {1}
    bare = bare and found.get("group", 1) == 1 and found.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    constant = flow.constants.is_float(node.input[1]) and flow.constants.shape(node.input[1])[2:] == (1, 1)
    return bare and constant and (len(node.input) < 3 or flow.constants.is_float(node.input[2]))


def _convolved(branch: _Branch, inputs: list[str], hint: str, flow: Flow, made: list[NodeProto]) -> str:
    name = flow.constants.fresh(hint)
    resize = branch.resize
    inputs[0] = branch.value if resize is None else resize.input[0]
    made.append(helper.make_node("Conv", inputs, [name], kernel_shape=[1, 1]))
    if resize is None:
        return name
    first, sizes, large = (flow.constants.fresh(f"{hint}_{part}") for part in ("rows", "sizes", "large"))
    how = [name, *resize.input[1:3]]
    old = flow.maker(resize.input[3], "Concat") if len(resize.input) > 3 else None
    if old is not None:
        made.append(helper.make_node("Shape", [name], [first], start=0, end=2))
        made.append(helper.make_node("Concat", [first, old.input[1]], [sizes], axis=0))
        how.append(sizes)
    made.append(helper.make_node("Resize", how, [large]))
    made[-1].attribute.extend(resize.attribute)
    return large


def _add_up(values: list[str], result: str, flow: Flow, made: list[NodeProto]) -> None:
    total = values[0]
    for number, value in enumerate(values[1:], start=2):
        name = result if number == len(values) else flow.constants.fresh(f"{result}_sum")
        made.append(helper.make_node("Add", [total, value], [name]))
        total = name
