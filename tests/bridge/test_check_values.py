"""Values against a signature, before an engine sees them."""

from typing import Any

import numpy as np
import pytest

from tilth.bridge.check_values import checked
from tilth.core.errors import InvalidError
from tilth.core.signature import Signature, TensorSpec


def spec(dtype: str = "float32", shape: Any = ("batch", 2), container: Any = "tensor", name: str = "x") -> TensorSpec:
    return TensorSpec(name, dtype, shape, container)


def one(value: Any, **kind: Any) -> Any:
    return checked({"x": value}, Signature((spec(**kind),), ()))["x"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.ones((3, 2)), {}),
        (np.ones((3, 2), np.float16), {}),
        (np.ones((3, 2), np.int64), {}),
        (np.ones((3, 2), np.complex64), {}),
        (np.ones((3, 2), object), {}),
        (np.ones((3, 3), np.float32), {}),
        (np.ones(2, np.float32), {}),
        (np.ones((1, 3, 2), np.float32), {}),
        (None, {}),
        (None, {"shape": None}),
        (None, {"shape": ()}),
        ([[1, 2], [3]], {}),
        ([["1", "2"]], {}),
        ("3.5", {"shape": ()}),
        ([1.5], {"dtype": "int64", "shape": ("n",)}),
        ([True, 2.0], {"dtype": "bool", "shape": ("n",)}),
        ([300], {"dtype": "uint8", "shape": ("n",)}),
        ([-1], {"dtype": "uint8", "shape": ("n",)}),
        (2**63, {"dtype": "int64", "shape": ()}),
        (np.float64(1.5), {"dtype": "int32", "shape": ()}),
        ({"a": 1}, {"shape": ()}),
        ([1, 2], {"dtype": "string", "shape": ("n",)}),
        (np.ones(2), {"dtype": "string", "shape": ("n",)}),
        (np.ones(2, np.float32), {"container": "sequence", "shape": None}),
        ([np.ones(2)], {"container": "sequence", "shape": None}),
        (None, {"container": "sequence", "shape": None}),
        (np.ones(2), {"container": "optional", "shape": None}),
    ],
)
def test_what_does_not_fit_is_refused_by_name(value: Any, kind: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="`x`") as caught:
        one(value, **kind)
    assert caught.value.why.startswith("the graph takes x: ") and "tilth show" in caught.value.hint


def test_an_array_that_fits_is_not_copied() -> None:
    value = np.ones((3, 2), np.float32)
    assert one(value) is value


def test_the_other_byte_order_is_turned_and_keeps_its_values() -> None:
    value = np.arange(4, dtype=">f4").reshape(2, 2)
    found = one(value)
    assert found.dtype.isnative and np.array_equal(found, value)


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        ([[1, 2], [3.5, True]], "float32", ("batch", 2)),
        (3, "int64", ()),
        ([], "int64", ("n",)),
        ([0, 255], "uint8", ("n",)),
        ([True, False], "bool", ("n",)),
        (np.float64(2), "float32", ()),
    ],
)
def test_python_numbers_become_arrays(value: Any, dtype: str, shape: Any) -> None:
    found = one(value, dtype=dtype, shape=shape)
    assert found.dtype == dtype and np.array_equal(found, np.asarray(value))


@pytest.mark.parametrize("value", [["a", "é"], np.array(["a", "é"]), np.array(["a", "é"], dtype=object)])
def test_text_of_any_kind_becomes_str(value: Any) -> None:
    found = one(value, dtype="string", shape=("n",))
    assert found.dtype == object and found.tolist() == ["a", "é"]


def test_sequences_are_checked_item_by_item() -> None:
    good = one([np.ones(2, np.float32), [1.0]], container="sequence", shape=("n",))
    assert [item.dtype.name for item in good] == ["float32", "float32"]
    with pytest.raises(InvalidError, match="float64"):
        one((np.ones(2, np.float32), np.ones(2)), container="sequence", shape=("n",))


def test_missing_and_unknown_names_are_told_with_what_is_taken() -> None:
    with pytest.raises(InvalidError) as caught:
        checked({"X": np.ones((1, 2), np.float32)}, Signature((spec(),), ()))
    assert "missing: `x`" in caught.value.why and "unknown: `X`" in caught.value.why
    assert "x: float32[batch, 2]" in caught.value.hint


def test_an_optional_may_be_left_out_or_none_or_there() -> None:
    signature = Signature((spec(container="optional", shape=("n",)),), ())
    assert checked({}, signature) == {}
    assert checked({"x": None}, signature) == {"x": None}
    assert checked({"x": np.ones(1, np.float32)}, signature)["x"] is not None


def test_a_symbol_has_one_size_over_all_inputs() -> None:
    signature = Signature((spec(), spec(name="y", shape=("batch", "n")), spec(name="z", shape=("?", "?"))), ())
    good = {name: np.ones((3, 2), np.float32) for name in "xyz"}
    assert list(checked(good, signature)) == ["x", "y", "z"]
    with pytest.raises(InvalidError, match="`batch` is 4 in `y` and 3 in `x`"):
        checked({**good, "y": np.ones((4, 2), np.float32)}, signature)
    with pytest.raises(InvalidError, match="`n`"):
        checked({"x": np.ones((2, 3), np.float32)}, Signature((spec(shape=("n", "n")),), ()))


def test_inputs_come_in_the_order_of_the_graph() -> None:
    signature = Signature((spec(name="b"), spec(name="a")), ())
    value = np.ones((1, 2), np.float32)
    assert list(checked({"a": value, "b": value}, signature)) == ["b", "a"]
