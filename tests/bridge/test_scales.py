"""The arithmetic of 8-bit numbers: what must survive rounding, and what must be refused."""

import numpy as np
import pytest
from calibrating import noise

from tilth.bridge.scales import (
    activation_scale,
    floor_for_bias,
    quantise,
    quantise_weights,
    rounded,
    weight_scales,
    weights_back,
)
from tilth.core.errors import InvalidError


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 6.0), (-5.0, 0.0), (2.0, 3.0), (-3.0, -2.0), (-1e-20, 1e20)])
def test_zero_is_never_rounded_away(ends: tuple[float, float]) -> None:
    scale = activation_scale(*ends)
    assert rounded(np.zeros(3, np.float32), scale).tolist() == [0, 0, 0]
    assert 0 <= scale.zero <= 255


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (0.0, 6.0), (-0.001, 0.002)])
def test_values_in_range_move_half_a_step_at_most(ends: tuple[float, float]) -> None:
    scale = activation_scale(*ends)
    values = np.linspace(*ends, 1001, dtype=np.float32)
    # The zero point takes up to half a step off one end.
    assert np.abs(rounded(values, scale) - values).max() <= scale.scale * 1.001


def test_values_out_of_range_stop_at_its_ends() -> None:
    scale = activation_scale(-1.0, 1.0)
    assert quantise(np.array([-1e30, 1e30], np.float32), scale).tolist() == [0, 255]


def test_a_tensor_of_zeros_has_a_scale() -> None:
    scale = activation_scale(0.0, 0.0)
    assert scale.scale == 1.0
    assert rounded(np.zeros(2, np.float32), scale).tolist() == [0, 0]


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (-np.inf, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_ends_that_are_no_range_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidError, match="no 8-bit scale"):
        activation_scale(*ends)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_move_half_a_step_of_their_channel_at_most(axis: int) -> None:
    weights = noise(6, 7, 3) * np.float32(10) ** np.arange(-3, 3, dtype=np.float32).reshape(6, 1, 1)
    weights[2, 3] = 0
    scales = weight_scales(weights, axis)
    numbers = quantise_weights(weights, scales, axis)
    back = weights_back(numbers, scales, axis)
    shape = [-1 if i == axis else 1 for i in range(3)]
    assert np.all(np.abs(back - weights) <= scales.reshape(shape) * 0.5001)
    assert np.all(back[2, 3] == 0)
    assert numbers.min() >= -127


def test_a_channel_of_zeros_has_a_scale() -> None:
    assert weight_scales(np.zeros((2, 3), np.float32), 0).tolist() == [1, 1]


def test_weights_that_are_not_finite_are_refused() -> None:
    for wrong in (np.nan, np.inf):
        with pytest.raises(InvalidError, match="NaN or infinite"):
            weight_scales(np.array([[1.0, wrong]], np.float32), 0)


def test_a_bias_far_above_its_weights_stays_in_int32() -> None:
    data, bias = activation_scale(0.0, 1e-3), np.array([1e4, 0.1], np.float32)
    scales = floor_for_bias(np.array([1e-9, 1e-2], np.float32), bias, data)
    assert np.all(np.abs(bias / (scales.astype(np.float64) * data.scale)) < 2**31)
    assert scales[1] == np.float32(1e-2)
