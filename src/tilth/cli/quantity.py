"""Quantities as people type them: `60s`, `2m`, `0.5%`, `4GiB`."""

import re

from tilth.core.errors import InvalidError

_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}
_BYTES |= {"kb": 10**3, "mb": 10**6, "gb": 10**9}
#: More digits mean no quantity that anybody has, and at some length no number that a computer has.
_MOST_DIGITS = 18
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z%]*)\s*", re.ASCII)


def seconds(text: str) -> float:
    """Return a duration in seconds; plain numbers are seconds.

    Raises:
        InvalidError: it is not a positive duration.
    """
    number, unit = _split(text, "a duration such as `60s` or `2m`")
    if unit not in _SECONDS or number <= 0:
        raise _wrong(text, "a duration such as `60s` or `2m`")
    return number * _SECONDS[unit]


def share(text: str) -> float:
    """Return a share from 0 to 1: `0.5%` is 0.005, and so is `0.005`.

    Raises:
        InvalidError: it is not a share, or above 100 %.
    """
    number, unit = _split(text, "a share such as `0.5%` or `0.005`")
    value = number / 100 if unit == "%" else number
    if unit not in ("", "%") or value > 1:
        raise _wrong(text, "a share such as `0.5%` or `0.005`")
    return value


def size_bytes(text: str) -> int:
    """Return a size in bytes.

    Raises:
        InvalidError: it is not a positive size.
    """
    number, unit = _split(text, "a size such as `4GiB`")
    if unit not in _BYTES or number <= 0:
        raise _wrong(text, "a size such as `4GiB`")
    size = int(number * _BYTES[unit])
    if size < 1:
        raise _wrong(text, "a size such as `4GiB`")
    return size


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return positive whole numbers from `1,8,32`.

    Raises:
        InvalidError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,5}", part) and 0 < int(part) <= 65536 for part in parts):
        raise _wrong(text, "numbers from 1 to 65536 such as `1,8,32`")
    return tuple(int(part) for part in parts)


def _split(text: str, wanted: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None or len(match[1]) > _MOST_DIGITS:
        raise _wrong(text, wanted)
    return float(match[1]), match[2].lower()


def _wrong(text: str, wanted: str) -> InvalidError:
    return InvalidError(f"`{text[:40]}` is not {wanted}", why="the value was not understood", hint=f"write {wanted}")
