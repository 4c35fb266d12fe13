"""The task metric: which output answers the labels."""

from typing import Any

import numpy as np
import pytest

from tilth.bridge.task import metric
from tilth.core.errors import InvalidError

PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)


@pytest.mark.parametrize(
    ("outputs", "labels", "wanted"),
    [
        ({"p": PROBABILITIES}, [0, 1, 1], 2 / 3),
        ({"p": PROBABILITIES}, [[0], [1], [0]], 1.0),
        ({"p": PROBABILITIES, "label": np.array([1, 1, 1])}, [0, 1, 1], 2 / 3),
        ({"label": np.array([1, 1, 1], np.int32)}, np.array([1, 1, 1], np.uint8), 1.0),
        ({"label": np.array(["a", "b", "a"], object)}, np.array(["a", "b", "b"]), 2 / 3),
        ({"p": np.array([[0.9], [0.1], [0.6]])}, [1, 0, 0], 2 / 3),
        ({"p": PROBABILITIES}, np.array([False, True, False]), 1.0),
        ({"p": np.zeros((2, 2, 3)) + [0, 1, 0]}, [[1, 1], [1, 0]], 0.75),
        ({"s": [PROBABILITIES], "p": PROBABILITIES}, [0, 1, 0], 1.0),
    ],
)
def test_decisions_are_counted_against_the_output_that_answers(outputs: Any, labels: Any, wanted: float) -> None:
    assert metric(outputs, np.asarray(labels)) == ("accuracy", pytest.approx(wanted))


def test_numbers_are_explained_or_not() -> None:
    labels = np.array([1.0, 2.0, 3.0])
    assert metric({"y": labels[:, None]}, labels) == ("R2", 1.0)
    assert metric({"y": np.full(3, 2.0)}, labels) == ("R2", 0.0)
    assert metric({"y": -labels}, labels)[1] < 0
    assert metric({"n": np.array([1, 2, 3]), "y": labels}, labels) == ("R2", 1.0)


def test_labels_that_never_vary_explain_nothing_and_divide_by_nothing() -> None:
    assert metric({"y": np.ones(3)}, np.ones(3)) == ("R2", 0.0)


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ({"p": PROBABILITIES}, np.array([0, 1])),
        ({"label": np.array([0, 1, 0])}, np.array(["a", "b", "a"])),
        ({"label": np.array([0, 1, 0])}, np.array([0.0, 1.0, 0.0])),
        ({"p": np.zeros((3, 0))}, np.array([0, 1, 0])),
        ({}, np.array([0])),
        ({"s": [np.zeros(1)]}, np.array([0])),
    ],
)
def test_labels_that_nothing_answers_are_refused_with_both_shapes(outputs: Any, labels: Any) -> None:
    with pytest.raises(InvalidError, match="no output fits the labels") as caught:
        metric(outputs, labels)
    assert str(list(labels.shape)) in caught.value.why
