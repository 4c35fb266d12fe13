"""Nodes and devices."""

from typing import Annotated

from fastapi import Query

from tilth.client.shapes.node import Device, NewNode, Node, NodeChange
from tilth.client.shapes.shape import Listing
from tilth.control.api.desk import DEFAULT_LIMIT, Call, Cursor, Desk, Limit
from tilth.control.records import nodes

Filter = Annotated[str, Query(max_length=64)]


def declare(desk: Desk) -> None:
    """Declare the routes."""

    @desk.read("/v1/nodes", "node.read", summary="List nodes: of the pool, and of your projects")
    def list_nodes(call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT) -> Listing[Node]:
        return nodes.listed(call.connection, call.principal, cursor, limit)

    @desk.change("POST", "/v1/nodes", "node.change", summary="Make a node known", status=201)
    def make_node(call: Call, body: NewNode) -> Node:
        return nodes.make(call.change, body)

    @desk.read("/v1/nodes/{node}", "node.read", summary="Get a node")
    def get_node(call: Call, node: str) -> Node:
        return nodes.get(call.connection, call.principal, node)

    @desk.change("PATCH", "/v1/nodes/{node}", "node.change", summary="Change a node's labels or devices")
    def change_node(call: Call, node: str, body: NodeChange) -> Node:
        return nodes.alter(call.change, node, body, call.match)

    @desk.change("DELETE", "/v1/nodes/{node}", "node.change", summary="Forget a node")
    def remove_node(call: Call, node: str) -> None:
        nodes.remove(call.change, node, call.match)

    @desk.read("/v1/devices", "node.read", summary="List devices: of the pool, and of your projects")
    def list_devices(
        call: Call, cursor: Cursor = "", limit: Limit = DEFAULT_LIMIT, target: Filter = "", node: Filter = ""
    ) -> Listing[Device]:
        return nodes.devices_of(call.connection, call.principal, cursor, limit, target, node)
