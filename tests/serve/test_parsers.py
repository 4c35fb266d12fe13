"""Whatever comes in, a parser answers with a value or an error of ours, never with anything else.

`TILTH_FUZZ_CASES=100000 pytest tests/serve/test_parsers.py` looks at that many cases for each.
"""

import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tilth.core import errors
from tilth.core.errors import TilthError
from tilth.core.signature import Signature, TensorSpec
from tilth.serve import failure, grpc_infer, rest_infer, rest_rows, sources
from tilth.serve.datatypes import DTYPES, datatype_of, from_json, from_raw, to_json, to_raw
from tilth.serve.frame import HEADER, pack, unpack
from tilth.serve.grpc_messages import messages
from tilth.serve.limits import Limits
from tilth.serve.status import TABLE, grpc_status, http_status
from tilth.serve.together import apart, kind_of, together
from tilth.serve.traffic import Policy, Splitter

CASES = int(os.environ.get("TILTH_FUZZ_CASES", "150"))
many = settings(max_examples=CASES, deadline=None)
LIMITS = Limits()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DATATYPES = st.sampled_from([*DTYPES, "BF16", "FP8", ""])
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | JSON,
        "datatype": DATATYPES | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data": st.lists(JSON, max_size=6) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | JSON}) | JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(TENSOR, max_size=3) | JSON,
        "outputs": st.lists(st.fixed_dictionaries({}, optional={"name": st.text(max_size=3) | JSON})) | JSON,
        "id": JSON,
        "parameters": JSON,
    },
)


def tried(work: Any) -> None:
    try:
        work()
    except TilthError as error:
        assert http_status(error) < 500, error


@many
@given(REQUEST, st.binary(max_size=40), st.none() | st.integers(-5, 400) | st.text(max_size=6))
def test_a_rest_request_is_read_or_refused(document: Any, raw: bytes, length: Any) -> None:
    body = json.dumps(document).encode()

    def work() -> None:
        told = None if length is None else str(len(body) if length == 0 else length)
        found, inputs = rest_infer.parse(body + raw, told, LIMITS)
        rest_infer.request_of("m", "", found, inputs)
        rest_infer.forms(found)

    tried(work)


@many
@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_refused(body: bytes) -> None:
    tried(lambda: rest_infer.parse(body, None, LIMITS))


@many
@given(st.binary(max_size=300))
def test_a_grpc_request_is_read_or_refused(data: bytes) -> None:
    message = messages()["ModelInferRequest"]()
    try:
        message.ParseFromString(data)
    except Exception:  # protobuf's own refusal, which gRPC tells the client
        return
    tried(lambda: (grpc_infer.request_of(message, LIMITS), grpc_infer.classes(message)))


SIGNATURE = Signature(
    (TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "string", ("batch",))),
    (TensorSpec("y", "float32", ("batch", 3)),),
)


@many
@given(JSON | st.fixed_dictionaries({"instances": st.lists(JSON, max_size=3)}))
def test_rows_are_read_or_refused(document: Any) -> None:
    tried(lambda: rest_rows.inputs_of(document, SIGNATURE))
    tried(lambda: rest_rows.inputs_of(document, Signature(SIGNATURE.inputs[:1], SIGNATURE.outputs)))


SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from([np.dtype(name) for name in DTYPES.values() if name != "string"]).flatmap(
    lambda kind: arrays.arrays(kind, SHAPES)
)
TEXTS = SHAPES.flatmap(lambda shape: arrays.arrays(object, shape, elements=st.text(max_size=5), fill=st.nothing()))


@many
@given(ARRAYS | TEXTS)
def test_a_tensor_comes_back_from_bytes_and_from_json_as_it_was(array: Any) -> None:
    datatype, shape = datatype_of(array), list(array.shape)
    found = from_raw("x", datatype, shape, to_raw(array))
    assert (found.shape, found.dtype, to_raw(found)) == (array.shape, array.dtype, to_raw(array))
    as_json = to_json(array)
    text = json.loads(json.dumps(as_json if isinstance(as_json, list) else as_json.tolist()))
    again = from_json("x", datatype, shape, text)
    same = again.tolist() == array.tolist() or np.array_equal(again, array, equal_nan=True)
    assert again.shape == array.shape and same


@many
@given(
    st.dictionaries(st.text(max_size=4), ARRAYS | TEXTS | st.lists(ARRAYS, max_size=2), max_size=3), st.integers(0, 9)
)
def test_a_message_between_processes_comes_back_as_it_was(values: Any, number: int) -> None:
    data = memoryview(bytearray(b"".join(pack(number, {"left_s": 1.0}, values))))
    meta_size, body_size, found_number = HEADER.unpack_from(data)
    start = HEADER.size + meta_size
    facts, found = unpack(data[HEADER.size : start], data[start : start + body_size])
    assert (found_number, facts, list(found)) == (number, {"left_s": 1.0}, list(values))
    for name, value in values.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [(found[name], value)]
        assert all((a.shape, a.dtype, to_raw(a)) == (b.shape, b.dtype, to_raw(b)) for a, b in pairs)


@many
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_what_ran_together_comes_apart_as_it_was(counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    requests = [
        {"a": rng.normal(size=(n, 2)).astype(np.float32), "b": np.array([f"{n}-{i}" for i in range(n)], object)}
        for n in counts
    ]
    assert len({kind_of(one, SIGNATURE) for one in requests}) == 1
    whole = together(requests, SIGNATURE)
    assert whole["b"].tolist() == [text for one in requests for text in one["b"].tolist()]
    parts = apart({"y": np.concatenate([whole["a"], whole["a"][:, :1]], axis=1)}, counts, SIGNATURE)
    for one, part in zip(requests, parts, strict=True):
        assert np.array_equal(part["y"][:, :2], one["a"])


@many
@given(
    st.dictionaries(st.sampled_from("1234"), st.floats(0, 100), max_size=4),
    st.lists(st.sampled_from("1234"), unique=True, max_size=4),
    st.floats(0, 1, exclude_max=True),
)
def test_a_split_picks_a_version_that_is_ready(weights: Any, ready: list[str], chance: float) -> None:
    picked = Splitter(Policy("all", weights), ready).pick(chance)
    assert picked in ready if ready else picked == ""
    if any(weights.get(version, 0) > 0 for version in ready):
        assert weights.get(picked, 0) > 0


@many
@given(st.lists(st.text(max_size=20), max_size=3))
def test_words_on_the_command_line_are_understood_or_refused(texts: list[str]) -> None:
    for parser in (sources.policies, lambda t: sources.weights(t, "--split"), sources.named):
        try:
            parser(texts)  # type: ignore[operator]
        except TilthError:
            continue
        except (OSError, ValueError):
            # A path with NUL in it, which no shell can pass.
            assert any("\0" in text for text in texts)


def _classes() -> list[type[TilthError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TilthError)]
    return found + [kind for kind in vars(failure).values() if isinstance(kind, type) and issubclass(kind, TilthError)]


@pytest.mark.parametrize("kind", sorted(set(_classes()), key=lambda kind: kind.__name__))
def test_an_error_class_without_a_status_at_an_edge_is_caught(kind: type[TilthError]) -> None:
    import grpc

    error = kind("what")
    assert kind is TilthError or http_status(error) != 500 and hasattr(grpc.StatusCode, grpc_status(error))


def test_a_row_that_hides_a_more_specific_one_is_caught() -> None:
    for index, (kind, _, _) in enumerate(TABLE):
        assert not any(issubclass(later, kind) for later, _, _ in TABLE[index + 1 :]), kind
    assert http_status(errors.UntrustedError("x")) == 403


@pytest.mark.parametrize("number", [1e39, 1.35e154, 1e308, -1e308])
def test_a_number_beyond_float32_is_refused_without_a_warning(number: float) -> None:
    with pytest.raises(errors.InvalidError, match="FP32"):
        from_json("x", "FP32", [2], [0.0, number])
