"""Calibration: ranges that are right, values that are refused, and nothing left behind."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibrating import Array, Loads, N, network, noise, residual, rows

from tilth.bridge.calibrate import Spread, sizes_of, watch
from tilth.bridge.scales import activation_scale
from tilth.core.errors import InvalidError


def spread_of(*arrays: Array) -> Spread:
    spread = Spread()
    for array in arrays:
        spread.add(np.asarray(array, np.float32))
    return spread


def test_a_range_that_grows_keeps_what_was_counted() -> None:
    small, large = noise(4000, seed=1), noise(1000, seed=2, scale=300.0)
    grown, known = spread_of(small, large), spread_of(large, small)
    assert (grown.low, grown.high) == (known.low, known.high)
    scale = activation_scale(-100.0, 100.0)
    # Bins were merged in one and never were in the other.
    assert grown.error(scale) == pytest.approx(known.error(scale), rel=0.01)


def test_two_spreads_make_the_spread_of_both() -> None:
    one, other = noise(3000, seed=1), noise(3000, seed=2, scale=40.0)
    both = spread_of(one)
    both.merge(spread_of(other))
    assert both.scale() == spread_of(one, other).scale()


def test_a_long_tail_does_not_cost_all_others_their_steps() -> None:
    values = np.random.default_rng(0).standard_t(3, 60_000).astype(np.float32)
    cut = spread_of(values)
    assert cut.scale().high < 0.95 * cut.high
    assert cut.error(cut.scale()) < cut.error(activation_scale(cut.low, cut.high))


def test_a_full_range_is_not_cut() -> None:
    values = np.random.default_rng(0).uniform(-1, 3, 50_000).astype(np.float32)
    scale = spread_of(values).scale()
    assert scale.high == pytest.approx(3.0, rel=0.03)
    assert scale.low == pytest.approx(-1.0, rel=0.03)


def test_what_a_relu_lets_through_has_no_steps_below_zero() -> None:
    assert spread_of(np.maximum(noise(1000), 0)).scale().zero == 0


def test_a_constant_has_a_scale() -> None:
    assert spread_of(np.zeros(5)).scale() == activation_scale(0.0, 0.0)
    assert spread_of(np.full(5, 0.25)).scale().high == pytest.approx(0.25)
    assert spread_of(np.zeros((0, 3))).scale() == activation_scale(0.0, 0.0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(wrong: float) -> None:
    with pytest.raises(InvalidError, match="NaN or infinite"):
        spread_of(np.array([1.0, wrong]))


def test_every_tensor_is_seen_once_per_input_and_no_file_stays(tmp_path: Path) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    names = ["x", "r0", "y"]  # an input, a value inside, an output
    watch(residual(), tmp_path, names, rows(3, 3, 9, 9), Loads(), lambda name, a: seen.append((name, a.shape)))
    once = [("r0", (1, 16, 9, 9)), ("x", (1, 3, 9, 9)), ("y", (1, 12))]
    assert seen == once * 3
    assert list(tmp_path.iterdir()) == []


def test_no_file_stays_when_the_engine_refuses(tmp_path: Path) -> None:
    model = residual()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(Exception, match="NoSuchOperator"):
        watch(model, tmp_path, ["y"], rows(1, 3, 9, 9), Loads(), lambda name, a: None)
    assert list(tmp_path.iterdir()) == []


def test_large_tensors_are_not_held_together(tmp_path: Path) -> None:
    nodes = [N("Expand", ["x", "shape"], ["a"]), N("Neg", ["a"], ["b"]), N("Neg", ["b"], ["c"])]
    nodes.append(N("ReduceMax", ["c"], ["y"], keepdims=0))
    model = network(nodes, {"x": [1]}, {"y": 0}, {"shape": np.array([12 << 20])})
    load = Loads()
    watch(model, tmp_path, ["a", "b"], [{"x": noise(1)}], load, lambda name, a: None)
    assert load.count == 2  # one for each tensor of 48 MiB; their sizes follow from the graph


def test_external_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(residual(), path, save_as_external_data=True, location="weights", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    assert sizes_of(model, tmp_path, ["c2"], rows(1, 3, 9, 9)[0], Loads()) == {"c2": 32 * 16}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "weights"]
