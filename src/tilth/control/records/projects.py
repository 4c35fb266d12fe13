"""Projects and who is what in them."""

from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.client.names import checked
from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import Member, MemberChange, Project, ProjectChange
from tilth.control.access import Principal, no_project
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.records import users as user_records
from tilth.control.store.paging import page
from tilth.control.store.tables import (
    blobs,
    devices,
    endpoints,
    members,
    models,
    nodes,
    projects,
    tokens,
    uploads,
    users,
)
from tilth.core.errors import MissingError

_BY_NAME = sa.select(projects).where(projects.c.name == sa.bindparam("name"))
#: What has to be gone before a project can be.
_HOLDS = {"models": models, "endpoints": endpoints}


def found(connection: sa.Connection, name: str) -> sa.RowMapping:
    """Return the row of a project.

    Raises:
        MissingError: there is none of this name.
    """
    row = connection.execute(_BY_NAME, {"name": name}).mappings().first()
    if row is None:
        raise no_project()
    return row


def make(change: Change, name: str, description: str = "") -> Project:
    """Make a project; whoever makes it is its admin.

    Raises:
        InvalidError: the name is none.
        ConflictError: there is one of this name.
    """
    checked("project", name)
    if change.connection.execute(_BY_NAME, {"name": name}).first():
        raise ConflictError(f"there is a project `{name}` already", hint="choose another name")
    row = change.made() | {"name": name, "description": description, "rev": 1}
    change.connection.execute(projects.insert().values(row))
    who = {"project_id": row["id"], "user_id": change.principal.user_id, "role": "admin"}
    change.connection.execute(members.insert().values(who | change.stamp()))
    change.tell("project.make", name, row["id"], description=description)
    return shape(row, change.principal)


def listed(connection: sa.Connection, asks: Principal, cursor: str, limit: int) -> Listing[Project]:
    """Return a page of the projects that `asks` may read, by name."""
    query, readable = sa.select(projects), asks.readable()
    if readable is not None:
        query = query.where(projects.c.id.in_(readable))
    rows = page(connection, query, (projects.c.name,), cursor, limit)
    return Listing[Project](items=[shape(row, asks) for row in rows.rows], next=rows.next)


def alter(change: Change, row: sa.RowMapping, order: ProjectChange, match: str | None) -> Project:
    """Change a project's description.

    Raises:
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, row["name"])
    expect(match, row["rev"])
    change.update(projects, row["id"], row["rev"], {"description": order.description})
    change.tell("project.change", row["name"], row["id"], description=order.description)
    return shape(dict(row) | {"description": order.description, "rev": row["rev"] + 1}, change.principal)


def remove(change: Change, row: sa.RowMapping, match: str | None) -> None:
    """Remove an empty project; its blobs are swept later, its events stay.

    Raises:
        ConflictError: there are models or endpoints in it.
        StaleError: it was changed meanwhile.
    """
    row = found(change.connection, row["name"])
    expect(match, row["rev"])
    for kind, table in _HOLDS.items():
        if change.connection.execute(sa.select(table.c.id).where(table.c.project_id == row["id"]).limit(1)).first():
            raise ConflictError(f"project `{row['name']}` holds {kind}", hint=f"remove its {kind} first")
    owned = sa.select(nodes.c.id).where(nodes.c.project_id == row["id"])
    change.connection.execute(devices.delete().where(devices.c.node_id.in_(owned)))
    for table in (members, blobs, uploads, nodes):
        change.connection.execute(table.delete().where(table.c.project_id == row["id"]))
    own = tokens.c.project_id == row["id"]
    # A token of it stays in its user's list, ended; and the project's id goes, as nothing has it.
    ended = sa.func.coalesce(tokens.c.revoked_us, change.at_us)
    change.connection.execute(tokens.update().where(own).values(revoked_us=ended, project_id=None))
    change.connection.execute(projects.delete().where(projects.c.id == row["id"]))
    change.tell("project.remove", row["name"], row["id"])


def members_of(connection: sa.Connection, project_id: str, cursor: str, limit: int) -> Listing[Member]:
    """Return a page of members by name."""
    query = sa.select(members, users.c.name).join(users, users.c.id == members.c.user_id)
    rows = page(connection, query.where(members.c.project_id == project_id), (users.c.name,), cursor, limit)
    return Listing[Member](items=[_member(row) for row in rows.rows], next=rows.next)


def put_member(change: Change, row: sa.RowMapping, user: str, order: MemberChange, match: str | None) -> Member:
    """Make a user a member, or give it another role.

    Raises:
        MissingError: there is no such user.
        ConflictError: the project would have no admin.
        StaleError: it was changed meanwhile.
    """
    who = user_records.found(change.connection, user)
    key = (members.c.project_id == row["id"]) & (members.c.user_id == who["id"])
    before = change.connection.execute(sa.select(members).where(key)).mappings().first()
    if before is None:
        expect(match, 0)
        after: dict[str, Any] = {"project_id": row["id"], "user_id": who["id"], "role": order.role, "rev": 1}
        change.connection.execute(members.insert().values(after | change.stamp()))
        after |= change.stamp()
    else:
        expect(match, before["rev"])
        if order.role != "admin":
            _check_admins(change, row, before)
        after = dict(before) | {"role": order.role, "rev": before["rev"] + 1}
        change.connection.execute(members.update().where(key).values(role=order.role, rev=after["rev"]))
    change.tell("member.put", f"{row['name']}/members/{user}", row["id"], role=order.role)
    return _member(after | {"name": user})


def remove_member(change: Change, row: sa.RowMapping, user: str, match: str | None = None) -> None:
    """Take a user out of a project.

    Raises:
        MissingError: it is not in it.
        ConflictError: the project would have no admin.
        StaleError: it was changed meanwhile.
    """
    who = user_records.found(change.connection, user)
    key = (members.c.project_id == row["id"]) & (members.c.user_id == who["id"])
    before = change.connection.execute(sa.select(members).where(key)).mappings().first()
    if before is None:
        raise MissingError(f"`{user}` is not a member of `{row['name']}`")
    expect(match, before["rev"])
    _check_admins(change, row, before)
    change.connection.execute(members.delete().where(key))
    change.tell("member.remove", f"{row['name']}/members/{user}", row["id"])


def _check_admins(change: Change, row: sa.RowMapping, before: sa.RowMapping) -> None:
    if before["role"] != "admin":
        return
    here = (members.c.project_id == row["id"]) & (members.c.role == "admin")
    if not change.connection.execute(sa.select(members).where(here, members.c.user_id != before["user_id"])).first():
        raise ConflictError(f"project `{row['name']}` would have no admin", hint="make another member its admin first")


def shape(row: Any, asks: Principal) -> Project:
    """Return a project as `asks` sees it."""
    return Project(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        role=asks.role_in(row["id"]),
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )


def _member(row: Any) -> Member:
    return Member(user=row["name"], role=row["role"], created_at=iso(row["created_us"]), etag=etag(row["rev"]))
