"""Sample inputs made from a signature, for want of real ones."""

import zlib
from collections.abc import Iterator

import numpy as np

from tilth.core.signature import BATCH, Signature, TensorSpec
from tilth.ports.arrays import Array, Value

#: What open dimensions are tried as, in turn; the first is the likeliest to run anywhere.
_SIZES = (16, 1, 8, 64, 128, 256, 512, 1024)
ROWS = 4


def made_samples(signature: Signature) -> Iterator[dict[str, Value]]:
    """Yield sample inputs, the same every time: first with open dimensions of 16, then of other sizes.

    Floats are standard normal. Whole numbers are 0 and 1, which are valid as indices, masks and token ids.
    """
    open_dims = {d for s in signature.inputs for d in s.shape or () if isinstance(d, str) and d != BATCH}
    for size in _SIZES if open_dims else _SIZES[:1]:
        yield {spec.name: _value(spec, size) for spec in signature.inputs}


def _value(spec: TensorSpec, size: int) -> Value:
    if spec.container == "optional":
        return None
    array = _array(spec, size)
    return [array, array.copy()] if spec.container == "sequence" else array


def _array(spec: TensorSpec, size: int) -> Array:
    shape = [ROWS if dim == BATCH else size if isinstance(dim, str) else dim for dim in spec.shape or ()]
    random = np.random.default_rng(zlib.crc32(spec.name.encode()))
    if spec.dtype == "string":
        return random.choice(np.array(["a", "b", "c"], dtype=object), size=shape)
    if spec.dtype == "bool" or np.dtype(spec.dtype).kind in "iu":
        return random.integers(0, 2, size=shape).astype(spec.dtype)
    return np.asarray(random.standard_normal(size=shape)).astype(spec.dtype)
