"""LowerScaler: folding must not lose digits, and other inputs stay with the operator."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.lower_scaler import LowerScaler

N = helper.make_node
LOWER = LowerScaler(FOLDER)
ML = "ai.onnx.ml"
INPUTS = {"x": ["batch", 4]}


def scaler(offset: list[float], scale: list[float]) -> list[object]:
    return [N("Scaler", ["x"], ["s"], domain=ML, offset=offset, scale=scale)]


@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,)])
def test_it_disappears_into_a_product_and_its_bias(bias: tuple[int, ...]) -> None:
    nodes = [*scaler([1.0, -2.0, 0.5, 3.0], [2.0, 0.1, 1.0, 0.7]), N("MatMul", ["s", "w"], ["p"])]
    nodes.append(N("Add", ["b", "p"], ["y"]))
    model = made(nodes, INPUTS, ["y"], {"w": noise(4, 5), "b": noise(*bias)})
    assert changed(LOWER, model, {"x": noise(3, 4)}, {"x": noise(0, 4)}) == 1
    assert ops(model) == ["MatMul", "Add"]


@pytest.mark.parametrize("turned", [0, 1])
def test_it_disappears_into_a_gemm_with_and_without_bias(turned: int) -> None:
    weights = {"w": noise(5, 4) if turned else noise(4, 5), "b": noise(5)}
    for inputs in (["s", "w"], ["s", "w", "b"]):
        nodes = [*scaler([1.0], [2.0]), N("Gemm", inputs, ["y"], transB=turned)]
        model = made(nodes, INPUTS, ["y"], weights)
        assert changed(LOWER, model, {"x": noise(3, 4)}) == 1
        assert ops(model) == ["Gemm"]


def test_a_mean_that_is_far_away_is_subtracted_first() -> None:
    nodes = [*scaler([1e6] * 4, [1.0] * 4), N("MatMul", ["s", "w"], ["y"])]
    model = made(nodes, INPUTS, ["y"], {"w": noise(4, 5)})
    assert changed(LOWER, model, {"x": noise(3, 4) + np.float32(1e6)}) == 1
    assert ops(model) == ["Sub", "Mul", "MatMul"]


def test_a_product_that_others_see_before_the_weights_is_kept() -> None:
    nodes = [*scaler([1.0], [2.0]), N("MatMul", ["s", "w"], ["y"])]
    model = made(nodes, INPUTS, ["y", "s"], {"w": noise(4, 5)})
    assert changed(LOWER, model, {"x": noise(3, 4)}) == 1
    assert ops(model) == ["Sub", "Mul", "MatMul"]


def test_a_gemm_with_factors_is_left_alone() -> None:
    nodes = [*scaler([1.0], [2.0]), N("Gemm", ["s", "w"], ["y"], alpha=0.5)]
    model = made(nodes, INPUTS, ["y"], {"w": noise(4, 5)})
    assert changed(LOWER, model, {"x": noise(3, 4)}) == 1
    assert ops(model) == ["Sub", "Mul", "Gemm"]


def test_integers_are_converted_by_the_operator_itself() -> None:
    untouched(LOWER, made(scaler([1.0], [2.0]), INPUTS, ["s"], kinds={"x": TensorProto.INT64}))


def test_weights_that_are_infinite_after_folding_are_not_folded() -> None:
    nodes = [*scaler([0.0], [1e30]), N("MatMul", ["s", "w"], ["y"])]
    model = made(nodes, INPUTS, ["y"], {"w": np.full((4, 5), 1e30, np.float32)})
    assert changed(LOWER, model, {"x": np.zeros((1, 4), np.float32)}) == 1
    assert ops(model) == ["Sub", "Mul", "MatMul"]
