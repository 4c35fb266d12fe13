"""Int8 versions of whole networks: close to the float ones, fused by the engines, and the same every time."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibrating import CPU, Array, Loads, N, answers, error, fused, network, noise, ops, residual, rows
from onnx import helper

from tilth.bridge.int8 import Quantizer
from tilth.core.build import Build, Precision
from tilth.core.errors import InvalidError, UnsupportedError

IMAGES = rows(12, 3, 9, 9)


def quantised(model: onnx.ModelProto, folder: Path, inputs: list[dict[str, Array]] | None = None) -> onnx.ModelProto:
    work = Quantizer(model, folder, inputs or IMAGES, Loads())
    return work.made(work.sites)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_network_keeps_its_answers(depthwise: bool, tmp_path: Path) -> None:
    model = residual(depthwise)
    made = quantised(model, tmp_path)
    onnx.checker.check_model(made, full_check=True)
    for feed in ({"x": noise(1, 3, 9, 9, seed=9)}, {"x": noise(5, 3, 9, 9, seed=10)}):
        assert error(answers(made, feed), answers(model, feed)) < 0.05
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_runs_every_heavy_node_in_int8(tmp_path: Path) -> None:
    found = fused(quantised(residual(), tmp_path), tmp_path)
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= set(found)
    assert {"Conv", "FusedConv", "Gemm", "Relu", "Add"}.isdisjoint(found)
    # One at the input; everything between is 8-bit already.
    assert found.count("QuantizeLinear") == 1


def test_openvino_gives_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from tilth.plugins.engines.openvino import OpenVinoEngine

    model = residual()
    onnx.save_model(quantised(model, tmp_path), tmp_path / "model.onnx")
    build = Build("", CPU.target, "openvino", Precision.INT8, "int8", settings={"shapes": "fixed"})
    session = OpenVinoEngine().load(tmp_path / "model.onnx", build, CPU)
    feed = {"x": noise(1, 3, 9, 9, seed=9)}
    found = [np.asarray(value) for value in session.run(feed).values()]
    assert error(found, answers(model, feed)) < 0.03
    assert any(kernel.endswith("I8") for kernel in session.placement().kernels)


def test_the_same_model_and_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (quantised(residual(), tmp_path).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_float_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = residual()
    before = model.SerializeToString(deterministic=True)
    quantised(model, tmp_path)
    assert model.SerializeToString(deterministic=True) == before


def test_external_weights_are_read_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(residual(), path, save_as_external_data=True, location="weights", size_threshold=0)
    made = quantised(onnx.load(path, load_external_data=False), tmp_path)
    kept = [item.name for item in made.graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
    assert kept == []
    feed = {"x": noise(1, 3, 9, 9, seed=9)}
    assert error(answers(made, feed), answers(residual(), feed)) < 0.03


def test_an_old_operator_set_is_refused_before_anything_runs(tmp_path: Path) -> None:
    model = network([N("MatMul", ["x", "w"], ["y"])], {"x": [1, 16]}, {"y": 2}, {"w": noise(16, 16)}, opset=12)
    load = Loads()
    with pytest.raises(UnsupportedError, match="operator set 12"):
        Quantizer(model, tmp_path, rows(2, 16), load)
    assert load.count == 0


def test_an_input_that_makes_infinities_is_refused(tmp_path: Path) -> None:
    nodes = [N("Exp", ["x"], ["e"]), N("MatMul", ["e", "w"], ["y"])]
    model = network(nodes, {"x": [1, 16]}, {"y": 2}, {"w": noise(16, 16)})
    with pytest.raises(InvalidError, match="NaN or infinite"):
        quantised(model, tmp_path, [{"x": np.full((1, 16), 1000, np.float32)}])
    assert list(tmp_path.iterdir()) == []


def test_an_input_of_zeros_is_no_reason_to_fail(tmp_path: Path) -> None:
    model = residual()
    made = quantised(model, tmp_path, [{"x": np.zeros((1, 3, 9, 9), np.float32)}])
    feed = {"x": np.zeros((1, 3, 9, 9), np.float32)}
    assert error(answers(made, feed), answers(model, feed)) < 0.03


def test_nothing_is_quantised_without_inputs(tmp_path: Path) -> None:
    assert Quantizer(residual(), tmp_path, [], Loads()).sites == []


def test_a_small_convolution_between_float_nodes_stays_float(tmp_path: Path) -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["m"]),
        N("Transpose", ["m"], ["t"], perm=[0, 2, 1]),
        N("Conv", ["t", "w1"], ["c"], group=64, pads=[1, 1]),
        N("Erf", ["c"], ["e"]),
        N("Transpose", ["e"], ["u"], perm=[0, 2, 1]),
        N("MatMul", ["u", "w2"], ["y"]),
    ]
    constants = {"w0": noise(64, 64), "w1": noise(64, 1, 3), "w2": noise(64, 64)}
    model = network(nodes, {"x": ["batch", 20, 64]}, {"y": 3}, constants)
    assert [site.name for site in Quantizer(model, tmp_path, rows(2, 20, 64), Loads()).sites] == ["m", "y"]


def test_a_lone_convolution_that_is_the_model_is_quantised(tmp_path: Path) -> None:
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Tanh", ["c"], ["y"])]
    model = network(nodes, {"x": ["batch", 8, 40]}, {"y": 3}, {"w": noise(32, 8, 5, scale=0.1)})
    assert "QLinearConv" in fused(quantised(model, tmp_path, rows(4, 8, 40)), tmp_path)


def test_an_output_of_the_graph_is_not_cut_into_256_steps(tmp_path: Path) -> None:
    model = network([N("Conv", ["x", "w"], ["y"])], {"x": ["batch", 8, 999]}, {"y": 3}, {"w": noise(16, 8, 1)})
    made = quantised(model, tmp_path, rows(3, 8, 999))
    assert "QuantizeLinear" in ops(made)
    assert len(np.unique(answers(made, rows(1, 8, 999)[0])[0])) > 4000


def test_a_sum_that_is_an_output_keeps_its_name(tmp_path: Path) -> None:
    nodes = [
        N("Conv", ["x", "w0"], ["a"]),
        N("Conv", ["a", "w1"], ["b"]),
        N("Add", ["a", "b"], ["y"]),
        N("Conv", ["y", "w2"], ["c"]),
        N("Relu", ["c"], ["z"]),
    ]
    constants = {f"w{i}": noise(16, 16, 1, seed=i, scale=0.2) for i in range(3)}
    model = network(nodes, {"x": ["batch", 16, 30]}, {"y": 3, "z": 3}, constants)
    made = quantised(model, tmp_path, rows(4, 16, 30))
    feed = {"x": noise(2, 16, 30, seed=50)}
    assert [value.name for value in made.graph.output] == ["y", "z"]
    assert error(answers(made, feed), answers(model, feed)) < 0.05


def test_a_subgraph_sees_what_the_relu_made(tmp_path: Path) -> None:
    inside = helper.make_graph(
        [N("Neg", ["r"], ["n"])], "then", [], [helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [N("Identity", ["r"], ["i"])], "else", [], [helper.make_tensor_value_info("i", onnx.TensorProto.FLOAT, None)]
    )
    nodes = [
        N("Conv", ["x", "w0"], ["c"]),
        N("Relu", ["c"], ["r"]),
        N("Conv", ["r", "w1"], ["d"]),
        N("Relu", ["d"], ["z"]),
        N("If", ["yes"], ["y"], then_branch=inside, else_branch=other),
    ]
    constants = {"w0": noise(16, 16, 1), "w1": noise(16, 16, 1), "yes": np.array(True)}
    model = network(nodes, {"x": ["batch", 16, 30]}, {"y": 3, "z": 3}, constants)
    made = quantised(model, tmp_path, rows(4, 16, 30))
    found, _ = answers(made, {"x": noise(1, 16, 30)})
    assert found.max() == 0


def test_a_weight_with_two_uses_is_stored_once(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["a"]), N("Tanh", ["a"], ["b"]), N("MatMul", ["b", "w"], ["y"])]
    model = network(nodes, {"x": ["batch", 64]}, {"y": 2}, {"w": noise(64, 64, scale=0.1)})
    made = quantised(model, tmp_path, rows(4, 64))
    matrices = [item for item in made.graph.initializer if list(item.dims) == [64, 64]]
    assert [item.data_type for item in matrices] == [onnx.TensorProto.INT8]


def test_a_bias_far_above_its_products_survives(tmp_path: Path) -> None:
    constants = {"w": noise(16, 16, seed=1, scale=1e-8), "b": noise(16, seed=2, scale=1e4)}
    nodes = [N("Gemm", ["x", "w", "b"], ["a"]), N("Relu", ["a"], ["y"])]
    model = network(nodes, {"x": ["batch", 16]}, {"y": 2}, constants)
    made = quantised(model, tmp_path, rows(4, 16))
    feed = {"x": noise(2, 16)}
    assert error(answers(made, feed), answers(model, feed)) < 0.01


def test_rounding_weights_does_not_shift_the_mean(tmp_path: Path) -> None:
    # All inputs alike and far from zero: without a correction every rounding error adds up.
    weights = np.full((16, 256), 0.4, np.float32) + noise(16, 256, scale=1e-3)
    weights[:, 0] = 127.0
    model = network(
        [N("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"x": ["batch", 256]},
        {"y": 2},
        {"w": weights, "b": np.zeros(16, np.float32)},
    )
    inputs = [{"x": np.abs(noise(1, 256, seed=i, scale=0.01)) + 1} for i in range(8)]
    for item in inputs:
        item["x"][:, 0] = 0
    made = quantised(model, tmp_path, inputs)
    assert error(answers(made, inputs[0]), answers(model, inputs[0])) < 0.01
