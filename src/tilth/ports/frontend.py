"""What a framework plug-in must offer: a captured graph, and the framework itself to check it against."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tilth.core.build import Refusal
from tilth.ports.arrays import Values


@dataclass(frozen=True)
class Capture:
    """A model taken from its framework.

    `model` is an `onnx.ModelProto`; weights that it keeps in files lie below `weights_dir`. `run` is the source
    framework itself: inputs by graph name to outputs by graph name, at any batch size that the model takes.
    `sample` is what the frontend was given, by graph input name, or None when there was none. `batched` says
    that inputs have a dimension named `batch` that may vary. `recorded` are outputs of the real source
    for `sample`, by graph output name, when the sample brought them; they win over what `run` gives.
    """

    model: Any
    run: Callable[[Values], Values]
    framework: str
    version: str
    sample: Values | None = None
    weights_dir: Path | None = None
    batched: bool = True
    notes: tuple[str, ...] = ()
    recorded: Values | None = None


class Frontend(Protocol):
    """One framework. Code of the user's may run in `capture`, never later."""

    name: str

    def version(self) -> str:
        """Return the framework's version.

        Raises:
            MissingError: the framework is not installed; the hint names the extra.
        """
        ...

    def accepts(self, model: object) -> bool:
        """Return whether `model`, an object or a path, is of this framework; imports nothing heavy."""
        ...

    def refusals(self, model: object) -> list[Refusal]:
        """Return every reason why this model cannot be captured; empty when it can."""
        ...

    def capture(self, model: object, sample: Any | None) -> Capture:
        """Return the model as a graph with the framework's own `run`.

        `sample` is an array, a data frame, a tuple of arrays, or arrays by input name; every frontend says which.

        Raises:
            InvalidError: the sample does not fit the model.
            UnsupportedError: the framework's exporter refuses the model.
        """
        ...
