from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tilth.core.errors import InvalidError, MissingError, UnsupportedError, UntrustedError
from tilth.plugins.frontends.onnx_file import OnnxFrontend

FRONTEND = OnnxFrontend()
FLOAT = TensorProto.FLOAT
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def _value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], weights: Any = (), opset: int = 18
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="acme", producer_version="1.2")


def _linear(batch: Any = "N", width: int = 4) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(width * 300, dtype=np.float32).reshape(width, 300) / 100, "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model([node], [_value("x", FLOAT, [batch, width])], [_value("y", FLOAT, [batch, 300])], [weight])


def _shape(value: Any) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_leading_symbol_is_called_batch_everywhere() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Add", ["h", "s"], ["y"])]
    inputs = [_value("x", FLOAT, ["unk__215", "time"]), _value("s", FLOAT, [1, "time"])]
    model = _model(nodes, inputs, [_value("y", FLOAT, ["unk__215", "time"])])
    model.graph.value_info.append(_value("h", FLOAT, ["unk__215", "time"]))
    capture = FRONTEND.capture(model, None)
    graph = capture.model.graph
    assert _shape(graph.input[0]) == ["batch", "time"] == _shape(graph.output[0]) == _shape(graph.value_info[0])
    assert _shape(graph.input[1]) == [1, "time"]
    assert capture.batched
    assert _shape(model.graph.input[0]) == ["unk__215", "time"], "the caller's model was changed"


def test_an_output_of_another_symbol_keeps_it() -> None:
    model = _linear("unk__215")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "unk__216"
    capture = FRONTEND.capture(model, None)
    assert _shape(capture.model.graph.output[0]) == ["unk__216", 300]


def test_a_second_dimension_called_batch_is_not_merged_with_another_symbol() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["s"], ["t"])]
    inputs = [_value("x", FLOAT, ["N", 3]), _value("s", FLOAT, [2, "batch"])]
    model = _model(nodes, inputs, [_value("y", FLOAT, ["N", 3]), _value("t", FLOAT, [2, "batch"])])
    graph = FRONTEND.capture(model, None).model.graph
    assert _shape(graph.input[0]) == ["N", 3]
    assert _shape(graph.input[1]) == [2, "batch"]


def test_a_fixed_batch_stays_fixed() -> None:
    capture = FRONTEND.capture(_linear(3), ROWS[:3])
    assert not capture.batched
    assert _shape(capture.model.graph.input[0]) == [3, 4]


def test_run_agrees_at_two_batch_sizes(disagreement: Any) -> None:
    capture = FRONTEND.capture(_linear(), ROWS)
    assert disagreement(capture) == 0
    assert capture.framework == "onnx"
    assert "acme 1.2" in " ".join(capture.notes)


def test_a_file_a_folder_and_a_model_in_memory_are_the_same(tmp_path: Path) -> None:
    onnx.save_model(_linear(), tmp_path / "m.onnx")
    wanted = FRONTEND.capture(_linear(), ROWS).run({"x": ROWS})["y"]
    for model in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), tmp_path):
        assert FRONTEND.accepts(model)
        found = FRONTEND.capture(model, ROWS)
        assert found.weights_dir == tmp_path
        assert np.array_equal(found.run({"x": ROWS})["y"], wanted)


def test_external_weights_are_loaded_from_beside_the_model(tmp_path: Path) -> None:
    onnx.save_model(_linear(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    wanted = FRONTEND.capture(_linear(), ROWS).run({"x": ROWS})["y"]
    for model in (tmp_path / "m.onnx", tmp_path):
        capture = FRONTEND.capture(model, ROWS)
        assert np.array_equal(capture.run({"x": ROWS})["y"], wanted)
        assert capture.model.graph.initializer[0].data_location == TensorProto.EXTERNAL


def test_external_weights_of_a_model_in_memory_are_refused(tmp_path: Path) -> None:
    onnx.save_model(_linear(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(InvalidError):
        FRONTEND.capture(onnx.load(tmp_path / "m.onnx", load_external_data=False), ROWS)


def test_external_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save_model(_linear(), folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../w.bin"
    (tmp_path / "w.bin").write_bytes((folder / "w.bin").read_bytes())
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UntrustedError):
        FRONTEND.capture(folder / "m.onnx", ROWS)


def test_recorded_outputs_are_kept_apart_and_compared() -> None:
    truth = ROWS @ (np.arange(1200, dtype=np.float32).reshape(4, 300) / 100)
    capture = FRONTEND.capture(_linear(), {"x": ROWS, "y": truth * 1.01})
    assert capture.sample is not None
    assert list(capture.sample) == ["x"]
    assert capture.recorded is not None
    assert np.array_equal(capture.recorded["y"], truth * np.float32(1.01))
    assert any("recorded" in note for note in capture.notes)
    assert np.allclose(capture.run({"x": ROWS})["y"], truth, rtol=1e-5)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"z": ROWS}, "`z` is not an input"),
        ({}, "input `x` is not there"),
        (ROWS[:, :3], "it does not fit"),
        (ROWS[0], "it does not fit"),
        (ROWS.astype("U4"), "it does not fit"),
        (ROWS.astype(np.complex64), "it does not fit"),
        ((ROWS, ROWS), "2 arrays"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(sample: Any, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        FRONTEND.capture(_linear(), sample)


def test_float64_and_narrow_integers_are_converted() -> None:
    assert FRONTEND.capture(_linear(), ROWS.astype(np.float64)).sample["x"].dtype == np.float32  # type: ignore[index]


def test_an_operator_without_a_cpu_kernel_is_refused_in_onnxruntimes_words() -> None:
    weight = numpy_helper.from_array(np.ones((2, 2), np.int8), "w")
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    kind = TensorProto.INT8
    model = _model([node], [_value("x", kind, ["N", 2])], [_value("y", kind, ["N", 2])], [weight])
    with pytest.raises(UnsupportedError, match="Einsum") as caught:
        FRONTEND.capture(model, None)
    assert "ONNXRuntimeError" not in caught.value.why
    assert "CPU kernel" in caught.value.hint


def test_a_map_output_is_refused_with_zipmap_in_the_hint() -> None:
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    output = helper.make_value_info("y", helper.make_sequence_type_proto(entry))
    model = _model([node], [_value("x", FLOAT, ["N", 2])], [output])
    assert [item.verdict for item in FRONTEND.refusals(model)] == ["never"]
    with pytest.raises(UnsupportedError, match="ZipMap") as caught:
        FRONTEND.capture(model, None)
    assert "zipmap=False" in caught.value.hint


def test_a_sequence_goes_in_and_out() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [None, 4]))
    nodes = [helper.make_node("SequenceErase", ["s"], ["t"])]
    model = _model(nodes, [helper.make_value_info("s", kind)], [helper.make_value_info("t", kind)])
    capture = FRONTEND.capture(model, {"s": [ROWS, ROWS[:2]]})
    assert capture.sample is not None
    (found,) = capture.run(capture.sample).values()
    assert isinstance(found, list)
    assert len(found) == 1
    assert np.array_equal(found[0], ROWS)


def test_an_absent_optional_is_none() -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [4]))
    nodes = [helper.make_node("OptionalHasElement", ["o"], ["y"])]
    output = _value("y", TensorProto.BOOL, [])
    model = _model(nodes, [helper.make_value_info("o", kind)], [output])
    capture = FRONTEND.capture(model, {})
    assert capture.sample == {"o": None}
    assert not capture.run({"o": None})["y"]


def test_a_file_that_is_not_there_or_not_onnx_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        FRONTEND.capture(tmp_path / "none.onnx", None)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x09not a model")
    with pytest.raises(InvalidError):
        FRONTEND.capture(tmp_path / "bad.onnx", None)


def test_wrong_values_at_run_time_are_an_error_of_ours() -> None:
    capture = FRONTEND.capture(_linear(), ROWS)
    with pytest.raises(InvalidError, match="refuses"):
        capture.run({"x": ROWS[:, :2]})


@pytest.mark.parametrize("model", [Path("model.joblib"), "package.module:factory", "model.pt2", 3, ROWS])
def test_other_things_are_not_accepted(model: object) -> None:
    assert not FRONTEND.accepts(model)
