"""Element types by the names that every part uses, with their ONNX numbers and widths."""

from types import MappingProxyType

# Numbers: enum TensorProto.DataType of onnx.proto. Widths in bits; a string has no fixed width.
_TABLE = (
    ("float32", 1, 32),
    ("uint8", 2, 8),
    ("int8", 3, 8),
    ("uint16", 4, 16),
    ("int16", 5, 16),
    ("int32", 6, 32),
    ("int64", 7, 64),
    ("string", 8, 0),
    ("bool", 9, 8),
    ("float16", 10, 16),
    ("float64", 11, 64),
    ("uint32", 12, 32),
    ("uint64", 13, 64),
    ("complex64", 14, 64),
    ("complex128", 15, 128),
    ("bfloat16", 16, 16),
    ("float8_e4m3fn", 17, 8),
    ("float8_e4m3fnuz", 18, 8),
    ("float8_e5m2", 19, 8),
    ("float8_e5m2fnuz", 20, 8),
    ("uint4", 21, 4),
    ("int4", 22, 4),
    ("float4_e2m1", 23, 4),
    ("float8_e8m0", 24, 8),
    ("uint2", 25, 2),
    ("int2", 26, 2),
)

ONNX_CODES = MappingProxyType({name: code for name, code, _ in _TABLE})
NAMES = MappingProxyType({code: name for name, code, _ in _TABLE})
BITS = MappingProxyType({name: bits for name, _, bits in _TABLE})

#: What numpy holds without another package, and so what may cross a bundle's edge.
NUMPY_DTYPES = frozenset(
    {"float32", "float64", "float16", "bool", "int8", "int16", "int32", "int64"}
    | {"uint8", "uint16", "uint32", "uint64", "string"}
)

FLOATS = frozenset({"float32", "float64", "float16", "bfloat16"})


def size_bytes(dtype: str, elements: int) -> int:
    """Return the bytes that `elements` packed elements take; 4-bit and 2-bit types share bytes.

    Raises:
        KeyError: `dtype` is not in the table.
    """
    return (BITS[dtype] * elements + 7) // 8
