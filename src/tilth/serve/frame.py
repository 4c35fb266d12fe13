"""Messages between a worker and a runner over a Unix socket: a header, JSON about tensors, and their bytes; pure.

Both ends are Tilth's own processes on one machine, so that lengths are checked and names are not. Large tensors may lie
in memory that both have (`serve/arena.py`); the message says where.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from tilth.core import errors
from tilth.core.errors import TilthError, UnavailableError
from tilth.ports.arrays import Array, Value
from tilth.serve import failure
from tilth.serve.datatypes import datatype_of, from_raw, to_raw

#: Length of the JSON, length of the bytes, number of the call.
HEADER = struct.Struct("<IQQ")
#: What a worker sends first, with the descriptor of its arena.
HELLO = b"tilth"
#: Engines read faster, and some only, from addresses that are multiples of this.
_ALIGNMENT = 64
_CLASSES: Mapping[str, type[TilthError]] = {
    name: kind
    for module in (errors, failure)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, TilthError)
}


def pack(
    number: int, facts: Mapping[str, Any], values: Mapping[str, Value], put: Callable[[Array], int | None] | None = None
) -> list[bytes]:
    """Return a message as pieces to write one after the other.

    `put` copies a tensor to where the other side reads it and returns the place, None when it must be in the message.
    """
    tensors: list[Any] = []
    pieces: list[bytes] = []
    at = 0
    for name, value in values.items():
        if value is None:
            continue
        many = isinstance(value, list | tuple)
        told: list[Any] = []
        for array in map(np.asarray, value if many else [value]):
            place = put(array) if put is not None else None
            if place is not None:
                told.append([datatype_of(array), array.shape, place, array.nbytes, True])
                continue
            data = to_raw(array)
            told.append([datatype_of(array), array.shape, at, len(data), False])
            gap = -len(data) % _ALIGNMENT
            pieces += (data, bytes(gap)) if gap else (data,)
            at += len(data) + gap
        tensors.append([name, many, told])
    meta = orjson.dumps({**facts, "tensors": tensors})
    # JSON takes blanks at its end, and what follows begins at an aligned address.
    meta += b" " * (-(HEADER.size + len(meta)) % _ALIGNMENT)
    return [HEADER.pack(len(meta), at, number), meta, *pieces]


def unpack(
    meta: bytes | memoryview, body: memoryview, shared: memoryview | None = None
) -> tuple[dict[str, Any], dict[str, Value]]:
    """Return a message's facts and values; numbers share the memory of `body`, and those in `shared` are copied."""
    facts = orjson.loads(meta)
    values: dict[str, Value] = {}
    for name, many, told in facts.pop("tensors"):
        arrays = [_array(name, one, body, shared) for one in told]
        values[name] = arrays if many else arrays[0]
    return facts, values


def _array(name: str, told: Sequence[Any], body: memoryview, shared: memoryview | None) -> Array:
    datatype, shape, at, size, lies_there = told
    if lies_there and shared is not None:
        return np.array(from_raw(name, datatype, shape, shared[at : at + size]))
    return np.asarray(from_raw(name, datatype, shape, body[at : at + size]))


def error_facts(error: TilthError) -> dict[str, Any]:
    """Return an error as facts of a message."""
    return {"error": error.as_json()}


def raised(facts: Mapping[str, Any]) -> TilthError:
    """Return the error that facts tell of."""
    told = facts["error"]
    kind = _CLASSES.get(told["error"], UnavailableError)
    return kind(told["what"], why=told["why"], hint=told["hint"])
