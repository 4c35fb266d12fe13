"""Figures from raw call times."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.bridge.measure.timing import NOISY, Samples, quantile, summary

_calls = st.lists(st.integers(1, 10**9), min_size=1, max_size=50)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    values.sort()
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(_calls, st.integers(1, 10**9)), min_size=1, max_size=6), st.integers(1, 64))
def test_a_summary_is_in_order_and_counts_every_call(blocks: list[tuple[list[int], int]], batch: int) -> None:
    samples = Samples()
    for calls, anchor in blocks:
        samples.add(calls, anchor)
    made = summary(samples, batch, "anchor")
    everything = [ns for calls, _ in blocks for ns in calls]
    assert made.calls == len(everything) and made.batch == batch and made.reference_build == "anchor"
    assert made.p50_ms <= made.p95_ms <= made.p99_ms <= max(everything) / 1e6 + 1e-6
    assert made.p50_ms == pytest.approx(float(np.median(everything)) / 1e6, abs=1e-6)
    assert made.rows_per_s == pytest.approx(batch * 1e9 / float(np.median(everything)), rel=1e-3, abs=1e-3)
    assert 0 < made.ratio_low <= made.ratio <= made.ratio_high and made.noise >= 0


def test_the_ratio_is_taken_beside_the_anchor_so_that_weather_cancels() -> None:
    samples = Samples()
    for weather in (1, 3, 10):
        samples.add([200 * weather] * 5, 100 * weather)
    made = summary(samples, 1, "a")
    assert made.ratio == made.ratio_low == made.ratio_high == 2.0
    assert made.noise > NOISY, "a machine whose speed changed tenfold is called busy"


def test_blocks_without_all_cores_count_only_while_there_are_too_few_others() -> None:
    samples = Samples()
    for number in range(4):
        samples.add([300], 100, clear=False)
        if number < 3:
            assert summary(samples, 1, "a").ratio == 3.0, "nothing else was measured"
    for number in range(3):
        assert summary(samples, 1, "a").ratio == 3.0, f"{number} blocks are too few"
        samples.add([200], 100)
    made = summary(samples, 1, "a")
    assert (made.ratio, made.p50_ms, made.calls) == (2.0, 200 / 1e6, 3)
    assert samples.medians == [200, 200, 200] and samples.ratios == [2.0, 2.0, 2.0]


def test_a_calm_machine_is_not_called_busy() -> None:
    samples = Samples()
    for shift in range(5):
        samples.add([1000 + shift] * 20, 1000)
    assert summary(samples, 1, "a").noise < 0.01


@pytest.mark.parametrize("ns", [1, 20])
def test_a_ratio_far_below_one_keeps_its_digits(ns: int) -> None:
    samples = Samples()
    samples.add([ns], 3_000_000)
    assert summary(samples, 1, "a").ratio == pytest.approx(ns / 3e6, rel=1e-4)


def test_blocks_do_not_change_when_their_source_does() -> None:
    samples: Any = Samples()
    calls = [5, 5, 5]
    samples.add(calls, 5)
    calls.clear()
    assert samples.medians == [5]
