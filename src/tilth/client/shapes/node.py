"""Nodes and the devices on them."""

from typing import Annotated, Any

from pydantic import Field

from tilth.client.shapes.shape import Etag, Order, Shape, Tags, Time


class Device(Shape):
    """One chip on a node."""

    id: str
    node: str
    name: str = Field(examples=["cpu0"])
    target: str = Field(examples=["cpu-x86_64"])
    facts: dict[str, Any]


class NewDevice(Order):
    """A chip that a node has."""

    name: str = Field(min_length=1, max_length=128, examples=["cpu0"])
    target: str = Field(pattern=r"^[a-z0-9][a-z0-9._:-]{0,62}$", examples=["cpu-aarch64"])
    facts: Annotated[dict[str, str | int | float | bool], Field(max_length=64)] = {}


class Node(Shape):
    """A machine. `project` is whose it is, none for the pool that everyone uses; `seen_at` when it last spoke."""

    id: str
    name: str = Field(examples=["gpu-1"])
    project: str | None
    labels: dict[str, str]
    facts: dict[str, Any]
    address: str
    devices: int
    seen_at: Time | None
    created_at: Time
    etag: Etag


class NewNode(Order):
    """A machine to be known, with its chips."""

    name: str = Field(min_length=1, max_length=64, examples=["kunpeng-1"])
    project: str | None = None
    labels: Tags = {}
    devices: Annotated[list[NewDevice], Field(max_length=256)] = []


class NodeChange(Order):
    """What to change of a node; what is left out stays."""

    labels: Tags | None = None
    devices: Annotated[list[NewDevice], Field(max_length=256)] | None = None
