"""FoldConstants: the same bits, and nothing that depends on an input or is too large."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.fold_constants import FoldConstants

N = helper.make_node
FOLD = FoldConstants(FOLDER)


def test_gates_that_are_put_in_another_order_become_one_weight() -> None:
    nodes = [
        N("Slice", ["w", "zero", "two", "zero"], ["a"]),
        N("Slice", ["w", "two", "four", "zero"], ["b"]),
        N("Concat", ["b", "a"], ["ba"], axis=0),
        N("Transpose", ["ba"], ["t"]),
        N("Unsqueeze", ["t", "zero"], ["u"]),
        N("Squeeze", ["u", "zero"], ["s"]),
        N("Mul", ["s", "half"], ["h"]),
        N("MatMul", ["x", "h"], ["y"]),
    ]
    constants = {"w": noise(4, 5), "half": np.array(0.3, np.float32)}
    constants |= {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])}
    model = made(nodes, {"x": ["n", 5]}, ["y"], constants)
    assert changed(FOLD, model, {"x": noise(2, 5)}, exact=True) == 7
    assert ops(model) == ["MatMul"]
    assert [item.name for item in model.graph.initializer] == ["h"]


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    untouched(FOLD, made([N("Neg", ["w"], ["y"])], {"x": [1]}, ["y"], {"w": noise(4)}))


def test_a_sum_that_would_spread_out_is_left_alone() -> None:
    nodes = [N("Add", ["a", "b"], ["ab"]), N("ReduceMax", ["ab"], ["m"], keepdims=0), N("Add", ["m", "x"], ["y"])]
    constants = {"a": noise(1, 5000), "b": noise(5000, 1)}
    untouched(FOLD, made(nodes, {"x": [1]}, ["y"], constants))


def test_what_an_input_may_replace_is_not_a_constant() -> None:
    untouched(FOLD, made([N("Neg", ["w"], ["n"]), N("Neg", ["n"], ["y"])], {"w": [4]}, ["y"], {"w": noise(4)}))


def test_a_subgraph_still_finds_what_was_folded() -> None:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)
        return helper.make_graph([N("Add", ["n", "x"], [f"{name}_out"])], name, [], [output])

    nodes = [
        N("Constant", [], ["w"], value=numpy_helper.from_array(noise(4))),
        N("Neg", ["w"], ["n"]),
        N("If", ["yes"], ["y"], then_branch=branch("then"), else_branch=branch("else")),
    ]
    model = made(nodes, {"x": [4]}, ["y"], {"yes": np.array(True)})
    assert changed(FOLD, model, {"x": noise(4)}, exact=True) == 1
