"""Users: made by administrators, or by an identity provider at their first sign-in; disabled, never deleted."""

from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ConflictError
from tilth.client.names import checked
from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import User, UserChange
from tilth.control.change import Change
from tilth.control.clock import iso
from tilth.control.etag import etag, expect
from tilth.control.store.paging import page
from tilth.control.store.tables import users
from tilth.core.errors import MissingError


def make(change: Change, name: str, *, is_admin: bool = False, subject: str | None = None) -> User:
    """Make a user.

    Raises:
        InvalidError: the name is none.
        ConflictError: there is one of this name.
    """
    checked("user", name)
    if change.connection.execute(sa.select(users.c.id).where(users.c.name == name)).first():
        raise ConflictError(f"there is a user `{name}` already", hint="choose another name")
    row = change.made() | {"name": name, "is_admin": is_admin, "subject": subject, "disabled": False, "rev": 1}
    change.connection.execute(users.insert().values(row))
    change.tell("user.make", f"users/{name}", is_admin=is_admin, external=subject is not None)
    return _shape(row)


def found(connection: sa.Connection, name: str) -> sa.RowMapping:
    """Return the row of a user.

    Raises:
        MissingError: there is none of this name.
    """
    row = connection.execute(sa.select(users).where(users.c.name == name)).mappings().first()
    if row is None:
        raise MissingError(f"there is no user `{ascii(name[:80])[1:-1]}`", hint="`tilth users` lists them")
    return row


def get(connection: sa.Connection, name: str) -> User:
    """Return a user; raises as `found`."""
    return _shape(found(connection, name))


def external(connection: sa.Connection, subject: str) -> sa.RowMapping | None:
    """Return the row of the user that an identity provider knows as `subject`, None when there is none yet."""
    return connection.execute(sa.select(users).where(users.c.subject == subject)).mappings().first()


def listed(connection: sa.Connection, cursor: str, limit: int) -> Listing[User]:
    """Return a page of users by name."""
    rows = page(connection, sa.select(users), (users.c.name,), cursor, limit)
    return Listing[User](items=[_shape(row) for row in rows.rows], next=rows.next)


def alter(change: Change, name: str, order: UserChange, match: str | None) -> User:
    """Change a user.

    Raises:
        MissingError: there is none of this name.
        ConflictError: nobody would be left who administers this installation.
        StaleError: it was changed meanwhile.
    """
    row = dict(found(change.connection, name))
    expect(match, row["rev"])
    values = {key: value for key, value in order.model_dump().items() if value is not None}
    after = row | values
    if row["is_admin"] and not row["disabled"] and (after["disabled"] or not after["is_admin"]):
        _check_others(change, row["id"])
    change.update(users, row["id"], row["rev"], values)
    change.tell("user.change", f"users/{name}", **values)
    return _shape(after | {"rev": row["rev"] + 1})


def _check_others(change: Change, user_id: str) -> None:
    others = sa.select(users.c.id).where(users.c.is_admin, ~users.c.disabled, users.c.id != user_id)
    if not change.connection.execute(others).first():
        raise ConflictError(
            "nobody would be left who administers this installation",
            hint="make another user an administrator first",
        )


def _shape(row: Any) -> User:
    return User(
        id=row["id"],
        name=row["name"],
        is_admin=row["is_admin"],
        disabled=row["disabled"],
        external=row["subject"] is not None,
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )
