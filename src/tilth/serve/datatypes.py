"""Tensors on the wire: the protocol's datatypes, its binary form and its JSON form; pure.

Source of names and forms: Open Inference Protocol v2 ("Tensor Data", "Tensor Data Types") and its binary tensor data
extension: little-endian elements in row-major order; a BYTES element is a 4-byte little-endian length and the bytes.
JSON has no NaN and no infinities; they stand there as the strings "NaN", "Infinity" and "-Infinity".
"""

import math
import struct
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.ports.arrays import Array

_TABLE = (
    ("BOOL", "bool"),
    ("UINT8", "uint8"),
    ("UINT16", "uint16"),
    ("UINT32", "uint32"),
    ("UINT64", "uint64"),
    ("INT8", "int8"),
    ("INT16", "int16"),
    ("INT32", "int32"),
    ("INT64", "int64"),
    ("FP16", "float16"),
    ("FP32", "float32"),
    ("FP64", "float64"),
    ("BYTES", "string"),
)
#: From the protocol's names to ours, and back.
DTYPES = MappingProxyType(dict(_TABLE))
DATATYPES = MappingProxyType({dtype: name for name, dtype in _TABLE})
_NUMPY = MappingProxyType({name: np.dtype(dtype).newbyteorder("<") for name, dtype in _TABLE if dtype != "string"})
_OF_NUMPY = MappingProxyType({np.dtype(dtype): name for name, dtype in _TABLE if dtype != "string"})
#: Up to this size a copy costs less than finding out whether one is needed.
_COPIED_BYTES = 4096
#: Squares of numbers that float32 cannot hold add up to more than this.
_SMALL = 1e76
#: Products of more numbers would wake the threads of a linear algebra library, which spin on afterwards.
_FEW = 4096
_SPECIAL = MappingProxyType({"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf})
_LENGTH = struct.Struct("<I")


def from_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Return the tensor that `data` holds in the binary form; large ones may share its memory and be read-only.

    BF16 widens to float32, which loses nothing: numpy has no such type. Elements begin at a multiple of 16 bytes, as in
    numpy's own arrays: kernels add in another order where they do not, and answers would differ in their last bits.

    Raises:
        InvalidError: the size does not fit the shape, or an element is not of the datatype.
        UnsupportedError: there is no such datatype.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(name, _unpacked(name, count, data), shape)
    kind = np.dtype("<u2") if datatype == "BF16" else _numpy(name, datatype)
    if len(data) != count * kind.itemsize:
        raise InvalidError(
            f"`{name}` has {len(data)} bytes of data",
            why=f"{datatype} of shape {list(shape)} takes {count * kind.itemsize}",
            hint="send the elements in row-major order, little-endian",
        )
    array = np.frombuffer(data, kind).reshape(shape)
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise InvalidError(f"`{name}` holds a truth value that is neither 0 nor 1", hint="send one byte each, 0 or 1")
    return array.copy() if array.nbytes <= _COPIED_BYTES or array.ctypes.data % 16 else array


def to_raw(array: Array) -> bytes:
    """Return a tensor in the binary form."""
    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for item in array.ravel().tolist():
        text = item if isinstance(item, bytes) else str(item).encode()
        parts += (_LENGTH.pack(len(text)), text)
    return b"".join(parts)


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """Return the tensor that a JSON value holds: nested lists of the shape, or one flat list in row-major order.

    Raises:
        InvalidError: the number or kind of elements does not fit, or one is out of range.
        UnsupportedError: there is no such datatype, or it has no JSON form.
    """
    if datatype == "BYTES":
        return _texts(name, list(_flattened(name, data)), shape)
    if datatype == "BF16":
        raise UnsupportedError(
            f"`{name}` is BF16 in JSON", why="BF16 has no JSON form", hint="send it as binary data, or as FP32"
        )
    kind = _numpy(name, datatype)
    try:
        array = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _unfit(name, datatype, shape, str(error)[:200]) from None
    if array.dtype.kind in "UO" and kind.kind == "f":
        array = _with_special(name, datatype, shape, data)
    elif array.dtype.kind in "fO" and kind.kind in "iu" and _all_whole(data):
        array = _whole_numbers(name, datatype, shape, data, kind)
    array = _cast(name, datatype, shape, array, kind)
    if array.size != math.prod(shape):
        raise _unfit(name, datatype, shape, f"it has {array.size} elements")
    return array.reshape(shape)


def to_json(array: Array, *, finite: bool = False) -> Any:
    """Return a tensor as what `orjson` writes as one flat list with `OPT_SERIALIZE_NUMPY`.

    With `finite` the caller knows that there is no NaN or infinity in it, which `orjson` would write as `null`.
    """
    kind, flat = array.dtype.kind, array.ravel()
    if kind == "f" and not finite and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else _special(value) for value in flat.tolist()]
    return [_text(item) for item in flat.tolist()] if kind in "OUS" else flat


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's element type.

    Raises:
        UnsupportedError: the protocol has none.
    """
    found = _OF_NUMPY.get(array.dtype)
    if found is not None:
        return found
    name = "string" if array.dtype.kind in "OUS" else array.dtype.name
    if name not in DATATYPES:
        raise UnsupportedError(f"`{name}` has no datatype in the protocol", why="known: " + ", ".join(DATATYPES))
    return DATATYPES[name]


def _numpy(name: str, datatype: str) -> "np.dtype[Any]":
    found = _NUMPY.get(datatype)
    if found is None:
        raise UnsupportedError(
            f"`{name}` has datatype `{str(datatype)[:40]}`", why="known: " + ", ".join(DTYPES) + ", BF16"
        )
    return found


def _cast(name: str, datatype: str, shape: Sequence[int], array: Array, kind: "np.dtype[Any]") -> Array:
    have = array.dtype.kind
    if not array.size:
        return array.astype(kind)
    if kind.kind == "f" and have in "fiu":
        if have == "f" and kind.itemsize == 8:
            return array
        # A float64 beyond float32 becomes an infinity, and so does the sum, or the sum of squares.
        with np.errstate(over="ignore", invalid="ignore"):
            if kind.itemsize == 4 and array.ndim == 1 and array.size <= _FEW and array.dot(array) < _SMALL:
                return array.astype(kind)
            made = array.astype(kind)
            suspect = not math.isfinite(np.add.reduce(made, axis=None))
        if suspect and not np.array_equal(np.isfinite(made), np.isfinite(array)):
            raise _unfit(name, datatype, shape, f"a number is beyond {datatype}")
        return made
    if kind.kind in "iu" and have in "iu":
        made = array.astype(kind)
        if not np.array_equal(made, array):
            raise _unfit(name, datatype, shape, f"a number is out of {datatype}'s range")
        return made
    if kind.kind == "b" and (have == "b" or (have in "iu" and not np.any((array != 0) & (array != 1)))):
        return array.astype(kind)
    held = {"f": "numbers with a fraction", "i": "whole numbers", "u": "whole numbers", "b": "truth values"}
    raise _unfit(
        name, datatype, shape, f"it holds {held.get(have, 'something else than numbers, or lists of two sizes')}"
    )


def _with_special(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    made = []
    for item in _flattened(name, data):
        value = _SPECIAL.get(item) if isinstance(item, str) else item
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unfit(name, datatype, shape, f"it holds {str(item)[:40]!r}")
        made.append(float(value))
    return np.array(made, np.float64)


def _all_whole(data: Any) -> bool:
    return all(_all_whole(item) for item in data) if type(data) is list else type(data) is int


def _whole_numbers(name: str, datatype: str, shape: Sequence[int], data: Any, kind: "np.dtype[Any]") -> Array:
    """Return numbers beyond int64, which numpy would take for float64 when nobody says what they are."""
    try:
        return np.array(_flattened(name, data), kind)
    except OverflowError:
        raise _unfit(name, datatype, shape, f"a number is out of {datatype}'s range") from None


def _flattened(name: str, data: Any) -> list[Any]:
    """Return the elements of nested lists in order."""
    if not isinstance(data, list):
        raise InvalidError(f"`{name}` has no list of data", hint='give "data": [...]')
    level = data
    while any(isinstance(item, list) for item in level):
        if not all(isinstance(item, list) for item in level):
            raise InvalidError(f"`{name}` has lists beside elements", hint="give lists of one depth, or one flat list")
        level = [item for inner in level for item in inner]
    return level


def _texts(name: str, items: list[Any], shape: Sequence[int]) -> Array:
    count = math.prod(shape)
    if len(items) != count:
        raise _unfit(name, "BYTES", shape, f"it has {len(items)} elements")
    flat = np.empty(count, object)
    for index, item in enumerate(items):
        try:
            text = item.decode() if isinstance(item, bytes) else item
        except UnicodeDecodeError:
            raise InvalidError(f"`{name}` holds bytes that are no UTF-8 text", why=f"element {index}") from None
        if not isinstance(text, str):
            raise _unfit(name, "BYTES", shape, f"element {index} is {str(item)[:40]!r}, not text")
        flat[index] = text
    return flat.reshape(shape)


def _unpacked(name: str, count: int, data: bytes | memoryview) -> list[bytes]:
    items: list[bytes] = []
    at, end, view = 0, len(data), memoryview(data)
    while at < end:
        if len(items) == count or at + 4 > end:
            break
        (size,) = _LENGTH.unpack_from(view, at)
        at += 4
        if size > end - at:
            break
        items.append(bytes(view[at : at + size]))
        at += size
    if at != end or len(items) != count:
        raise InvalidError(
            f"`{name}` does not hold {count} BYTES elements in {end} bytes",
            why="each is a 4-byte little-endian length and as many bytes",
        )
    return items


def _text(item: Any) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _special(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _unfit(name: str, datatype: str, shape: Sequence[int], why: str) -> InvalidError:
    return InvalidError(
        f"`{name}` is not {datatype} of shape {list(shape)[:16]}", why=why, hint="compare with the model's metadata"
    )
