"""What goes into a graph and what comes out: names, dtypes and shapes."""

from dataclasses import dataclass
from typing import Literal

#: A dimension is a size, or the name of a size that callers choose; `?` is one that nobody named.
Dim = int | str
Container = Literal["tensor", "sequence", "optional"]

BATCH = "batch"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    `shape` is None where the rank is open. `container` is `sequence` for a list of such tensors,
    and `optional` for a value that may be absent. `unit` is a physical unit when the author gave one.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    container: Container = "tensor"
    unit: str = ""

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(map(str, self.shape))
        kind = "" if self.container == "tensor" else f"{self.container} of "
        return f"{self.name}: {kind}{self.dtype}[{dims}]" + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in graph order.

    A dimension named `batch` scales with the number of rows; a graph without one has a fixed batch.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def dynamic_batch(self) -> bool:
        """Whether some input has a dimension named `batch`."""
        return any(BATCH in (spec.shape or ()) for spec in self.inputs)
