"""What every graph pass is, and the promises that are checked each time one runs."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import onnx

from tilth.core.errors import TilthError


class Pass(ABC):
    """Rewrites a model in place.

    Weights may be external (`data_location` EXTERNAL); a pass leaves tensors alone whose bytes it does not need.
    """

    name: ClassVar[str]

    @final
    def __call__(self, model: onnx.ModelProto) -> int:
        """Apply the pass; return how many places changed.

        Raises:
            TilthError: the pass broke a promise: inputs and outputs keep names, types and order, and every value is
                made by one node before it is used.
        """
        before = _edge(model.graph)
        changes = self.rewrite(model)
        if _edge(model.graph) != before:
            raise _broken(self.name, "the inputs or outputs of the graph changed")
        if changes and (missing := _unmade(model.graph)):
            raise _broken(self.name, f"`{missing}` is used and nothing makes it before")
        return changes

    @abstractmethod
    def rewrite(self, model: onnx.ModelProto) -> int:
        """Change the model and return how many places changed; 0 must mean that nothing did."""


def _edge(graph: onnx.GraphProto) -> list[bytes]:
    return [value.SerializeToString(deterministic=True) for value in (*graph.input, *graph.output)]


def _unmade(graph: onnx.GraphProto) -> str:
    made = {""} | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in node.input:
            if name not in made:
                return str(name)
        made.update(node.output)
    return next((str(value.name) for value in graph.output if value.name not in made), "")


def _broken(name: str, why: str) -> TilthError:
    return TilthError(
        f"the graph pass `{name}` broke its promise",
        why=why,
        hint="this is a defect of Tilth; please report it with the model's graph, `tilth show --graph`",
    )
