"""QuantizeDynamic: products and LSTMs give about the same answers, and onnxruntime fuses them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from rewriting import FOLDER, Array, answers, made, noise, ops, untouched

from tilth.bridge.passes.quantize_dynamic import QuantizeDynamic
from tilth.core.errors import InvalidError, UnsupportedError

N = helper.make_node
DYNAMIC = QuantizeDynamic(FOLDER)


def close(model: onnx.ModelProto, *feeds: dict[str, Array], places: int = 1) -> None:
    wanted = [answers(model, feed) for feed in feeds]
    assert DYNAMIC(model) == places
    for feed, values in zip(feeds, wanted, strict=True):
        for found, value in zip(answers(model, feed), values, strict=True):
            assert found.shape == value.shape
            assert np.linalg.norm(found - value) <= 0.03 * np.linalg.norm(value)


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (N("MatMul", ["x", "w"], ["y"]), (160, 128)),
        (N("Gemm", ["x", "w", "b"], ["y"]), (160, 128)),
        (N("Gemm", ["x", "w", "b"], ["y"], transB=1), (128, 160)),
    ],
)
def test_a_product_at_any_batch_and_size_of_values(node: onnx.NodeProto, shape: tuple[int, int]) -> None:
    model = made([node], {"x": ["n", 160]}, ["y"], {"w": noise(*shape), "b": noise(128)})
    close(model, {"x": noise(1, 160)}, {"x": noise(7, 160) * 1000}, {"x": np.abs(noise(3, 160))})
    assert "MatMulInteger" in ops(model)


def test_a_product_over_more_axes() -> None:
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 5, 160]}, ["y"], {"w": noise(160, 128)})
    close(model, {"x": noise(2, 5, 160)})


def test_an_input_of_zeros_gives_zeros() -> None:
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 160]}, ["y"], {"w": noise(160, 128)})
    assert DYNAMIC(model) == 1
    assert not answers(model, {"x": np.zeros((2, 160), np.float32)})[0].any()


def test_one_input_of_several_products_is_rounded_once_and_weights_are_stored_once() -> None:
    nodes = [N("MatMul", ["x", "w"], ["a"]), N("MatMul", ["x", "w"], ["b"]), N("Add", ["a", "b"], ["y"])]
    model = made(nodes, {"x": ["n", 160]}, ["y"], {"w": noise(160, 128)})
    close(model, {"x": noise(2, 160)}, places=2)
    assert ops(model).count("DynamicQuantizeLinear") == 1
    assert [list(item.dims) for item in model.graph.initializer].count([160, 128]) == 1


def test_onnxruntime_fuses_what_is_written(tmp_path: Path) -> None:
    model = made([N("Gemm", ["x", "w", "b"], ["y"])], {"x": ["n", 160]}, ["y"], {"w": noise(160, 128), "b": noise(128)})
    DYNAMIC(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert ops(onnx.load(tmp_path / "fused.onnx")) == ["DynamicQuantizeMatMul"]


def test_small_products_stay() -> None:
    untouched(DYNAMIC, made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 16]}, ["y"], {"w": noise(16, 16)}))


def test_the_last_product_of_a_convolutional_network_stays() -> None:
    nodes = [N("Conv", ["x", "v"], ["c"]), N("Flatten", ["c"], ["f"]), N("MatMul", ["f", "w"], ["y"])]
    untouched(DYNAMIC, made(nodes, {"x": ["n", 160, 1]}, ["y"], {"v": noise(160, 160, 1), "w": noise(160, 128)}))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_an_lstm(direction: str) -> None:
    ways = 2 if direction == "bidirectional" else 1
    names = ["x", "w", "r", "b", "", "h", "c"]
    node = N("LSTM", names, ["y", "yh", "yc"], hidden_size=24, direction=direction)
    constants = {
        "w": noise(ways, 96, 16, seed=1) * np.float32(0.3),
        "r": noise(ways, 96, 24, seed=2) * np.float32(0.2),
        "b": noise(ways, 192, seed=3) * np.float32(0.1),
        "h": noise(ways, 1, 24, seed=4),
        "c": noise(ways, 1, 24, seed=5),
    }
    model = made([node], {"x": [7, 1, 16]}, ["y", "yh", "yc"], constants)
    close(model, {"x": noise(7, 1, 16)})
    assert ops(model) == ["DynamicQuantizeLSTM"]
    assert [item.dims[0] for item in model.graph.initializer if item.name.endswith("_int")] == [ways] * 2


def test_an_lstm_with_the_batch_in_front_stays() -> None:
    node = N("LSTM", ["x", "w", "r"], ["y"], hidden_size=24, layout=1)
    constants = {"w": noise(1, 96, 16), "r": noise(1, 96, 24)}
    untouched(DYNAMIC, made([node], {"x": [1, 7, 16]}, ["y"], constants))


def test_an_lstm_with_weights_from_outside_stays() -> None:
    node = N("LSTM", ["x", "w", "r"], ["y"], hidden_size=24)
    untouched(DYNAMIC, made([node], {"x": [7, 1, 16], "w": [1, 96, 16], "r": [1, 96, 24]}, ["y"]))


def test_an_old_operator_set_is_refused() -> None:
    model = made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 160]}, ["y"], {"w": noise(160, 128)}, opset=10)
    with pytest.raises(UnsupportedError, match="operator set 10"):
        DYNAMIC(model)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    weights = noise(160, 128)
    weights[3, 4] = np.inf
    with pytest.raises(InvalidError, match="NaN or infinite"):
        DYNAMIC(made([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 160]}, ["y"], {"w": weights}))
