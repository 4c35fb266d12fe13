"""Tokens: what a user presents in place of itself. They narrow, expire and can be revoked; the secret is not kept."""

from typing import Any

import sqlalchemy as sa

from tilth.client.errors import ForbiddenError
from tilth.client.names import checked
from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import MadeToken, NewToken, Token
from tilth.control import secret
from tilth.control.access import ROLES, Principal, Role, no_project
from tilth.control.change import Change
from tilth.control.clock import iso, iso_or_none
from tilth.control.etag import etag, expect
from tilth.control.records import users as user_records
from tilth.control.store.paging import page
from tilth.control.store.tables import projects, sessions, tokens, users
from tilth.core.errors import MissingError

_SELECT = (
    sa.select(tokens, users.c.name.label("user"), projects.c.name.label("project"))
    .join(users, users.c.id == tokens.c.user_id)
    .outerjoin(projects, projects.c.id == tokens.c.project_id)
)


def make(change: Change, order: NewToken) -> MadeToken:
    """Make a token for whoever asks, or for another user when an administrator asks.

    Raises:
        ForbiddenError: it is for another user, or a token that only calls endpoints asks.
        MissingError: there is no such user, or no such project for who asks.
        InvalidError: the name is none.
    """
    asks, connection = change.principal, change.connection
    checked("token", order.name)
    if asks.most == "caller":
        raise ForbiddenError("this token makes no others", why="it only calls endpoints", hint="sign in as its user")
    owner, user = asks.user_id, asks.name
    if order.user is not None and order.user != asks.name:
        if not asks.rules:
            raise ForbiddenError("a token is for yourself", why="it is for another user", hint="ask an administrator")
        row = user_records.found(connection, order.user)
        owner, user = row["id"], row["name"]
    project_id, project = _scope(connection, asks, order.project)
    made = secret.made()
    values = change.made() | {
        "user_id": owner,
        "name": order.name,
        "hash": secret.hashed(made),
        "project_id": project_id,
        "role": _narrower(asks.most, order.role),
        "expires_us": change.at_us + order.expires_in_s * 1_000_000 if order.expires_in_s else None,
        "revoked_us": None,
        "rev": 1,
    }
    if asks.token_id:
        values["expires_us"] = _earlier(values["expires_us"], _expiry(connection, asks.token_id))
    connection.execute(tokens.insert().values(values))
    limits = {"project": project, "role": values["role"], "expires_at": iso_or_none(values["expires_us"])}
    change.tell("token.make", f"tokens/{values['id']}", project_id, name=order.name, user=user, **limits)
    shown = _shape(values | {"user": user, "project": project})
    return MadeToken(**shown.model_dump(), secret=made)


def _scope(connection: sa.Connection, asks: Principal, project: str | None) -> tuple[str | None, str | None]:
    """Return id and name of the project that a new token is for."""
    if project is None:
        if asks.project_id is None:
            return None, None
        query = sa.select(projects.c.id, projects.c.name).where(projects.c.id == asks.project_id)
    else:
        query = sa.select(projects.c.id, projects.c.name).where(projects.c.name == project)
    row = connection.execute(query).first()
    if row is None or asks.role_in(row[0]) is None:
        raise no_project()
    return row[0], row[1]


def _narrower(one: Role | None, other: Role | None) -> Role | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=ROLES.index)


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _expiry(connection: sa.Connection, token_id: str) -> int | None:
    found: int | None = connection.execute(sa.select(tokens.c.expires_us).where(tokens.c.id == token_id)).scalar_one()
    return found


def _seen_by(asks: Principal) -> Any:
    """Return the condition on tokens that `asks` may see: its own, or all; a narrow one sees none beyond itself."""
    if asks.rules:
        return sa.true()
    if asks.is_narrow:
        return tokens.c.id == asks.token_id
    return tokens.c.user_id == asks.user_id


def listed(connection: sa.Connection, asks: Principal, cursor: str, limit: int) -> Listing[Token]:
    """Return a page of the tokens that `asks` may see, newest first."""
    query = _SELECT.where(_seen_by(asks))
    rows = page(connection, query, (tokens.c.id,), cursor, limit, newest_first=True)
    return Listing[Token](items=[_shape(row) for row in rows.rows], next=rows.next)


def get(connection: sa.Connection, asks: Principal, token_id: str) -> Token:
    """Return a token.

    Raises:
        MissingError: there is none that `asks` may see.
    """
    return _shape(_found(connection, asks, token_id))


def revoke(change: Change, token_id: str, match: str | None = None) -> None:
    """End a token, and every session that it opened; it stays in lists. Ending it twice is no error.

    Raises:
        MissingError: there is none that may be seen.
        StaleError: it was changed meanwhile.
    """
    row = _found(change.connection, change.principal, token_id)
    expect(match, row["rev"])
    change.connection.execute(sessions.delete().where(sessions.c.token_id == token_id))
    if row["revoked_us"] is None:
        change.update(tokens, token_id, row["rev"], {"revoked_us": change.at_us})
    change.tell("token.revoke", f"tokens/{token_id}", row["project_id"], name=row["name"], user=row["user"])


def _found(connection: sa.Connection, asks: Principal, token_id: str) -> sa.RowMapping:
    row = connection.execute(_SELECT.where(tokens.c.id == token_id, _seen_by(asks))).mappings().first()
    if row is None:
        raise MissingError("there is no such token", hint="`tilth tokens` lists yours")
    return row


def _shape(row: Any) -> Token:
    return Token(
        id=row["id"],
        name=row["name"],
        user=row["user"],
        project=row["project"],
        role=row["role"],
        expires_at=iso_or_none(row["expires_us"]),
        revoked_at=iso_or_none(row["revoked_us"]),
        created_at=iso(row["created_us"]),
        etag=etag(row["rev"]),
    )
