"""Requests: what is asked for, and data that does not fit it."""

from typing import Any

import numpy as np
import pytest

from tilth.bridge.agreement import Tolerance
from tilth.bridge.request import LABELS, Evaluation, Request, checked_request, evaluation
from tilth.core.build import Precision
from tilth.core.errors import InvalidError
from tilth.core.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 2)),), ())
X = np.ones((3, 2), np.float32)


def test_lower_precision_is_not_tried_until_somebody_allows_it() -> None:
    assert Request().precisions == (Precision.FP32,)
    assert Request(tolerance=Tolerance(rms=0.01)).precisions == tuple(Precision)
    assert Request(evaluation=Evaluation({}, np.ones(1), 0.0)).precisions == tuple(Precision)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_found_under_their_usual_names(name: str) -> None:
    made = evaluation({"x": X, name: [0, 1, 0]}, 0.01)
    assert list(made.inputs) == ["x"] and made.labels.tolist() == [0, 1, 0] and made.max_drop == 0.01


def test_the_first_usual_name_wins_and_the_other_stays_an_input() -> None:
    made = evaluation({"y": X, "label": np.zeros(3)}, 0.0)
    assert list(made.inputs) == ["y"]


def test_data_without_labels_is_refused_with_what_was_found() -> None:
    with pytest.raises(InvalidError, match="no labels") as caught:
        evaluation({"x": X, "z": X}, 0.0)
    assert caught.value.why == "found `x`, `z`"


@pytest.mark.parametrize(
    "inputs",
    [{"x": X.astype(np.float64)}, {"x": X[:, :1]}, {}, {"x": X, "id": X}, {"x": X[:0]}],
)
@pytest.mark.parametrize("use", ["calibration", "evaluation"])
def test_data_that_does_not_fit_is_bad_input_and_no_disagreement(inputs: Any, use: str) -> None:
    request = Request(calibration=inputs) if use == "calibration" else Request(evaluation=evaluation_of(inputs))
    with pytest.raises(InvalidError, match=f"the {use} data does not fit"):
        checked_request(request, SIGNATURE)


def evaluation_of(inputs: Any) -> Evaluation:
    return Evaluation(inputs, np.zeros(3, np.int64), 0.0)


def test_data_that_fits_comes_as_engines_take_it() -> None:
    listed: Any = {"x": [[1, 2]]}
    given = Request(calibration=listed, evaluation=evaluation_of({"x": X.astype(">f4")}))
    made = checked_request(given, SIGNATURE)
    assert isinstance(made.calibration, dict) and made.evaluation is not None
    for data in (made.calibration, made.evaluation.inputs):
        assert isinstance(data["x"], np.ndarray) and data["x"].dtype == np.dtype("float32")


def test_a_request_without_data_stays_as_it_is() -> None:
    assert checked_request(Request(), SIGNATURE) == Request()
