"""Nodes and their devices: of the pool that everyone uses, or of one project."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.client.names import checked
from tilth.client.shapes.node import Device, NewDevice, NewNode, Node, NodeChange
from tilth.client.shapes.shape import Listing
from tilth.control.access import Principal
from tilth.control.change import Change
from tilth.control.clock import iso, iso_or_none
from tilth.control.etag import etag, expect
from tilth.control.records import projects as project_records
from tilth.control.row_id import new_id
from tilth.control.store.paging import page
from tilth.control.store.tables import devices, nodes, projects
from tilth.core.errors import InvalidError, MissingError

_COUNT = sa.select(sa.func.count()).where(devices.c.node_id == nodes.c.id).scalar_subquery()
_SELECT = sa.select(nodes, projects.c.name.label("project"), _COUNT.label("devices")).outerjoin(
    projects, projects.c.id == nodes.c.project_id
)
_DEVICES = sa.select(devices, nodes.c.name.label("node")).join(nodes, nodes.c.id == devices.c.node_id)


def make(change: Change, order: NewNode, facts: dict[str, Any] | None = None) -> Node:
    """Make a node known.

    Raises:
        InvalidError: the name is none, or two devices have one name.
        ConflictError: there is one of this name.
        MissingError: there is no such project.
    """
    checked("node", order.name)
    connection = change.connection
    if connection.execute(sa.select(nodes.c.id).where(nodes.c.name == order.name)).first():
        raise ConflictError(f"there is a node `{order.name}` already", hint="choose another name")
    owner = project_records.found(connection, order.project)["id"] if order.project else None
    row = change.made() | {
        "name": order.name,
        "project_id": owner,
        "labels": order.labels,
        "facts": facts or {},
    }
    connection.execute(nodes.insert().values(row))
    _put_devices(change, row["id"], order.devices)
    change.tell("node.make", f"nodes/{order.name}", owner, devices=len(order.devices))
    return _shape(_found(connection, order.name))


def alter(change: Change, name: str, order: NodeChange, match: str | None) -> Node:
    """Change a node's labels or devices.

    Raises:
        MissingError: there is none of this name.
        InvalidError: two devices have one name.
        StaleError: it was changed meanwhile.
    """
    row = _found(change.connection, name)
    expect(match, row["rev"])
    values = {"labels": order.labels} if order.labels is not None else {}
    if order.devices is not None:
        change.connection.execute(devices.delete().where(devices.c.node_id == row["id"]))
        _put_devices(change, row["id"], order.devices)
    change.update(nodes, row["id"], row["rev"], values)
    change.tell("node.change", f"nodes/{name}", row["project_id"], labels=order.labels)
    return _shape(_found(change.connection, name))


def remove(change: Change, name: str, match: str | None) -> None:
    """Forget a node and its devices.

    Raises:
        MissingError: there is none of this name.
        StaleError: it was changed meanwhile.
    """
    row = _found(change.connection, name)
    expect(match, row["rev"])
    change.connection.execute(devices.delete().where(devices.c.node_id == row["id"]))
    change.connection.execute(nodes.delete().where(nodes.c.id == row["id"]))
    change.tell("node.remove", f"nodes/{name}", row["project_id"])


def devices_differ(connection: sa.Connection, name: str, found: Sequence[NewDevice]) -> bool:
    """Return whether a node has other devices than these."""
    rows = connection.execute(_DEVICES.where(nodes.c.name == name)).mappings()
    known = {row["name"]: (row["target"], row["facts"]) for row in rows}
    return known != {one.name: (one.target, dict(one.facts)) for one in found}


def seen(connection: sa.Connection, name: str, at_us: int, address: str, facts: dict[str, Any]) -> None:
    """Note that a node lives, and what it tells of itself."""
    values = {"seen_us": at_us, "address": address, "facts": facts}
    connection.execute(nodes.update().where(nodes.c.name == name).values(values))


def get(connection: sa.Connection, asks: Principal, name: str) -> Node:
    """Return a node that `asks` may see.

    Raises:
        MissingError: there is none.
    """
    row = connection.execute(_SELECT.where(nodes.c.name == name, _visible(asks))).mappings().first()
    if row is None:
        raise _missing(name)
    return _shape(row)


def listed(connection: sa.Connection, asks: Principal, cursor: str, limit: int) -> Listing[Node]:
    """Return a page of nodes by name, those that `asks` may see."""
    rows = page(connection, _SELECT.where(_visible(asks)), (nodes.c.name,), cursor, limit)
    return Listing[Node](items=[_shape(row) for row in rows.rows], next=rows.next)


def devices_of(
    connection: sa.Connection, asks: Principal, cursor: str, limit: int, target: str = "", node: str = ""
) -> Listing[Device]:
    """Return a page of devices that `asks` may see, of a target and on a node where they are named."""
    query = _DEVICES.where(_visible(asks))
    if target:
        query = query.where(devices.c.target == target)
    if node:
        query = query.where(nodes.c.name == node)
    rows = page(connection, query, (devices.c.id,), cursor, limit)
    return Listing[Device](items=[_device(row) for row in rows.rows], next=rows.next)


def _visible(asks: Principal) -> Any:
    readable = asks.readable()
    return sa.true() if readable is None else nodes.c.project_id.is_(None) | nodes.c.project_id.in_(readable)


def _put_devices(change: Change, node_id: str, order: Sequence[NewDevice]) -> None:
    if len({one.name for one in order}) < len(order):
        raise InvalidError("two devices of a node have one name", hint="give each a name of its own")
    rows = [one.model_dump() | {"id": new_id(), "node_id": node_id} | change.stamp() for one in order]
    if rows:
        change.connection.execute(devices.insert(), rows)


def _found(connection: sa.Connection, name: str) -> sa.RowMapping:
    row = connection.execute(_SELECT.where(nodes.c.name == name)).mappings().first()
    if row is None:
        raise _missing(name)
    return row


def _missing(name: str) -> MissingError:
    return MissingError(f"there is no node `{ascii(name[:80])[1:-1]}`", hint="`tilth nodes` lists them")


def _shape(row: Any) -> Node:
    return Node(
        id=row["id"],
        name=row["name"],
        project=row["project"],
        labels=row["labels"],
        facts=row["facts"],
        address=row["address"],
        devices=row["devices"],
        seen_at=iso_or_none(row["seen_us"]),
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )


def _device(row: Any) -> Device:
    return Device(id=row["id"], node=row["node"], name=row["name"], target=row["target"], facts=row["facts"])
