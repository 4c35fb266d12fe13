"""Frozen dataclasses to JSON and back, strictly: unknown keys, missing keys and wrong types are errors."""

import dataclasses
import enum
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tilth.core.errors import InvalidError

T = TypeVar("T")
_SCALARS = (str, bool, int, float)


def to_json(value: Any) -> Any:
    """Return `value` as JSON types; fields that equal their default are left out.

    Dataclasses become objects, tuples become lists, enums become their value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_json(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not _is_default(f, getattr(value, f.name))
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[T], data: Any, *, at: str = "") -> T:
    """Return a `cls` made of JSON `data`; `at` names the place in messages.

    Raises:
        InvalidError: a key is unknown or missing, or a value has the wrong type.
    """
    return typing.cast(T, _read(cls, data, at or cls.__name__))


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return False


def _wrong(at: str, found: Any, wanted: str) -> InvalidError:
    return InvalidError(
        f"`{at}` is {_shown(found)}, not {wanted}",
        why="the record does not have the form that its schema version promises",
        hint="it was made by another version or altered; make it again with this version",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"`{text[:60]}{'...' if len(text) > 60 else ''}`"


def _read(kind: Any, data: Any, at: str) -> Any:
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _read_record(typing.cast(type, kind), data, at)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _read_enum(kind, data, at)
    if kind in _SCALARS or kind is type(None):
        return _read_scalar(kind, data, at)
    return _read_generic(kind, data, at)


def _read_record(cls: type, data: Any, at: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(at, data, "an object")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise _wrong(f"{at}.{str(key)[:40]}", data[key], "a known field")
    values = {key: _read(hints[key], item, f"{at}.{key}") for key, item in data.items()}
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not optional:
            raise _wrong(f"{at}.{name}", None, "present")
    return cls(**values)


def _read_enum(kind: type[enum.Enum], data: Any, at: str) -> Any:
    try:
        return kind(data)
    except ValueError:
        raise _wrong(at, data, "one of " + ", ".join(str(m.value) for m in kind)) from None


def _read_scalar(kind: Any, data: Any, at: str) -> Any:
    if kind is float and type(data) is int and abs(data) <= sys.float_info.max:
        return float(data)
    if type(data) is not kind or (kind is float and not math.isfinite(data)):
        raise _wrong(at, data, {str: "text", bool: "true or false", int: "a whole number"}.get(kind, "a number"))
    return data


def _read_generic(kind: Any, data: Any, at: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if data not in args:
            raise _wrong(at, data, "one of " + ", ".join(map(str, args)))
        return data
    if origin in (typing.Union, types.UnionType):
        return _read_union(args, data, at)
    if origin is tuple:
        if not isinstance(data, list):
            raise _wrong(at, data, "a list")
        return tuple(_read(args[0], item, f"{at}[{i}]") for i, item in enumerate(data))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise _wrong(at, data, "an object")
        return {key: _read(args[1], item, f"{at}.{key}") for key, item in data.items()}
    raise TypeError(f"no JSON form for {kind!r}")


def _read_union(args: tuple[Any, ...], data: Any, at: str) -> Any:
    for kind in args:
        try:
            return _read(kind, data, at)
        except InvalidError as error:
            last = error
    raise last
