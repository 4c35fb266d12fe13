"""Golden arrays as bytes and back, bit for bit."""

import json
from typing import Any

import numpy as np

from tilth.bridge.tensor_bytes import elements
from tilth.core import bundle as record
from tilth.core.digest import canonical_json, digest
from tilth.core.dtype import NUMPY_DTYPES, size_bytes
from tilth.core.errors import InvalidError, UnsupportedError, UntrustedError
from tilth.ports.arrays import Array, Value


def encode_array(value: np.ndarray[Any, Any]) -> tuple[record.Array, bytes]:
    """Return the record and the bytes of one array: C order and little-endian, strings as a JSON list.

    Raises:
        UnsupportedError: its dtype does not cross a bundle's edge.
        InvalidError: a text is not valid Unicode, or an object is not text.
    """
    value = np.asarray(value)
    if value.dtype.kind in "OUS":
        dtype, data = "string", _encode_texts(value)
    else:
        dtype = value.dtype.newbyteorder("=").name
        if dtype not in NUMPY_DTYPES:
            raise UnsupportedError(
                f"an array has dtype `{dtype}`",
                why="a bundle holds " + ", ".join(sorted(NUMPY_DTYPES)),
                hint="convert the array before import",
            )
        data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes("C")
    return record.Array(dtype, tuple(int(size) for size in value.shape), digest(data)), data


def encode_value(value: Value) -> tuple[record.Value, dict[str, bytes]]:
    """Return the record of a tensor, a sequence of tensors or None, and its blobs by digest.

    Raises what `encode_array` raises.
    """
    if value is None:
        return None, {}
    if isinstance(value, np.ndarray | np.generic):
        made, data = encode_array(np.asarray(value))
        return made, {made.blob: data}
    parts = [encode_array(item) for item in value]
    return tuple(made for made, _ in parts), {made.blob: data for made, data in parts}


def check_array(array: record.Array, size: int) -> None:
    """Check that `size` bytes are what the shape and dtype of `array` promise; strings wait until they are read.

    Raises:
        UntrustedError: they are not.
        InvalidError: the shape is impossible.
    """
    if array.dtype not in NUMPY_DTYPES:
        raise _untrusted(array, f"dtype `{array.dtype[:40]}` is not one that a bundle holds")
    wanted = elements(array.shape, "golden array")
    if array.dtype != "string" and size_bytes(array.dtype, wanted) != size:
        raise _untrusted(array, f"its blob has {size} bytes and shape {list(array.shape)[:8]} needs other")


def decode_array(array: record.Array, data: bytes) -> Array:
    """Return the array of verified bytes; strings come as an object array of str. The caller owns it.

    Raises:
        UntrustedError: the bytes are not what the record promises.
        InvalidError: the shape is impossible.
    """
    check_array(array, len(data))
    if array.dtype == "string":
        return _decode_texts(array, data)
    flat = np.frombuffer(data, dtype=np.dtype(array.dtype).newbyteorder("<"))
    if array.dtype == "bool" and flat.view(np.uint8).max(initial=0) > 1:
        raise _untrusted(array, "a truth value is neither 0 nor 1")
    return flat.astype(array.dtype).reshape(array.shape)


def _encode_texts(value: Array) -> bytes:
    try:
        texts = [item.decode() if isinstance(item, bytes) else item for item in value.ravel().tolist()]
        wrong = [item for item in texts if not isinstance(item, str)]
        if not wrong:
            return canonical_json(texts)
        why = f"`{wrong[0]!r:.60}` is of type {type(wrong[0]).__name__}"
    except UnicodeError as error:
        why = f"a text is not valid Unicode: {str(error)[:120]}"
    raise InvalidError(
        "an array of text holds something else",
        why=why,
        hint="convert every element to str, or the array to a numeric dtype",
    )


def _decode_texts(array: record.Array, data: bytes) -> Array:
    try:
        texts = json.loads(data)
        sound = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        sound = sound and len(texts) == elements(array.shape, "golden array") and canonical_json(texts) == data
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise _untrusted(array, "its blob is not the canonical JSON list of as many texts as its shape needs")
    flat = np.empty(len(texts), dtype=object)
    flat[:] = texts
    return flat.reshape(array.shape)


def _untrusted(array: record.Array, why: str) -> UntrustedError:
    return UntrustedError(
        f"golden array {array.blob[:12]} is not what it claims to be",
        why=why,
        hint="the bundle was altered or damaged; fetch it again from where it was made",
    )
