"""Passes that edit the flow of values through a graph: as a whole, or node by node."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from onnx import ModelProto, NodeProto

from tilth.bridge.flow import Flow, is_op
from tilth.bridge.passes.base import Pass


class FlowPass(Pass):
    """Edits the flow of a model's values; models of an operator set before `least_opset` are left as they are."""

    least_opset: ClassVar[int] = 0

    def __init__(self, folder: Path) -> None:
        """Take the folder in which external weights lie."""
        self._folder = folder

    def rewrite(self, model: ModelProto) -> int:
        """Change what can be changed; return how many places."""
        flow = Flow(model, self._folder)
        changes = 0 if flow.opset < self.least_opset else self.edit(flow)
        if changes:
            flow.write()
        return changes

    @abstractmethod
    def edit(self, flow: Flow) -> int:
        """Edit the flow and return how many places changed."""


class NodePass(FlowPass):
    """Calls `change` for every node of `ops` in `domain`, in graph order."""

    ops: ClassVar[tuple[str, ...]]
    domain: ClassVar[str] = ""

    def edit(self, flow: Flow) -> int:
        """Change every node that can be changed; return how many."""
        return sum(
            self.change(node, flow)
            for node in flow.nodes
            if is_op(node, *self.ops, domain=self.domain) and flow.here(node)
        )

    @abstractmethod
    def change(self, node: NodeProto, flow: Flow) -> bool:
        """Edit the flow around one node and return whether anything changed."""
