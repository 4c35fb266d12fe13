"""Values copied, compared, spoiled and laid out otherwise, and threads told apart: what suites check engines with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilth.ports.arrays import Value, Values

#: One folder per thread of this process, where the system is Linux.
TASKS = Path("/proc/self/task")


def items(value: Value) -> list[Any]:
    """Return the arrays of a value: one for a tensor, several for a sequence."""
    return list(value) if isinstance(value, list | tuple) else [value]


def shapes(value: Value) -> list[Any]:
    """Return the shape of every array of a value."""
    return [None if item is None else np.shape(item) for item in items(value)]


def dtypes(value: Value) -> list[Any]:
    """Return the dtype of every array of a value."""
    return [None if item is None else np.asarray(item).dtype for item in items(value)]


def copied(values: Values) -> dict[str, Value]:
    """Return values that share no memory with these."""
    return {n: [np.array(i) for i in v] if isinstance(v, list | tuple) else np.array(v) for n, v in values.items()}


def same(one: Mapping[str, Value], other: Mapping[str, Value]) -> bool:
    """Return whether two sets of values have the same names, order and elements."""
    return list(one) == list(other) and all(
        len(items(one[name])) == len(items(value)) and all(map(np.array_equal, items(one[name]), items(value)))
        for name, value in other.items()
    )


def spoil(values: Values) -> None:
    """Overwrite every array that may be written to."""
    for value in values.values():
        for item in items(value):
            if isinstance(item, np.ndarray) and item.flags.writeable:
                item[...] = "" if item.dtype.kind == "O" else 0


def frozen(value: Value) -> Value:
    """Return a read-only copy of an array; other values as they are."""
    if not isinstance(value, np.ndarray):
        return value
    made = value.copy()
    made.flags.writeable = False
    return made


def strided(value: Value) -> Value:
    """Return the same elements, neither contiguous nor in C order; other values as they are."""
    if not isinstance(value, np.ndarray) or not value.ndim:
        return value
    wide = np.repeat(value, 2, axis=-1)[..., ::2]
    return wide if value.ndim == 1 else np.asfortranarray(wide)


def thread_ticks() -> dict[str, int]:
    """Return the processor time of every thread of this process, in clock ticks."""
    found = {}
    for task in TASKS.iterdir():
        try:
            fields = (task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:  # the thread ended
            continue
        # proc(5): utime is field 14 and stime field 15; the text after the name starts with field 3.
        found[task.name] = int(fields[11]) + int(fields[12])
    return found
