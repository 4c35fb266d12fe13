"""The protocol's inference request and answer over REST: JSON, with the binary tensor data extension; pure.

Source: Open Inference Protocol v2, "Inference Request JSON Object"; Triton's "binary tensor data" and "classification"
extensions, which its client uses.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.ports.arrays import Array
from tilth.serve.datatypes import datatype_of, from_json, from_raw, to_json, to_raw
from tilth.serve.failure import TooLargeError
from tilth.serve.limits import Limits
from tilth.serve.request import Request, checked_shape

#: How an output is wanted: as binary data, and of how many classes (0 for the tensor itself).
Form = tuple[bool, int]
#: Whether outputs are binary by default, and the forms of those that were named.
Forms = tuple[bool, Mapping[str, Form]]
JSON_LENGTH = "inference-header-content-length"


def parse(
    body: bytes | bytearray | memoryview, json_length: str | None, limits: Limits
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the JSON object of a request and its inputs.

    Raises:
        InvalidError: it is not what the protocol says; the error names the place.
        UnsupportedError: a datatype that there is not, or shared memory.
    """
    raw = memoryview(b"")
    if json_length is not None:
        body, raw = _split(body, json_length)
    document = loads(body)
    given = document.get("inputs")
    if type(given) is not list or not given:
        raise InvalidError("the request has no inputs", hint='send {"inputs": [{"name", "shape", "datatype", "data"}]}')
    if len(given) > limits.tensors:
        raise TooLargeError(f"the request has {len(given)} inputs", why=f"at most {limits.tensors} are read")
    inputs: dict[str, Array] = {}
    at = 0
    for item in given:
        name, datatype, shape = _named(item, limits)
        if name in inputs:
            raise InvalidError(f"the input `{name[:200]}` is there twice")
        size = _binary_size(item)
        if size is None:
            inputs[name] = from_json(name, datatype, shape, item.get("data"))
        else:
            if size > len(raw) - at:
                raise InvalidError(f"`{name[:200]}` wants {size} bytes of binary data", why=f"{len(raw) - at} are left")
            inputs[name] = from_raw(name, datatype, shape, raw[at : at + size])
            at += size
    if at != len(raw):
        raise InvalidError(f"{len(raw) - at} bytes of binary data belong to no input")
    return document, inputs


def loads(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises:
        InvalidError: it is no JSON object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidError("the body is not JSON", why=str(error)[:200], hint="send one JSON object") from None
    if type(document) is not dict:
        raise InvalidError("the body is not a JSON object", hint="send one JSON object")
    return document


def _split(body: bytes | bytearray | memoryview, json_length: str) -> tuple[bytes | bytearray | memoryview, memoryview]:
    if not json_length.isdecimal() or len(json_length) > 15 or int(json_length) > len(body):
        raise InvalidError(
            f"`{JSON_LENGTH}` is {json_length[:40]!r}",
            why=f"the body has {len(body)} bytes",
            hint="give the JSON's length",
        )
    size = int(json_length)
    return body[:size], memoryview(body)[size:]


def _named(item: Any, limits: Limits) -> tuple[str, str, list[int]]:
    if type(item) is not dict:
        raise InvalidError("an input is not an object", hint='each is {"name", "shape", "datatype", "data"}')
    name, datatype = item.get("name"), item.get("datatype")
    if type(name) is not str or type(datatype) is not str:
        raise InvalidError("an input has no name or no datatype", why="both are text")
    return name, datatype, checked_shape(name[:200], item.get("shape"), limits)


def _binary_size(item: Mapping[str, Any]) -> int | None:
    """Return the size of an input's binary data, None when its data is in the JSON."""
    parameters = item.get("parameters")
    if parameters is None:
        return None
    if type(parameters) is not dict:
        raise InvalidError("parameters of an input are not an object")
    if "shared_memory_region" in parameters:
        raise no_shared_memory()
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidError("`binary_data_size` is not a number of bytes", why=f"it is {str(size)[:40]!r}")
    if "data" in item:
        raise InvalidError("an input has both `data` and `binary_data_size`")
    return size


def no_shared_memory() -> UnsupportedError:
    """Return the refusal of shared memory regions."""
    return UnsupportedError(
        "shared memory is not offered",
        why="a client that names memory of this machine would have to be trusted with it",
        hint="send tensors as binary data",
    )


def request_of(model: str, version: str, document: Mapping[str, Any], inputs: dict[str, Array]) -> Request:
    """Return the request without its protocol.

    Raises:
        InvalidError: id, parameters or outputs do not have the protocol's form.
    """
    given_id, parameters = document.get("id", ""), document.get("parameters", {})
    if type(given_id) is not str or type(parameters) is not dict:
        raise InvalidError("`id` is not text, or `parameters` is not an object")
    outputs = tuple(item["name"] for item in _outputs(document)) if "outputs" in document else ()
    return Request(model, inputs, version, given_id[:256], outputs, parameters)


def forms(document: Mapping[str, Any]) -> Forms:
    """Return whether outputs are binary by default, and the form of each that was named.

    Raises:
        InvalidError: an output's parameters do not have the protocol's form.
    """
    parameters = document.get("parameters") or {}
    if not parameters and "outputs" not in document:
        return False, {}
    default = parameters.get("binary_data_output") is True
    found: dict[str, Form] = {}
    for item in _outputs(document):
        asked = item.get("parameters") or {}
        if type(asked) is not dict:
            raise InvalidError("parameters of an output are not an object")
        if "shared_memory_region" in asked:
            raise no_shared_memory()
        classes = asked.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise InvalidError("`classification` is not a number of classes")
        found[item["name"]] = asked.get("binary_data", default) is True, classes
    return default, found


def _outputs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    outputs = document.get("outputs") or []
    if type(outputs) is not list or not all(type(item) is dict and type(item.get("name")) is str for item in outputs):
        raise InvalidError("`outputs` is not a list of objects with a name")
    return outputs


def render(
    model: str, version: str, request_id: str, outputs: Mapping[str, Array], default: bool, asked: Mapping[str, Form]
) -> tuple[bytes, int]:
    """Return the body of an answer, and the length of its JSON, 0 when it is JSON alone."""
    body, size = _rendered(model, version, request_id, outputs, default, asked, finite=True)
    # `null` stands where a number was not finite; seldom enough to look for it afterwards.
    if b"null" in (body if not size else memoryview(body)[:size].tobytes()):
        return _rendered(model, version, request_id, outputs, default, asked, finite=False)
    return body, size


def _rendered(
    model: str,
    version: str,
    request_id: str,
    outputs: Mapping[str, Array],
    default: bool,
    asked: Mapping[str, Form],
    *,
    finite: bool,
) -> tuple[bytes, int]:
    told: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for name, value in outputs.items():
        binary, classes = asked.get(name, (default, 0)) if asked else (default, 0)
        array = classified(value, classes) if classes else value
        one: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": array.shape}
        if binary:
            data = to_raw(array)
            pieces.append(data)
            one["parameters"] = {"binary_data_size": len(data)}
        else:
            one["data"] = to_json(array, finite=finite)
        told.append(one)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": told}
    if request_id:
        document["id"] = request_id
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((body, *pieces)), len(body)) if pieces else (body, 0)


def classified(array: Array, count: int) -> Array:
    """Return the `count` largest values of each row as texts `value:index`, largest first.

    Raises:
        InvalidError: the tensor does not hold numbers.
    """
    if array.dtype.kind not in "fiu":
        raise InvalidError("only an output of numbers can be classified")
    rows = array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(1, -1)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = [[f"{float(row[i]):f}:{i}" for i in order] for row, order in zip(rows, best, strict=True)]
    made = np.array(texts, dtype=object).reshape(len(rows), -1)
    return made if array.ndim > 1 else made[0]
