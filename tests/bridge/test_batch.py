"""Rows of named values: counted once, taken round and round."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.bridge.batch import in_pieces, joined, resized, row_of, rows
from tilth.core.errors import InvalidError
from tilth.core.signature import Signature, TensorSpec

SIGNATURE = Signature(
    (
        TensorSpec("x", "float32", ("batch", 2)),
        TensorSpec("t", "int64", ("time", "batch")),
        TensorSpec("scale", "float32", ()),
        TensorSpec("seq", "float32", ("batch",), "sequence"),
        TensorSpec("open", "float32", None),
    ),
    (),
)


def values(count: int) -> dict[str, Any]:
    return {
        "x": np.arange(2 * count, dtype=np.float32).reshape(count, 2),
        "t": np.arange(3 * count).reshape(3, count),
        "scale": np.array(2, np.float32),
        "seq": [np.ones(5)],
        "open": np.ones(7),
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20))
def test_rows_are_taken_in_turn_on_whatever_axis_the_batch_is(have: int, wanted: int) -> None:
    given_values = values(have)
    made = resized(given_values, SIGNATURE, wanted)
    assert rows(made, SIGNATURE) == wanted
    for row in range(wanted):
        one = row_of(given_values, SIGNATURE, row % have)
        assert np.array_equal(row_of(made, SIGNATURE, row)["x"], one["x"])
        assert np.array_equal(made["t"][:, row], given_values["t"][:, row % have])  # type: ignore[index,call-overload]
    assert made["scale"] is given_values["scale"] and made["seq"] is given_values["seq"]
    assert made["open"] is given_values["open"]


def test_inputs_that_differ_in_rows_are_refused_by_name() -> None:
    with pytest.raises(InvalidError, match="different numbers of rows") as caught:
        rows({"x": np.ones((2, 2)), "t": np.ones((3, 5))}, SIGNATURE)
    assert "`x` has 2" in caught.value.why and "`t` has 5" in caught.value.why


def test_no_rows_cannot_become_some() -> None:
    with pytest.raises(InvalidError, match="no rows"):
        resized(values(0), SIGNATURE, 3)


def test_a_graph_without_a_batch_has_one_row() -> None:
    fixed = Signature((TensorSpec("x", "float32", (4, 2)),), ())
    assert rows({"x": np.ones((4, 2))}, fixed) == 1
    assert resized({"x": np.ones((4, 2))}, fixed, 3)["x"].shape == (4, 2)  # type: ignore[union-attr]


def test_a_value_without_the_rank_of_its_batch_counts_as_one_row() -> None:
    assert rows({"t": np.ones(3)}, SIGNATURE) == 1


OUTPUTS = (TensorSpec("y", "float32", ("batch", 2)), TensorSpec("u", "int64", ("time", "batch")))


@given(st.integers(1, 20), st.integers(1, 9))
def test_pieces_joined_are_what_they_were_cut_from_on_whatever_axis_the_batch_is(count: int, most: int) -> None:
    signature = Signature(SIGNATURE.inputs, OUTPUTS)
    given = values(count)
    pieces = in_pieces(given, signature, most)
    assert len(pieces) == -(-count // most) and all(rows(piece, signature) <= most for piece in pieces)
    whole = joined([{"y": piece["x"], "u": piece["t"]} for piece in pieces], signature)
    assert np.array_equal(whole["y"], given["x"]) and np.array_equal(whole["u"], given["t"])


def test_rows_that_cannot_be_told_apart_in_an_output_stay_together() -> None:
    summed = TensorSpec("total", "float32", ())
    assert len(in_pieces(values(9), Signature(SIGNATURE.inputs, (*OUTPUTS, summed)), 2)) == 1
    fixed = Signature((TensorSpec("x", "float32", (9, 2)),), (TensorSpec("y", "float32", (9, 2)),))
    assert len(in_pieces({"x": np.zeros((9, 2))}, fixed, 2)) == 1


@pytest.mark.parametrize("last", [{"y": np.zeros((1, 3))}, {"z": np.zeros((1, 2))}, {"y": np.array(1)}])
def test_outputs_that_change_shape_from_piece_to_piece_are_refused(last: dict[str, Any]) -> None:
    signature = Signature(SIGNATURE.inputs, OUTPUTS[:1])
    with pytest.raises(InvalidError, match="do not fit together"):
        joined([{"y": np.zeros((2, 2))}, last], signature)
