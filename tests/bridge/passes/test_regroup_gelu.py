"""RegroupGelu: only the order of exact factors changes."""

import numpy as np
import pytest
from onnx import helper
from rewriting import FOLDER, changed, made, noise, ops, untouched

from tilth.bridge.passes.regroup_gelu import RegroupGelu

N = helper.make_node
REGROUP = RegroupGelu(FOLDER)
CONSTANTS = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5), "third": np.float32(0.3)}


def gelu(half: str = "half", x: str = "x") -> list[object]:
    return [
        N("Div", ["x", "root"], ["a"]),
        N("Erf", ["a"], ["b"]),
        N("Add", ["b", "one"], ["c"]),
        N("Mul", [half, "c"], ["d"]),
        N("Mul", [x, "d"], ["y"]),
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_half_moves_to_the_end(swapped: bool) -> None:
    nodes = gelu()
    if swapped:
        nodes[-1] = N("Mul", ["d", "x"], ["y"])
    model = made(nodes, {"x": ["batch", 8]}, ["y"], CONSTANTS)
    edges = np.array([[0, -0.0, np.inf, np.nan, 3e38, 1e-38, -6, 6]], np.float32)
    assert changed(REGROUP, model, {"x": noise(4, 8) * 3}, {"x": edges[:, [0, 1, 3, 6, 7, 2, 2, 2]]}, exact=True) == 1
    assert ops(model) == ["Div", "Erf", "Add", "Mul", "Mul"]
    assert model.graph.node[-1].input[1] == "half"
    assert REGROUP(model) == 0


def test_a_factor_that_rounds_stays_where_it_is() -> None:
    untouched(REGROUP, made(gelu("third"), {"x": ["batch", 8]}, ["y"], CONSTANTS))


def test_another_factor_is_no_gelu() -> None:
    untouched(REGROUP, made(gelu(x="z"), {"x": ["batch", 8], "z": ["batch", 8]}, ["y"], CONSTANTS))


def test_a_value_that_others_use_stays() -> None:
    untouched(REGROUP, made(gelu(), {"x": ["batch", 8]}, ["y", "d"], CONSTANTS))
