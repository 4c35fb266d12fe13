"""LowerLabel: every row gets the label that the chain gave it."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.lower_label import LowerLabel

N = helper.make_node
LOWER = LowerLabel(FOLDER)
FLAT = {"flat": np.array([-1])}


def chain(last: str, **best: int) -> list[object]:
    return [
        N("ArgMax", ["x"], ["i"], **best),
        N("ArrayFeatureExtractor", ["classes", "i"], ["l"], domain="ai.onnx.ml"),
        N("Reshape", ["l", "flat"], [last]),
    ]


FEEDS = [{"x": noise(1, 3)}, {"x": noise(7, 3)}, {"x": np.zeros((2, 3), np.float32)}]


@pytest.mark.parametrize("source", [np.int32, np.int64])
def test_classes_that_count_from_zero_need_no_table(source: type) -> None:
    nodes = [*chain("r", axis=1), N("Cast", ["r"], ["label"], to=TensorProto.INT64)]
    kinds = {"label": TensorProto.INT64}
    model = made(nodes, {"x": ["batch", 3]}, ["label"], FLAT | {"classes": np.arange(3, dtype=source)}, kinds=kinds)
    assert changed(LOWER, model, *FEEDS) == 1
    assert ops(model) == ["ArgMax"]


def test_other_classes_are_looked_up() -> None:
    nodes = [*chain("r", axis=1), N("Cast", ["r"], ["label"], to=TensorProto.INT64)]
    constants = FLAT | {"classes": np.array([7, -1, 3], np.int32)}
    model = made(nodes, {"x": ["batch", 3]}, ["label"], constants, kinds={"label": TensorProto.INT64})
    assert changed(LOWER, model, *FEEDS) == 1
    assert ops(model) == ["ArgMax", "Gather"]


def test_classes_of_text_are_looked_up() -> None:
    constants = FLAT | {"classes": np.array(["häufig", "", "b"], dtype=object)}
    kinds = {"label": TensorProto.STRING}
    model = made(chain("label", axis=1), {"x": ["batch", 3]}, ["label"], constants, kinds=kinds)
    assert changed(LOWER, model, *FEEDS) == 1
    assert ops(model) == ["ArgMax", "Gather"]


def test_the_last_of_equals_stays_the_last() -> None:
    nodes = [*chain("label", axis=1, select_last_index=1)]
    constants = FLAT | {"classes": np.arange(3)}
    model = made(nodes, {"x": ["batch", 3]}, ["label"], constants, kinds={"label": TensorProto.INT64})
    assert changed(LOWER, model, *FEEDS) == 1


def test_the_best_row_of_a_column_is_not_a_label_per_row() -> None:
    constants = FLAT | {"classes": np.arange(3)}
    kinds = {"label": TensorProto.INT64}
    untouched(LOWER, made(chain("label", axis=0), {"x": [3, 3]}, ["label"], constants, kinds=kinds))


def test_an_index_that_is_an_output_stays() -> None:
    constants = FLAT | {"classes": np.arange(3)}
    kinds = {"label": TensorProto.INT64, "i": TensorProto.INT64}
    untouched(LOWER, made(chain("label", axis=1), {"x": ["batch", 3]}, ["label", "i"], constants, kinds=kinds))
