"""Messages of the Open Inference Protocol, for the benchmark's client and the bare gRPC handler.

The protobuf classes are made from the few fields that a request with raw tensors has; their wire format is the
protocol's own. Nothing here is Tilth's.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
METHOD = f"/{SERVICE}/ModelInfer"
_NAMES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "uint8": "UINT8", "bool": "BOOL"}
_DTYPES = {name: np.dtype(dtype) for dtype, name in _NAMES.items()}
_STRING, _INT64, _BYTES, _MESSAGE = 9, 3, 12, 11
_ONE, _MANY = 1, 3

Arrays = Mapping[str, np.ndarray]


def _messages() -> tuple[Any, Any]:
    """Return the classes of ModelInferRequest and ModelInferResponse."""
    file = descriptor_pb2.FileDescriptorProto(name="oip.proto", package="inference", syntax="proto3")
    tensor = file.message_type.add(name="InferTensor")
    for number, name, kind, label in (
        (1, "name", _STRING, _ONE),
        (2, "datatype", _STRING, _ONE),
        (3, "shape", _INT64, _MANY),
    ):
        tensor.field.add(name=name, number=number, type=kind, label=label)
    for message_name, tensors, raw in (
        ("ModelInferRequest", ("inputs", 5), ("raw_input_contents", 7)),
        ("ModelInferResponse", ("outputs", 5), ("raw_output_contents", 6)),
    ):
        message = file.message_type.add(name=message_name)
        for number, name in ((1, "model_name"), (2, "model_version"), (3, "id")):
            message.field.add(name=name, number=number, type=_STRING, label=_ONE)
        message.field.add(
            name=tensors[0], number=tensors[1], type=_MESSAGE, label=_MANY, type_name=".inference.InferTensor"
        )
        message.field.add(name=raw[0], number=raw[1], type=_BYTES, label=_MANY)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("inference.ModelInferRequest", "inference.ModelInferResponse")
    request, response = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return request, response


ModelInferRequest, ModelInferResponse = _messages()


def json_request(feeds: Arrays) -> bytes:
    """Return a request with its data in JSON, without white space."""
    inputs = [{**_described(name, array), "data": array.ravel().tolist()} for name, array in feeds.items()]
    return json.dumps({"inputs": inputs}, separators=(",", ":")).encode()


def binary_request(feeds: Arrays) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request with raw tensors after its JSON; it asks for the same back."""
    inputs = [
        {**_described(name, array), "parameters": {"binary_data_size": array.nbytes}} for name, array in feeds.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + b"".join(_raw(array) for array in feeds.values()), headers


def read_rest(body: bytes, head_bytes: str | None = None) -> list[np.ndarray]:
    """Return the outputs of a JSON answer, or of one whose JSON is `head_bytes` long with raw tensors behind it."""
    length = int(head_bytes) if head_bytes else len(body)
    found, rest = [], body[length:]
    for output in json.loads(body[:length])["outputs"]:
        dtype = _DTYPES[output["datatype"]]
        if "data" in output:
            array = np.asarray(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            array, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        found.append(array.reshape(output["shape"]))
    return found


def infer_request(model: str, feeds: Arrays) -> Any:
    """Return a ModelInferRequest with raw tensors."""
    request = ModelInferRequest(model_name=model)
    for name, array in feeds.items():
        request.inputs.add(**_described(name, array))
        request.raw_input_contents.append(_raw(array))
    return request


def infer_response(model: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> Any:
    """Return a ModelInferResponse with raw tensors."""
    response = ModelInferResponse(model_name=model)
    for name, array in zip(names, arrays, strict=True):
        response.outputs.add(**_described(name, array))
        response.raw_output_contents.append(array.tobytes())
    return response


def arrays_of(tensors: Any, raw: Any) -> list[np.ndarray]:
    """Return the tensors of a request or a response that are sent raw."""
    return [
        np.frombuffer(content, _DTYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, content in zip(tensors, raw, strict=True)
    ]


def framed(message: Any) -> bytes:
    """Return a message as gRPC sends it: not compressed, its length in four bytes, then itself."""
    content = message.SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": _NAMES[array.dtype.name], "shape": list(array.shape)}


def _raw(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
