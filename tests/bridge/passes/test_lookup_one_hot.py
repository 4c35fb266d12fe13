"""LookupOneHot: indices that encode as zeros still do."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.lookup_one_hot import LookupOneHot

N = helper.make_node
LOOK = LookupOneHot(FOLDER)
NODES = [
    N("Equal", ["x", "numbers"], ["e"]),
    N("Cast", ["e"], ["h"], to=TensorProto.FLOAT),
    N("MatMul", ["h", "table"], ["y"]),
]


@pytest.mark.parametrize(("kind", "number"), [(TensorProto.INT32, np.int32), (TensorProto.INT64, np.int64)])
def test_every_index_finds_its_row_and_strange_ones_find_zeros(kind: int, number: type) -> None:
    limits = np.iinfo(number)
    feed = np.array([0, 1, 4, 5, -1, -2, limits.min, limits.max], number).reshape(2, 4, 1)
    constants = {"numbers": np.arange(5, dtype=number).reshape(1, 1, 5), "table": noise(5, 3)}
    model = made(NODES, {"x": ["batch", 4, 1]}, ["y"], constants, kinds={"x": kind})
    assert changed(LOOK, model, {"x": feed}, {"x": feed[:0]}, exact=True) == 1
    assert "MatMul" not in ops(model)


def test_numbers_that_do_not_count_are_no_one_hot() -> None:
    for numbers in ([0, 2, 1], [1, 2, 3]):
        constants = {"numbers": np.array(numbers).reshape(1, 3), "table": noise(3, 3)}
        untouched(LOOK, made(NODES, {"x": ["batch", 1]}, ["y"], constants, kinds={"x": TensorProto.INT64}))


def test_an_index_per_column_is_no_one_hot() -> None:
    constants = {"numbers": np.arange(3).reshape(1, 3), "table": noise(3, 3)}
    untouched(LOOK, made(NODES, {"x": ["batch", 3]}, ["y"], constants, kinds={"x": TensorProto.INT64}))


def test_a_table_with_an_infinity_spoils_other_rows_and_stays() -> None:
    constants = {"numbers": np.arange(3).reshape(1, 3), "table": np.full((3, 3), np.inf, np.float32)}
    untouched(LOOK, made(NODES, {"x": ["batch", 1]}, ["y"], constants, kinds={"x": TensorProto.INT64}))


def test_floats_are_not_indices() -> None:
    constants = {"numbers": np.arange(3, dtype=np.float32).reshape(1, 3), "table": noise(3, 3)}
    untouched(LOOK, made(NODES, {"x": ["batch", 1]}, ["y"], constants))
