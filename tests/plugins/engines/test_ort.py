"""onnxruntime: bound buffers and fixed shapes must never show in an answer."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import CPU, N, build, perceptron, rows, saved
from onnx import TensorProto, helper, numpy_helper

from tilth.core.build import Precision, Scalar
from tilth.core.device import Device
from tilth.core.errors import InvalidError, UnsupportedError
from tilth.core.graph import Graph
from tilth.plugins.engines.ort import OrtEngine, OrtSession

ENGINE = OrtEngine()
SETTINGS: list[dict[str, Scalar]] = [{}, {"shapes": "fixed"}, {"shapes": "fixed", "threads": 1}]


@pytest.fixture(params=SETTINGS, ids=str)
def settings(request: Any) -> dict[str, Scalar]:
    return dict(request.param)


def load(path: Path, settings: dict[str, Scalar]) -> OrtSession:
    return ENGINE.load(path, build("ort", settings), CPU)


def test_shapes_that_come_and_go_get_their_own_answers(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path, weights = perceptron(tmp_path)
    session = load(path, settings)
    path.unlink()  # whoever loads may delete the file afterwards
    for turn, count in enumerate([1, 1, 1, 5, 5, 1, 2, 3, 4, 6, 7, 6, 1, 0, 1]):
        x = rows(count, turn)
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weights, 0), rtol=1e-5, atol=1e-6)


def test_an_answer_stays_when_the_next_call_comes(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path, _ = perceptron(tmp_path)
    session, x = load(path, settings), rows(2)
    answers = [session.run({"x": x * factor})["y"] for factor in (1, 1, 2, 3)]
    kept = [np.array(answer) for answer in answers]
    session.run({"x": x * 9})
    for answer, before in zip(answers, kept, strict=True):
        np.testing.assert_array_equal(answer, before)
        assert isinstance(answer, np.ndarray) and answer.flags.writeable


def test_inputs_are_read_as_they_lie_and_never_written(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path, weights = perceptron(tmp_path)
    session = load(path, settings)
    whole = rows(8)
    for x in (whole[::2], np.asfortranarray(whole[:4]), whole[:4].copy()):
        x.flags.writeable = False
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weights, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.zeros((1, 4)), np.zeros((1, 4), np.int64), np.zeros((1, 5), np.float32)])
def test_a_wrong_dtype_or_size_is_refused_before_and_after_a_good_call(
    tmp_path: Path, settings: dict[str, Scalar], wrong: np.ndarray[Any, Any]
) -> None:
    session = load(perceptron(tmp_path)[0], settings)
    for _ in range(3):
        with pytest.raises(InvalidError, match="onnxruntime refused to run"):
            session.run({"x": wrong})
        assert np.shape(session.run({"x": rows(1)})["y"]) == (1, 3)


@pytest.mark.parametrize("names", [[], ["X"], ["x", "more"]])
def test_a_missing_or_strange_name_is_refused(tmp_path: Path, settings: dict[str, Scalar], names: list[str]) -> None:
    session = load(perceptron(tmp_path)[0], settings)
    for _ in range(3):
        session.run({"x": rows(1)})
        with pytest.raises(InvalidError):
            session.run(dict.fromkeys(names, rows(1)))


def test_an_output_whose_size_depends_on_values_is_right_every_time(
    tmp_path: Path, settings: dict[str, Scalar]
) -> None:
    given = {"x": (TensorProto.FLOAT, ["batch", 4])}
    path = saved(tmp_path, [N("NonZero", ["x"], ["y"])], given, {"y": TensorProto.INT64})
    session = load(path, settings)
    for values in ([1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]):
        x = np.array([values], np.float32)
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.array(np.nonzero(x)))


def test_a_value_that_the_graph_refuses_does_not_spoil_the_next(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    table = {"t": np.arange(6, dtype=np.float32).reshape(3, 2)}
    given = {"i": (TensorProto.INT64, ["batch"])}
    session = load(saved(tmp_path, [N("Gather", ["t", "i"], ["y"])], given, {"y": TensorProto.FLOAT}, table), settings)
    for index in (0, 2, 1):
        np.testing.assert_array_equal(session.run({"i": np.array([index])})["y"], table["t"][[index]])
        with pytest.raises(InvalidError, match="bounds"):
            session.run({"i": np.array([9])})


def test_texts_scalars_and_truth_values_pass(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    nodes = [N("Not", ["flag"], ["y"]), N("Identity", ["s"], ["again"])]
    given = {"s": (TensorProto.STRING, ["batch"]), "flag": (TensorProto.BOOL, [])}
    outputs = {"y": TensorProto.BOOL, "again": TensorProto.STRING}
    session = load(saved(tmp_path, nodes, given, outputs), settings)
    for flag in (True, False, True):
        found = session.run({"s": np.array(["ja", "nein"], dtype=object), "flag": np.array(flag)})
        assert np.asarray(found["y"]).tolist() == (not flag)
        assert np.asarray(found["again"]).tolist() == ["ja", "nein"]


def test_a_lone_number_goes_in_and_out(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path = saved(tmp_path, [N("Neg", ["x"], ["y"])], {"x": (TensorProto.FLOAT, [])}, {"y": TensorProto.FLOAT})
    session = load(path, settings)
    for value in (1.0, 2.0, 3.0):
        found = session.run({"x": np.array(value, np.float32)})["y"]
        assert (np.shape(found), float(np.asarray(found))) == ((), -value)


def test_sequences_pass(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    graph = helper.make_graph(
        [N("SequenceAt", ["s", "last"], ["y"]), N("SequenceErase", ["s", "last"], ["rest"])],
        "test",
        [helper.make_value_info("s", kind)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None), helper.make_value_info("rest", kind)],
        [numpy_helper.from_array(np.array(-1), "last")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    session = load(path, settings)
    for value in (1.0, 2.0):
        pair = [np.zeros(2, np.float32), np.full(3, value, np.float32)]
        found = session.run({"s": pair})
        np.testing.assert_array_equal(found["y"], pair[1])
        assert len(found["rest"] or ()) == 1


def test_an_optional_input_may_be_left_out(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    given = {"x": (TensorProto.FLOAT, ["batch"]), "w": (TensorProto.FLOAT, [])}
    path = saved(tmp_path, [N("Mul", ["x", "w"], ["y"])], given, {"y": TensorProto.FLOAT}, {"w": np.float32(2)})
    session, x = load(path, settings), np.ones(2, np.float32)
    for _ in range(2):
        assert np.asarray(session.run({"x": x})["y"]).tolist() == [2, 2]
        assert np.asarray(session.run({"x": x, "w": np.array(3, np.float32)})["y"]).tolist() == [3, 3]


def test_a_name_with_two_sizes_is_answered_as_the_engine_answers(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    given = {"a": (TensorProto.FLOAT, ["n"]), "b": (TensorProto.FLOAT, ["n"])}
    session = load(saved(tmp_path, [N("Add", ["a", "b"], ["y"])], given, {"y": TensorProto.FLOAT}), settings)
    for _ in range(3):
        found = session.run({"a": np.ones(1, np.float32), "b": np.ones(3, np.float32)})["y"]
        assert np.asarray(found).tolist() == [2, 2, 2]


def test_large_arrays_take_the_engines_own_way(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    session, x = load(perceptron(tmp_path)[0], settings), rows(100_000)
    first, second = session.run({"x": x})["y"], session.run({"x": x})["y"]
    np.testing.assert_array_equal(first, second)
    assert first is not second


def test_placement_is_the_engines_own_record(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    session = load(perceptron(tmp_path)[0], settings)
    for _ in range(2):
        placement = session.placement()
        assert placement.fallback_share == 0
        assert set(placement.nodes) == {"CPUExecutionProvider"} and sum(placement.nodes.values()) >= 1
        session.run({"x": rows(2)})


def test_closing_twice_is_allowed(tmp_path: Path) -> None:
    session = load(perceptron(tmp_path)[0], {"shapes": "fixed"})
    session.run({"x": rows(1)})
    session.close()
    session.close()


def test_weights_in_a_file_beside_the_model_are_found(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path, weights = perceptron(tmp_path)
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="w.bin")
    session, x = load(path, settings), rows(2)
    (tmp_path / "w.bin").rename(tmp_path / "gone.bin")
    for _ in range(2):
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weights, 0), rtol=1e-5, atol=1e-6)


def test_a_graph_that_it_lacks_is_unsupported_in_its_own_words(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    node = N("NoSuchOperator", ["x"], ["y"])
    path = saved(tmp_path, [node], {"x": (TensorProto.FLOAT, [2])}, {"y": TensorProto.FLOAT})
    with pytest.raises(UnsupportedError, match="NoSuchOperator"):
        load(path, settings)


def test_the_default_comes_first_and_the_search_stays_short() -> None:
    for size in (1 << 10, 1 << 30):
        graph = Graph("", {}, {}, 1, size)
        options = ENGINE.options(graph, CPU, [Precision.FP32])
        assert (options[0].recipe, options[0].settings) == ("plain", {})
        assert len(options) <= 4
        assert len({(one.recipe, str(one.settings)) for one in options}) == len(options)


def test_another_kind_of_chip_is_refused() -> None:
    chip = Device("npu", "ascend-310p3", "test")
    assert ENGINE.refusals(Graph("", {}, {}, 1, 0), chip)[0].verdict == "todo"
