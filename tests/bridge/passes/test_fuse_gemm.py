"""FuseGemm: only a matrix, a constant matrix and one row."""

import pytest
from onnx import helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.fuse_gemm import FuseGemm

N = helper.make_node
FUSE = FuseGemm(FOLDER)
PAIR = [N("MatMul", ["x", "w"], ["p"]), N("Add", ["p", "b"], ["y"])]


@pytest.mark.parametrize("bias", [(5,), (1, 5)])
def test_a_product_and_its_bias_are_one(bias: tuple[int, ...]) -> None:
    model = made(PAIR, {"x": ["batch", 4]}, ["y"], {"w": noise(4, 5), "b": noise(*bias)})
    assert changed(FUSE, model, {"x": noise(1, 4)}, {"x": noise(3, 4)}, {"x": noise(0, 4)}) == 1
    assert ops(model) == ["Gemm"]


def test_what_is_no_row_is_not_a_bias() -> None:
    for bias in ((), (1,), (3, 5), (1, 1, 5)):
        untouched(FUSE, made(PAIR, {"x": [3, 4]}, ["y"], {"w": noise(4, 5), "b": noise(*bias)}))


def test_batches_of_matrices_stay() -> None:
    untouched(FUSE, made(PAIR, {"x": ["batch", 2, 4]}, ["y"], {"w": noise(4, 5), "b": noise(5)}))


def test_a_rank_that_nobody_knows_stays() -> None:
    untouched(FUSE, made(PAIR, {"x": None}, ["y"], {"w": noise(4, 5), "b": noise(5)}))  # type: ignore[dict-item]


def test_a_product_that_is_an_output_stays() -> None:
    untouched(FUSE, made(PAIR, {"x": ["batch", 4]}, ["y", "p"], {"w": noise(4, 5), "b": noise(5)}))


def test_a_bias_that_is_an_input_stays() -> None:
    untouched(FUSE, made(PAIR, {"x": ["batch", 4], "b": [5]}, ["y"], {"w": noise(4, 5)}))
