"""SplitConcatConv: a convolution may trade places with Resize, and with nothing else."""

import numpy as np
import onnx
import pytest
from onnx import helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.split_concat_conv import SplitConcatConv

N = helper.make_node
SPLIT = SplitConcatConv(FOLDER)
INPUTS = {"a": ["batch", 6, 4, 4], "b": ["batch", 2, 8, 8]}
FEEDS = [{"a": noise(rows, 6, 4, 4), "b": noise(rows, 2, 8, 8, seed=1)} for rows in (1, 3)]


def head(*, sizes: bool = True, out: int = 5, outputs: tuple[str, ...] = ("y",), **how: object) -> onnx.ModelProto:
    conv = {"kernel_shape": [1, 1], **{k: how.pop(k) for k in ("strides", "pads") if k in how}}
    resize = {"mode": "linear", **how}
    nodes = [
        N("Shape", ["a"], ["rows"], start=0, end=2),
        N("Concat", ["rows", "places"], ["sizes"], axis=0),
        N("Resize", ["a", "", "", "sizes"] if sizes else ["a", "", "scales"], ["large"], **resize),
        N("Concat", ["large", "b"], ["all"], axis=1),
        N("Conv", ["all", "w", "bias"], ["y"], **conv),
    ]
    constants = {"places": np.array([8, 8]), "scales": np.array([1, 1, 2, 2], np.float32)}
    constants |= {"w": noise(out, 8, 1, 1), "bias": noise(out)}
    return made(nodes if sizes else nodes[2:], INPUTS, outputs, constants)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("place", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("sizes", [True, False])
def test_the_convolution_comes_before_the_enlarging(mode: str, place: str, sizes: bool) -> None:
    model = head(sizes=sizes, mode=mode, coordinate_transformation_mode=place)
    assert changed(SPLIT, model, *FEEDS) == 1
    found = ops(model)
    assert found.index("Conv") < found.index("Resize")
    assert found[-1] == "Add"
    assert SPLIT(model) == 0


def test_a_head_that_would_enlarge_more_channels_stays() -> None:
    untouched(SPLIT, head(out=13))


def test_a_value_that_others_see_stays() -> None:
    untouched(SPLIT, head(outputs=("y", "all")))
    untouched(SPLIT, head(outputs=("y", "large")))


def test_a_stride_or_padding_is_not_pointwise() -> None:
    untouched(SPLIT, head(strides=[2, 2]))
    untouched(SPLIT, head(pads=[1, 1, 1, 1]))


def test_nothing_enlarged_is_nothing_gained() -> None:
    nodes = [N("Concat", ["a", "b"], ["all"], axis=1), N("Conv", ["all", "w"], ["y"], kernel_shape=[1, 1])]
    inputs = {"a": ["batch", 6, 8, 8], "b": ["batch", 2, 8, 8]}
    untouched(SPLIT, made(nodes, inputs, ["y"], {"w": noise(5, 8, 1, 1)}))
