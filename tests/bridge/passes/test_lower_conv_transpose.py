"""LowerConvTranspose: every kernel, stride and padding gives the same image."""

import pytest
from onnx import helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.lower_conv_transpose import LowerConvTranspose

N = helper.make_node
LOWER = LowerConvTranspose(FOLDER)
INPUTS = {"x": ["batch", 3, "rows", "columns"]}


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 4), (5, 4), (1, 6)])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
def test_the_image_is_the_same(stride: int, kernel: tuple[int, int], pads: list[int]) -> None:
    sound = stride * -(-min(kernel) // stride) - min(kernel) + min(pads) >= 0
    node = N("ConvTranspose", ["x", "w", "b"], ["y"], strides=[stride, stride], pads=pads)
    model = made([node], INPUTS, ["y"], {"w": noise(3, 5, *kernel), "b": noise(5)})
    assert changed(LOWER, model, {"x": noise(2, 3, 4, 7)}, {"x": noise(1, 3, 3, 2)}) == int(sound)


def test_what_is_added_at_the_end_is_cut_from_the_rest_or_refused() -> None:
    for padding, fits in (([0, 0], 1), ([1, 1], 1), ([1, 0], 1)):
        node = N("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4, output_padding=padding)
        model = made([node], INPUTS, ["y"], {"w": noise(3, 5, 3, 3)})
        assert changed(LOWER, model, {"x": noise(2, 3, 4, 7)}) == fits
    node = N("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_padding=[1, 1])
    untouched(LOWER, made([node], INPUTS, ["y"], {"w": noise(3, 5, 2, 2)}))


def test_a_pointwise_function_moves_in_front() -> None:
    nodes = [N("ConvTranspose", ["x", "w"], ["t"], strides=[2, 2]), N("LeakyRelu", ["t"], ["y"], alpha=0.3)]
    model = made(nodes, INPUTS, ["y"], {"w": noise(3, 5, 4, 4)})
    assert changed(LOWER, model, {"x": noise(2, 3, 4, 7)}) == 1
    assert ops(model) == ["Conv", "LeakyRelu", "DepthToSpace", "Slice"]


def test_a_value_that_others_see_keeps_its_function_behind() -> None:
    nodes = [N("ConvTranspose", ["x", "w"], ["t"], strides=[2, 2]), N("Relu", ["t"], ["y"])]
    model = made(nodes, INPUTS, ["y", "t"], {"w": noise(3, 5, 4, 4)})
    assert changed(LOWER, model, {"x": noise(2, 3, 4, 7)}) == 1
    assert ops(model)[-1] == "Relu"


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1]},
        {"strides": [2, 3]},
        {"strides": [2, 2], "dilations": [2, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "output_shape": [9, 9]},
        {},
    ],
)
def test_other_kinds_stay(attributes: dict[str, object]) -> None:
    untouched(
        LOWER, made([N("ConvTranspose", ["x", "w"], ["y"], **attributes)], INPUTS, ["y"], {"w": noise(3, 5, 4, 4)})
    )


def test_groups_and_one_dimension_stay() -> None:
    node = N("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=3)
    untouched(LOWER, made([node], INPUTS, ["y"], {"w": noise(3, 5, 4, 4)}))
    line = N("ConvTranspose", ["x", "w"], ["y"], strides=[2])
    untouched(LOWER, made([line], {"x": ["batch", 3, "steps"]}, ["y"], {"w": noise(3, 5, 4)}))


def test_a_kernel_that_is_computed_stays() -> None:
    node = N("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    untouched(LOWER, made([node], INPUTS | {"w": [3, 5, 4, 4]}, ["y"]))
