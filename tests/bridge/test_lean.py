"""The lean recipe: it comes to rest, reads external weights, and leaves what it cannot improve."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tilth.bridge.flow import Flow
from tilth.bridge.lean import make_lean
from tilth.bridge.recipes import RECIPES

N = helper.make_node


def _pipeline() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(64, 32)).astype(np.float32),
        "b": rng.normal(size=(1, 32)).astype(np.float32),
        "classes": np.arange(32, dtype=np.int32),
        "flat": np.array([-1]),
    }
    nodes = [
        N("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[1.0] * 64, scale=[0.5] * 64),
        N("Cast", ["s"], ["c"], to=TensorProto.FLOAT),
        N("MatMul", ["c", "w"], ["m"]),
        N("Add", ["m", "b"], ["a"]),
        N("Softmax", ["a"], ["p"]),
        N("Identity", ["p"], ["probabilities"]),
        N("ArgMax", ["probabilities"], ["i"], axis=1),
        N("ArrayFeatureExtractor", ["classes", "i"], ["l"], domain="ai.onnx.ml"),
        N("Reshape", ["l", "flat"], ["r"]),
        N("Cast", ["r"], ["label"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "pipeline",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 32]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _answers(path: Path, x: "np.ndarray[tuple[int, int], np.dtype[np.float32]]") -> list[object]:
    return list(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x}))


def test_a_pipeline_with_weights_outside_comes_down_to_three_nodes(tmp_path: Path) -> None:
    onnx.save_model(_pipeline(), tmp_path / "a.onnx", save_as_external_data=True, size_threshold=1024, location="w.bin")
    model = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    assert RECIPES["lean"](model, tmp_path, [], lambda path: None, 0.1) > 0  # type: ignore[arg-type, return-value]
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Softmax", "ArgMax"]
    onnx.checker.check_model(model.SerializeToString())
    onnx.save_model(model, tmp_path / "b.onnx")
    x = np.random.default_rng(1).normal(1, 2, (5, 64)).astype(np.float32)
    for found, wanted in zip(_answers(tmp_path / "b.onnx", x), _answers(tmp_path / "a.onnx", x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_lean_model_is_at_rest(tmp_path: Path) -> None:
    model = _pipeline()
    assert make_lean(model, tmp_path) > 0
    before = model.SerializeToString(deterministic=True)
    assert make_lean(model, tmp_path) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_weights_that_no_pass_needs_are_not_opened(tmp_path: Path) -> None:
    model = _pipeline()
    del model.graph.node[0]
    model.graph.node[0].input[0] = "x"
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="absent.bin")
    assert make_lean(model, tmp_path) > 0
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Softmax", "ArgMax"]


def test_a_graph_that_contradicts_itself_is_left_to_the_engines(tmp_path: Path) -> None:
    model = _pipeline()
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros((3, 7), np.float32), "b"))
    assert Flow(model, tmp_path).types.get("x") is not None
    make_lean(model, tmp_path)
    assert [node.op_type for node in model.graph.node].count("Add") == 1


def test_a_graph_of_very_many_nodes_is_left_alone(tmp_path: Path) -> None:
    model = _pipeline()
    model.graph.node.extend(N("Identity", ["p"], [f"unused_{i}"]) for i in range(20_000))
    assert make_lean(model, tmp_path) == 0
