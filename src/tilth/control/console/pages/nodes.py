"""Nodes of the pool and of one's projects, with their devices."""

from tilth.client.shapes.node import Device, NodeChange
from tilth.control.api.desk import Call
from tilth.control.console.door import Door
from tilth.control.console.frame import Ask, Go, Page
from tilth.control.console.order import as_lines, order, tags
from tilth.control.console.pages.overview import is_silent
from tilth.control.console.words import at
from tilth.control.records import nodes

_ALL = "/console/nodes"
_ROWS, _MOST_DEVICES = 50, 200


def declare(door: Door) -> None:
    """Declare the page and its forms."""

    @door.page(_ALL, "node.read")
    def list_nodes(call: Call, ask: Ask) -> Page:
        found = nodes.listed(call.connection, call.principal, ask.query.get("cursor", ""), _ROWS)
        chips: dict[str, list[Device]] = {}
        for one in nodes.devices_of(call.connection, call.principal, "", _MOST_DEVICES).items:
            chips.setdefault(one.node, []).append(one)
        shown = [(one, is_silent(one), chips.get(one.name, []), as_lines(one.labels)) for one in found.items]
        return Page("nodes", "nodes", {"nodes": shown, "next": found.next})

    @door.form(f"{_ALL}/{{node}}/labels", "node.change", "labels", list_nodes)
    def change_labels(call: Call, ask: Ask) -> Go:
        wanted = order(NodeChange, labels=tags(ask.form.lines("labels")))
        nodes.alter(call.change, ask.path["node"], wanted, call.match)
        return Go(at("nodes"), "changed")

    @door.form(f"{_ALL}/{{node}}/remove", "node.change", "remove", list_nodes)
    def remove_node(call: Call, ask: Ask) -> Go:
        nodes.remove(call.change, ask.path["node"], call.match)
        return Go(at("nodes"), "node-removed")
