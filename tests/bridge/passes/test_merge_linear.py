"""MergeLinear: two linear maps in a row are one, where nothing else looks between them."""

import numpy as np
import onnx
from onnx import helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.merge_linear import MergeLinear

N = helper.make_node
MERGE = MergeLinear(FOLDER)
FEEDS = [{"x": noise(rows, 12, 3)} for rows in (1, 4)]


def maps(
    *,
    bias: bool = True,
    last: bool = True,
    perm: tuple[int, ...] = (0, 2, 1),
    outputs: tuple[str, ...] = ("y",),
    wide: int = 7,
) -> onnx.ModelProto:
    nodes = [
        N("MatMul", ["x", "m"], ["p"]),
        N("Add", ["p", "r"], ["s"]),
        N("Transpose", ["s" if bias else "p"], ["t"], perm=perm),
        N("Reshape", ["t", "shape"], ["i"]),
        N("Conv", ["i", "w", "b"] if last else ["i", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    constants = {"m": noise(3, wide), "r": noise(wide), "w": noise(5, wide, 1, 1), "b": noise(5)}
    constants["shape"] = np.array([-1, wide, 3, 4])
    return made([n for n in nodes if bias or n.op_type != "Add"], {"x": ["batch", 12, 3]}, outputs, constants)


def test_with_and_without_biases() -> None:
    for bias in (True, False):
        for last in (True, False):
            model = maps(bias=bias, last=last)
            assert changed(MERGE, model, *FEEDS) == 1
            assert ops(model) == ["MatMul", "Add", "Transpose", "Reshape"]


def test_two_narrow_maps_that_are_cheaper_apart_stay() -> None:
    untouched(MERGE, maps(wide=1))


def test_a_value_in_between_that_others_see_stays() -> None:
    for name in ("p", "s", "t", "i"):
        untouched(MERGE, maps(outputs=("y", name)))


def test_another_order_of_axes_stays() -> None:
    model = maps()
    model.graph.node[2].attribute[0].ints[:] = [0, 1, 2]
    model.graph.initializer[4].CopyFrom(onnx.numpy_helper.from_array(np.array([-1, 7, 3, 4]), "shape"))
    untouched(MERGE, model)
