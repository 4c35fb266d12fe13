"""OpenVINO: one compiled model per set of shapes must never show in an answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import CPU, N, build, perceptron, rows, saved
from onnx import TensorProto

from tilth.core.build import Precision, Scalar, Verdict
from tilth.core.device import Device
from tilth.core.errors import InvalidError, UnsupportedError
from tilth.core.graph import Graph
from tilth.plugins.engines.openvino import OpenVinoEngine, OpenVinoSession

pytest.importorskip("openvino")
ENGINE = OpenVinoEngine()
SETTINGS: list[dict[str, Scalar]] = [{}, {"shapes": "fixed"}, {"shapes": "fixed", "threads": 1}]


@pytest.fixture(params=SETTINGS, ids=str)
def settings(request: Any) -> dict[str, Scalar]:
    return dict(request.param)


def load(path: Path, settings: dict[str, Scalar]) -> OpenVinoSession:
    return ENGINE.load(path, build("openvino", settings), CPU)


def test_shapes_that_come_and_go_get_their_own_answers(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path, weights = perceptron(tmp_path)
    session = load(path, settings)
    path.unlink()
    for turn, count in enumerate([1, 1, 5, 1, 2, 3, 4, 6, 7, 6, 1]):
        x = rows(count, turn)
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weights, 0), rtol=1e-5, atol=1e-6)


def test_an_answer_stays_when_the_next_call_comes(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    session, x = load(perceptron(tmp_path)[0], settings), rows(2)
    answers = [session.run({"x": x * factor})["y"] for factor in (1, 2, 3)]
    kept = [np.array(answer) for answer in answers]
    session.run({"x": x * 9})
    for answer, before in zip(answers, kept, strict=True):
        np.testing.assert_array_equal(answer, before)


def test_large_inputs_are_read_where_they_lie(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path, weights = perceptron(tmp_path)
    session, x = load(path, settings), rows(50_000)
    for given in (x, np.asfortranarray(x), x[::-1]):
        np.testing.assert_allclose(session.run({"x": given})["y"], np.maximum(given @ weights, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [np.zeros((1, 4)), np.zeros((1, 4), np.int64), np.zeros((1, 5), np.float32)])
def test_a_wrong_dtype_or_size_is_refused_before_and_after_a_good_call(
    tmp_path: Path, settings: dict[str, Scalar], wrong: np.ndarray[Any, Any]
) -> None:
    session = load(perceptron(tmp_path)[0], settings)
    for _ in range(2):
        with pytest.raises(InvalidError, match="OpenVINO refused to run"):
            session.run({"x": wrong})
        assert np.shape(session.run({"x": rows(1)})["y"]) == (1, 3)


def test_a_missing_name_is_refused(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    session = load(perceptron(tmp_path)[0], settings)
    with pytest.raises(InvalidError):
        session.run({"X": rows(1)})


def test_a_lone_number_goes_in_and_out(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    path = saved(tmp_path, [N("Neg", ["x"], ["y"])], {"x": (TensorProto.FLOAT, [])}, {"y": TensorProto.FLOAT})
    session = load(path, settings)
    for value in (1.0, 2.0):
        found = session.run({"x": np.array(value, np.float32)})["y"]
        assert (np.shape(found), float(np.asarray(found))) == ((), -value)


def test_an_output_whose_size_depends_on_values_is_right_every_time(
    tmp_path: Path, settings: dict[str, Scalar]
) -> None:
    given = {"x": (TensorProto.FLOAT, ["batch", 4])}
    session = load(saved(tmp_path, [N("NonZero", ["x"], ["y"])], given, {"y": TensorProto.INT64}), settings)
    for values in ([1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]):
        x = np.array([values], np.float32)
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.array(np.nonzero(x)))


def test_placement_is_the_engines_own_record(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    session = load(perceptron(tmp_path)[0], settings)
    session.run({"x": rows(2)})
    placement = session.placement()
    assert placement.fallback_share == 0
    assert set(placement.nodes) == {"CPU"} and sum(placement.kernels.values()) == sum(placement.nodes.values()) >= 1


def test_closing_twice_is_allowed(tmp_path: Path) -> None:
    session = load(perceptron(tmp_path)[0], {"shapes": "fixed"})
    session.run({"x": rows(1)})
    session.close()
    session.close()


def test_a_graph_that_it_lacks_is_unsupported_in_its_own_words(tmp_path: Path, settings: dict[str, Scalar]) -> None:
    node = N("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[1.0])
    path = saved(tmp_path, [node], {"x": (TensorProto.FLOAT, [2, 1])}, {"y": TensorProto.FLOAT})
    with pytest.raises(UnsupportedError, match="Scaler"):
        load(path, settings)


def test_classical_operators_texts_and_other_chips_are_refused_by_name() -> None:
    graph = Graph("", {}, {"ai.onnx.ml::Scaler": 1}, 1, 0, dtypes=("string",))
    found = ENGINE.refusals(graph, Device("npu", "ascend-310p3", "test"))
    assert [one.verdict for one in found] == [Verdict.TODO, Verdict.UPSTREAM, Verdict.UPSTREAM]
    assert "ai.onnx.ml::Scaler" in found[1].reason


def test_the_default_comes_first_and_the_search_stays_short() -> None:
    options = ENGINE.options(Graph("", {}, {}, 1, 0), CPU, [Precision.FP32])
    assert (options[0].recipe, options[0].settings) == ("plain", {})
    assert len(options) <= 4
