"""Nodes and the devices on them."""

from collections.abc import Iterator, Mapping, Sequence

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.shapes.node import Device, NewDevice, NewNode, Node, NodeChange
from tilth.client.shapes.shape import Listing
from tilth.client.wire import made, path_of


class Nodes(Noun):
    """Machines that you may see. Every method raises TilthError as the control plane says."""

    def list(self) -> Iterator[Node]:
        """Yield nodes by name."""
        return pages(self.wire, Listing[Node], path_of("nodes"))

    def get(self, name: str) -> Node:
        """Return a node."""
        return self.wire.get(Node, path_of("nodes", name))

    def make(
        self,
        name: str,
        *,
        project: str | None = None,
        labels: Mapping[str, str] | None = None,
        devices: Sequence[NewDevice] = (),
    ) -> Node:
        """Make a node known; without a project everyone uses it."""
        order = made(NewNode, name=name, project=project, labels=labels, devices=list(devices))
        return self.wire.post(Node, path_of("nodes"), order)

    def change(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        devices: Sequence[NewDevice] | None = None,
        match: str | None = None,
    ) -> Node:
        """Change a node; what is None stays."""
        order = made(NodeChange, labels=labels, devices=None if devices is None else list(devices))
        return self.wire.change(Node, "PATCH", path_of("nodes", name), order, match)

    def remove(self, name: str, *, match: str | None = None) -> None:
        """Forget a node."""
        self.wire.remove(path_of("nodes", name), match)


class Devices(Noun):
    """Chips on the nodes that you may see."""

    def list(self, *, target: str = "", node: str = "") -> Iterator[Device]:
        """Yield devices, those of a target or a node where it is named."""
        query = {name: value for name, value in (("target", target), ("node", node)) if value}
        return pages(self.wire, Listing[Device], path_of("devices"), query)
