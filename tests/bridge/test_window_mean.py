"""The mean input of each weight: it must count the padding, or a corrected bias is wrong at the edges."""

import itertools

import numpy as np
import pytest
from calibrating import Array, N, noise

from tilth.bridge.window_mean import window_of


def slow_mean(x: Array, kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> Array:
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), pads, pads])
    reach = dilation * (kernel - 1) + 1
    starts = [range(0, size - reach + 1, stride) for size in padded.shape[2:]]
    found = [padded[:, :, i : i + reach : dilation, j : j + reach : dilation] for i, j in itertools.product(*starts)]
    return np.asarray(np.stack(found).mean(axis=(0, 1)))


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (4, 0), (0, 2)])
def test_the_mean_is_that_of_the_unfolded_input(kernel: int, stride: int, dilation: int, pads: tuple[int, int]) -> None:
    given = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [pads[0]] * 2 + [pads[1]] * 2}
    window = window_of(N("Conv", ["x", "w"], ["y"], **given), (4, 3, kernel, kernel))
    x = noise(2, 3, 8, 9) + 1
    assert window is not None
    np.testing.assert_allclose(window.mean(x), slow_mean(x, kernel, stride, dilation, pads), rtol=1e-9, atol=1e-12)


def test_padding_wider_than_the_input_is_counted() -> None:
    window = window_of(N("Conv", ["x", "w"], ["y"], dilations=[8], pads=[8, 0]), (4, 3, 2))
    x = noise(1, 3, 6)
    assert window is not None
    np.testing.assert_allclose(window.mean(x), np.stack([np.zeros(3), x[0].mean(axis=1)], axis=1), atol=1e-7)


def test_a_product_sees_the_mean_row() -> None:
    window = window_of(N("Gemm", ["x", "w"], ["y"]), (3, 4))
    x = noise(5, 3)
    assert window is not None
    np.testing.assert_allclose(window.mean(x), x.mean(axis=0), rtol=1e-6)


def test_padding_that_the_engine_works_out_is_left_alone() -> None:
    assert window_of(N("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), (4, 3, 3, 3)) is None
