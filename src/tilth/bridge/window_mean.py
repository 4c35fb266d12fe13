"""The mean input that each weight of a convolution or product sees; pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from tilth.ports.arrays import Array


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its input: one entry per spatial axis; no axes stand for a matrix product."""

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()

    def mean(self, values: Array) -> Array:
        """Return the mean input per channel and place in the kernel, padding counted as zero, float64.

        `values` has shape (rows, channels, *spatial), the result (channels, *kernel); for a product (rows, width),
        and (width,).
        """
        if not self.kernel:
            return np.asarray(values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64))
        axes = (0, *range(2, values.ndim))
        found = np.zeros((*self.kernel, values.shape[1]))
        count = values.shape[0] * np.prod([self._places(axis, n) for axis, n in enumerate(values.shape[2:])])
        for place in itertools.product(*map(range, self.kernel)):
            window: Any = (slice(None), slice(None), *self._slices(place, values.shape[2:]))
            part = values[window]
            found[place] = part.sum(axis=axes, dtype=np.float64) / count
        return np.moveaxis(found, -1, 0)

    def _places(self, axis: int, size: int) -> int:
        reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return (size + sum(self.pads[axis]) - reach) // self.strides[axis] + 1

    def _slices(self, place: Sequence[int], sizes: Sequence[int]) -> list[slice]:
        found = []
        for axis, (offset, size) in enumerate(zip(place, sizes, strict=True)):
            stride = self.strides[axis]
            start = offset * self.dilations[axis] - self.pads[axis][0]
            last = start + (self._places(axis, size) - 1) * stride
            first = start if start >= 0 else start % stride
            found.append(slice(min(first, size), max(0, min(last + 1, size)), stride))
        return found


def window_of(node: NodeProto, weight_shape: Sequence[int]) -> Window | None:
    """Return the window of a Conv with explicit pads or of a Gemm; None for other nodes, which have no bias."""
    if node.op_type == "Gemm":
        return Window()
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type != "Conv" or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    kernel = tuple(weight_shape[2:])
    axes = len(kernel)
    pads = given.get("pads", [0] * 2 * axes)
    return Window(
        kernel,
        tuple(given.get("strides", [1] * axes)),
        tuple(given.get("dilations", [1] * axes)),
        tuple(zip(pads[:axes], pads[axes:], strict=True)),
    )
