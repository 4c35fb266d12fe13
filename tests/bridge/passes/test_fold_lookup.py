"""FoldLookup: only what depends on the row alone goes into the table."""

import numpy as np
import onnx
from onnx import TensorProto, helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes import fold_lookup
from tilth.bridge.passes.fold_lookup import FoldLookup

N = helper.make_node
FOLD = FoldLookup(FOLDER)
FEED = {"i": np.array([[0, 4, 2], [-1, 1, 1]])}


def looked_up(
    *nodes: onnx.NodeProto,
    outputs: tuple[str, ...] = ("y",),
    **constants: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> onnx.ModelProto:
    given = {"i": ["batch", 3]}
    everything = {"table": noise(5, 4), **constants}
    gather = N("Gather", ["table", "i"], ["g"])
    return made([gather, *nodes], given, outputs, everything, kinds={"i": TensorProto.INT64})


def test_a_chain_with_a_fork_becomes_one_table() -> None:
    chain = [N("Add", ["g", "bias"], ["a"]), N("Tanh", ["a"], ["t"]), N("Mul", ["t", "a"], ["y"])]
    model = looked_up(*chain, bias=noise(1, 1, 4))
    assert changed(FOLD, model, FEED) == 1
    assert ops(model) == ["Gather"]


def test_every_function_gives_what_the_engine_gives() -> None:
    for op in fold_lookup._FUNCTIONS:
        second = ["two"] if op in ("Add", "Sub", "Mul", "Div") else []
        model = looked_up(N(op, ["g", *second], ["y"]), two=np.float32(2), table=np.abs(noise(5, 4)))
        assert changed(FOLD, model, FEED) == 1, op


def test_a_constant_that_differs_by_place_stays_outside() -> None:
    untouched(FOLD, looked_up(N("Add", ["g", "place"], ["y"]), place=noise(3, 4)))


def test_a_constant_that_adds_a_dimension_stays_outside() -> None:
    untouched(FOLD, looked_up(N("Add", ["g", "deep"], ["y"]), deep=noise(1, 1, 1, 4)))


def test_two_values_in_use_would_need_two_tables() -> None:
    untouched(FOLD, looked_up(N("Relu", ["g"], ["y"]), outputs=("y", "g")))


def test_a_step_that_overflows_is_left_to_the_engine() -> None:
    chain = [N("Mul", ["g", "big"], ["a"]), N("Div", ["a", "big"], ["y"])]
    untouched(FOLD, looked_up(*chain, big=np.float32(1e38), table=noise(5, 4) + np.float32(100)))


def test_a_vocabulary_stays() -> None:
    untouched(FOLD, looked_up(N("Relu", ["g"], ["y"]), table=np.zeros((1 << 16, 8), np.float32)))
