"""Which blobs of a bundle have to be opened before anybody may see it; pure."""

from typing import Any

from tilth.core.bundle import Array, Manifest


def needed(manifest: Manifest) -> set[str]:
    """Return graphs, and every array of a case that holds text: its form cannot be told from its size."""
    made = {graph.digest for graph in manifest.graphs}
    for case in manifest.golden.cases:
        for values in (case.inputs, case.outputs):
            if any(map(has_text, values.values())):
                made |= {array.blob for value in values.values() for array in _flat(value)}
    return made


def has_text(value: Any) -> bool:
    """Return whether a golden value is of texts."""
    return any(array.dtype == "string" for array in _flat(value))


def _flat(value: Any) -> tuple[Array, ...]:
    return () if value is None else (value,) if isinstance(value, Array) else tuple(value)
