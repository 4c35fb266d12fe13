"""The arithmetic of 8-bit numbers: scales, zero points and rounding; pure."""

from dataclasses import dataclass

import numpy as np

from tilth.core.errors import InvalidError
from tilth.ports.arrays import Array

#: Symmetric weights leave -128 out, so that a channel and its negative round alike.
WEIGHT_MOST = 127
_INT32_MOST = 2**30


@dataclass(frozen=True)
class Scale:
    """uint8 numbers q stand for (q - zero) * scale."""

    scale: float
    zero: int

    @property
    def low(self) -> float:
        """Return the least value that can be said."""
        return -self.zero * self.scale

    @property
    def high(self) -> float:
        """Return the greatest value that can be said."""
        return (255 - self.zero) * self.scale


def activation_scale(low: float, high: float) -> Scale:
    """Return the scale for values from `low` to `high`; zero is always said exactly.

    A range that is a single point at zero gets scale 1.

    Raises:
        InvalidError: an end is NaN or infinite, or they are in the wrong order.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise InvalidError(
            f"activations from {low} to {high} have no 8-bit scale",
            why="a calibration input made a value that is not finite",
            hint="look for NaN or infinity in the calibration inputs",
        )
    low, high = min(low, 0.0), max(high, 0.0)
    # float32 is what the engines compute with: the zero point must follow from the rounded scale.
    scale = float(np.float32((high - low) / 255))
    if scale < float(np.finfo(np.float32).tiny):
        return Scale(1.0, 0)
    return Scale(scale, int(np.clip(round(-low / scale), 0, 255)))


def quantise(values: Array, scale: Scale) -> Array:
    """Return `values` as uint8, halves to even, out of range to the nearest end."""
    return np.asarray(np.clip(np.rint(values / np.float32(scale.scale)) + scale.zero, 0, 255), np.uint8)


def rounded(values: Array, scale: Scale) -> Array:
    """Return `values` as they are after a trip through uint8, float32."""
    return (quantise(values, scale).astype(np.float32) - np.float32(scale.zero)) * np.float32(scale.scale)


def weight_scales(weights: Array, axis: int) -> Array:
    """Return one positive float32 scale per channel along `axis`; a channel of zeros gets 1.

    Raises:
        InvalidError: a weight is NaN or infinite.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    most = np.abs(weights).max(axis=others, initial=0)
    if not np.all(np.isfinite(most)):
        raise InvalidError(
            "a weight is NaN or infinite",
            why="such a weight has no 8-bit scale",
            hint="train or export the model again",
        )
    scales = np.asarray(most / WEIGHT_MOST, np.float32)
    return np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)


def quantise_weights(weights: Array, scales: Array, axis: int) -> Array:
    """Return weights as int8 from -127 to 127, one scale per channel along `axis`."""
    ratio = weights / _along(scales, axis, weights.ndim)
    return np.asarray(np.clip(np.rint(ratio), -WEIGHT_MOST, WEIGHT_MOST), np.int8)


def weights_back(numbers: Array, scales: Array, axis: int) -> Array:
    """Return int8 weights as the float32 that they stand for."""
    return numbers.astype(np.float32) * _along(scales, axis, numbers.ndim)


def floor_for_bias(scales: Array, bias: Array, data: Scale) -> Array:
    """Return weight scales raised where the bias, in steps of weight scale times data scale, would leave int32."""
    least = np.abs(bias) / (np.float32(data.scale) * np.float32(_INT32_MOST))
    return np.maximum(scales, np.asarray(least, np.float32))


def _along(scales: Array, axis: int, rank: int) -> Array:
    return scales.reshape([-1 if i == axis else 1 for i in range(rank)])
