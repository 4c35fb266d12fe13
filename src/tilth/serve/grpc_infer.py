"""The protocol's inference request and answer over gRPC; pure but for the message classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.ports.arrays import Array
from tilth.serve.datatypes import DTYPES, datatype_of, from_raw, to_raw
from tilth.serve.failure import TooLargeError
from tilth.serve.limits import Limits
from tilth.serve.request import Request
from tilth.serve.rest_infer import classified, no_shared_memory

#: Which typed field holds which datatype, as the protocol says; FP16 and BF16 come as raw bytes alone.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def request_of(message: Any, limits: Limits) -> Request:
    """Return a request without its protocol.

    Raises:
        InvalidError: it is not what the protocol says; the error names the place.
        UnsupportedError: a datatype that there is not, or shared memory.
    """
    raw, given = message.raw_input_contents, message.inputs
    if not given:
        raise InvalidError("the request has no inputs")
    if len(given) > limits.tensors:
        raise TooLargeError(f"the request has {len(given)} inputs", why=f"at most {limits.tensors} are read")
    if raw and len(raw) != len(given):
        raise InvalidError(f"{len(raw)} raw contents for {len(given)} inputs", why="they go together in order")
    inputs: dict[str, Array] = {}
    for index, item in enumerate(given):
        name = item.name
        if name in inputs:
            raise InvalidError(f"the input `{name[:200]}` is there twice")
        if item.parameters and "shared_memory_region" in item.parameters:
            raise no_shared_memory()
        shape = list(item.shape)
        if len(shape) > limits.dims or (shape and (min(shape) < 0 or max(shape) >= 1 << 40)):
            raise InvalidError(f"`{name[:200]}` has no sound shape", why=f"it is {shape[:16]}")
        inputs[name] = from_raw(name, item.datatype, shape, raw[index]) if raw else _typed(item, shape)
    outputs = tuple(item.name for item in message.outputs)
    return Request(
        message.model_name, inputs, message.model_version, message.id[:256], outputs, plain(message.parameters)
    )


def plain(parameters: Any) -> dict[str, Any]:
    """Return a map of parameters as plain values."""
    if not parameters:
        return {}
    return {name: getattr(value, kind) for name, value in parameters.items() if (kind := _kind(value))}


def _kind(value: Any) -> str:
    return value.WhichOneof("parameter_choice") or ""


def _typed(item: Any, shape: list[int]) -> Array:
    name, datatype = item.name, item.datatype
    field = _CONTENTS.get(datatype)
    if field is None:
        raise UnsupportedError(
            f"`{name[:200]}` has datatype `{datatype[:40]}` without raw contents", why="typed: " + ", ".join(_CONTENTS)
        )
    values = getattr(item.contents, field)
    if len(values) != int(np.prod(shape, dtype=np.int64)):
        raise InvalidError(f"`{name[:200]}` has {len(values)} elements", why=f"its shape is {shape}")
    if datatype == "BYTES":
        return _texts(name, values, shape)
    wide = np.array(values)
    made = wide.astype(DTYPES[datatype])
    if made.dtype.kind in "iu" and not np.array_equal(made, wide):
        raise InvalidError(f"`{name[:200]}` holds a number out of {datatype}'s range")
    return made.reshape(shape)


def _texts(name: str, values: Any, shape: list[int]) -> Array:
    flat = np.empty(len(values), object)
    try:
        flat[:] = [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InvalidError(f"`{name[:200]}` holds bytes that are no UTF-8 text") from None
    return flat.reshape(shape)


def classes(message: Any) -> dict[str, int]:
    """Return of how many classes each output is wanted, for those that are.

    Raises:
        InvalidError: it is no number.
        UnsupportedError: an output is wanted in shared memory.
    """
    found: dict[str, int] = {}
    for item in message.outputs:
        if not item.parameters:
            continue
        if "shared_memory_region" in item.parameters:
            raise no_shared_memory()
        count = plain(item.parameters).get("classification", 0)
        if type(count) is not int or count < 0:
            raise InvalidError("`classification` is not a number of classes")
        if count:
            found[item.name] = count
    return found


def fill(response: Any, outputs: Mapping[str, Array], counts: Mapping[str, int]) -> None:
    """Put outputs into a response as raw contents."""
    for name, value in outputs.items():
        array = classified(value, counts[name]) if name in counts else value
        response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(to_raw(array))
