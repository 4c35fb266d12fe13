"""FoldBatchNorm: the same image, and hands off where others look in between."""

import numpy as np
import pytest
from onnx import helper
from rewriting import FOLDER, Array, changed, made, noise, ops, untouched

from tilth.bridge.passes.fold_batchnorm import FoldBatchNorm

N = helper.make_node
FOLD = FoldBatchNorm(FOLDER)
INPUTS = {"x": ["batch", 3, 7, 7]}
NORM = ["gain", "shift", "mean", "variance"]


def constants(channels: int, *shape: int) -> dict[str, Array]:
    found = {name: noise(channels, seed=i) for i, name in enumerate(NORM)}
    found["variance"] = np.abs(found["variance"]) + np.float32(0.1)
    return found | {"w": noise(channels, *shape), "b": noise(channels, seed=9)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_the_image_is_the_same(bias: bool, group: int) -> None:
    conv = N("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], group=group, pads=[1] * 4, strides=[2, 2])
    nodes = [conv, N("BatchNormalization", ["c", *NORM], ["y"], epsilon=0.01)]
    model = made(nodes, INPUTS, ["y"], constants(6, 3 // group, 3, 3))
    assert changed(FOLD, model, {"x": noise(2, 3, 7, 7)}) == 1
    assert ops(model) == ["Conv"]


def test_a_value_that_others_see_stays() -> None:
    nodes = [N("Conv", ["x", "w"], ["c"]), N("BatchNormalization", ["c", *NORM], ["y"])]
    untouched(FOLD, made(nodes, INPUTS, ["y", "c"], constants(6, 3, 3, 3)))


def test_a_norm_that_learns_stays() -> None:
    norm = N("BatchNormalization", ["c", *NORM], ["y", "m", "v"], training_mode=1)
    untouched(FOLD, made([N("Conv", ["x", "w"], ["c"]), norm], INPUTS, ["y"], constants(6, 3, 3, 3)))


def test_weights_that_two_convolutions_share_are_folded_apart() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["c"]),
        N("BatchNormalization", ["c", *NORM], ["a"]),
        N("Conv", ["x", "w"], ["b2"]),
        N("Sub", ["a", "b2"], ["y"]),
    ]
    assert changed(FOLD, made(nodes, INPUTS, ["y"], constants(6, 3, 3, 3)), {"x": noise(2, 3, 7, 7)}) == 1
