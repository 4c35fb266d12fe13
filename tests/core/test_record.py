"""Records to JSON and back: nothing is guessed, nothing slips through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.build import Build, Precision
from tilth.core.bundle import Array, Case, Choice
from tilth.core.certificate import Agreement
from tilth.core.errors import InvalidError
from tilth.core.record import from_json, to_json

_quick = settings(max_examples=30, deadline=None)
_floats = st.floats(allow_nan=False, allow_infinity=False)


@dataclass(frozen=True)
class Everything:
    text: str
    flag: bool
    count: int
    share: float
    kind: Literal["one", "two"]
    precision: Precision
    parts: tuple[Array, ...]
    by_name: Mapping[str, float]
    maybe: Array | None = None
    any: Any = None
    notes: Mapping[str, str] = field(default_factory=dict)


def everything() -> dict[str, Any]:
    array = {"dtype": "float32", "shape": [2, 3], "blob": "00"}
    return {
        "text": "é",
        "flag": True,
        "count": 3,
        "share": 0.5,
        "kind": "one",
        "precision": "bf16",
        "parts": [array, array],
        "by_name": {"a": 1, "b": 2.5},
        "maybe": array,
        "any": [1, {"x": None}],
    }


def test_a_record_survives_the_way_there_and_back() -> None:
    made = from_json(Everything, everything())
    assert made.parts[1] == Array("float32", (2, 3), "00") and made.precision is Precision.BF16
    assert made.by_name == {"a": 1.0, "b": 2.5} and isinstance(made.by_name["a"], float)
    assert to_json(made) == everything()


def test_fields_at_their_default_are_left_out_and_come_back() -> None:
    data = {key: value for key, value in everything().items() if key not in ("maybe", "any")}
    made = from_json(Everything, data)
    assert made.maybe is None and made.notes == {}
    assert to_json(made) == data


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("text", 3, "text"),
        ("text", None, "text"),
        ("flag", 1, "true or false"),
        ("count", 3.0, "a whole number"),
        ("count", True, "a whole number"),
        ("share", "0.5", "a number"),
        ("share", True, "a number"),
        ("share", float("nan"), "a number"),
        ("share", float("inf"), "a number"),
        ("share", 10**400, "a number"),
        ("kind", "three", "one of one, two"),
        ("kind", [], "one of one, two"),
        ("precision", "fp8", "one of fp32, bf16, fp16, int8"),
        ("precision", [], "one of fp32"),
        ("parts", {}, "a list"),
        ("parts", [3], "an object"),
        ("by_name", [], "an object"),
        ("by_name", {"a": "x"}, "a number"),
        ("maybe", 3, "not"),
        ("surprise", 1, "a known field"),
    ],
)
def test_another_type_is_refused_with_its_place(key: str, value: object, wanted: str) -> None:
    with pytest.raises(InvalidError, match=wanted) as caught:
        from_json(Everything, {**everything(), key: value}, at="manifest")
    assert f"manifest.{key}" in caught.value.what


def test_a_missing_field_is_refused() -> None:
    data = everything()
    del data["count"]
    with pytest.raises(InvalidError, match=r"Everything\.count.*not present"):
        from_json(Everything, data)


def test_what_is_not_an_object_is_refused_and_shown_short() -> None:
    with pytest.raises(InvalidError) as caught:
        from_json(Build, ["x" * 1000])
    assert len(caught.value.what) < 120 and "..." in caught.value.what


def test_a_union_takes_any_of_its_kinds() -> None:
    value = {"dtype": "int64", "shape": [], "blob": "1"}
    case = from_json(Case, {"inputs": {"a": value, "b": [value], "c": None}, "outputs": {}})
    assert isinstance(case.inputs["a"], Array) and isinstance(case.inputs["b"], tuple) and case.inputs["c"] is None
    assert to_json(case)["inputs"] == {"a": value, "b": [value], "c": None}


def test_a_field_without_a_json_form_is_a_defect_not_bad_input() -> None:
    @dataclass
    class Odd:
        things: set[int]

    with pytest.raises(TypeError, match="no JSON form"):
        from_json(Odd, {"things": []})


@_quick
@given(_floats, _floats, st.integers())
def test_every_agreement_round_trips(one: float, two: float, rows: int) -> None:
    made = Agreement(one, two, one, two, one, two, rows)
    assert from_json(Agreement, to_json(made)) == made


@_quick
@given(st.dictionaries(st.text(), st.one_of(st.text(), st.booleans(), st.integers(), _floats)))
def test_settings_of_any_scalar_round_trip(settings: dict[str, Any]) -> None:
    made = Build("g", "cpu-x86_64", "ort", Precision.FP32, settings=settings)
    back = from_json(Build, to_json(made))
    assert back == made and back.id == made.id
    assert {key: type(value) for key, value in back.settings.items()} == {k: type(v) for k, v in settings.items()}


@_quick
@given(st.recursive(st.none() | st.booleans() | st.integers() | _floats | st.text(), lambda x: st.lists(x)))
def test_no_json_value_does_worse_than_being_refused(data: object) -> None:
    with pytest.raises(InvalidError):
        from_json(Choice, data)
