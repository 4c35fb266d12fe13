"""ONNX's own node tests as models, inputs by name and expected outputs by name, and how to compare with them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from tilth.ports.arrays import Value, Values


@dataclass(frozen=True)
class NodeCase:
    """One node test: a model of one operator, inputs, and the outputs that ONNX expects within rtol and atol.

    Values may have dtypes that only `ml_dtypes` knows, such as bfloat16. They are read, never written.
    """

    name: str
    model: ModelProto
    inputs: Values
    outputs: Values
    rtol: float
    atol: float


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """Return the node tests of the installed version of onnx, in the order of their names; takes about ten seconds.

    Some expected outputs are random, or are made by code that divides by zero; its warnings are left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        # The import itself computes every expected output.
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    return tuple(sorted(map(_case, found), key=lambda case: case.name))


def chunk(index: int, of: int) -> tuple[NodeCase, ...]:
    """Return every `of`-th case from `index` on, so that chunks take about as long as one another."""
    return node_cases()[index::of]


def difference(found: Values, case: NodeCase) -> str:
    """Return the first way in which outputs are not what the case expects, by ONNX's own rule; empty when none."""
    for name, wanted in case.outputs.items():
        words = _difference(found.get(name), wanted, case.rtol, case.atol)
        if words:
            return f"`{name}` {words}"
    return ""


def bit_difference(found: Values, wanted: Values) -> str:
    """Return the first way in which values differ in name, order, container, dtype, shape or bytes; empty when none."""
    if list(found) != list(wanted):
        return f"the outputs are {list(found)}, not {list(wanted)}"
    for name, value in wanted.items():
        words = _bit_difference(found[name], value)
        if words:
            return f"`{name}` {words}"
    return ""


def _case(test: Any) -> NodeCase:
    (inputs, outputs) = test.data_sets[0]
    graph = test.model.graph
    return NodeCase(
        test.name, test.model, _named(graph.input, inputs), _named(graph.output, outputs), test.rtol, test.atol
    )


def _named(infos: Sequence[Any], values: Sequence[Any]) -> Mapping[str, Value]:
    if len(infos) != len(values):
        raise ValueError(f"{len(values)} values for {len(infos)} names")
    return {info.name: _plain(value) for info, value in zip(infos, values, strict=True)}


def _plain(value: Any) -> Value:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [np.asarray(item) for item in value]
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _difference(found: Value, wanted: Value, rtol: float, atol: float) -> str:
    if wanted is None or found is None:
        return "" if found is wanted else f"is {_kind(found)}, not {_kind(wanted)}"
    if isinstance(wanted, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(wanted):
            return f"is {_kind(found)}, not {_kind(wanted)}"
        return next(filter(None, (_difference(a, b, rtol, atol) for a, b in zip(found, wanted, strict=True))), "")
    a, b = np.asarray(found), np.asarray(wanted)
    if a.shape != b.shape or (a.dtype != b.dtype and not _texts(a, b)):
        return f"is {_kind(a)}, not {_kind(b)}"
    if _texts(a, b) or a.dtype.kind not in "fc":
        return "" if np.array_equal(a, b) else "holds other values"
    with np.errstate(all="ignore"):
        close = np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    return "" if close.all() else f"differs in {int((~close).sum())} of {close.size} values"


def _bit_difference(found: Value, wanted: Value) -> str:
    if wanted is None or found is None:
        return "" if found is wanted else f"is {_kind(found)}, not {_kind(wanted)}"
    if isinstance(wanted, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(wanted):
            return f"is {_kind(found)}, not {_kind(wanted)}"
        return next(filter(None, (_bit_difference(a, b) for a, b in zip(found, wanted, strict=True))), "")
    a, b = np.asarray(found), np.asarray(wanted)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {_kind(a)}, not {_kind(b)}"
    same = a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes()
    return "" if same else "has other bytes"


def _texts(*arrays: Any) -> bool:
    return all(array.dtype.kind in "OUS" for array in arrays)


def _kind(value: Value) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    array = np.asarray(value)
    return f"{array.dtype}{list(array.shape)}"
