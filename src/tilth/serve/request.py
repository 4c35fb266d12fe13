"""What is asked of a model and what it answers, without any protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.core.errors import InvalidError
from tilth.ports.arrays import Array, Value
from tilth.serve.limits import Limits

Parameters = Mapping[str, Any]


@dataclass(slots=True)
class Request:
    """One inference request.

    `version` empty leaves it to the traffic split. `outputs` are the names that are wanted, none for all. `until` is
    the caller's deadline, of `time.monotonic`, 0 for none.
    """

    model: str
    inputs: dict[str, Array]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=dict)
    until: float = 0.0


@dataclass(slots=True)
class Answer:
    """One answer; `outputs` are the ones that were asked for, in that order."""

    model: str
    version: str
    id: str
    outputs: dict[str, Value]


def checked_shape(name: str, shape: Any, limits: Limits) -> list[int]:
    """Return a shape from outside.

    Raises:
        InvalidError: it is not a list of sizes from 0 on, or has too many dimensions.
    """
    if type(shape) is not list or len(shape) > limits.dims:
        raise InvalidError(f"`{name}` has no sound shape", why=f"it is a list of at most {limits.dims} sizes")
    for size in shape:
        if type(size) is not int or not 0 <= size < 1 << 40:
            raise InvalidError(f"`{name}` has no sound shape", why=f"{str(size)[:40]!r} is not a size from 0 on")
    return shape


def timeout_s(parameters: Parameters) -> float:
    """Return the `timeout` among a request's parameters, in seconds; it is in microseconds there. 0 for none.

    Raises:
        InvalidError: it is not a whole number from 0 on.
    """
    given = parameters.get("timeout", 0)
    if isinstance(given, str) and given.isdecimal() and len(given) < 20:
        given = int(given)
    if type(given) is not int or given < 0:
        raise InvalidError("the parameter `timeout` is not a number of microseconds", why=f"it is {str(given)[:40]!r}")
    return given / 1e6
