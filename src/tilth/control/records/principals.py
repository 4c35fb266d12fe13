"""From a credential to who presents it, with every role that it has."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tilth.client.errors import UnknownError
from tilth.control.access import Principal, Role
from tilth.control.store.tables import members, projects, sessions, tokens, users

_TOKEN = (
    sa.select(
        tokens.c.id.label("token_id"),
        tokens.c.project_id,
        tokens.c.role.label("most"),
        tokens.c.expires_us,
        tokens.c.revoked_us,
        users.c.id.label("user_id"),
        users.c.name,
        users.c.is_admin,
        users.c.disabled,
        members.c.project_id.label("member_of"),
        members.c.role.label("member_as"),
    )
    .join(users, users.c.id == tokens.c.user_id)
    .outerjoin(members, members.c.user_id == tokens.c.user_id)
    .where(tokens.c.hash == sa.bindparam("hash"))
)
#: The same with the project of a name beside it: one round trip for what every request asks first.
_PROJECT = {f"in_{column.name}": column for column in projects.c}
_TOKEN_IN = _TOKEN.outerjoin(projects, projects.c.name == sa.bindparam("project")).add_columns(
    *(column.label(name) for name, column in _PROJECT.items())
)
_SESSION = sa.select(sessions).where(sessions.c.hash == sa.bindparam("hash"))
_MEMBER = sa.select(members.c.project_id, members.c.role).where(members.c.user_id == sa.bindparam("user_id"))
_USER = sa.select(users).where(users.c.id == sa.bindparam("user_id"))
_BY_ID = sa.select(tokens.c.hash).where(tokens.c.id == sa.bindparam("token_id"))


def of_token(connection: sa.Connection, hashed: str, now_us: int) -> Principal:
    """Return whose token it is.

    Raises:
        UnknownError: it is nobody's, was revoked or has expired, or its user is disabled. Which of these is not said
            to who presents it.
    """
    return _checked(connection.execute(_TOKEN, {"hash": hashed}).mappings().all(), now_us)


def of_token_in(
    connection: sa.Connection, hashed: str, now_us: int, project: str
) -> tuple[Principal, Mapping[str, Any] | None]:
    """Return whose token it is, and the row of a project, None when there is none; raises as `of_token`."""
    rows = connection.execute(_TOKEN_IN, {"hash": hashed, "project": project}).mappings().all()
    principal = _checked(rows, now_us)
    found = None if rows[0]["in_id"] is None else {column.name: rows[0][name] for name, column in _PROJECT.items()}
    return principal, found


def _checked(rows: Sequence[Any], now_us: int) -> Principal:
    row = rows[0] if rows else None
    if row is None or row["revoked_us"] is not None or row["disabled"]:
        raise _unknown()
    if row["expires_us"] is not None and row["expires_us"] <= now_us:
        raise _unknown()
    return _principal(row, {one["member_of"]: one["member_as"] for one in rows if one["member_of"] is not None})


def of_session(connection: sa.Connection, hashed: str, now_us: int) -> Principal:
    """Return who is signed in; a session that a token opened is worth what the token is.

    Raises:
        UnknownError: there is no such session, or no more.
    """
    row = connection.execute(_SESSION, {"hash": hashed}).mappings().first()
    if row is None or row["expires_us"] <= now_us:
        raise _unknown()
    if row["token_id"] is not None:
        token = connection.execute(_BY_ID, {"token_id": row["token_id"]}).scalar_one()
        return of_token(connection, token, now_us)
    user = connection.execute(_USER, {"user_id": row["user_id"]}).mappings().one()
    if user["disabled"]:
        raise _unknown()
    return of_user(connection, user)


def of_user(connection: sa.Connection, user: Any) -> Principal:
    """Return a user with all that it may do."""
    roles = {project: role for project, role in connection.execute(_MEMBER, {"user_id": user["id"]})}
    return _principal(dict(user) | {"user_id": user["id"], "project_id": None, "most": None, "token_id": ""}, roles)


def _principal(row: Any, roles: Mapping[str, Role]) -> Principal:
    return Principal(
        row["user_id"],
        row["name"],
        is_admin=row["is_admin"],
        roles=roles,
        project_id=row["project_id"],
        most=row["most"],
        token_id=row["token_id"],
    )


def _unknown() -> UnknownError:
    return UnknownError(
        "the credential is not accepted",
        why="it is not known here, was revoked, or has expired",
        hint="sign in again: `tilth login`",
    )
