"""Values against a signature: names, dtypes and shapes, before anything runs; pure."""

from collections.abc import Iterable, Mapping

import numpy as np

from tilth.core.errors import InvalidError
from tilth.core.signature import Signature, TensorSpec
from tilth.ports.arrays import Array, Value, Values

#: Kinds of Python numbers that become an element of each kind without another meaning.
_TAKEN_AS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}


def checked(values: Values, signature: Signature) -> dict[str, Value]:
    """Return the values in signature order, as arrays that engines take.

    Nothing is cast, except Python numbers and lists where they lose nothing but float precision, text of any kind to
    `str` objects, and byte order.

    Raises:
        InvalidError: a name is missing or unknown, a dtype or shape does not fit, or a symbol has two sizes.
    """
    known = {spec.name for spec in signature.inputs}
    unknown = [name for name in values if name not in known]
    missing = [s.name for s in signature.inputs if s.name not in values and s.container != "optional"]
    if unknown or missing:
        raise _wrong_names(unknown, missing, signature)
    made = {spec.name: _checked_value(values[spec.name], spec) for spec in signature.inputs if spec.name in values}
    _check_sizes(made, signature.inputs)
    return made


def _check_sizes(values: Mapping[str, Value], specs: Iterable[TensorSpec]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        value = values.get(spec.name)
        if spec.container != "tensor" or not isinstance(value, np.ndarray):
            continue
        for dim, size in zip(spec.shape or (), value.shape, strict=False):
            if isinstance(dim, int) or dim == "?":
                continue
            before = sizes.setdefault(dim, (size, spec.name))
            if before[0] != size:
                raise InvalidError(
                    f"`{dim}` is {size} in `{spec.name}` and {before[0]} in `{before[1]}`",
                    why="dimensions of one name have one size",
                    hint=f"give both the same size along `{dim}`",
                )


def _wrong_names(unknown: list[str], missing: list[str], signature: Signature) -> InvalidError:
    parts = []
    if missing:
        parts.append("missing: " + ", ".join(f"`{name[:80]}`" for name in missing[:10]))
    if unknown:
        parts.append("unknown: " + ", ".join(f"`{name[:80]}`" for name in unknown[:10]))
    wanted = "; ".join(str(spec) for spec in signature.inputs[:10])
    return InvalidError("the inputs do not have the graph's names", why=", ".join(parts), hint=f"it takes {wanted}")


def _checked_value(value: Value, spec: TensorSpec) -> Value:
    if value is None and spec.container == "optional":
        return None
    if spec.container == "tensor" or (spec.container == "optional" and not isinstance(value, list | tuple)):
        return _checked_array(value, spec)
    if not isinstance(value, list | tuple):
        raise _wrong(spec, f"is a {type(value).__name__}, not a list of arrays")
    return [_checked_array(item, spec) for item in value]


def _checked_array(value: Value, spec: TensorSpec) -> Array:
    if not isinstance(value, np.ndarray):
        value = _from_python(value, spec)
    if spec.dtype == "string":
        value = _text(value, spec)
    elif value.dtype.name != spec.dtype:
        raise _wrong(spec, f"has dtype `{value.dtype.name}`, not `{spec.dtype}`")
    elif not value.dtype.isnative:
        # Engines take the bytes as they lie.
        value = value.astype(value.dtype.newbyteorder("="))
    if spec.shape is not None and not _fits(value.shape, spec):
        raise _wrong(spec, f"has shape {list(value.shape)}, not [{', '.join(map(str, spec.shape))}]")
    return value


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    wanted = spec.shape or ()
    return len(shape) == len(wanted) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(wanted, shape, strict=True)
    )


def _from_python(value: object, spec: TensorSpec) -> Array:
    if spec.dtype == "string":
        return np.asarray(value, dtype=object)
    try:
        found = np.asarray(value)
        if found.size and found.dtype.kind not in _TAKEN_AS[np.dtype(spec.dtype).kind]:
            raise TypeError(f"it holds `{found.dtype.name}`")
        return np.asarray(value, dtype=spec.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(spec, f"cannot become an array of `{spec.dtype}`: {error}") from None


def _text(value: Array, spec: TensorSpec) -> Array:
    if value.dtype.kind in "US":
        return value.astype(str).astype(object)
    if value.dtype.kind != "O" or not all(isinstance(item, str) for item in value.ravel()):
        raise _wrong(spec, "holds things that are not text")
    return value


def _wrong(spec: TensorSpec, found: str) -> InvalidError:
    return InvalidError(f"`{spec.name}` {found}", why=f"the graph takes {spec}", hint="`tilth show` prints all inputs")
