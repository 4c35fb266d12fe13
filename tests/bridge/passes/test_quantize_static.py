"""QuantizeStatic: every kind of node, and the ends of its contract."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from rewriting import FOLDER, Array, answers, made, noise, ops, untouched

from tilth.bridge.constants import Constants
from tilth.bridge.int8_plan import find_sites, make_plan
from tilth.bridge.passes.quantize_static import QuantizeStatic
from tilth.bridge.scales import Scale, activation_scale
from tilth.core.errors import InvalidError, UnsupportedError

N = helper.make_node
WIDE = activation_scale(-40.0, 40.0)
NARROW = activation_scale(-4.5, 4.5)


def quantised(model: onnx.ModelProto, scales: dict[str, Scale] | None = None) -> int:
    constants = Constants(model.graph, FOLDER)
    plan = make_plan(model.graph, find_sites(model.graph, constants), constants)
    known = dict.fromkeys(plan.tensors, WIDE) | {"x": NARROW} | (scales or {})
    return QuantizeStatic(FOLDER, plan, known)(model)


def close(model: onnx.ModelProto, feed: dict[str, Array], scales: dict[str, Scale] | None = None) -> None:
    wanted = answers(model, feed)
    assert quantised(model, scales) > 0
    for found, value in zip(answers(model, feed), wanted, strict=True):
        assert found.shape == value.shape
        assert np.linalg.norm(found - value) <= 0.03 * np.linalg.norm(value)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({}, (12, 6, 3, 3)),
        ({"pads": [1, 2, 0, 1]}, (12, 6, 3, 3)),
        ({"strides": [2, 1], "dilations": [1, 2]}, (12, 6, 3, 3)),
        ({"group": 3}, (12, 2, 3, 3)),
        ({"group": 6}, (6, 1, 3, 3)),
        ({"group": 6}, (12, 1, 3, 3)),
        ({"auto_pad": "SAME_LOWER"}, (12, 6, 3, 3)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_every_kind_of_convolution(attributes: dict[str, object], shape: tuple[int, ...], bias: bool) -> None:
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    constants = {"w": noise(*shape, seed=1), "b": noise(shape[0], seed=2)} if bias else {"w": noise(*shape, seed=1)}
    close(made([N("Conv", inputs, ["y"], **attributes)], {"x": ["n", 6, 9, 9]}, ["y"], constants), X6)


X6 = {"x": noise(2, 6, 9, 9)}


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_over_one_and_three_axes(axes: int) -> None:
    model = made([N("Conv", ["x", "w"], ["y"])], {"x": ["n", 4, *[9] * axes]}, ["y"], {"w": noise(8, 4, *[3] * axes)})
    close(model, {"x": noise(2, 4, *[9] * axes, seed=5)})


def test_a_transposed_convolution() -> None:
    node = N("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2])
    close(made([node], {"x": ["n", 6, 9, 9]}, ["y"], {"w": noise(6, 10, 4, 4), "b": noise(10)}), X6)


@pytest.mark.parametrize("flipped", [0, 1])
def test_a_product_with_a_bias(flipped: int) -> None:
    weights = noise(12, 30) if flipped else noise(30, 12)
    node = N("Gemm", ["x", "w", "b"], ["y"], transB=flipped)
    close(made([node], {"x": ["n", 30]}, ["y"], {"w": weights, "b": noise(12)}), {"x": noise(3, 30)})


def test_a_product_of_any_rank() -> None:
    close(made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 2, 5, 30]}, ["y"], {"w": noise(30, 12)}), X4)


X4 = {"x": noise(3, 2, 5, 30)}


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (N("Gemm", ["x", "w"], ["y"], alpha=0.5), {"w": noise(5, 4)}),
        (N("Gemm", ["x", "w"], ["y"], transA=1), {"w": noise(3, 4)}),
        (N("Gemm", ["x", "w", "b"], ["y"]), {"w": noise(5, 4), "b": noise(1, 4)}),
        (N("MatMul", ["x", "x2"], ["y"]), {}),
        (N("MatMul", ["x", "w"], ["y"]), {"w": noise(2, 5, 4)}),
        (N("MatMul", ["w", "x"], ["y"]), {"w": noise(4, 3)}),
        (N("Conv", ["x", "w"], ["y"], domain="com.acme"), {"w": noise(4, 5)}),
    ],
)
def test_what_has_no_int8_form_here_stays(node: onnx.NodeProto, constants: dict[str, Array]) -> None:
    model = made([node], {"x": [3, 5], "x2": [5, 4]}, ["y"], constants)
    graph = Constants(model.graph, FOLDER)
    assert find_sites(model.graph, graph) == []
    untouched(QuantizeStatic(FOLDER, make_plan(model.graph, [], graph), {}), model)


def test_a_weight_that_a_caller_may_replace_stays() -> None:
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": [3, 5], "w": [5, 4]}, ["y"], {"w": noise(5, 4)})
    assert find_sites(model.graph, Constants(model.graph, FOLDER)) == []


def test_weights_come_back_within_half_a_step() -> None:
    weights = noise(12, 6, 3, 3) * np.linspace(0.001, 5, 12, dtype=np.float32).reshape(-1, 1, 1, 1)
    weights[3, 2] = 0
    model = made([N("Conv", ["x", "w"], ["y"])], {"x": ["n", 6, 9, 9]}, ["y"], {"w": weights})
    quantised(model)
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert "w" not in kept
    scales = kept["w_scale"].reshape(-1, 1, 1, 1)
    back = kept["w_int"] * scales
    assert np.all(np.abs(back - weights) <= 0.5001 * scales)
    assert np.all(back[3, 2] == 0)
    assert np.all(kept["w_zero"] == 0)


@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_saturation_takes_the_place_of_a_relu(op: str) -> None:
    ends = ["low", "high"] if op == "Clip" else []
    nodes = [N("Conv", ["x", "w"], ["c"]), N(op, ["c", *ends], ["r"]), N("Conv", ["r", "v"], ["y"])]
    constants = {"w": noise(12, 6, 1, 1), "v": noise(10, 12, 1, 1)}
    constants |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)} if ends else {}
    model = made(nodes, {"x": ["n", 6, 9, 9]}, ["y"], constants)
    close(model, X6, {"r": activation_scale(0.0, 6.0 if ends else 12.0)})
    assert op not in ops(model)


def test_a_clip_from_above_zero_stays() -> None:
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Clip", ["c", "low"], ["r"]), N("Conv", ["r", "v"], ["y"])]
    constants = {"w": noise(12, 6, 1, 1), "v": noise(10, 12, 1, 1), "low": np.array(1, np.float32)}
    model = made(nodes, {"x": ["n", 6, 9, 9]}, ["y"], constants)
    close(model, X6, {"r": activation_scale(0.0, 12.0), "c": activation_scale(-12.0, 12.0)})
    assert "Clip" in ops(model)


def test_a_value_that_others_read_before_the_relu_keeps_both() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["c"]),
        N("Relu", ["c"], ["r"]),
        N("Conv", ["r", "v"], ["y"]),
        N("Neg", ["c"], ["z"]),
    ]
    constants = {"w": noise(12, 6, 1, 1), "v": noise(10, 12, 1, 1)}
    model = made(nodes, {"x": ["n", 6, 9, 9]}, ["y", "z"], constants)
    close(model, X6, {"c": activation_scale(-12.0, 12.0), "r": activation_scale(0.0, 12.0)})
    assert "Relu" in ops(model)


def test_what_moves_numbers_keeps_their_scale() -> None:
    nodes = [
        N("Conv", ["x", "w"], ["a"]),
        N("Conv", ["x", "v"], ["b"]),
        N("Concat", ["a", "b"], ["ab"], axis=1),
        N("MaxPool", ["ab"], ["p"], kernel_shape=[2, 2]),
        N("Conv", ["p", "u"], ["y"]),
    ]
    constants = {"w": noise(12, 6, 1, 1), "v": noise(8, 6, 1, 1), "u": noise(10, 20, 1, 1)}
    model = made(nodes, {"x": ["n", 6, 9, 9]}, ["y"], constants)
    graph = Constants(model.graph, FOLDER)
    plan = make_plan(model.graph, find_sites(model.graph, graph), graph)
    assert len({plan.leader(name) for name in ("a", "b", "ab", "p")}) == 1
    close(model, X6, dict.fromkeys(["a", "b", "ab", "p"], activation_scale(-12.0, 12.0)))


def test_a_float_value_is_rounded_for_the_product_alone() -> None:
    nodes = [N("Tanh", ["x"], ["t"]), N("MatMul", ["t", "w"], ["y"]), N("Neg", ["t"], ["z"])]
    model = made(nodes, {"x": ["n", 30]}, ["y", "z"], {"w": noise(30, 12)})
    feed = {"x": noise(2, 30)}
    wanted = answers(model, feed)[1]
    quantised(model)
    np.testing.assert_array_equal(answers(model, feed)[1], wanted)


def test_an_old_operator_set_is_refused() -> None:
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": [3, 5]}, ["y"], {"w": noise(5, 4)}, opset=12)
    with pytest.raises(UnsupportedError, match="operator set 12"):
        quantised(model)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    weights = noise(5, 4)
    weights[2, 2] = np.nan
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": [3, 5]}, ["y"], {"w": weights})
    with pytest.raises(InvalidError, match="NaN or infinite"):
        quantised(model)


def test_names_that_are_taken_are_not_taken_again() -> None:
    nodes = [N("Neg", ["x"], ["w_int"]), N("MatMul", ["w_int", "w"], ["x_u8"]), N("Neg", ["x_u8"], ["y"])]
    model = made(nodes, {"x": ["n", 30]}, ["y"], {"w": noise(30, 12)})
    close(model, {"x": noise(2, 30)}, {"w_int": NARROW})


def test_weights_in_constant_nodes_are_quantised_too() -> None:
    nodes = [N("Constant", [], ["w"], value=numpy_helper.from_array(noise(30, 12))), N("MatMul", ["x", "w"], ["y"])]
    close(made(nodes, {"x": ["n", 30]}, ["y"]), {"x": noise(2, 30)})


def test_external_weights_are_read(tmp_path: Path) -> None:
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 30]}, ["y"], {"w": noise(30, 12)})
    wanted = answers(model, {"x": noise(2, 30)})[0]
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    constants = Constants(model.graph, tmp_path)
    plan = make_plan(model.graph, find_sites(model.graph, constants), constants)
    assert QuantizeStatic(tmp_path, plan, {"x": NARROW})(model) == 1
    found = answers(model, {"x": noise(2, 30)})[0]
    assert np.linalg.norm(found - wanted) <= 0.03 * np.linalg.norm(wanted)
