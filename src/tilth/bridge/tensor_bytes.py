"""What the bytes of an ONNX tensor must be, and the raw little-endian form of all of them."""

from typing import Any

import numpy as np
from onnx import TensorProto

from tilth.core.dtype import NAMES, size_bytes
from tilth.core.errors import InvalidError, UnsupportedError

MAX_RANK = 32
MAX_ELEMENTS = 1 << 48

_INT32 = ("int32_data", "<i4")
# Which repeated field holds a type, what its entries are, and what they become; from the comments of onnx.proto.
_TYPED = {
    "float32": ("float_data", "<f4", "<f4"),
    "complex64": ("float_data", "<f4", "<f4"),
    "float64": ("double_data", "<f8", "<f8"),
    "complex128": ("double_data", "<f8", "<f8"),
    "int64": ("int64_data", "<i8", "<i8"),
    "uint32": ("uint64_data", "<u8", "<u4"),
    "uint64": ("uint64_data", "<u8", "<u8"),
    "int32": (*_INT32, "<i4"),
    "int16": (*_INT32, "<i2"),
    "uint16": (*_INT32, "<u2"),
    "int8": (*_INT32, "i1"),
    "uint8": (*_INT32, "u1"),
    "bool": (*_INT32, "?"),
    "float16": (*_INT32, "<u2"),
    "bfloat16": (*_INT32, "<u2"),
}
# Types of at most 8 bits: each entry is one byte, with two or four elements in it for the narrow ones.
_PACKED = (*_INT32, "u1")
_HOLDING = frozenset(
    {"float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"}
    | {"raw_data", "external_data", "segment"}
)


def dtype_of(tensor: TensorProto) -> str:
    """Return the name of the element type.

    Raises:
        UnsupportedError: the number is not in the table of `core.dtype`.
    """
    name = NAMES.get(tensor.data_type)
    if name is None:
        raise UnsupportedError(
            f"tensor `{tensor.name[:80]}` has element type {tensor.data_type}",
            why="no such element type is known here",
            hint="export the model with one of: " + ", ".join(NAMES.values()),
        )
    return name


def elements(dims: Any, name: str) -> int:
    """Return the number of elements of a shape.

    Raises:
        InvalidError: a size is negative, or the shape is beyond 32 dimensions or 2^48 elements.
    """
    sizes = list(dims[: MAX_RANK + 1])
    spread = count = 1
    for size in sizes:
        count *= size
        spread *= max(size, 1)
        if size < 0 or spread > MAX_ELEMENTS or len(sizes) > MAX_RANK:
            raise _bad(name, f"its shape is [{', '.join(map(str, sizes[:8]))}{', ...' if sizes[8:] else ''}]")
    return count


def byte_count(tensor: TensorProto) -> int:
    """Return how many bytes the packed elements take; for strings, the bytes of their text.

    Raises:
        InvalidError: the shape is impossible.
        UnsupportedError: the element type is unknown.
    """
    dtype, count = dtype_of(tensor), elements(tensor.dims, tensor.name)
    return sum(map(len, tensor.string_data)) if dtype == "string" else size_bytes(dtype, count)


def check_inline(tensor: TensorProto) -> None:
    """Check that a tensor holds exactly the bytes that its shape and type promise.

    Raises:
        InvalidError: bytes are missing, left over, or in a field of another type.
        UnsupportedError: the element type is unknown.
    """
    dtype = dtype_of(tensor)
    wanted = elements(tensor.dims, tensor.name)
    filled = {
        item.name: 1 if item.name == "segment" else len(value)
        for item, value in tensor.ListFields()
        if item.name in _HOLDING
    }
    found = filled.pop("raw_data", None)
    field, size = "raw_data", size_bytes(dtype, wanted)
    if dtype == "string" or found is None:
        field = "string_data" if dtype == "string" else _TYPED.get(dtype, _PACKED)[0]
        found, size = filled.pop(field, 0), _entries(dtype, wanted)
    if filled or (dtype == "string" and tensor.HasField("raw_data")):
        raise _bad(tensor.name, f"`{dtype}` values lie in `{field}`, and `{[*filled, 'raw_data'][0]}` is there too")
    if found != size:
        shape = list(tensor.dims)[:8]
        raise _bad(tensor.name, f"it holds {found} values or bytes in `{field}` and shape {shape} needs {size}")


def raw_bytes(tensor: TensorProto) -> bytes:
    """Return the C-order little-endian bytes of a checked inline tensor that is not of strings."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    field, entry, stored = _TYPED.get(dtype_of(tensor), _PACKED)
    return np.array(getattr(tensor, field), dtype=entry).astype(stored).tobytes()


def _entries(dtype: str, count: int) -> int:
    if dtype == "string" or dtype in _TYPED:
        return count * (2 if dtype.startswith("complex") else 1)
    return size_bytes(dtype, count)


def _bad(name: str, why: str) -> InvalidError:
    return InvalidError(
        f"tensor `{name[:80]}` is not what it claims to be",
        why=why,
        hint="export the model again; the file is damaged or was altered",
    )
