"""Agreement: whether two answers are the same, counted in the same way by anyone."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilth.bridge.agreement import FP32_REL, Tolerance, compare, objections
from tilth.core.build import Precision
from tilth.core.certificate import INFINITE, Agreement

_quick = settings(max_examples=30, deadline=None)
_shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
_floats = hnp.arrays(np.float32, _shapes, elements=st.floats(-1e3, 1e3, width=32))
_pairs = _shapes.flatmap(
    lambda shape: st.tuples(
        *(hnp.arrays(np.float64, shape, elements=st.floats(-1e6, 1e6, allow_subnormal=False)) for _ in range(2))
    )
)


def of(found: Any, golden: Any) -> Agreement:
    return compare([({"y": found}, {"y": golden})])


def perfect(agreement: Agreement) -> bool:
    return (agreement.max_abs, agreement.max_rel, agreement.rms_rel) == (0, 0, 0) and (
        agreement.cosine,
        agreement.decisions,
        agreement.exact,
    ) == (pytest.approx(1), 1, 1)


def infinite(agreement: Agreement) -> bool:
    return agreement.max_abs == agreement.max_rel == agreement.rms_rel == INFINITE and agreement.cosine == 0


@_quick
@given(_floats)
def test_an_answer_agrees_with_itself(golden: np.ndarray[Any, Any]) -> None:
    assert perfect(of(golden.copy(), golden))


@_quick
@given(_pairs)
def test_the_formulas_are_those_of_the_certificate(pair: tuple[Any, Any]) -> None:
    found, golden = pair
    made = of(found, golden)
    a, b = found.ravel().tolist(), golden.ravel().tolist()
    if not a:
        assert perfect(made)
        return
    rms = math.sqrt(math.fsum(y * y for y in b) / len(b))
    errors = [abs(x - y) for x, y in zip(a, b, strict=True)]
    assert made.max_abs == pytest.approx(max(errors))
    if rms > 1e-3:
        rel = max(e / max(abs(y), rms) for e, y in zip(errors, b, strict=True))
        assert made.max_rel == pytest.approx(min(rel, INFINITE), rel=1e-6)
        rms_rel = math.sqrt(math.fsum(e * e for e in errors)) / (rms * math.sqrt(len(b)))
        assert made.rms_rel == pytest.approx(rms_rel, rel=1e-6, abs=1e-12)
        if math.hypot(*a) > 1e-150:  # below, the products of the plain formula underflow
            dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
            size = math.hypot(*a) * math.hypot(*b)
            assert made.cosine == pytest.approx(dot / size, abs=1e-6)


@_quick
@given(_pairs)
def test_the_absolute_error_and_decisions_do_not_depend_on_who_is_golden(pair: tuple[Any, Any]) -> None:
    one, other = of(*pair), of(*reversed(pair))
    assert one.max_abs == pytest.approx(other.max_abs) and one.decisions == other.decisions
    assert one.cosine == pytest.approx(other.cosine)


@_quick
@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=2), elements=st.floats()), st.floats())
def test_no_value_whatever_makes_a_figure_that_a_record_cannot_hold(golden: Any, noise: float) -> None:
    with np.errstate(all="ignore"):
        made = of(golden + noise, golden)
    figures = [made.max_abs, made.max_rel, made.rms_rel, made.cosine, made.decisions, made.exact]
    assert all(math.isfinite(figure) for figure in figures)
    assert 0 <= made.decisions <= 1 and -1.001 <= made.cosine <= 1 and max(figures) <= INFINITE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_agrees_with_itself_alone(value: float) -> None:
    golden = np.array([value, 1.0])
    assert perfect(of(golden.copy(), golden))
    for other in (0.0, math.nan, math.inf, -math.inf):
        if not (other == value or (math.isnan(other) and math.isnan(value))):
            assert infinite(of(np.array([other, 1.0]), golden))
            assert infinite(of(golden, np.array([other, 1.0])))


def test_an_error_beside_an_infinity_still_counts() -> None:
    made = of(np.array([math.inf, 1.5]), np.array([math.inf, 1.0]))
    assert made.max_abs == 0.5 and made.max_rel == 0.5


@pytest.mark.parametrize(
    "found",
    [
        None,
        np.zeros((2, 3), np.float32),
        np.zeros(6, np.float32),
        np.zeros((3, 2, 1), np.float32),
        np.array([["0", "0"]] * 3, dtype=object),
        np.zeros((3, 2), np.complex64),
        [np.zeros((3, 2), np.float32)],
    ],
)
def test_a_missing_misshapen_or_foreign_output_is_infinitely_wrong(found: Any) -> None:
    made = of(found, np.zeros((3, 2), np.float32))
    assert infinite(made) and made.exact < 1 and made.decisions < 1


def test_a_missing_output_is_not_hidden_by_a_good_one() -> None:
    good = np.ones((4, 3), np.float32)
    made = compare([({"a": good}, {"a": good, "b": good})])
    assert infinite(made) and Tolerance(rms=0.5).objections(made, Precision.INT8)


def test_an_output_that_nobody_asked_for_is_no_error() -> None:
    assert perfect(compare([({"a": np.ones(2), "more": np.ones(3)}, {"a": np.ones(2)})]))


@pytest.mark.parametrize("size", [1e-320, 1e-300, 1e-170, 1.0, 1e170, 1e300, 1.7e308])
def test_very_large_and_very_small_numbers_are_told_apart_too(size: float) -> None:
    golden = np.array([size, size, size])
    assert perfect(of(golden.copy(), golden))
    wrong = of(golden * 0.5, golden)
    assert wrong.max_rel == pytest.approx(0.5, rel=1e-3) and wrong.rms_rel == pytest.approx(0.5, rel=1e-3)


def test_anything_beside_golden_zeros_is_infinitely_wrong() -> None:
    zeros = np.zeros((2, 3))
    assert perfect(of(-zeros, zeros))
    for error in (1e-310, 1.0, 10.0, 1e300):
        assert of(zeros + error, zeros).rms_rel == INFINITE
        assert Tolerance().objections(of(zeros + error, zeros), Precision.FP32)


def test_an_answer_turned_around_is_not_similar() -> None:
    golden = np.array([1.0, 2.0, -3.0])
    assert of(-golden, golden).cosine == pytest.approx(-1)
    assert of(np.zeros(3), golden).cosine == 0


def test_a_small_value_is_judged_against_the_size_of_its_tensor() -> None:
    golden = np.array([1e-9, 1.0, 1.0, 1.0])
    assert of(golden + np.array([1e-6, 0, 0, 0]), golden).max_rel < FP32_REL


def test_a_small_tensor_is_not_drowned_by_a_large_one() -> None:
    large, small = np.full(1000, 1e6), np.array([1e-3])
    made = compare([({"l": large, "s": small * 2}, {"l": large, "s": small})])
    assert made.max_rel == pytest.approx(1) and made.rms_rel == pytest.approx(1)


def test_one_bad_case_among_many_decides() -> None:
    good, bad = np.ones((4, 2)), np.array([[1.0, 1.0], [1, 1], [1, 1], [1, 3]])
    made = compare([({"y": good}, {"y": good})] * 9 + [({"y": bad}, {"y": good})])
    assert made.max_abs == 2 and made.rows == 40


def test_decisions_are_counted_per_row_over_the_last_axis() -> None:
    golden = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    found = golden.copy()
    found[2] = [0.4, 0.6]
    assert of(found, golden).decisions == 0.75
    assert of(found[:, :1], golden[:, :1]).decisions == 1, "one column decides nothing"
    assert of(found[None], golden[None]).decisions == 1, "the last axis of a signal or an image decides nothing"


def test_complex_numbers_are_compared_as_points() -> None:
    golden = np.array([3 + 4j, 5 - 12j])
    assert perfect(of(golden.copy(), golden))
    assert of(golden + np.array([0, 1j]), golden).max_abs == pytest.approx(1)
    assert of(golden + np.array([0, 1j]), golden).max_rel == pytest.approx(1 / 13)
    assert of(-golden, golden).cosine == pytest.approx(-1)


def test_values_that_are_not_floats_are_equal_or_not() -> None:
    golden = np.array(["a", "b", "é", ""], dtype=object)
    made = of(np.array(["a", "x", "é", ""], dtype=object), golden)
    assert made.exact == made.decisions == 0.75 and made.max_rel == 0
    assert of(np.array([1, 2, 3]), np.array([1, 2, 4])).exact == pytest.approx(2 / 3)
    assert of(np.array([True, False]), np.array([True, True])).exact == 0.5
    assert infinite(of(np.array([1, 2, 3, 4]), golden))


def test_an_empty_output_agrees_with_an_empty_one_and_no_other() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert perfect(of(empty, empty)) and infinite(of(np.zeros((1, 3)), empty))
    assert perfect(compare([])) and perfect(compare([({}, {})]))


@pytest.mark.parametrize("found", [None, [], [np.ones(2)], [np.ones(2)] * 3, np.ones(2)])
def test_a_sequence_of_another_length_is_infinitely_wrong(found: Any) -> None:
    assert infinite(of(found, [np.ones(2), np.ones(2)]))
    assert not isinstance(found, list) or not found or infinite(of(found, []))
    assert infinite(of(None, []))


def test_a_sequence_is_compared_item_by_item() -> None:
    golden = [np.ones(2), np.arange(3)]
    assert perfect(of((np.ones(2), np.arange(3)), golden)) and perfect(of([], []))
    assert of([np.ones(2), np.arange(3) + 1], golden).exact == 0


def test_an_absent_optional_agrees_only_with_absence() -> None:
    assert perfect(of(None, None))
    assert of(np.ones(1), None).exact == 0
    assert infinite(of(None, np.ones(1)))


def test_scalars_of_numpy_are_arrays() -> None:
    assert perfect(of(np.float32(2), np.float32(2))) and perfect(of(np.float32(2), np.array(2, np.float32)))


def test_half_precision_is_compared_without_overflow() -> None:
    golden = np.full(1000, 60000, np.float16)
    assert perfect(of(golden.copy(), golden))
    assert of(golden.astype(np.float32) * 1.01, golden).max_rel == pytest.approx(0.01, rel=1e-3)


BAD_FLOATS = Agreement(1, 0.01, 0.001, 1, 1, 1, 4)
BAD_LABELS = Agreement(0, 0, 0, 1, 0.9, 0.9, 4)


@pytest.mark.parametrize("agreement", [BAD_FLOATS, BAD_LABELS])
def test_fp32_is_held_to_its_own_bound_until_more_is_allowed(agreement: Agreement) -> None:
    assert Tolerance().objections(agreement, Precision.FP32)
    assert not Tolerance(rms=0.2).objections(agreement, Precision.FP32)


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.FP32])
def test_a_lower_precision_that_nobody_asked_for_is_refused_however_good(precision: Precision) -> None:
    perfect_one = Agreement(0, 0, 0, 1, 1, 1, 4)
    assert Tolerance().objections(perfect_one, precision) == [f"{precision.value} was not asked for"]
    assert not Tolerance(rms=0.0).objections(perfect_one, precision)


@pytest.mark.parametrize(("rms", "decisions"), [(0.0, 1.0), (0.0, 0.98), (0.011, 1.0), (0.011, 0.98)])
def test_lower_precision_is_held_to_both_bounds(rms: float, decisions: float) -> None:
    found = Tolerance(rms=0.01).objections(Agreement(9, 9, rms, 0.9, decisions, 1, 4), Precision.INT8)
    assert len(found) == (rms > 0.01) + (decisions < 0.99)


def test_a_figure_that_is_no_number_never_passes() -> None:
    broken = Agreement(*[math.nan] * 5, 1, 4)
    assert Tolerance().objections(broken, Precision.FP32) and Tolerance(rms=1).objections(broken, Precision.INT8)


def test_the_terms_are_written_out() -> None:
    assert str(Tolerance()) == "fp32: relative error <= 0.0001"
    assert "0.02" in str(Tolerance(rms=0.02)) and "0.98" in str(Tolerance(rms=0.02))


def test_float16_outputs_are_held_to_a_step_of_their_type_and_others_are_not() -> None:
    golden = np.array([[1.0, 1.0]])
    found = golden * (1 + 5e-4)
    half = [({"y": found.astype(np.float16)}, {"y": golden.astype(np.float16)})]
    full = [({"y": found.astype(np.float32)}, {"y": golden.astype(np.float32)})]
    assert objections(half, Tolerance(), Precision.FP32) == []
    assert objections(full, Tolerance(), Precision.FP32)
    assert objections([({**half[0][0], "z": found}, {**half[0][1], "z": golden})], Tolerance(), Precision.FP32)
    assert objections([({"y": half[0][0]["y"] * np.float16(1.01)}, half[0][1])], Tolerance(), Precision.FP32)
